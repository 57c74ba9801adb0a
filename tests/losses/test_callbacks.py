"""Class weighting in real training runs, held to gradient descent by hand."""

import importlib

import numpy as np
import pytest

from sides import is_keras, side
from sides import name as side_name

callbacks = importlib.import_module(f"{side.package.__name__}.callbacks")
ClassWeighting = callbacks.ClassWeighting

RATE = 0.5
INPUTS = np.random.default_rng(0).normal(size=(10, 2)).astype("float32")
LABELS = np.array([0, 0, 2, 0, 1, 0, 1, 0, 1, 0])
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
UNKNOWN = np.where(np.arange(10) < 2, -1, LABELS)  # without them: 4, 3 and 1 rows
SOFT = np.where(np.arange(10)[:, None] < 2, 1 / 3, ONE_HOT).astype("float32")  # sums 14/3, 11/3, 5/3

BALANCED = [1 / 3, 2 / 3, 2]
EFFECTIVE = [0.404607672170679684, 0.699566665183105195, 1.89582566264621512]  # (1 - 0.9) / (1 - 0.9^n), to sum 3
OWN = [3.0, 1.0, 2.0]


def descend(schedule, target):
    """The kernel after one step of each epoch on all rows, with that epoch's class weights, and the epoch's loss."""
    kernel, losses = np.zeros((2, 3)), []
    if target.ndim == 1:
        target = np.where(target[:, None] == np.arange(3), 1.0, 0.0)
    kept = (target.sum(-1) > 0).sum()
    for weights in schedule:
        logits = INPUTS @ kernel
        probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        mass = target * weights
        losses.append(-(mass * np.log(probability)).sum() / kept)
        kernel = kernel - RATE * INPUTS.T @ (probability * mass.sum(-1, keepdims=True) - mass) / kept
    return kernel, losses


if is_keras:
    import keras

    from sides.keras_common import compiled

    MODES = {
        "keras-tensorflow": [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}],
        "keras-jax": [{"jit_compile": True}, {"run_eagerly": True}],
        "keras-torch": [{"jit_compile": False}],
    }[side_name]

    def build(loss, outputs=3, **mode):
        layer = keras.layers.Dense(outputs, use_bias=False, kernel_initializer="zeros")
        model = keras.Sequential([keras.Input((2,)), layer])
        return compiled(model, keras.optimizers.SGD(RATE), loss, **mode)

    def weighting(data, **options):
        return ClassWeighting(data, **options)

    def fit(model, target, callbacks, epochs, inputs=INPUTS, **options):
        options = {"batch_size": 10, "shuffle": False, "verbose": 0, **options}
        return model.fit(inputs, target, epochs=epochs, callbacks=callbacks, **options)

    def kernel_of(model):
        return keras.ops.convert_to_numpy(model.layers[0].kernel)

else:
    import torch
    from pytorch_lightning import Callback
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_xent.module import XentModule
    from sides.lightning import trainer

    MODES = [{}]

    def build(loss, outputs=3):
        network = torch.nn.Linear(2, outputs, bias=False)
        torch.nn.init.zeros_(network.weight)
        return XentModule(network, loss, lambda parameters: torch.optim.SGD(parameters, RATE))

    def weighting(data, **options):
        """The trainer's own batches hold the data."""
        return ClassWeighting(**options)

    def loader(target, batch_size=10, inputs=INPUTS, **options):
        data = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(target))
        return DataLoader(data, batch_size=batch_size, **options)

    def fit(model, target, callbacks, epochs, inputs=INPUTS):
        batches = loader(target, inputs=inputs)
        trainer(max_epochs=epochs, callbacks=callbacks).fit(model, batches, batches)

    def kernel_of(model):
        return model.network.weight.detach().numpy().T


def loss_of(**config):
    return side.package.CategoricalCrossEntropy(**config)


