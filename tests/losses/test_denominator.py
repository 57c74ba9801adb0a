"""A caller's denominator: micro-batches divided by the rows of their whole step, on every side."""

import itertools

import numpy as np
import pytest

from examples import CLASSES, build, inputs, is_binary
from sides import is_keras, side
from sides import name as side_name

IGNORED = -1
SPLITS = [0, 1, 4, 9]
"""Three uneven micro-batches of 9 rows."""
PLAIN = "jax.jit" if "jax.jit" in side.modes else "eager"
"""Without jit, JAX compiles every operation for each shape."""


def step_of(name):
    """Logits, target and sample weights of a step, with ignored rows where the loss has labels."""
    logits, target = inputs(name, rows=SPLITS[-1])
    if is_binary(name) or name != "Distillation":
        target = target.copy()
        target[[0, 2, 5]] = IGNORED
    return logits, target, np.random.default_rng(1).uniform(0.5, 2.0, SPLITS[-1]).astype("float32")


def gradient(loss, logits, target, sample_weight, mode=PLAIN, **more):
    names = list(more)
    given = [side.tensor(np.asarray(value, "float32")) for value in more.values()]

    def function(logits, target, sample_weight, *rest):
        more = dict(zip(names, rest, strict=True))
        return side.call(loss, logits, target=target, sample_weight=sample_weight, **more)

    tensors = [side.tensor(target), side.tensor(sample_weight)]
    value, slopes = side.value_and_gradient(function, side.tensor(logits), mode, *tensors, *given)
    return side.numpy(value), side.numpy(slopes)


# JAX compiles for every shape: there the classes whose path to the rows is one of its own.
OWN_PATHS = ("ArcFaceCrossEntropy", "AsymmetricLoss", "Distillation", "JensenShannonConsistency", "OrdinalCrossEntropy")


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        *((name, "weighted_mean") for name in (OWN_PATHS if PLAIN == "jax.jit" else CLASSES)),
        ("CategoricalCrossEntropy", "mean"),
        ("BinaryCrossEntropy", "mean"),
    ],
)
def test_micro_batches_add_up_to_the_whole_step(name, reduction):
    logits, target, sample_weight = step_of(name)
    loss = build(name, reduction=reduction, ignore_index=IGNORED)
    whole, wanted = gradient(loss, logits, target, sample_weight)
    tensors = {"target": side.tensor(target), "sample_weight": side.tensor(sample_weight)}
    denominator = side.numpy(side.parts(loss, side.tensor(logits), **tensors)[1])
    values, slopes = [], []
    for start, end in itertools.pairwise(SPLITS):
        part = (logits[start:end], target[start:end], sample_weight[start:end])
        value, slope = gradient(loss, *part, denominator=denominator)
        values.append(value)
        slopes.append(slope)
    assert sum(values) == pytest.approx(whole, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(np.concatenate(slopes), wanted, rtol=0, atol=1e-6 * max(1.0, np.abs(wanted).max()))


@pytest.mark.parametrize("mode", [mode for mode in side.modes if mode not in ("eager", "blocks")])
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "BinaryFocalCrossEntropy"])
def test_a_traced_denominator(name, mode):
    logits, target, sample_weight = step_of(name)
    loss = build(name, ignore_index=IGNORED)
    wanted = gradient(loss, logits, target, sample_weight, denominator=7.0)
    got = gradient(loss, logits, target, sample_weight, mode, denominator=7.0)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def scalar_tensor(value):
    return side.tensor(np.array(value, "int32"))


@pytest.mark.parametrize("kind", [float, int, np.float32, np.int64, scalar_tensor])
def test_numbers_and_tensors(kind):
    logits, target = side.tensor(np.array([[0.0, 0.0], [0.0, 0.0]], "float32")), side.tensor(np.array([0, 1]))
    value = side.call(build("CategoricalCrossEntropy"), logits, target=target, denominator=kind(8))
    assert side.numpy(value) == pytest.approx(2 * np.log(2) / 8, rel=1e-6)
    assert side.dtype_name(value) == "float32"


@pytest.mark.skipif(side_name != "lightning", reason="other traces get tensors")
def test_compiled_once_for_all_numbers():
    """Dynamo makes a symbol of a float, and of a whole number that changes."""
    import torch

    logits, target = side.tensor(np.zeros((2, 2), "float32")), side.tensor(np.array([0, 1]))
    loss = build("CategoricalCrossEntropy")

    def function(denominator):
        return side.call(loss, logits, target=target, denominator=denominator)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for denominator in (7, 8, 9, 2.5, 3.5):
        assert side.numpy(compiled(denominator)) == pytest.approx(2 * np.log(2) / denominator, rel=1e-6)


@pytest.mark.skipif(not is_keras, reason="a variable of Keras")
def test_a_variable():
    import keras

    logits, target = side.tensor(np.zeros((2, 2), "float32")), side.tensor(np.array([0, 1]))
    counter = keras.Variable(8, dtype="int32", trainable=False)
    value = side.call(build("CategoricalCrossEntropy"), logits, target=target, denominator=counter)
    assert side.numpy(value) == pytest.approx(2 * np.log(2) / 8, rel=1e-6)


