"""The last layer with its loss in models of Keras: it trains as a Dense layer with the loss does, and is saved."""

from unittest import mock

import keras
import numpy as np
import pytest

import keras_xent
from keras_xent import kernels
from keras_xent.layers import LinearLoss
from sides import name as side_name
from sides.keras_common import compiled

ROWS, FEATURES, CLASSES = 20, 4, 7
LOSSES = {
    "plain": {"loss": "SparseCategoricalCrossEntropy", "config": {}},
    "everything": {
        "loss": "CategoricalFocalCrossEntropy",
        "config": {"ignore_index": 3, "class_weight": [0.5 + 0.25 * c for c in range(CLASSES)], "z_loss": 0.01},
    },
    "weighted": {"loss": "CategoricalCrossEntropy", "config": {"label_smoothing": 0.1, "reduction": "weighted_mean"}},
    "hardest": {"loss": "CategoricalCrossEntropy", "config": {"hard_fraction": 0.5}},
}
PLAIN_MODE = side_name == "keras-jax"  # JAX without jit compiles each operation; Dynamo computes all logits
RUNS = [*((name, weighted, PLAIN_MODE) for name in LOSSES for weighted in (False, True))]
RUNS += [] if side_name == "keras-torch" else [("everything", True, not PLAIN_MODE)]


def batch(rows=ROWS):
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 3, rows).astype("float32")
    return rng.normal(size=(rows, FEATURES)).astype("float32"), rng.integers(0, CLASSES, rows), weight


def small_chunks():
    """Chunks of a few rows, and products of a few features, on TensorFlow and JAX."""
    if kernels.IS_ON_TORCH:
        from lightning_xent.kernels import linear

        return mock.patch.dict(linear.LIMITS, {"cpu": linear.Limits(40, 40, 0, 40)})
    return mock.patch.multiple("keras_xent.kernels.linear", LEAST=200, MOST=200, ROWS=0, LEAST_FEATURES=1)


def inputs_of(weighted):
    features, labels = keras.Input((FEATURES,)), keras.Input((), dtype="int32")
    return [features, labels, *([keras.Input(())] if weighted else [])]


def fused(loss, weighted):
    inputs = inputs_of(weighted)
    layer = LinearLoss(CLASSES, loss, name="head")
    hidden = keras.layers.Dense(5, activation="tanh", name="body")(inputs[0])
    trained = keras.Model(inputs, layer(hidden, *inputs[1:]))
    return trained, keras.Model(inputs[0], layer(hidden))


def dense():
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(5, activation="tanh", name="body"),
            keras.layers.Dense(CLASSES, name="head"),
        ]
    )


@pytest.mark.parametrize(("name", "weighted", "jit_compile"), RUNS)
def test_a_functional_model_trains_as_with_a_dense_layer(name, weighted, jit_compile):
    features, labels, weight = batch()
    more = {"batch_size": 8, "shuffle": False, "verbose": 0}  # the last batch has four rows
    keras.utils.set_random_seed(1)
    whole = dense()
    compiled(whole, keras.optimizers.SGD(0.5), keras_xent.get(LOSSES[name]), jit_compile=jit_compile)
    trained, predicted = fused(LOSSES[name], weighted)
    compiled(trained, keras.optimizers.SGD(0.5), jit_compile=jit_compile)
    assert predicted.output_shape == (None, CLASSES)
    predicted.set_weights(whole.get_weights())
    inputs = [features, labels, *([weight] if weighted else [])]
    with small_chunks():
        found = trained.fit(inputs, epochs=2, **more).history["loss"]
        evaluated = trained.evaluate(inputs, batch_size=8, verbose=0)
    of_rows = {"sample_weight": weight} if weighted else {}
    wanted = whole.fit(features, labels, epochs=2, **of_rows, **more).history["loss"]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert evaluated == pytest.approx(whole.evaluate(features, labels, batch_size=8, verbose=0, **of_rows), rel=1e-5)
    for own, other in zip(predicted.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        predicted.predict(features, verbose=0), whole.predict(features, verbose=0), rtol=1e-4, atol=1e-5
    )


@keras.saving.register_keras_serializable(package="test_layers")
class Tagger(keras.Model):
    """Trains with labels among its inputs, and predicts without."""

    def __init__(self, loss, **options):
        super().__init__(**options)
        self.loss_spec = loss
        self.embedding = keras.layers.Embedding(6, FEATURES, mask_zero=True)
        self.head = LinearLoss(CLASSES, loss, kernel_regularizer="l2")

    def call(self, inputs, training=None):
        hidden = self.embedding(inputs["words"])
        return self.head(hidden, inputs.get("labels"), training=training)

    def get_config(self):
        return {"loss": self.loss_spec}


def test_a_subclassed_model_with_masks_and_a_file(tmp_path):
    words, labels = np.array([[1, 2, 0], [3, 4, 5]]), np.array([[1, 0, 6], [2, 3, 6]])
    model = Tagger(LOSSES["plain"])
    model.compile("sgd")
    inputs = {"words": words, "labels": labels}
    loss = keras_xent.get(LOSSES["plain"])
    model(inputs)
    logits = model.predict({"words": words}, verbose=0)
    assert logits.shape == (2, 3, CLASSES)
    kernel = keras.ops.convert_to_numpy(model.head.kernel)
    wanted = float(keras.ops.convert_to_numpy(loss(labels, logits, mask=words != 0))) + 0.01 * (kernel**2).sum()
    assert model.evaluate(inputs, verbose=0) == pytest.approx(wanted, rel=1e-5)
    before = model.fit(inputs, epochs=5, verbose=0).history["loss"]
    assert before[0] == pytest.approx(wanted, rel=1e-5)
    assert before[-1] < before[0]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.head.loss.get_config() == model.head.loss.get_config()
    np.testing.assert_array_equal(
        again.predict({"words": words}, verbose=0), model.predict({"words": words}, verbose=0)
    )


