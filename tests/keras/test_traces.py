"""Losses under the traces of TensorFlow and JAX: sizes that run time tells, symbolic inputs, labels out of range."""

import inspect
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_xent
from examples import required
from keras_xent import metrics
from keras_xent.categorical import CategoricalLoss
from sides import name as side_name

only_tensorflow = pytest.mark.skipif(side_name != "keras-tensorflow", reason="what only TensorFlow has")
only_jax = pytest.mark.skipif(side_name != "keras-jax", reason="what only JAX has")

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 3)).astype("float32")
COSINES = np.tanh(LOGITS)
LABELS = np.array([0, 2, 1, 1, 0, 2], "int32")
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
CLASSES = [kind for kind in vars(keras_xent).values() if inspect.isclass(kind) and issubclass(kind, keras.losses.Loss)]
OPTIONS = {
    "plain": {},
    "weighted": {"class_weight": [1.0, 2.0, 3.0], "label_smoothing": 0.1, "reduction": "weighted_mean"},
    "regularised": {
        "label_smoothing": 0.1,
        "smooth_over": "others",
        "entropy_penalty": 0.1,
        "z_loss": 0.1,
        "softcap": 3.0,
        "ignore_index": -1,
        "hard_fraction": 0.5,
    },
    "probabilities": {"from_logits": False},
}
BINARY = {"class_weight": "pos_weight", "z_loss": None, "softcap": None}
WITHOUT = {
    "JensenShannonConsistency": {"class_weight"},  # three views of one class
    "OrdinalCrossEntropy": {"z_loss"},
}


# Losses that differ from others in more than their curve. A trace takes seconds, so those of the other losses are slow.
OWN_CALLS = (
    "ArcFaceCrossEntropy",
    "AsymmetricLoss",
    "BinaryCrossEntropy",
    "BiTemperedLogistic",
    "Bootstrapping",
    "CategoricalCrossEntropy",
    "Distillation",
    "JensenShannonConsistency",
    "LDAMCrossEntropy",
    "NormalizedCrossEntropy",
    "OrdinalCrossEntropy",
    "SquaredEarthMoverDistance",
)


def losses(*labels):
    return list(each_loss(*labels))


def compiled_losses(*labels):
    """`losses`; those that differ from others only in their curve are marked slow."""
    return [
        pytest.param(*entry.values, id=entry.id, marks=[] if entry.id.startswith(OWN_CALLS) else pytest.mark.slow)
        for entry in each_loss(*labels)
    ]


def each_loss(*labels):
    """Every loss with each set of options that it takes, its target and its input."""
    for kind in CLASSES:
        name, is_categorical = kind.__name__, issubclass(kind, CategoricalLoss)
        for label in labels or OPTIONS:
            config = {**required(name, 3), **OPTIONS[label]}
            if name == "OrdinalCrossEntropy" and "class_weight" in config:
                config["class_weight"] = [1.0, 2.0, 3.0, 4.0]
            if not is_categorical:
                config = {BINARY.get(key, key): value for key, value in config.items() if BINARY.get(key, key)}
            config = {key: value for key, value in config.items() if key not in WITHOUT.get(name, ())}
            try:
                loss = kind(**config)
            except ValueError:  # no from_logits=False
                continue
            inputs = COSINES if "Face" in name else LOGITS
            if not loss.from_logits:
                inputs = np.exp(inputs) / np.exp(inputs).sum(-1, keepdims=True)
            target = LABELS if is_categorical else ONE_HOT
            target = {"Distillation": LOGITS[::-1].copy(), "JensenShannonConsistency": 0 * LABELS}.get(name, target)
            yield pytest.param(loss, target, inputs, id=f"{name}-{label}")


def number(tensor):
    return float(ops.convert_to_numpy(tensor))


def textbook(logits, labels):
    logits = logits.astype("float64")
    return (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]).mean()


def textbook_binary(logits, target):
    return (np.log1p(np.exp(logits.astype("float64"))) - target * logits).mean()


