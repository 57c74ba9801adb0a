"""Real training runs: model.compile and fit in Keras, a Trainer in Lightning."""

import numpy as np
import pytest

from sides import side

CLASSES = [name for name in side.package.__all__ if isinstance(getattr(side.package, name), type)]
SEPARABLE = 0.95
CONFIGS = [{}, {"label_smoothing": 0.1, "hard_fraction": 0.5}, {"ignore_index": -1, "reduction": "weighted_mean"}]


def blobs(classes, rows=300):
    """Well separated Gaussian classes; a tenth of the labels is -1."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    inputs = 4 * np.eye(classes)[labels] + rng.normal(size=(rows, classes))
    unknown = rng.uniform(size=rows) < 0.1
    return inputs.astype("float32"), labels, unknown


@pytest.mark.parametrize("config", CONFIGS, ids=["plain", "smoothed", "ignored"])
@pytest.mark.parametrize("name", CLASSES)
def test_training_learns(name, config):
    is_binary = name.startswith("Binary")
    inputs, labels, unknown = blobs(2 if is_binary else 4)
    target = np.where(unknown & ("ignore_index" in config), -1, labels)
    target = target.astype("float32") if is_binary else target
    loss = side.package.get({"loss": name, "config": config})
    losses, predict = side.fit(loss, inputs, target, outputs=1 if is_binary else 4, epochs=5)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    logits = predict(inputs)
    predicted = logits[:, 0] > 0 if is_binary else logits.argmax(-1)
    assert (predicted == labels).mean() > SEPARABLE


def test_sample_weight_of_zero_leaves_rows_out():
    """Rows of weight 0 carry wrong labels, and cannot be learnt from."""
    inputs, labels, unknown = blobs(4)
    target = np.where(unknown, (labels + 1) % 4, labels)
    loss = side.package.SparseCategoricalCrossEntropy()
    weight = np.where(unknown, 0, 1).astype("float32")
    _, predict = side.fit(loss, inputs, target, outputs=4, epochs=5, sample_weight=weight)
    assert (predict(inputs).argmax(-1) == labels).mean() > SEPARABLE
