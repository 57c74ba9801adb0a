"""Real training runs: model.compile and fit in Keras, a Trainer in Lightning."""

import numpy as np
import pytest

from examples import CLASSES, is_binary, required
from sides import side

SEPARABLE = 0.95
CONFIGS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "hard_fraction": 0.5},
    "ignored": {"ignore_index": -1, "reduction": "weighted_mean"},
}
# Those whose logits or targets are not one for each class: test_algebra.py has what they compute.
SPECIAL = ("ArcFaceCrossEntropy", "Distillation", "JensenShannonConsistency", "OrdinalCrossEntropy")
GENTLE = {"CosFaceCrossEntropy": {"scale": 1.0}, "LDAMCrossEntropy": {"scale": 1.0}}  # the logits are no cosines


def blobs(classes, rows=300):
    """Well separated Gaussian classes; a tenth of the labels is -1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    inputs = 4 * np.eye(classes)[labels] + rng.normal(size=(rows, classes))
    unknown = rng.uniform(size=rows) < 0.1
    return inputs.astype("float32"), labels, unknown


TRAINED = [name for name in CLASSES if name not in SPECIAL]
BASIC = ("BinaryCrossEntropy", "CategoricalCrossEntropy", "CategoricalFocalCrossEntropy")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param(name, config, id=f"{name}-{label}")
        for name in TRAINED
        for label, config in CONFIGS.items()
        if name in BASIC or label == "ignored"
    ],
)
def test_training_learns(name, config):
    inputs, labels, unknown = blobs(2 if is_binary(name) else 4)
    target = np.where(unknown & ("ignore_index" in config), -1, labels)
    target = target.astype("float32") if is_binary(name) else target
    loss = side.package.get({"loss": name, "config": {**required(name, 4), **GENTLE.get(name, {}), **config}})
    losses, predict = side.fit(loss, inputs, target, outputs=1 if is_binary(name) else 4, epochs=5)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    logits = predict(inputs)
    predicted = logits[:, 0] > 0 if is_binary(name) else logits.argmax(-1)
    assert (predicted == labels).mean() > SEPARABLE


def test_sample_weight_of_zero_leaves_rows_out():
    """Rows of weight 0 carry wrong labels, and cannot be learnt from."""
    inputs, labels, unknown = blobs(4)
    target = np.where(unknown, (labels + 1) % 4, labels)
    loss = side.package.SparseCategoricalCrossEntropy()
    weight = np.where(unknown, 0, 1).astype("float32")
    _, predict = side.fit(loss, inputs, target, outputs=4, epochs=5, sample_weight=weight)
    assert (predict(inputs).argmax(-1) == labels).mean() > SEPARABLE