@pytest.mark.parametrize(
    ("reduction", "denominator", "message"),
    [
        ("none", 2.0, r"denominator must be None with the reduction \"none\""),
        ("mean", -1.0, r"denominator must be a number in \[0, inf\), got -1.0"),
        ("mean", float("nan"), "denominator must be a number"),
        ("sum", "8", "denominator must be a number|denominator"),
        ("mean", [1.0, 2.0], "denominator must be a number"),
        ("mean", np.ones(2, "float32"), "denominator must be a number"),
    ],
)
def test_refused(reduction, denominator, message):
    logits, target = side.tensor(np.zeros((2, 2), "float32")), side.tensor(np.array([0, 1]))
    with pytest.raises(ValueError, match=message):
        side.call(build("CategoricalCrossEntropy", reduction=reduction), logits, target=target, denominator=denominator)


def test_a_tensor_of_several_numbers_is_refused():
    logits, target = side.tensor(np.zeros((2, 2), "float32")), side.tensor(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"denominator must be a number or a scalar tensor, got shape \(2,\)"):
        side.call(build("CategoricalCrossEntropy"), logits, target=target, denominator=side.tensor(np.ones(2)))


@pytest.mark.parametrize("check_labels", [None, True])
@pytest.mark.parametrize("denominator", [-2.0, float("nan"), float("inf")])
def test_B16_a_tensor_out_of_range_is_refused_where_labels_are_read(denominator, check_labels):
    logits, target = side.tensor(np.zeros((2, 2), "float32")), side.tensor(np.array([0, 1]))
    loss = build("CategoricalCrossEntropy", check_labels=check_labels)
    with pytest.raises(
        ValueError, match=rf"^denominator must be a number in \[0, inf\), got a tensor of {denominator}"
    ):
        side.call(loss, logits, target=target, denominator=side.tensor(np.array(denominator, "float32")))


@pytest.mark.parametrize("mode", ["eager", *[mode for mode in side.modes if mode not in ("eager", "blocks")][:1]])
@pytest.mark.parametrize("denominator", [-2.0, float("nan"), float("inf")])
def test_B16_a_tensor_out_of_range_gives_nan_where_nothing_is_read(denominator, mode):
    logits, target = np.zeros((2, 2), "float32"), np.array([0, 1])
    loss = build("CategoricalCrossEntropy", check_labels=False)
    value, _ = gradient(loss, logits, target, np.ones(2, "float32"), mode, denominator=denominator)
    assert np.isnan(value)


def tensors_that_are_no_number():
    """A tensor and what the error says, by name."""
    complex_number = side.tensor(np.array(2j, "complex64"))
    found = {"complex": (complex_number, "real numbers, got .*complex64")}
    found["a bool"] = (side.tensor(np.array(True)), "a number, got .*bool: pass .*sum")
    if side_name == "keras-tensorflow":
        import tensorflow as tf

        found["ragged"] = (tf.ragged.constant([[2.0]]), "a scalar tensor, got a ragged tensor")
        found["strings"] = (tf.constant("2"), "real numbers, got string")
    if side_name in ("lightning", "keras-torch"):
        import torch

        scalar = torch.tensor(2.0)
        found["nested"] = (torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged), "a scalar tensor, got a ")
        found["sparse"] = (scalar.to_sparse(), r"a dense tensor, .*pass denominator.to_dense\(\)")
        found["meta"] = (scalar.to("meta"), "hold values, .*got a tensor on the meta device")
    return found


@pytest.mark.parametrize("kind", tensors_that_are_no_number())
def test_B16_a_tensor_that_is_no_number_is_named(kind):
    denominator, text = tensors_that_are_no_number()[kind]
    logits, target = side.tensor(np.zeros((2, 2), "float32")), side.tensor(np.array([0, 1]))
    with pytest.raises((TypeError, ValueError), match=f"^denominator must .*{text}"):
        side.call(build("CategoricalCrossEntropy"), logits, target=target, denominator=denominator)


def test_B16_a_denominator_may_have_a_gradient():
    """Of log 2 / d it is -log 2 / d^2; what a trained tensor divides is right without a word."""
    logits, target = side.tensor(np.zeros((1, 2), "float32")), side.tensor(np.array([0]))
    loss = build("CategoricalCrossEntropy")

    def function(denominator):
        return side.call(loss, logits, target=target, denominator=denominator)

    value, slope = side.value_and_gradient(function, side.tensor(np.array(4.0, "float32")), PLAIN)
    assert side.numpy(value) == pytest.approx(np.log(2) / 4, rel=1e-6)
    assert side.numpy(slope) == pytest.approx(-np.log(2) / 16, rel=1e-6)


@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "BinaryCrossEntropy"])
def test_a_step_without_rows(name):
    """The denominator of such a step is 0: the loss is 0, connected to the logits, with gradient 0."""
    logits, target, sample_weight = step_of(name)
    loss = build(name, ignore_index=IGNORED)
    value, slopes = gradient(loss, logits, np.full_like(target, IGNORED), sample_weight, denominator=0.0)
    assert value == 0
    assert not slopes.any()


@pytest.mark.skipif(not is_keras, reason="a custom train_step is Keras'")
def test_keras_passes_no_denominator_of_its_own():
    """In `compile`, the loss divides as its reduction says."""
    losses, _ = side.fit(
        build("CategoricalCrossEntropy"), np.zeros((4, 2), "float32"), np.array([0, 1, 0, 1]), outputs=2, epochs=1
    )
    assert losses[0] == pytest.approx(np.log(2), rel=1e-5)
