"""Losses of Keras with random arguments have the value and gradient of what `from_keras` makes of them."""

import doctest

import keras
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import keras_xent
from keras_xent import porting
from shared_specs.common import porting as common
from sides import side

CLASSES = 4
MEANS = st.sampled_from(["sum_over_batch_size", "mean", "mean_with_sample_weight"])
REDUCTIONS = st.sampled_from(["sum_over_batch_size", "sum", "none", None, "mean_with_sample_weight"])
SMOOTHING = st.sampled_from([0.0, 0.1])
GAMMAS = st.sampled_from([0.0, 1.0, 2.0, 2.5])

# The arguments, and the kind of target.
NATIVE = {
    "CategoricalCrossentropy": (
        {"from_logits": st.booleans(), "label_smoothing": SMOOTHING, "reduction": REDUCTIONS},
        "distribution",
    ),
    "SparseCategoricalCrossentropy": (
        {"from_logits": st.booleans(), "ignore_class": st.sampled_from([None, 0, 2]), "reduction": REDUCTIONS},
        "label",
    ),
    "BinaryCrossentropy": (
        {"from_logits": st.booleans(), "label_smoothing": SMOOTHING, "reduction": MEANS},
        "probability",
    ),
    "BinaryFocalCrossentropy": (
        {
            "apply_class_balancing": st.booleans(),
            "alpha": st.sampled_from([0.25, 0.7]),
            "gamma": GAMMAS,
            "from_logits": st.booleans(),
            "reduction": MEANS,
        },
        "binary",
    ),
    "CategoricalFocalCrossentropy": (
        {
            "alpha": st.sampled_from([1.0, 0.25, [0.5, 1.0, 2.0, 0.25]]),
            "gamma": GAMMAS,
            "from_logits": st.booleans(),
            "label_smoothing": SMOOTHING,
            "reduction": st.sampled_from(["sum_over_batch_size", "sum", "none"]),
        },
        "distribution",
    ),
    "KLDivergence": ({"reduction": REDUCTIONS}, "distribution"),
    "CategoricalGeneralizedCrossEntropy": ({"q": st.sampled_from([0.2, 0.7]), "reduction": REDUCTIONS}, "label"),
    "Hinge": ({"reduction": MEANS}, "binary"),
}


def target_of(kind, rng):
    values = rng.normal(size=(6, CLASSES))
    return {
        "distribution": (np.exp(values) / np.exp(values).sum(1, keepdims=True)).astype("float32"),
        "label": np.array([1, 0, 2, 3, 3, 1]),
        "probability": rng.uniform(size=values.shape).astype("float32"),
        "binary": (values > 0).astype("float32"),
    }[kind]


@pytest.mark.parametrize("name", NATIVE)
def test_value_and_gradient(name):
    arguments, kind = NATIVE[name]
    if not hasattr(keras.losses, name):
        pytest.skip("this Keras has no such loss")

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(st.fixed_dictionaries(arguments), st.integers(0, 99), st.booleans())
    def test(arguments, seed, is_weighted):
        native = getattr(keras.losses, name)(**arguments)
        if arguments.get("apply_class_balancing") and arguments["reduction"] == "mean_with_sample_weight":
            reject()  # refused: see below
        ours = keras_xent.from_keras(native, classes=CLASSES)
        rng = np.random.default_rng(seed)
        target, weight = target_of(kind, rng), rng.uniform(0.5, 2, 6).astype("float32") if is_weighted else None
        takes_logits = arguments.get("from_logits", name == "Hinge")
        squash = keras.ops.sigmoid if name.startswith("Binary") else keras.ops.softmax
        logits = rng.normal(size=(6, CLASSES)).astype("float32") * 2
        found = []
        for loss in (native, ours):

            def call(logits, loss=loss):
                outputs = logits if takes_logits else squash(logits)
                return loss(target, outputs, sample_weight=weight)

            value, gradient = side.value_and_gradient(call, side.tensor(logits, "float32"), side.eager_modes[0])
            found.append((side.numpy(value).sum(), side.numpy(gradient)))
        (value, gradient), (wanted, slopes) = found[1], found[0]
        np.testing.assert_allclose(value, wanted, rtol=2e-5)
        np.testing.assert_allclose(gradient, slopes, rtol=2e-4, atol=2e-5)

    test()