SHAPES = {
    # name: (loss, target, its static shape, logits, their static shape, the right value or None for an error)
    "float labels (N, 1)": ("Categorical", LABELS[:, None] * 1.0, [None, None], LOGITS, [None, 3], None),
    "float labels (N, 1), classes unknown": (
        "Categorical",
        LABELS[:, None] * 1.0,
        [None, None],
        LOGITS,
        [None, None],
        None,
    ),
    "a float column, classes unknown": ("Categorical", LABELS[:, None] * 1.0, [None, 1], LOGITS, [None, None], "right"),
    "a column, classes unknown": ("Categorical", LABELS[:, None], [None, 1], LOGITS, [None, None], "right"),
    "float labels (N, 1), Sparse": (
        "SparseCategorical",
        LABELS[:, None] * 1.0,
        [None, None],
        LOGITS,
        [None, 3],
        "right",
    ),
    "one-hot, Sparse": ("SparseCategorical", ONE_HOT, [None, None], LOGITS, [None, 3], None),
    "soft": ("Categorical", ONE_HOT, [None, None], LOGITS, [None, None], "right"),
    "integers, one-hot": ("Categorical", ONE_HOT.astype("int32"), [None, 3], LOGITS, [None, None], "right"),
    "one label for all": ("Categorical", LABELS[:1], [None], LOGITS, [None, 3], None),
    "one row for all": ("Categorical", ONE_HOT[:1], [None, 3], LOGITS, [None, 3], None),
    "turned": ("Categorical", ONE_HOT.T, [None, None], LOGITS, [None, None], None),
    "labels": ("Categorical", LABELS, [None], LOGITS, [None, None], "right"),
    "binary (B,) for (B, T)": ("Binary", ONE_HOT[:, 0], [None], LOGITS, [None, None], None),
    "binary (T,) for (B, T)": ("Binary", ONE_HOT[0], [None], LOGITS, [None, None], None),
    "binary (B, 1) for (B, T)": ("Binary", ONE_HOT[:, :1], [None, None], LOGITS, [None, None], None),
    "binary (1, T) for (B, T)": ("Binary", ONE_HOT[:1], [None, None], LOGITS, [None, None], None),
    "binary, turned": ("Binary", ONE_HOT.T, [None, None], LOGITS, [None, None], None),
    "binary": ("Binary", ONE_HOT, [None, None], LOGITS, [None, None], "right"),
    "binary, one unknown": ("Binary", ONE_HOT, [None, 3], LOGITS, [None, 3], "right"),
    "binary, rows missing": ("Binary", ONE_HOT[:3], [None, 3], LOGITS, [None, 3], None),
    # One side knows a size that the other does not: TensorFlow's optimiser takes it for that of both.
    "one label, rows known": ("Categorical", LABELS[:1], [None], LOGITS, [6, 3], None),
    "labels, rows known": ("Categorical", LABELS, [None], LOGITS, [6, 3], "right"),
    "float labels (N, 1), all known": ("Categorical", LABELS[:, None] * 1.0, [6, None], LOGITS, [6, 3], None),
    "binary (1, T), all known": ("Binary", ONE_HOT[:1], [None, 3], LOGITS, [6, 3], None),
    "logits (B, 1), target known": ("Binary", ONE_HOT, [6, 3], LOGITS[:, :1], [None, None], None),
    "logits (1, T), target known": ("Binary", ONE_HOT, [6, 3], LOGITS[:1], [None, None], None),
    "each knows another size": ("Binary", ONE_HOT, [6, None], LOGITS[:1], [None, 3], None),
    "binary, each knows another size": ("Binary", ONE_HOT, [6, None], LOGITS, [None, 3], "right"),
}


