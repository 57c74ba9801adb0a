"""Two devices see the loss of the whole batch and descend by its gradient, which is written down here in NumPy.

In batches: kept and ignored rows unequally spread, a device all of whose rows are ignored, no row that counts, and
(tf.distribute) one row for two devices.
"""

import inspect
import json

import keras
import numpy as np
import pytest

import many_devices
import two_devices
from sides import name as side_name

pytestmark = pytest.mark.skipif(side_name == "keras-torch", reason="Keras distributes on TensorFlow and JAX")

logs_a_mean = pytest.mark.skipif(
    side_name == "keras-tensorflow" and "synchronization" not in inspect.signature(keras.Variable).parameters,
    reason="this version of Keras adds up the variables of its metrics at every step",
)

REDUCTIONS = ("mean", "weighted_mean", "sum")
RATE, SHARES, CLASS_WEIGHT = 0.1, {"first": 1.0, "second": 0.5}, [1.0, 2.0, 5.0]
LABELS = [0, 1, 2, -1, 1, -1, -1, -1] + [2, 0, 1, 1, -1, -1, -1, -1] + [-1] * 8
LABELS += [2] if side_name == "keras-tensorflow" else []  # JAX wants as many rows on each device
ROWS, BATCH = len(LABELS), 8
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(ROWS, 3)).astype("float32")
TARGETS = {"first": np.array(LABELS), "second": np.where(np.arange(ROWS) == 1, -1, (np.array(LABELS) + 1) % 3)}
WEIGHTS = RNG.uniform(0, 2, size=ROWS).astype("float32")
KERNELS = {name: RNG.normal(size=(3, 3)).astype("float32") for name in SHARES}


def descend(reduction, name, rate=RATE):
    """The kernel after a step on each batch, the losses of the batches, and that of all rows in their steps."""
    kernel, parts, losses = KERNELS[name].astype("float64"), [], []
    for start in range(0, ROWS, BATCH):
        inputs, label, weight = (values[start : start + BATCH] for values in (INPUTS, TARGETS[name], WEIGHTS))
        kept = label >= 0
        logits = inputs @ kernel
        probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        weight = kept * weight * np.array(CLASS_WEIGHT)[label]
        total = -(weight * np.log(probability[np.arange(len(label)), label])).sum()
        denominator = {"mean": kept.sum(), "weighted_mean": weight.sum(), "sum": 1}[reduction] or 1
        kernel = (
            kernel - SHARES[name] * rate * inputs.T @ ((probability - np.eye(3)[label]) * weight[:, None]) / denominator
        )
        losses.append(total / denominator)
        parts.append((total, denominator if kept.any() else 0))
    total, denominator = np.sum(parts, 0)
    return kernel, losses, total / (1 if reduction == "sum" else denominator)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the two devices return, for all reductions."""
    path = tmp_path_factory.mktemp("distribution") / "data.npz"
    arrays = {f"kernel_{name}": KERNELS[name] for name in SHARES} | {f"target_{name}": TARGETS[name] for name in SHARES}
    np.savez(path, inputs=INPUTS, weights=WEIGHTS, **arrays)
    config = {"reductions": REDUCTIONS, "rate": RATE, "batch": BATCH, "shares": SHARES, "weights": CLASS_WEIGHT}
    return many_devices.found(two_devices.__file__, 2, path, json.dumps(config))


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_gradient_is_that_of_the_whole_batch(results, reduction, name):
    kernel, _, _ = results[reduction][name]
    np.testing.assert_allclose(kernel, descend(reduction, name)[0], atol=1e-6, rtol=0)


@logs_a_mean
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_loss_is_that_of_the_whole_batch(results, reduction):
    """Keras logs the mean of the losses of the batches by their sizes; the metric is that of all rows."""
    sizes = np.minimum(BATCH, ROWS - np.arange(0, ROWS, BATCH))
    want = 0.0
    for name, share in SHARES.items():
        _, losses, whole = descend(reduction, name)
        want += share * np.average(losses, weights=sizes)
        assert results[reduction][name][2] == pytest.approx(whole, rel=2e-6)
    assert results[reduction]["first"][1] == pytest.approx(want, rel=2e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_layer_with_its_loss_trains_on_the_whole_batch(results, reduction):
    kernel, _, _ = results[reduction]["layer"]
    np.testing.assert_allclose(kernel, descend(reduction, "first")[0], atol=1e-6, rtol=0)


@logs_a_mean
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_layer_adds_the_loss_of_the_whole_batch_once(results, reduction):
    _, *logged = results[reduction]["layer"]
    sizes = np.minimum(BATCH, ROWS - np.arange(0, ROWS, BATCH))
    for found, rate in zip(logged, (RATE, 0.0), strict=True):
        losses = descend(reduction, "first", rate)[1]
        assert found == pytest.approx(np.average(losses, weights=sizes), rel=2e-6)


@pytest.mark.skipif(side_name != "keras-tensorflow", reason="replicas are those of tf.distribute")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_replicas_return_adds_up(results, reduction):
    """In a loop of one's own, as tf.distribute has it: here every other row is on the second device.

    Outside of a replica the loss is that of its rows, with the strategy in scope too.
    """
    label = TARGETS["first"]
    weight = (label >= 0) * np.array(CLASS_WEIGHT)[label]
    losses = weight * (np.log(np.exp(INPUTS).sum(-1)) - INPUTS[np.arange(ROWS), label])
    denominator = {"mean": (label >= 0).sum(), "weighted_mean": weight.sum(), "sum": 1}[reduction]
    want = pytest.approx(losses.sum() / denominator, rel=2e-6)
    assert results[reduction]["sum"] == want
    assert results[reduction]["whole"] == want