BY_INDEX = {"classes": 3}
RUNS = {
    "before the first step": ({}, LABELS, BY_INDEX, [BALANCED] * 2),
    "effective": ({}, LABELS, {**BY_INDEX, "scheme": "effective", "beta": 0.9}, [EFFECTIVE] * 2),
    "deferred": ({}, LABELS, {**BY_INDEX, "start_epoch": 2}, [1, 1, BALANCED, BALANCED]),
    "deferred from other weights": ({"class_weight": OWN}, LABELS, {**BY_INDEX, "start_epoch": 1}, [OWN, BALANCED]),
    "never begun": ({"class_weight": OWN}, LABELS, {**BY_INDEX, "start_epoch": 2}, [OWN] * 2),
    "ignored labels": ({"ignore_index": -1}, UNKNOWN, BY_INDEX, [[9 / 19, 12 / 19, 36 / 19]] * 2),
    "one-hot": ({}, ONE_HOT, {}, [BALANCED] * 2),
    "distributions": ({}, SOFT, {"start_epoch": 1}, [1, [55 / 93, 70 / 93, 154 / 93]]),
    "power": ({}, LABELS, {**BY_INDEX, "power": 0}, [[1, 1, 1]] * 2),
    "max_weight": ({}, LABELS, {**BY_INDEX, "max_weight": 0.5}, [[1 / 3, 0.5, 0.5]] * 2),
    "pseudo_count": ({}, LABELS, {**BY_INDEX, "pseudo_count": 3}, [[12 / 19, 18 / 19, 27 / 19]] * 2),  # of 9, 6, 4
}


CASES = [
    pytest.param(*run, mode, id=f"{name}-{mode}")
    for name, run in RUNS.items()
    for mode in (MODES if name == "deferred" else MODES[:1])
]