def shaped(loss, shapes, jit_compile):
    import tensorflow as tf

    signature = [tf.TensorSpec(shape, dtype) for shape, dtype in shapes]
    return tf.function(lambda target, logits: loss(target, logits), input_signature=signature, jit_compile=jit_compile)


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)
def test_A6_sizes_unknown_to_a_graph(case, jit_compile):
    """What does not fit fails when it runs, where it did not before: nothing broadcasts, nothing is misread."""
    import tensorflow as tf

    name, target, target_shape, logits, logits_shape, outcome = case
    target = target.astype("float32") if target.dtype.kind == "f" else target
    step = shaped(
        getattr(keras_xent, f"{name}CrossEntropy")(),
        [(target_shape, target.dtype), (logits_shape, "float32")],
        jit_compile,
    )
    if outcome is None:
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
            step(target, logits)
    else:
        want = textbook_binary(LOGITS, ONE_HOT) if name == "Binary" else textbook(LOGITS, LABELS)
        assert number(step(target, logits)) == pytest.approx(want, rel=1e-6)


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["sample_weight", "mask"])
def test_A6_weights_and_masks_do_not_broadcast(name, jit_compile):
    import tensorflow as tf

    loss, dtype = keras_xent.CategoricalCrossEntropy(), {"sample_weight": "float32", "mask": "bool"}[name]
    specs = [tf.TensorSpec([None], dtype), tf.TensorSpec([None], "int32"), tf.TensorSpec([None, 3])]

    @tf.function(input_signature=specs, jit_compile=jit_compile)
    def step(values, labels, logits):
        return loss(labels, logits, **{name: values})

    assert number(step(np.ones(6, dtype), LABELS, LOGITS)) == pytest.approx(textbook(LOGITS, LABELS), rel=1e-6)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        step(np.ones(1, dtype), LABELS, LOGITS)


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_A6_metrics_do_not_broadcast(jit_compile):
    import tensorflow as tf

    metric = metrics.Accuracy(keras_xent.CategoricalCrossEntropy())
    metric.update_state(LABELS, LOGITS)  # makes its sums
    specs = [tf.TensorSpec([None, None]), tf.TensorSpec([None, 3])]
    update = tf.function(metric.update_state, input_signature=specs, jit_compile=jit_compile)
    update(ONE_HOT, LOGITS)
    assert number(metric.result()) == pytest.approx((LOGITS.argmax(-1) == LABELS).mean())
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        update(LABELS[:, None].astype("float32"), LOGITS)


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_A6_fit_of_data_of_unknown_shapes(jit_compile):
    """A generator whose specs say nothing: labels (N, 1) of a loss of labels are right, of another an error."""
    import tensorflow as tf

    def batches():
        yield LOGITS, LABELS[:, None].astype("float32")

    specs = tf.TensorSpec([None, 3]), tf.TensorSpec([None, None])
    data = tf.data.Dataset.from_generator(batches, output_signature=specs)
    for kind in (keras_xent.SparseCategoricalCrossEntropy, keras_xent.CategoricalCrossEntropy):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="identity")])
        model.compile(optimizer="sgd", loss=kind(), jit_compile=jit_compile)
        if kind.labels_only:
            assert model.fit(data.repeat(), steps_per_epoch=1, shuffle=False, verbose=0).history[
                "loss"
            ] == pytest.approx([textbook(LOGITS, LABELS)], rel=1e-6)
        else:
            with pytest.raises(tf.errors.InvalidArgumentError):
                model.fit(data.repeat(), steps_per_epoch=1, shuffle=False, verbose=0)


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("loss", "target", "inputs"), compiled_losses("plain", "weighted", "regularised"))
def test_B13_number_of_classes_unknown(loss, target, inputs, jit_compile):
    shapes = [([None] * target.ndim, target.dtype), ([None] * inputs.ndim, "float32")]
    assert number(shaped(loss, shapes, jit_compile)(target, inputs)) == pytest.approx(
        number(loss(target, inputs)), rel=1e-5
    )


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_B13_class_weights_of_another_number_fail(jit_compile):
    import tensorflow as tf

    loss = keras_xent.CategoricalCrossEntropy(class_weight=[1.0, 2.0])
    step = shaped(loss, [([None], "int32"), ([None, None], "float32")], jit_compile)
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(LABELS % 2, LOGITS)


@only_tensorflow
@pytest.mark.parametrize(("loss", "target", "inputs"), losses())
def test_B13_variables_as_logits(loss, target, inputs):
    import tensorflow as tf

    variable, want = tf.Variable(inputs), number(loss(target, inputs))
    with tf.GradientTape() as tape:
        value = loss(target, variable)
    assert number(value) == pytest.approx(want, rel=1e-6)
    assert np.isfinite(tape.gradient(value, variable)).all()
    assert number(tf.function(lambda: loss(target, variable))()) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(("loss", "target", "inputs"), losses("plain"))
def test_B13_keras_variables_as_inputs(loss, target, inputs):
    """So many rows that their values are looked at."""
    target, inputs = np.concatenate([target] * 2), np.concatenate([inputs] * 2)
    others = {"sample_weight": np.ones(12, "float32"), "mask": np.ones(12, bool)}
    given = {name: keras.Variable(value, dtype=str(value.dtype), trainable=False) for name, value in others.items()}
    variables = [keras.Variable(value, dtype=str(value.dtype), trainable=False) for value in (target, inputs)]
    assert number(loss(*variables, **given)) == pytest.approx(number(loss(target, inputs)), rel=1e-6)


@pytest.mark.parametrize(("loss", "target", "inputs"), compiled_losses())
def test_B11_symbolic_inputs(loss, target, inputs):
    """A model whose output is the loss has its value."""
    symbols = keras.Input(target.shape[1:], dtype=str(target.dtype)), keras.Input(inputs.shape[1:])
    model = keras.Model(symbols, loss(*symbols))
    call, direct = lambda *values: model(values), loss
    if side_name == "keras-jax":
        import jax

        call, direct = jax.jit(call), jax.jit(direct)
    assert number(call(target, inputs)) == pytest.approx(number(direct(target, inputs)), rel=1e-5)