def test_a_functional_model_in_a_file(tmp_path):
    features, labels, weight = batch()
    for spec in LOSSES.values():
        for model, inputs in zip(fused(spec, True), ([features, labels, weight], features), strict=True):
            model.compile("sgd")
            model.save(tmp_path / "model.keras")
            again = keras.models.load_model(tmp_path / "model.keras")
            layer = again.get_layer("head")
            assert {"loss": type(layer.loss).__name__, "config": layer.loss.get_config()} == spec
            if isinstance(inputs, list):
                wanted = model.evaluate(inputs, verbose=0)
                assert again.evaluate(inputs, verbose=0) == pytest.approx(wanted, rel=1e-6)
            else:
                np.testing.assert_array_equal(again.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


@keras.saving.register_keras_serializable(package="test_layers")
class OwnLoss(keras_xent.CategoricalCrossEntropy):
    pass


def test_a_loss_of_another_package_in_a_config():
    layer = LinearLoss(3, OwnLoss(temperature=2.0))
    again = LinearLoss.from_config(layer.get_config())
    assert type(again.loss) is OwnLoss
    assert again.loss.get_config() == {"temperature": 2.0}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "bfloat16"])
def test_the_loss_is_float32_in_any_policy(policy):
    features, labels, _ = batch()
    layer = LinearLoss(CLASSES, "CategoricalCrossEntropy", dtype=policy)
    target = np.eye(CLASSES)[labels] * 0.999  # bfloat16 does not hold it
    out = layer(features, target)
    assert out.shape == features.shape
    assert keras.backend.standardize_dtype(layer.losses[0].dtype) == "float32"
    logits = layer(features)
    assert keras.backend.standardize_dtype(logits.dtype) == layer.compute_dtype
    wanted = float(keras.ops.convert_to_numpy(keras_xent.CategoricalCrossEntropy()(target, logits)))
    layer(features, target)
    assert float(keras.ops.convert_to_numpy(layer.losses[0])) == pytest.approx(wanted, rel=1e-6)


def test_a_mask_and_the_mask_of_the_states_count():
    words, labels = np.array([[1, 2, 0], [3, 4, 5]]), np.array([[1, 0, 6], [2, 3, 6]])
    mask = np.array([[True, False, True], [True, True, False]])
    embedding = keras.layers.Embedding(6, FEATURES, mask_zero=True)
    layer = LinearLoss(CLASSES, "CategoricalCrossEntropy", dtype="mixed_bfloat16")  # which casts the states
    hidden = embedding(words)
    logits = keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(keras.ops.cast(layer(hidden), "float32")))
    for own in (mask, None):
        layer(hidden, labels, mask=own)
        wanted = keras_xent.CategoricalCrossEntropy()(
            labels, logits, mask=words != 0 if own is None else own & (words != 0)
        )
        found = float(keras.ops.convert_to_numpy(layer.losses[0]))
        assert found == pytest.approx(float(keras.ops.convert_to_numpy(wanted)), rel=1e-2)


def test_shapes():
    layer = LinearLoss(CLASSES, "CategoricalCrossEntropy")
    assert layer.compute_output_shape((None, 3, FEATURES)) == (None, 3, CLASSES)
    assert layer(np.zeros(FEATURES, "float32")).shape == (CLASSES,)
    for given in ((), (np.zeros(2, int),)):
        with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 4"):
            layer(np.zeros((2, 3), "float32"), *given)


def test_a_top_k_in_a_functional_model(tmp_path):
    inputs = keras.Input((FEATURES,)), keras.Input((2,), dtype="int32"), keras.Input((2,))
    layer = LinearLoss(CLASSES, "CategoricalCrossEntropy")
    with pytest.raises(ValueError, match=r"y_true must be a tuple \(indices, probabilities\)"):
        layer(inputs[0], y_true=keras_xent.TopK(*inputs[1:]))
    model = keras.Model(inputs, layer(inputs[0], inputs[1:]))
    model.compile("sgd")
    features, labels, _ = batch()
    indices = np.stack([labels, (labels + 1) % CLASSES], -1)
    target = 0.75 * np.eye(CLASSES)[indices[:, 0]] + 0.125 * np.eye(CLASSES)[indices[:, 1]]
    wanted = keras_xent.CategoricalCrossEntropy()(target, layer(features))
    model.save(tmp_path / "a.keras")
    for each in (model, keras.models.load_model(tmp_path / "a.keras")):  # a file holds a list in place of the tuple
        found = each.evaluate([features, indices, np.tile([[0.75, 0.125]], (ROWS, 1))], verbose=0)
        assert found == pytest.approx(float(keras.ops.convert_to_numpy(wanted)), rel=1e-5)


BAD = {
    "units": ((0, "CategoricalCrossEntropy"), ValueError, "units"),
    "binary": ((3, "BinaryCrossEntropy"), TypeError, "categorical"),
    "axis": ((3, keras_xent.CategoricalCrossEntropy(axis=1)), ValueError, "axis"),
    "views": ((3, "JensenShannonConsistency"), ValueError, "one tensor of logits"),
    "none": ((3, keras_xent.CategoricalCrossEntropy(reduction="none")), ValueError, "reduction"),
}


@pytest.mark.parametrize("given", BAD)
def test_what_a_layer_refuses(given):
    arguments, error, message = BAD[given]
    with pytest.raises(error, match=message):
        LinearLoss(*arguments)