@pytest.mark.parametrize(("config", "target", "options", "schedule", "mode"), CASES)
def test_training_takes_the_weights_from_their_epoch_on(config, target, options, schedule, mode):
    model = build(loss_of(**config), **mode)
    fit(model, target, [weighting(target, **options)], len(schedule))
    np.testing.assert_allclose(kernel_of(model), descend(schedule, target)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_second_fit(mode):
    """The first leaves compiled functions without weights, the third begins with those of the second."""
    model = build(loss_of(), **mode)
    fit(model, LABELS, [], 1)
    fit(model, LABELS, [weighting(LABELS, classes=3)], 1)
    again = weighting(LABELS, classes=3, scheme="effective", beta=0.9, start_epoch=1)
    fit(model, LABELS, [again], 2)
    want = [1, BALANCED, BALANCED, EFFECTIVE]
    fit(model, LABELS, [again], 1)
    want.append(EFFECTIVE)
    np.testing.assert_allclose(kernel_of(model), descend(want, LABELS)[0], rtol=1e-5, atol=1e-6)
    assert model.loss.get_config() == {"class_weight": pytest.approx(EFFECTIVE)}


def test_classes_lie_on_the_axis_of_the_loss():
    """One-hot labels of 4 places a row; in torch their classes are on axis 1."""
    target = np.eye(3, dtype="float32")[np.stack([LABELS] * 4, 1)]
    loss = loss_of()
    if is_keras:
        model = keras.Sequential([keras.Input((4, 2)), keras.layers.Dense(3)])
        model.compile(optimizer="sgd", loss=loss)
        model.fit(np.stack([INPUTS] * 4, 1), target, callbacks=[ClassWeighting(target)], verbose=0)
    else:
        data = TensorDataset(torch.from_numpy(INPUTS).unsqueeze(-1).repeat(1, 1, 4), torch.from_numpy(target).mT)
        model = XentModule(torch.nn.Conv1d(2, 3, 1), loss)
        trainer(max_epochs=1, callbacks=[ClassWeighting()]).fit(model, DataLoader(data, batch_size=5), DataLoader(data))
    assert loss.class_weight == pytest.approx(BALANCED)


def batches():
    return [(INPUTS[:4], LABELS[:4]), (INPUTS[4:], LABELS[4:], np.ones(6))]


DATA = {"array": lambda: LABELS, "tensor": lambda: side.tensor(LABELS), "batches": batches}
if side_name == "keras-tensorflow":
    DATA["tf.data"] = lambda: __import__("tensorflow").data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(4)
if is_keras:

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batches()[index]

    DATA["PyDataset"] = Batches
if side_name in ("keras-torch", "lightning"):

    def torch_loader():
        import torch.utils.data

        return torch.utils.data.DataLoader(list(zip(INPUTS, LABELS, strict=True)), batch_size=4)

    DATA["DataLoader"] = torch_loader


def endless():
    while True:
        yield from batches()


class Endless:
    """Batches without a length and without an end."""

    def __iter__(self):
        return endless()


ENDLESS = {"generator": endless, "iterator": lambda: iter(batches()), "object": Endless}
if side_name == "keras-tensorflow":
    import tensorflow

    def dataset():
        return tensorflow.data.Dataset.from_tensor_slices((INPUTS, LABELS)).batch(5)

    def of_generator():
        types = tensorflow.TensorSpec((None, 2)), tensorflow.TensorSpec((None,), "int64")
        return tensorflow.data.Dataset.from_generator(
            lambda: (batch[:2] for batch in endless()), output_signature=types
        )

    ENDLESS["repeat"] = lambda: dataset().repeat()
    ENDLESS["repeat and filter"] = lambda: dataset().repeat().filter(lambda inputs, labels: True)
    ENDLESS["from_generator"] = of_generator
if is_keras:

    class EndlessBatches(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, index):
            return batches()[index % 2]

    ENDLESS["PyDataset"] = EndlessBatches
if side_name in ("keras-torch", "lightning"):
    import torch.utils.data

    class EndlessRows(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield from zip(INPUTS, LABELS, strict=True)

    ENDLESS["DataLoader"] = lambda: torch.utils.data.DataLoader(EndlessRows(), batch_size=5)


@pytest.mark.parametrize("kind", ENDLESS)
def test_C1_data_that_may_have_no_end(kind):
    """They are refused at once, with `batches` as the way out: two batches hold every row once."""
    with pytest.raises(ValueError, match=r"data must have a known number of batches, got .* pass batches=N"):
        fit(build(loss_of()), LABELS, [ClassWeighting(ENDLESS[kind](), classes=3)], 1)
    model = build(loss_of())
    fit(model, LABELS, [ClassWeighting(ENDLESS[kind](), classes=3, batches=2)], 1)
    assert model.loss.class_weight == pytest.approx(BALANCED)


def test_C1_batches_of_data_with_an_end():
    model = build(loss_of())
    fit(model, LABELS, [ClassWeighting(DATA["batches"](), classes=3, batches=1, pseudo_count=1)], 1)
    assert model.loss.class_weight == pytest.approx([3 / 7, 12 / 7, 6 / 7])  # 0 0 2 0, and 1 each: 4, 1 and 2
    fit(model, LABELS, [ClassWeighting(DATA["batches"](), classes=3, batches=9)], 1)
    assert model.loss.class_weight == pytest.approx(BALANCED)


@pytest.mark.parametrize("kind", DATA)
def test_kinds_of_data(kind):
    model = build(loss_of())
    fit(model, LABELS, [ClassWeighting(DATA[kind](), classes=3)], 1)
    assert model.loss.class_weight == pytest.approx(BALANCED)


@pytest.mark.parametrize(
    "target", [LABELS.astype("float32"), LABELS.astype("float64")[:, None]], ids=["flat", "column"]
)
def test_C1_float_labels(target):
    model = build(loss_of())
    fit(model, LABELS, [ClassWeighting(target, classes=3)], 1)
    assert model.loss.class_weight == pytest.approx(BALANCED)


# Of 6, 3 and 1 positives among 10 rows; of both labels one is ignored where the label is UNKNOWN.
IGNORED = np.where(np.arange(10)[:, None] < 2, -1, ONE_HOT)  # negatives 4, 5, 7; positives 4, 3, 1
BINARY = {
    "labels": ({}, ONE_HOT, {}, (4 / 6, 7 / 3, 9)),
    "one weight": ({}, ONE_HOT, {"per_label": False}, 2.0),
    "ignored labels": ({"ignore_index": -1}, IGNORED, {}, (1, 5 / 3, 7)),
    "power": ({}, ONE_HOT, {"power": 0.5}, ((4 / 6) ** 0.5, (7 / 3) ** 0.5, 3)),
    "max_weight": ({}, ONE_HOT, {"max_weight": 2}, (4 / 6, 2, 2)),
    "pseudo_count": ({}, ONE_HOT, {"pseudo_count": 1}, (5 / 7, 2, 5)),
    "deferred": ({}, ONE_HOT, {"start_epoch": 1}, (4 / 6, 7 / 3, 9)),
    "never begun": ({"pos_weight": 2}, ONE_HOT, {"start_epoch": 2}, 2.0),
}


@pytest.mark.parametrize(("config", "target", "options", "want"), BINARY.values(), ids=BINARY)
def test_C1_binary_losses_get_their_pos_weight(config, target, options, want):
    """Losses of zero logits, where -log p is log 2 for both labels: so the weights count from their epoch on."""
    loss = side.package.BinaryCrossEntropy(**config)
    model = build(loss)
    fit(model, target, [weighting(target, **options)], 2)
    assert loss.pos_weight == pytest.approx(want)
    assert loss.get_config()["pos_weight"] == pytest.approx(want)
    rows = np.where(target == -1, 0, np.where(target == 1, want, 1))
    expected = np.log(2) * rows.sum() / (target != -1).sum()
    logits, labels = side.tensor(np.zeros((10, 3), "float32")), side.tensor(np.asarray(target))
    value = loss(labels, logits) if is_keras else loss(logits, labels)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_C1_binary_weights_reach_training(mode):
    """Negatives / positives 3 of one label: the gradient of zero logits is sum_i x_i (p - t) w / N, p = 1/2."""
    target = np.float32([0, 0, 0, 1, 0, 0, 0, 1])[:, None]
    inputs = np.zeros((8, 2), "float32")
    inputs[:, 0] = 1.0
    model = build(side.package.BinaryCrossEntropy(), outputs=1, **mode)
    fit(model, target, [weighting(target, start_epoch=1)], 2, inputs=inputs)
    first = -RATE * (6 * 0.5 - 2 * 0.5) / 8
    p = 1 / (1 + np.exp(-first))
    second = first - RATE * (6 * p - 2 * 3 * (1 - p)) / 8
    np.testing.assert_allclose(kernel_of(model)[0, 0], second, rtol=1e-5)


CONSTRUCTOR = {
    "power": ({"power": -1}, "power must be a number in"),
    "max_weight": ({"max_weight": 0}, "max_weight must be a number in"),
    "pseudo_count": ({"pseudo_count": -1}, "pseudo_count must be a number in"),
    "batches": ({"batches": 0}, "batches must be an integer >= 1"),
    "per_label": ({"per_label": 2}, "per_label must be one of"),
    "scheme": ({"scheme": "sqrt"}, "scheme must be one of"),
    "beta": ({"beta": 1}, "beta must be a number"),
    "classes": ({"classes": 0}, "classes must be an integer >= 1"),
    "start_epoch": ({"start_epoch": -1}, "start_epoch must be an integer >= 0"),
}


@pytest.mark.parametrize(("options", "message"), CONSTRUCTOR.values(), ids=CONSTRUCTOR)
def test_the_constructor_checks_its_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        weighting(LABELS, **options)


FITS = {
    "classes of a binary loss": (
        side.package.BinaryCrossEntropy,
        ONE_HOT,
        BY_INDEX,
        ValueError,
        "classes must be None for a binary loss, got 3",
    ),
    "label without positives": (
        side.package.BinaryCrossEntropy,
        ONE_HOT * np.float32([1, 0, 1]),
        {},
        ValueError,
        "data must have positives for label 1, got none",
    ),
    "binary label out of range": (
        side.package.BinaryCrossEntropy,
        2 * ONE_HOT,
        {},
        ValueError,
        r"must hold labels in \[0, 1\].*, got 2.0",
    ),
    "class without rows": (loss_of, LABELS, {"classes": 4}, ValueError, r"counts of data\[3\] must be > 0"),
    "label out of range": (
        loss_of,
        LABELS,
        {"classes": 2},
        ValueError,
        r"data must hold class indices in \[0, 1\], got 2",
    ),
    "labels without classes": (loss_of, LABELS, {}, ValueError, "data must hold distributions or one-hot rows"),
    "one-hot with classes": (loss_of, ONE_HOT, BY_INDEX, TypeError, "data must hold class indices of an integer dtype"),
}


@pytest.mark.parametrize(("build_loss", "target", "options", "error", "message"), FITS.values(), ids=FITS)
def test_training_refuses(build_loss, target, options, error, message):
    with pytest.raises(error, match=message):
        fit(build(build_loss()), target, [weighting(target, **{"start_epoch": 1, **options})], 1)


if is_keras:

    @pytest.mark.parametrize("mode", MODES, ids=str)
    def test_validation_takes_the_weights_from_the_same_epoch_on(mode):
        model = build(loss_of(), **mode)
        callback = ClassWeighting(LABELS, classes=3, start_epoch=1)
        history = fit(model, LABELS, [callback], 2, validation_data=(INPUTS, LABELS), validation_batch_size=10)
        # Validation of an epoch sees the kernel after its step.
        want = [descend([1, 1], LABELS)[1][1], descend([1, BALANCED, BALANCED], LABELS)[1][2]]
        assert history.history["val_loss"] == pytest.approx(want, rel=1e-5)

    def test_initial_epoch_past_the_start():
        model = build(loss_of())
        fit(model, LABELS, [ClassWeighting(LABELS, classes=3, start_epoch=1)], 4, initial_epoch=2)
        np.testing.assert_allclose(kernel_of(model), descend([BALANCED] * 2, LABELS)[0], rtol=1e-5, atol=1e-6)

    DOUBLE = {
        "class_weight": (side.package.CategoricalCrossEntropy, {"class_weight": [1, 3, 1]}),
        "pos_weight": (side.package.BinaryCrossEntropy, {"pos_weight": 3}),
        "alpha": (side.package.BinaryFocalCrossEntropy, {"alpha": 0.25}),
    }

    @pytest.mark.parametrize("mode", MODES, ids=str)
    @pytest.mark.parametrize(("build_loss", "config"), DOUBLE.values(), ids=DOUBLE)
    def test_A12_class_weights_of_fit_beside_those_of_the_loss(build_loss, config, mode):
        """Keras multiplies them; other sample weights are the user's own affair."""
        target = (
            LABELS if build_loss is side.package.CategoricalCrossEntropy else (LABELS == 1).astype("float32")[:, None]
        )
        outputs, doubled = (3 if target.ndim == 1 else 1), {0: 1.0, 1: 3.0, 2: 1.0}
        model = build(build_loss(**config), outputs=outputs, **mode)
        with pytest.warns(
            UserWarning, match=rf"has {next(iter(config))}, and class_weight of fit\(\) multiplies"
        ) as seen:
            fit(model, target, [], 2, class_weight=doubled)
        ours = [warning for warning in seen if "multiplies" in str(warning.message)]
        assert len(ours) == 1
        assert ours[0].filename == __file__
        fit(model, target, [], 1, class_weight=doubled)  # it was said
        for others, options in ((config, {"sample_weight": np.ones(10)}), ({}, {"class_weight": doubled})):
            fit(build(build_loss(**others), outputs=outputs, **mode), target, [], 1, **options)

    def test_A12_class_weights_of_fit_beside_those_of_the_callback():
        model = build(loss_of())
        with pytest.warns(UserWarning, match="has class_weight, and class_weight of fit"):
            fit(model, LABELS, [ClassWeighting(LABELS, classes=3)], 1, class_weight={0: 1.0, 1: 3.0, 2: 1.0})
        with pytest.warns(UserWarning, match="has class_weight, and class_weight of train_on_batch"):
            model = build(loss_of(class_weight=OWN))
            model.train_on_batch(INPUTS, LABELS, class_weight={0: 1.0, 1: 3.0, 2: 1.0})

    def test_other_losses_are_refused():
        with pytest.raises(TypeError, match="loss of the model must be one categorical or binary loss of keras_xent, "):
            fit(build("mse"), ONE_HOT, [ClassWeighting(ONE_HOT)], 1)

    def test_newcomer_5_the_losses_of_several_outputs_are_refused_with_a_way_out():
        inputs = keras.Input((2,))
        model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
        model.compile("sgd", [loss_of(), loss_of()])
        with pytest.raises(
            TypeError, match=r"for several outputs, give each loss its class_weight=class_weights\(\.\.\.\)"
        ):
            model.fit(INPUTS, [LABELS, LABELS], verbose=0, callbacks=[ClassWeighting(LABELS, classes=3)])

    def test_C1_the_loss_of_one_output_in_a_list_or_dictionary():
        inputs = keras.Input((2,))
        output = keras.layers.Dense(3)(inputs)
        forms = [(output, lambda item: [item]), ({"out": output}, lambda item: {"out": item})]
        for outputs, form in forms:
            loss = loss_of()
            model = keras.Model(inputs, outputs)
            model.compile(optimizer="sgd", loss=form(loss))
            fit(model, form(LABELS), [ClassWeighting([(INPUTS, form(LABELS))], classes=3)], 1)
            assert loss.class_weight == pytest.approx(BALANCED)

else:

    class Seen(Callback):
        """Collects the order of the rows."""

        def __init__(self):
            self.rows = []

        def on_train_batch_start(self, trainer, module, batch, index):
            self.rows += batch[0][:, 0].tolist()

    LOADERS = {
        "global generator": lambda: {},
        "own generator": lambda: {"generator": torch.Generator().manual_seed(0)},
        "persistent workers": lambda: {"num_workers": 1, "persistent_workers": True},
    }

    @pytest.mark.parametrize("kind", LOADERS)
    def test_training_sees_its_data_in_the_same_order(kind):
        orders = []
        for others in ([], [ClassWeighting(classes=3)]):
            torch.manual_seed(0)
            seen = Seen()
            run = trainer(max_epochs=2, callbacks=[*others, seen])
            run.fit(build(loss_of()), loader(LABELS, 4, shuffle=True, **LOADERS[kind]()), loader(LABELS))
            orders.append(seen.rows)
        assert len(orders[0]) == 20
        assert orders[0] == orders[1]

    def test_counts_are_of_the_batches_of_an_epoch():
        model = build(loss_of())
        limited = trainer(max_epochs=1, limit_train_batches=2, callbacks=[ClassWeighting(classes=3)])
        limited.fit(model, loader(LABELS, 3), loader(LABELS))  # 0 0 2 0 1 0
        assert model.loss.class_weight == pytest.approx([3 / 9, 12 / 9, 12 / 9])

    class Save(Callback):
        """Saves a checkpoint after a step."""

        def __init__(self, path, step, hook):
            self.path, self.step = path, step
            setattr(self, hook, self.save)

        def save(self, trainer, module, *batch):
            if trainer.global_step == self.step:
                trainer.save_checkpoint(self.path)

    HOOKS = {"between epochs": (2, "on_train_epoch_end"), "within an epoch": (3, "on_train_batch_end")}

    # A plain DataLoader begins its epoch anew; what counts here are the weights.
    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
    @pytest.mark.parametrize("place", HOOKS)
    def test_resumed_runs_have_the_weights(tmp_path, place):
        """Of two steps an epoch; weights from epoch 1 on. Versions of Lightning differ in what is left of an epoch."""
        path, (step, hook) = tmp_path / "model.ckpt", HOOKS[place]
        run = trainer(max_epochs=2, callbacks=[Save(path, step, hook)])
        run.fit(build(loss_of()), loader(LABELS, 5), loader(LABELS))
        weights = []
        model = build(loss_of())
        model.on_train_batch_start = lambda batch, index: weights.append(model.loss.class_weight)
        run = trainer(max_epochs=2, callbacks=[ClassWeighting(classes=3, start_epoch=1)])
        run.fit(model, loader(LABELS, 5), loader(LABELS), ckpt_path=path)
        assert weights
        assert weights == [pytest.approx(BALANCED)] * len(weights)

    def test_C1_training_data_that_may_have_no_end():
        batches = DataLoader(EndlessRows(), batch_size=5)
        with pytest.raises(ValueError, match=r"batches must be a number .* they may have no end; pass batches=N"):
            run = trainer(max_steps=1, max_epochs=None, callbacks=[ClassWeighting(classes=3)])
            run.fit(build(loss_of()), batches, loader(LABELS))
        for options, limits in (({"batches": 2}, {}), ({}, {"limit_train_batches": 2})):
            model = build(loss_of())
            callbacks = [ClassWeighting(classes=3, **options)]
            trainer(max_steps=1, max_epochs=None, callbacks=callbacks, **limits).fit(model, batches, loader(LABELS))
            assert model.loss.class_weight == pytest.approx(BALANCED)

    def test_a_module_without_loss_is_refused():
        module = build(loss_of())
        module.loss = None
        with pytest.raises(
            TypeError, match="loss of the module must be one categorical or binary loss of lightning_xent, got None"
        ):
            run = trainer(max_epochs=1, callbacks=[ClassWeighting(classes=3)], num_sanity_val_steps=0)
            run.fit(module, loader(LABELS), loader(LABELS))