def soft_target(loss, inputs):
    return np.eye(loss.count_classes(inputs.shape[-1]), dtype="float32")[LABELS % loss.count_classes(inputs.shape[-1])]


def every_target(entries):
    """Each loss with its target, and with a distribution where it takes one."""
    for entry in entries:
        loss, _, inputs = entry.values
        yield entry
        if isinstance(loss, CategoricalLoss) and loss.takes_distributions and not loss.labels_only:
            yield pytest.param(loss, soft_target(loss, inputs), inputs, id=f"{entry.id}-soft", marks=entry.marks)


@pytest.mark.parametrize(("loss", "target", "inputs"), list(every_target(compiled_losses())))
def test_B11_symbolic_inputs_of_unknown_sizes(loss, target, inputs):
    """The number of classes is not that of the logits where there are thresholds or views."""
    symbols = keras.Input((None,) * (target.ndim - 1), dtype=str(target.dtype)), keras.Input((None,))
    model = keras.Model(symbols, loss(*symbols))
    call, direct = lambda *values: model(values), loss
    if side_name == "keras-jax":
        import jax

        call, direct = jax.jit(call), jax.jit(direct)
    assert number(call(target, inputs)) == pytest.approx(number(direct(target, inputs)), rel=1e-5, abs=1e-7)


class Penalised(keras.layers.Layer):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def call(self, inputs):
        self.add_loss(self.loss(ops.zeros_like(inputs[:, 0], dtype="int32"), inputs))
        return inputs


def test_B10_a_layer_that_adds_a_loss():
    loss = keras_xent.CategoricalCrossEntropy(class_weight=[1.0, 2.0, 3.0], label_smoothing=0.1)
    first = keras.layers.Dense(3, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((3,)), first, Penalised(loss), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=lambda target, output: 0.0 * output[:, 0])
    got = model.fit(LOGITS, ONE_HOT[:, :1], batch_size=6, verbose=0).history["loss"]
    assert got == pytest.approx([number(loss(0 * LABELS, LOGITS))], rel=1e-6)


@only_jax
@pytest.mark.parametrize(("loss", "target", "inputs"), compiled_losses("plain", "weighted", "regularised"))
def test_B10_export_with_a_symbolic_batch(loss, target, inputs):
    import jax
    from jax import export

    (rows,) = export.symbolic_shape("rows")
    step = jax.jit(jax.value_and_grad(lambda logits, target: loss(target, logits)))
    shapes = [jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype) for array in (inputs, target)]
    value, gradient = export.export(step)(*shapes).call(inputs, target)
    want, slope = step(inputs, target)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


@only_jax
@pytest.mark.parametrize(("loss", "target", "inputs"), losses())
def test_B12_no_rank_is_promoted(loss, target, inputs):
    import jax

    def step(logits, target, weight):
        return jax.value_and_grad(lambda logits: loss(target, logits, sample_weight=weight))(logits)

    with jax.numpy_rank_promotion("raise"):
        for shape in ((6,), (2, 3)):
            weight = np.ones(shape[:1], "float32")
            arrays = (array.reshape(shape + array.shape[1:]) for array in (inputs, target))
            jax.eval_shape(step, *arrays, weight)


@only_jax
@pytest.mark.parametrize("name", ["ExpectedCalibrationError", "Accuracy", "F1", "MeanLoss"])
def test_B12_metrics_promote_no_rank(name):
    import jax

    loss = () if name == "ExpectedCalibrationError" else (keras_xent.CategoricalCrossEntropy(),)
    want, got = (getattr(metrics, name)(*loss) for _ in range(2))
    want.update_state(LABELS, LOGITS)
    with jax.numpy_rank_promotion("raise"):
        got.update_state(LABELS, LOGITS, sample_weight=np.ones(6, "float32"))
    assert number(got.result()) == pytest.approx(number(want.result()), rel=1e-6)


BAD = {
    # name: (loss, its target with one label out of range, what the message has of it)
    "label above": ("CategoricalCrossEntropy", np.array([0, 2, 7, 1, 0, 2]), "7"),
    "label below": ("SparseCategoricalCrossEntropy", np.array([0, 2, -1, 1, 0, 2]), "-1"),
    "binary above": ("BinaryCrossEntropy", np.where(np.eye(6, 3) > 0, 2.0, 0.0).astype("float32"), "2"),
    "rounding": ("BinaryCrossEntropy", np.full((6, 3), np.nextafter(np.float32(1), np.float32(2))), "1"),
}
OUTCOMES = {  # of each way of compiling: whether the label raises, or the loss is NaN and has said so
    "keras-tensorflow": {"auto": "raises", False: "raises", True: "says"},
    "keras-jax": {"auto": "says", True: "says"},
    "keras-torch": {"auto": "raises", False: "raises"},
}[side_name]


