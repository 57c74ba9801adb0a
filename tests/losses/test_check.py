"""Probabilities taken for logits, and the reverse: said once and before training; never of real logits."""

import importlib
import re
import warnings

import numpy as np
import pytest

from examples import CLASSES, build, is_binary
from shared_specs.common import guard
from sides import is_keras, side
from sides import name as side_name

package = side.package
reading, callbacks = (importlib.import_module(f"{package.__name__}.{name}") for name in ("reading", "callbacks"))
DTYPES = ("float32", "bfloat16", "float16")
LABELS = np.arange(12) % 3


def softmax(values):
    exponentials = np.exp(values - values.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def rounded(values, dtype):
    """Values that `dtype` holds, in float64."""
    values = np.asarray(values, "float32")
    if dtype == "float16":
        values = values.astype("float16")
    elif dtype == "bfloat16":
        values = ((values.view("uint32") + 0x8000) & 0xFFFF0000).view("float32")
    return values.astype("float64")


REAL = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "any scale": lambda rng, shape: 10 ** rng.uniform(-9, 2) * rng.normal(size=shape),
    "around a bias": lambda rng, shape: rng.normal(size=shape[-1]) + 10 ** rng.uniform(-9, 0) * rng.normal(size=shape),
    "around one half": lambda rng, shape: 0.5 + 10 ** rng.uniform(-9, 0) * rng.normal(size=shape),
    "around 1 / K": lambda rng, shape: 1 / shape[-1] + 10 ** rng.uniform(-9, 0) * rng.normal(size=shape),
    "around a distribution": lambda rng, shape: (
        softmax(rng.normal(size=shape[-1])) + 10 ** rng.uniform(-9, 0) * rng.normal(size=shape)
    ),
    "constant 1 / K": lambda rng, shape: np.full(shape, 1 / shape[-1]),
    "constant distribution": lambda rng, shape: softmax(rng.normal(size=shape[-1])) + np.zeros(shape),
    "zeros": lambda rng, shape: np.zeros(shape),
    "after a ReLU": lambda rng, shape: np.maximum(10 ** rng.uniform(-3, 1) * rng.normal(size=shape), 0),
    "after a ReLU, within 1": lambda rng, shape: np.clip(rng.normal(size=shape), 0, 1),
    "uniform": lambda rng, shape: rng.uniform(size=shape),
    "uniform with the mean 1 / K": lambda rng, shape: 2 / shape[-1] * rng.uniform(size=shape),
    "after a sigmoid, each class by itself": lambda rng, shape: 1 / (1 + np.exp(-rng.normal(size=shape))),
    "log-probabilities": lambda rng, shape: np.log(softmax(3 * rng.normal(size=shape))),
    "certain": lambda rng, shape: 30 * np.eye(shape[-1])[rng.integers(0, shape[-1], shape[0])],
    "one row many times": lambda rng, shape: rng.normal(size=shape[-1]) + np.zeros(shape),
    "cosines": lambda rng, shape: rng.uniform(-1, 1, shape),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_ten_thousand_draws_of_real_logits_raise_no_alarm(dtype):
    rng = np.random.default_rng(0)
    for draw in range(10_000):
        shape = int(rng.choice([1, 2, 8, 16])), int(rng.choice([1, 2, 2, 3, 10, 100]))
        values = rounded(list(REAL.values())[draw % len(REAL)](rng, shape), dtype)
        for has_classes in (True, False):
            found = guard.of_values(values, None, dtype, 1, has_classes=has_classes, from_logits=True)
            assert found is None, (list(REAL)[draw % len(REAL)], values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ten_thousand_draws_of_probabilities_are_told(dtype):
    """A network that has not learnt gives rows that differ little; what bfloat16 leaves of that is another matter."""
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        shape = int(rng.choice([8, 16])), int(rng.choice([2, 3, 10, 100]))
        p = rounded(softmax(10 ** rng.uniform(-0.5, 1) * rng.normal(size=shape)), dtype)
        assert guard.of_values(p, None, dtype, 1, has_classes=False, from_logits=False) is None
        assert guard.of_values(p, None, dtype, 1, has_classes=True, from_logits=False) is None
        found = guard.of_values(p, None, dtype, 1, has_classes=True, from_logits=True)
        assert found is not None or np.ptp(p, 0).max() < 0.1 or len(np.unique(p, axis=0)) == 1, p


def logits_of(rows=12, classes=3, scale=1.0):
    return scale * np.random.default_rng(0).normal(size=(rows, classes))


def tensors(logits, target=LABELS, dtype="float32"):
    return side.tensor(np.asarray(logits, "float32"), dtype), side.tensor(target)


SAID = re.compile(r"^\w+ (takes|gets|is|does not take) ")


def said(function):
    """The warnings of this package, and what the function returned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = function()
    return [warning for warning in caught if SAID.search(str(warning.message))], value


REVERSED = r"takes probabilities \(from_logits=False\) but gets "
DOUBLED = r"takes logits \(from_logits=True\) but gets "
CALLS = {
    "softmax": ("CategoricalCrossEntropy", {}, softmax(logits_of()), LABELS, DOUBLED + "what look like .* 12 rows"),
    "softmax of a focal loss": ("CategoricalFocalCrossEntropy", {}, softmax(logits_of()), LABELS, DOUBLED),
    "softmax of each view": (
        "JensenShannonConsistency",
        {},
        np.concatenate([softmax(logits_of())] * 3, -1),
        LABELS,
        DOUBLED + ".* sum to 3",
    ),
    "softmax, one row ignored": (
        "CategoricalCrossEntropy",
        {"ignore_index": -1},
        np.where(np.arange(12)[:, None] == 3, 7.0, softmax(logits_of())),
        np.where(np.arange(12) == 3, -1, LABELS),
        DOUBLED + ".* 11 rows",
    ),
    "logits": (
        "CategoricalCrossEntropy",
        {"from_logits": False},
        logits_of(),
        LABELS,
        REVERSED + r"-0\.132.* row \[0\]",
    ),
    "binary logits": ("BinaryCrossEntropy", {"from_logits": False}, logits_of(), 1.0 * (logits_of() > 0), REVERSED),
    "logits above 1": (
        "BinaryCrossEntropy",
        {"from_logits": False},
        np.array([[0.5, 1.5]]),
        np.ones((1, 2)),
        REVERSED + r"1\.5 at \[0, 1\], .* end the network in a sigmoid",
    ),
}


@pytest.mark.parametrize(("name", "config", "inputs", "target", "message"), CALLS.values(), ids=CALLS)
def test_the_first_eager_call_warns_once_and_at_its_line(name, config, inputs, target, message):
    loss = build(name, **config)
    arguments = tensors(inputs, target)
    (warning,), _ = said(lambda: side.call(loss, *arguments))
    assert warning.category is UserWarning
    assert re.match(f"{name} {message}", str(warning.message))
    assert warning.filename == side.call.__code__.co_filename
    side.call(loss, *arguments)
    side.parts(loss, *arguments)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_warns(dtype):
    with pytest.warns(UserWarning, match=DOUBLED):
        side.call(build("CategoricalCrossEntropy"), *tensors(softmax(logits_of()), dtype=dtype))


@pytest.mark.parametrize("name", [name for name in CLASSES if not is_binary(name)])
def test_every_categorical_loss_is_checked(name):
    inputs = np.concatenate([softmax(logits_of())] * (3 if name == "JensenShannonConsistency" else 1), -1)
    found = package.check_outputs(build(name), *tensors(inputs, logits_of() if name == "Distillation" else LABELS))
    assert [problem.partition(" ")[0] for problem in found if "takes logits" in problem] == [name]


SILENT = {
    "logits": ("CategoricalCrossEntropy", {}, logits_of()),
    "log-probabilities": ("CategoricalCrossEntropy", {}, np.log(softmax(logits_of()))),
    "probabilities": ("CategoricalCrossEntropy", {"from_logits": False}, softmax(logits_of())),
    "probabilities, not normalised": ("CategoricalCrossEntropy", {"from_logits": False}, 9 * softmax(logits_of())),
    "few rows": ("CategoricalCrossEntropy", {}, softmax(logits_of(7))),
    "equal rows": ("CategoricalCrossEntropy", {}, np.full((12, 3), 1 / 3)),
    "certain": ("CategoricalCrossEntropy", {"from_logits": False}, np.eye(3)[LABELS]),
    "binary logits within 1": ("BinaryCrossEntropy", {}, softmax(logits_of())),
    "no rows": ("CategoricalCrossEntropy", {}, np.zeros((0, 3))),
    "no probabilities": ("BinaryCrossEntropy", {"from_logits": False}, np.zeros((0, 3))),
}


@pytest.mark.parametrize(("name", "config", "inputs"), SILENT.values(), ids=SILENT)
def test_what_is_no_mistake_is_silent(name, config, inputs):
    target = np.zeros(inputs.shape if is_binary(name) else len(inputs), "int64")
    side.call(build(name, **config), *tensors(inputs, target))


FIRST = np.arange(12) < 4
SECOND = (np.arange(12) >= 4) & (np.arange(12) < 6)


@pytest.mark.parametrize("uncounted", ["ignored", "masked", "weight 0", "masked or weight 0"])
def test_rows_that_count_nowhere_may_hold_anything(uncounted):
    is_first = FIRST | SECOND
    target = np.where(is_first, -1, LABELS) if uncounted == "ignored" else LABELS
    more = {
        "masked": {"mask": ~is_first},
        "weight 0": {"sample_weight": 1.0 * ~is_first},
        "masked or weight 0": {"mask": ~FIRST, "sample_weight": 1.0 * ~SECOND},
    }.get(uncounted, {})
    loss = build("CategoricalCrossEntropy", from_logits=False, ignore_index=-1)
    inputs = np.where(is_first[:, None], -9.0, softmax(logits_of()))
    more = {name: side.tensor(value if name == "mask" else value.astype("float32")) for name, value in more.items()}
    side.call(loss, *tensors(inputs, target), **more)
    assert loss._watch.has_looked


def test_a_call_that_shows_nothing_is_followed_by_another_look():
    loss = build("CategoricalCrossEntropy")
    few, enough = (tensors(softmax(logits_of(rows)), LABELS[:rows]) for rows in (7, 12))
    side.call(loss, *few)
    with pytest.warns(UserWarning, match=DOUBLED):
        side.call(loss, *enough)


def test_a_warning_leaves_no_trace_in_the_loss():
    loss = build("CategoricalCrossEntropy", label_smoothing=0.125)
    arguments = tensors(softmax(logits_of()))
    messages, value = said(lambda: side.call(loss, *arguments))
    assert len(messages) == 1
    assert loss.get_config() == {"label_smoothing": 0.125}
    again = type(loss)(**loss.get_config())
    messages, same = said(lambda: side.call(again, *arguments))
    assert len(messages) == 1
    assert side.numpy(value) == side.numpy(same) == side.numpy(side.call(loss, *arguments))


@pytest.mark.parametrize("mode", [mode for mode in side.modes if mode not in ("eager", "blocks")])
@pytest.mark.parametrize("from_logits", [True, False])
def test_traces_read_nothing(monkeypatch, mode, from_logits):
    loss = build("CategoricalCrossEntropy", from_logits=from_logits)
    monkeypatch.setattr(guard, "of_values", None)
    logits, target = tensors(softmax(logits_of()) if from_logits else -logits_of())
    side.value_and_gradient(lambda logits, target: side.call(loss, logits, target), logits, mode, target)
    assert not loss._watch.has_looked


@pytest.mark.parametrize("from_logits", [True, False])
def test_what_costs_a_synchronisation_is_not_read(monkeypatch, from_logits):
    """As on an accelerator, where nothing is read unless it is asked for."""
    readable = reading.is_readable
    monkeypatch.setattr(reading, "is_readable", lambda tensor, check: bool(check) and readable(tensor, check))
    monkeypatch.setattr(guard, "of_values", None)
    side.call(build("CategoricalCrossEntropy", from_logits=from_logits), *tensors(softmax(logits_of())))


def test_only_a_corner_of_a_large_batch_is_read(monkeypatch):
    seen = []
    monkeypatch.setattr(guard, "of_values", lambda values, *rest, **kind: seen.append(values.shape))
    logits = side.tensor(np.zeros((40, 30, 2, 50), "float32"))
    side.call(build("CategoricalCrossEntropy", axis=2), logits, side.tensor(np.zeros((40, 30, 50), "int64")))
    assert seen == [(16, 16, 16, 2)]


INPUTS = np.random.default_rng(1).normal(size=(12, 4)).astype("float32")
POSITIVE = (INPUTS[:, :1] > 0).astype("float32")

if is_keras:
    import keras
    from keras import layers

    def sequential(*stack):
        return keras.Sequential([keras.Input((4,)), *stack])

    def functional(*stack):
        features = outputs = keras.Input((4,))
        for layer in stack:
            outputs = layer(outputs)
        return keras.Model(features, outputs)

    class Subclassed(keras.Model):
        def __init__(self, *stack):
            super().__init__()
            self.stack = stack
            self.other = layers.Dense(1, activation="sigmoid")  # not at the end

        def call(self, inputs):
            outputs = self.other(inputs) * inputs
            for layer in self.stack:
                outputs = layer(outputs)
            return outputs

    KINDS = (sequential, functional, Subclassed)

    def ends(outputs):
        """Layers that end in each activation, and what it is called."""
        return {
            "softmax": [layers.Dense(outputs, activation="softmax")],
            "sigmoid": [layers.Dense(outputs, activation="sigmoid")],
            "log_softmax": [layers.Dense(outputs, activation="log_softmax")],
            "linear": [layers.Dense(outputs)],
        }

    MORE = {
        "a layer of its own": lambda: sequential(layers.Dense(3), layers.Softmax()),
        "activation layer": lambda: sequential(layers.Dense(3), layers.Activation("softmax")),
        "cast after it": lambda: sequential(layers.Dense(3, activation="softmax"), layers.Activation("linear")),
        "reshaped": lambda: sequential(layers.Dense(3, activation="softmax"), layers.Reshape((3,))),
        "nested": lambda: functional(sequential(layers.Dense(3, activation="softmax"))),
        "operation": lambda: functional(layers.Dense(3), keras.ops.softmax),
        "not built": lambda: keras.Sequential([layers.Dense(3, activation="softmax")]),
    }

    def compiled(model, loss):
        model.compile(optimizer="sgd", loss=loss)
        return model

    def fit(model, target, callback, epochs=1, **options):
        model.fit(INPUTS, target, batch_size=12, epochs=epochs, callbacks=[callback], verbose=0, **options)

    def callback_of(target):
        return callbacks.CheckModel((INPUTS, target))

else:
    import torch
    from pytorch_lightning import Callback
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from lightning_xent.module import XentModule
    from sides.lightning import trainer

    class Functional(nn.Module):
        """Ends in functions, which have no module."""

        def __init__(self, *stack):
            super().__init__()
            self.stack = nn.Sequential(*(layer for layer in stack if isinstance(layer, nn.Linear)))
            self.last = {nn.Softmax: "softmax", nn.Sigmoid: "sigmoid", nn.LogSoftmax: "log_softmax"}.get(
                type(stack[-1])
            )

        def forward(self, inputs):
            outputs = self.stack(inputs)
            if self.last is not None:
                outputs = getattr(torch, self.last)(outputs, *([] if self.last == "sigmoid" else [-1]))
            return outputs.unsqueeze(0).squeeze(0)

    def frozen(*stack):
        return nn.Sequential(*stack).requires_grad_(False)

    KINDS = (nn.Sequential, Functional, frozen)

    def ends(outputs):
        """Modules that end in each activation, and what it is called."""
        return {
            "softmax": [nn.Linear(4, outputs), nn.Softmax(-1)],
            "sigmoid": [nn.Linear(4, outputs), nn.Sigmoid()],
            "log_softmax": [nn.Linear(4, outputs), nn.LogSoftmax(-1)],
            "linear": [nn.Linear(4, outputs)],
        }

    MORE = {"nested": lambda: nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Softmax(-1)))}

    def compiled(model, loss):
        return XentModule(model, loss)

    def loader(target, **options):
        return DataLoader(TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(target)), batch_size=12, **options)

    def fit(model, target, callback, epochs=1):
        trainer(max_epochs=epochs, callbacks=[callback]).fit(model, loader(target), loader(target))

    def callback_of(target):
        """The trainer has the data."""
        return callbacks.CheckModel()


def batch_of(target, inputs=INPUTS):
    return side.given(inputs), side.given(target)


MODELS = {  # what is said of a network that ends in it: with from_logits, and without
    "softmax": ("CategoricalCrossEntropy", 3, LABELS, "takes logits .* probabilities, those of a softmax", None),
    "sigmoid": ("BinaryCrossEntropy", 1, POSITIVE, "takes logits .* probabilities, those of a sigmoid", None),
    "log_softmax": ("CategoricalCrossEntropy", 3, LABELS, None, "takes probabilities .* logits"),
    "linear": ("CategoricalCrossEntropy", 3, LABELS, None, "takes probabilities .* logits"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("end", MODELS)
@pytest.mark.parametrize("from_logits", [True, False])
def test_check_model_tells_logits_from_probabilities(end, kind, from_logits):
    name, outputs, target, *messages = MODELS[end]
    loss = build(name, from_logits=from_logits)
    found = package.check_model(kind(*ends(outputs)[end]), loss, batch_of(target))
    message = messages[not from_logits]
    if message is None:
        assert found == []
    else:
        # Logarithms of probabilities make a loss that is not finite, too.
        assert len([problem for problem in found if "from_logits" in problem]) == 1
        assert re.match(f"{name} {message}", found[0]), found
    assert loss.get_config() == ({} if from_logits else {"from_logits": False})
    assert not loss._watch.has_looked


@pytest.mark.parametrize("model", MORE.values(), ids=MORE)
def test_check_model_finds_the_activation(model):
    (found,) = package.check_model(model(), build("CategoricalCrossEntropy"), batch_of(LABELS))
    assert "those of a softmax" in found


def outputs_problems(name, outputs, target, **config):
    return package.check_outputs(build(name, **config), *tensors(outputs, target))


WEIGHTED = {"class_weight": [1.0, 2.0, 5.0]}
TWICE = r"has class_weight, and the sample weights of the batch weight classes too \(1 for label 0, 3 for label 1, "
WEIGHTS = {  # sample weights of labels 0, 1, 2, 0, ... and what is said of them
    "those of the classes": (WEIGHTED, LABELS, np.array([1, 3, 7])[LABELS], [TWICE]),
    "zero for some rows": (WEIGHTED, LABELS, np.where(np.arange(12) < 3, 0, np.array([1, 3, 7])[LABELS]), [TWICE]),
    "a label each": ({"class_weight": [1.0, 1.0, 5.0]}, LABELS, np.array([1, 3, 7])[LABELS], [TWICE]),
    "distributions": (WEIGHTED, np.eye(3)[LABELS], np.array([1, 3, 7])[LABELS], []),
    "no class weights": ({}, LABELS, 1.0 + LABELS, []),
    "the same for all": (WEIGHTED, LABELS, np.full(12, 3.0), []),
    "a row a label": (WEIGHTED, LABELS[:3], np.array([1.0, 3.0, 7.0]), []),
    "of a row each": (WEIGHTED, LABELS, 1.0 + np.arange(12), []),
    "not of the classes": (WEIGHTED, LABELS, 1.0 + np.arange(12) % 2, []),
    "two labels": ({"pos_weight": 4.0}, POSITIVE[:, 0], 1 + 3 * POSITIVE[:, 0], ["has pos_weight, and the sample w"]),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_class_weights_are_not_given_twice(case):
    config, target, weights, messages = WEIGHTS[case]
    name = "BinaryCrossEntropy" if "pos_weight" in config else "CategoricalCrossEntropy"
    outputs = logits_of(classes=1)[:, 0] if "pos_weight" in config else logits_of(len(target))
    logits, given = tensors(outputs, target)
    found = package.check_outputs(build(name, **config), logits, given, side.tensor(np.asarray(weights, "float32")))
    assert package.check_outputs(build(name, **config), logits, target.tolist(), weights.tolist()) == found
    assert len(found) == len(messages)
    assert all(re.match(f"{name} {message}", problem) for problem, message in zip(found, messages, strict=True)), found


def put(value, *position, shape=(12, 3)):
    outputs = np.random.default_rng(2).normal(size=shape)
    outputs[position] = value
    return outputs


SQUARE = np.random.default_rng(3).normal(size=(2, 5, 5))
OUTPUTS = {
    "fine": ("CategoricalCrossEntropy", {}, logits_of(), LABELS, []),
    "NaN": ("CategoricalCrossEntropy", {}, put(np.nan, 4, 2), LABELS, [r"gets nan in row \[4\], class 2"]),
    "infinity": ("CategoricalCrossEntropy", {}, put(np.inf, 4, 2), LABELS, [r"gets inf in row \[4\], class 2"]),
    "a class ruled out": ("CategoricalCrossEntropy", {}, put(-np.inf, 4, 2), LABELS, []),
    "its label ruled out": ("CategoricalCrossEntropy", {}, put(-np.inf, 4, 1), LABELS, [r"is inf in row \[4\]"]),
    "NaN in an ignored row": (
        "CategoricalCrossEntropy",
        {"ignore_index": -1},
        put(np.nan, 4),
        np.where(np.arange(12) == 4, -1, LABELS),
        [],
    ),
    "binary NaN": ("BinaryCrossEntropy", {}, put(np.nan, 5, 0), np.ones((12, 3)), [r"gets nan at \[5, 0\]"]),
    "a label out of range": (
        "CategoricalCrossEntropy",
        {"check_labels": False},
        logits_of(),
        np.where(np.arange(12) == 7, 3, LABELS),
        [r"does not take this batch: .* in \[0, 2\], got 3 at \[7\]"],
    ),
    "and a softmax": (
        "CategoricalCrossEntropy",
        {},
        softmax(logits_of()),
        np.where(np.arange(12) == 7, 3, LABELS),
        ["takes logits", r"got 3 at \[7\]"],
    ),
    "the class axis is one of two": (
        "CategoricalCrossEntropy",
        {},
        SQUARE,
        np.zeros((2, 5), "int64"),
        [r"takes the classes from axis \d of logits of shape \(2, 5, 5\).*set axis=\d or axis=\d$"],
    ),
    "the class axis is given": ("CategoricalCrossEntropy", {"axis": -1}, SQUARE, np.zeros((2, 5), "int64"), []),
    "the class axis is told by the shapes": (
        "CategoricalCrossEntropy",
        {},
        np.moveaxis(put(0.0, 0, shape=(2, 5, 3)), 2, 1 if is_keras else 2),
        np.zeros((2, 5), "int64"),
        [r"does not take this batch: .*; it fits classes on axis \d: set axis=\d"],
    ),
    "integers": ("CategoricalCrossEntropy", {}, None, LABELS, ["must be a floating-point tensor"]),
    "a scalar": ("CategoricalCrossEntropy", {}, np.array(1.0), LABELS, ["must have a class axis"]),
}


@pytest.mark.parametrize(("name", "config", "outputs", "target", "messages"), OUTPUTS.values(), ids=OUTPUTS)
def test_check_outputs(name, config, outputs, target, messages):
    loss = build(name, **config)
    logits = side.tensor(np.ones((12, 3), "int64")) if outputs is None else tensors(outputs)[0]
    found = package.check_outputs(loss, logits, side.tensor(target))
    assert len(found) == len(messages)
    for problem, message in zip(found, messages, strict=True):
        assert problem.startswith(f"{name} ")
        with pytest.raises(ValueError, match=message):
            raise ValueError(problem)
    assert loss.get_config() == config


@pytest.mark.parametrize(
    "batch", [INPUTS, (INPUTS,), (1, 2, 3, 4, 5), {"inputs": INPUTS}], ids=["array", "1", "5", "dict"]
)
def test_other_batches_are_refused(batch):
    model = KINDS[0](*ends(3)["linear"])
    with pytest.raises(ValueError, match=r"batch must be \(inputs, target\[, sample_weight\[?.*, got"):
        package.check_model(model, build("CategoricalCrossEntropy"), batch)


@pytest.mark.parametrize("end", MODELS)
@pytest.mark.parametrize("from_logits", [True, False])
def test_the_callback_warns_once_before_the_first_step(end, from_logits):
    name, outputs, target, *messages = MODELS[end]
    model = compiled(KINDS[0](*ends(outputs)[end]), build(name, from_logits=from_logits))
    callback = callback_of(target)
    found, _ = said(lambda: fit(model, target, callback, 2))
    message = messages[not from_logits]
    assert len(found) == (message is not None)
    # The trainer's own sanity check comes first, and may show less.
    assert all(re.match(f"{name} {message.partition(',')[0]}", str(warning.message)) for warning in found)
    assert said(lambda: fit(model, target, callback))[0] == []


def test_the_callback_is_silent_where_all_is_well():
    model = compiled(KINDS[0](*ends(3)["linear"]), build("CategoricalCrossEntropy"))
    fit(model, LABELS, callback_of(LABELS))


if is_keras:

    @pytest.mark.parametrize("kind", [sequential, functional])
    def test_the_callback_needs_no_data_where_the_model_shows_its_end(kind):
        model = compiled(kind(*ends(1)["sigmoid"]), build("BinaryCrossEntropy"))
        (warning,), _ = said(lambda: fit(model, POSITIVE, callbacks.CheckModel()))
        assert re.match("BinaryCrossEntropy takes logits .* sigmoid", str(warning.message))
        assert warning.filename == __file__

    DATA = {
        "tuple": lambda: (INPUTS, LABELS, np.ones(12)),
        "list of batches": lambda: [(INPUTS, LABELS), (None, None)],
        "generator": lambda: iter([(INPUTS, LABELS)]),
    }

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return INPUTS, LABELS

    DATA["PyDataset"] = Batches

    @pytest.mark.parametrize("data", DATA.values(), ids=DATA)
    def test_data_of_the_callback(data):
        model = compiled(Subclassed(*ends(3)["softmax"]), build("CategoricalCrossEntropy"))
        (warning,), _ = said(lambda: fit(model, LABELS, callbacks.CheckModel(data())))
        assert re.match("CategoricalCrossEntropy takes logits .* softmax", str(warning.message))

    @pytest.mark.parametrize("loss", [lambda loss: [loss], lambda loss: {"only": loss}], ids=["list", "dict"])
    @pytest.mark.parametrize("data", [None, (INPUTS, POSITIVE)], ids=["no data", "data"])
    def test_one_output_may_have_its_loss_in_a_structure(loss, data):
        model = functional(layers.Dense(1, activation="sigmoid", name="only"))
        model = compiled(model, loss(build("BinaryCrossEntropy")))
        (warning,), _ = said(lambda: fit(model, POSITIVE, callbacks.CheckModel(data)))
        assert re.match("BinaryCrossEntropy takes logits .* sigmoid", str(warning.message))

    def test_a_model_without_a_loss_of_the_package_is_refused():
        with pytest.raises(TypeError, match="loss of the model must be one of keras_xent, got 'mse'"):
            fit(compiled(sequential(*ends(1)["linear"]), "mse"), POSITIVE, callbacks.CheckModel())

    @pytest.mark.parametrize("is_named", [True, False])
    @pytest.mark.parametrize("has_data", [True, False])
    def test_each_output_has_its_loss(is_named, has_data):
        features = keras.Input((4,))
        kind = layers.Dense(3, activation="softmax", name="kind")(features)
        flag = layers.Dense(1, activation="sigmoid", name="flag")(features)
        size = layers.Dense(1, name="size")(features)
        losses = [build("CategoricalCrossEntropy"), build("BinaryCrossEntropy"), "mse"]
        target = [LABELS, POSITIVE, POSITIVE]
        names, outputs = ["kind", "flag", "size"], [kind, flag, size]
        if is_named:
            outputs, losses, target = (dict(zip(names, values, strict=True)) for values in (outputs, losses, target))
        model = compiled(keras.Model(features, outputs), losses)
        if has_data:
            found = package.check_model(model, losses, (INPUTS, target))
            assert sorted(problem.partition(" ")[0] for problem in found) == [
                "BinaryCrossEntropy",
                "CategoricalCrossEntropy",
            ]
        messages, _ = said(
            lambda: model.fit(
                INPUTS, target, verbose=0, callbacks=[callbacks.CheckModel((INPUTS, target) if has_data else None)]
            )
        )
        found = [str(warning.message).partition(" ")[0] for warning in messages]
        assert sorted(found) == ["BinaryCrossEntropy", "CategoricalCrossEntropy"]

    @pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=str)
    def test_fit_itself_says_it_where_keras_marks_its_activations(options):
        """The arrays of JAX have no place for a mark."""
        model = Subclassed(*ends(1)["sigmoid"])
        model.compile(optimizer="sgd", loss=build("BinaryCrossEntropy"), **options)
        found, _ = said(lambda: model.fit(INPUTS, POSITIVE, epochs=2, verbose=0))
        assert len(found) == (side_name != "keras-jax")
        for warning in found:
            assert re.match("BinaryCrossEntropy takes logits .* of a softmax or sigmoid", str(warning.message))
            assert warning.filename == __file__

else:
    CHAINS = {
        "softmax": lambda x: torch.softmax(x, -1)[:, :2].movedim(1, 0).to(torch.float64).contiguous().flatten(),
        "sigmoid": lambda x: torch.sigmoid(x).squeeze(-1).reshape(-1, 1).T,
        "log_sigmoid": lambda x: nn.functional.logsigmoid(x),
        "log_softmax": lambda x: torch.log_softmax(x, -1).unsqueeze(0).permute(2, 1, 0),
    }

    @pytest.mark.parametrize("name", CHAINS)
    def test_autograd_names_the_activation(name):
        logits = torch.zeros(3, 4, requires_grad=True)
        assert reading.activation_of(CHAINS[name](logits)) == name
        assert reading.activation_of(2 * CHAINS[name](logits)) is None
        assert reading.activation_of(CHAINS[name](logits).detach()) is None

    BINARY = {"sigmoid": torch.sigmoid, "log_sigmoid": nn.functional.logsigmoid, "softmax": lambda x: x.softmax(-1)}

    @pytest.mark.parametrize("name", BINARY)
    def test_the_first_step_names_the_activation(monkeypatch, name):
        """On any device: no value is read."""
        monkeypatch.setattr(reading, "read", None)
        outputs = BINARY[name](torch.zeros(2, 3, requires_grad=True))
        with pytest.warns(UserWarning, match=f"BinaryCrossEntropy takes logits .*those of a {name}: remove the {name}"):
            build("BinaryCrossEntropy")(outputs, torch.ones(2, 3))

    class Steps(Callback):
        """Notes when a warning comes."""

        def __init__(self):
            self.rows = []

        def on_train_batch_start(self, trainer, module, batch, index):
            self.rows += batch[0][:, 0].tolist()

    def test_the_sanity_check_of_the_trainer_warns_without_the_callback():
        model = compiled(nn.Sequential(*ends(3)["softmax"]), build("CategoricalCrossEntropy"))
        model.on_train_start = lambda: pytest.fail("training began")
        warning = pytest.warns(UserWarning, match="CategoricalCrossEntropy takes logits")
        with warning, pytest.raises(pytest.fail.Exception, match="training began"):
            trainer(max_epochs=1).fit(model, loader(LABELS), loader(LABELS))

    def test_training_and_the_module_are_as_they_would_be_without():
        orders, weights = [], []
        for others in ([], [callbacks.CheckModel()]):
            torch.manual_seed(0)
            steps = Steps()
            network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
            model = compiled(network, build("CategoricalCrossEntropy"))
            batches = loader(LABELS, shuffle=True)
            trainer(max_epochs=2, callbacks=[*others, steps]).fit(model, batches, loader(LABELS))
            orders.append(steps.rows)
            weights.append(torch.cat([value.flatten().double() for value in network.state_dict().values()]))
        assert orders[0] == orders[1]
        assert torch.equal(*weights)

    def test_check_model_leaves_the_network_as_it_was():
        network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3), nn.Softmax(-1))
        network[2].eval()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        assert package.check_model(network, build("CategoricalCrossEntropy"), batch_of(LABELS))
        assert [module.training for module in network] == [True, True, False, True, True]
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert not network[4]._forward_hooks

    def test_a_module_without_a_loss_of_the_package_is_refused():
        module = compiled(nn.Linear(4, 3), build("CategoricalCrossEntropy"))
        module.loss = None
        run = trainer(max_epochs=1, callbacks=[callbacks.CheckModel()], num_sanity_val_steps=0)
        with pytest.raises(TypeError, match="loss of the module must be one of lightning_xent, got None"):
            run.fit(module, loader(LABELS), loader(LABELS))