REFUSED = {
    "sum of means": ("BinaryCrossentropy", {"reduction": "sum"}, "reduction='sum'.*mean over the last axis"),
    "focal means": ("BinaryFocalCrossentropy", {"reduction": "none"}, "reduction='none'.*mean over the last axis"),
    "smoothed modulator": ("BinaryFocalCrossentropy", {"label_smoothing": 0.1}, "label_smoothing=0.1.*modulator"),
    "smoothing on another axis": ("CategoricalCrossentropy", {"label_smoothing": 0.1, "axis": 1}, "last axis"),
    "focal smoothing": ("CategoricalFocalCrossentropy", {"label_smoothing": 0.1, "axis": 1}, "last axis"),
    "factor": ("CategoricalFocalCrossentropy", {}, r"alpha=0.25.*pass classes=K"),
    "factor in a mean": (
        "CategoricalFocalCrossentropy",
        {"alpha": [0.5] * 4, "reduction": "mean_with_sample_weight"},
        "sample weights alone",
    ),
    "balance in a mean": (
        "BinaryFocalCrossentropy",
        {"apply_class_balancing": True, "reduction": "mean_with_sample_weight"},
        "sample weights alone",
    ),
    "hinge of many": ("CategoricalHinge", {}, "CategoricalHinge has no equal.*rival is 0"),
    "square": ("SquaredHinge", {}, "SquaredHinge has no equal"),
    "no cross-entropy": ("MeanSquaredError", {}, "MeanSquaredError.*those of keras.losses are CategoricalCross"),
    "rounded": ("SparseCategoricalCrossentropy", {"dtype": "bfloat16"}, "dtype='bfloat16'.*rounds labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_says_why(case):
    name, arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        keras_xent.from_keras(getattr(keras.losses, name)(**arguments))


class Own(keras.losses.BinaryCrossentropy):
    """A loss of another package."""


@pytest.mark.parametrize("given_loss", [Own(), keras.losses.binary_crossentropy, "mse", None])
def test_what_is_no_loss_of_keras(given_loss):
    with pytest.raises(TypeError, match=r"loss must be a loss of keras\.losses"):
        keras_xent.from_keras(given_loss)


CONFIGS = {
    "path": {"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"weight": [1, 3], "label_smoothing": 0.1}},
    "name": {"class_name": "CrossEntropyLoss", "config": {"weight": np.array([1.0, 3.0]), "label_smoothing": 0.1}},
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_loss_of_torch(config):
    loss = keras_xent.from_torch_config(CONFIGS[config])
    common = {"axis": 1, "class_weight": [1, 3], "label_smoothing": 0.1}
    want = keras_xent.CategoricalCrossEntropy(**common, ignore_index=-100, reduction="weighted_mean")
    assert keras_xent.to_spec(loss) == keras_xent.to_spec(want)
    want = keras_xent.CategoricalCrossEntropy(**common)
    loss = keras_xent.from_torch_config(CONFIGS[config], targets="probabilities")
    assert keras_xent.to_spec(loss) == keras_xent.to_spec(want)
    assert keras_xent.get(keras_xent.to_spec(loss)).get_config() == want.get_config()


def test_a_serialised_loss_of_keras_has_the_spec_of_the_loss():
    native = keras.losses.SparseCategoricalCrossentropy(ignore_class=0, from_logits=True)
    spec = common.of_keras(*common.named(keras.losses.serialize(native)))
    loss = keras_xent.from_keras(native)
    assert keras_xent.to_spec(keras_xent.get(spec)) == keras_xent.to_spec(loss)


BAD = {
    "no mapping": ("CrossEntropyLoss", ValueError, 'config must be a mapping with "class_name"'),
    "no arguments": ({"class_name": "CrossEntropyLoss", "config": 3}, ValueError, "mapping as its 'config'"),
    "keyword": ({"class_name": "CrossEntropyLoss", "config": {"weigth": 1}}, TypeError, "did you mean 'weight'"),
    "reduction": ({"class_name": "BCELoss", "config": {"reduction": "avg"}}, ValueError, "reduction must be one of"),
    "layer": ({"class_name": "LinearCrossEntropyLoss"}, ValueError, "lightning_xent.from_torch"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_config(case):
    config, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        keras_xent.from_torch_config(config)


def test_what_has_no_spec():
    with pytest.raises(TypeError, match="loss must be a loss of keras_xent"):
        keras_xent.to_spec(keras.losses.Hinge())


def test_examples():
    found = doctest.testmod(porting)
    assert (found.failed, found.attempted) == (0, 2)