def fit(loss, target, jit_compile, **options):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss=loss, jit_compile=jit_compile)
    return model.fit(LOGITS, target, batch_size=6, verbose=0, **options).history["loss"]


@pytest.mark.parametrize("check_labels", [None, True])
@pytest.mark.parametrize("jit_compile", OUTCOMES)
@pytest.mark.parametrize(("name", "target", "label"), BAD.values(), ids=BAD)
def test_A11_C5_a_label_out_of_range_in_fit(name, target, label, jit_compile, check_labels):
    loss, outcome = getattr(keras_xent, name)(check_labels=check_labels), OUTCOMES[jit_compile]
    if outcome == "raises":
        with pytest.raises(Exception, match=rf"(?s)y_true must hold.*{label}.*ignore_index"):
            fit(loss, target, jit_compile)
    else:
        with pytest.warns(UserWarning, match="check_model"):
            assert np.isnan(fit(loss, target, jit_compile)).all()
        assert np.isnan(fit(loss, target, jit_compile)).all()  # once


@pytest.mark.parametrize("jit_compile", OUTCOMES)
def test_A11_rows_that_do_not_count_are_not_checked(jit_compile):
    bad = np.array([0, 2, -1, 7, 0, 2])
    loss = keras_xent.CategoricalCrossEntropy(ignore_index=-1, check_labels=True)
    weight = np.where(bad == 7, 0.0, 1.0).astype("float32")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cannot look at labels under a trace")
        assert np.isfinite(fit(loss, bad, jit_compile, sample_weight=weight)).all()


@pytest.mark.parametrize("jit_compile", OUTCOMES)
def test_A11_without_checks_nothing_is_said(jit_compile):
    loss = keras_xent.CategoricalCrossEntropy(check_labels=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(fit(loss, BAD["label above"][1], jit_compile)).all()


@pytest.mark.skipif(side_name != "keras-tensorflow", reason="a matter of TensorFlow")
def test_A11_a_graph_in_one_for_xla_says_it_too():
    import tensorflow as tf

    loss, target = keras_xent.CategoricalCrossEntropy(), tf.constant(BAD["label above"][1])
    inner = tf.function(lambda logits: loss(target, logits), autograph=False)
    outer = tf.function(lambda logits: inner(logits), autograph=False, jit_compile=True)
    logits = tf.constant(np.zeros((6, 3), "float32"))
    with pytest.warns(UserWarning, match="cannot look at labels under a trace.*check_model"):
        assert np.isnan(outer(logits).numpy())
    with pytest.raises(tf.errors.InvalidArgumentError, match="y_true must hold"):
        inner(logits)


VECTORISED = {
    "labels": ("CategoricalCrossEntropy", {}),
    "labels, smoothed and ignored": ("CategoricalCrossEntropy", {"label_smoothing": 0.1, "ignore_index": 1}),
    "labels, every class": ("CategoricalFocalCrossEntropy", {"label_smoothing": 0.1}),
    "soft targets": ("CategoricalCrossEntropy", {}),
    "elements": ("BinaryCrossEntropy", {}),
}


@only_tensorflow
@pytest.mark.parametrize("classes", [5, 1001])
@pytest.mark.parametrize("case", VECTORISED)
def test_vectorized_map_and_jacobians(case, classes):
    import tensorflow as tf

    name, options = VECTORISED[case]
    loss = getattr(keras_xent, name)(reduction="none", **options)
    rng = np.random.default_rng(1)
    logits = tf.constant(rng.normal(size=(2, 4, classes)).astype("float32"))
    target = tf.constant(rng.integers(0, 2 if case == "elements" else 5, (4, classes) if case == "elements" else 4))
    if case == "soft targets":
        target = tf.nn.softmax(logits[0] * 2.0)
    if case == "elements":
        logits, target = logits[..., :7], target[..., :7]
    found = tf.vectorized_map(lambda logits: loss(target, logits), logits)
    np.testing.assert_allclose(found, [loss(target, each) for each in logits], rtol=1e-5, atol=1e-6)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        losses = loss(target, logits[0])
        total = tf.reduce_sum(losses)
    jacobian, gradient = tape.jacobian(losses, logits), tape.gradient(total, logits)
    np.testing.assert_allclose(tf.reduce_sum(jacobian, list(range(len(losses.shape)))), gradient, rtol=1e-5, atol=1e-6)
