"""The recipe for Keras of docs/training_loops.md: a train_step that accumulates."""

import keras
import numpy as np
import pytest

import training_loops
from sides import name as side_name


def test_a_train_step_of_keras():
    backend = side_name.removeprefix("keras-")
    names = training_loops.block("class Accumulating", f"import {backend}")
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(8, 3)).astype("float32")
    labels = np.array([0, -100, 2, 1, -100, -100, 3, 0])
    source = keras.Input((3,))
    model = names["Accumulating"](source, keras.layers.Dense(4)(source))
    model.compile(keras.optimizers.SGD(1.0))
    kernel, bias = model.get_weights()
    history = model.fit(inputs, labels, batch_size=8, epochs=1, shuffle=False, verbose=0)

    kept = labels >= 0
    logits = inputs[kept].astype("float64") @ kernel + bias
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = inputs[kept].T @ (probability - np.eye(4)[labels[kept]]) / kept.sum()
    np.testing.assert_allclose(kernel - model.get_weights()[0], gradient, rtol=0, atol=1e-6)
    loss = -np.log(probability[np.arange(kept.sum()), labels[kept]]).mean()
    assert history.history["step_loss"][0] == pytest.approx(loss, rel=1e-6)
