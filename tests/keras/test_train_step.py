"""The recipe for Keras of docs/training_loops.md: a train_step that accumulates, on one device and on two."""

import numpy as np
import pytest

import keras_recipe
import many_devices
from sides import name as side_name


@pytest.mark.parametrize("devices", [1, 2])
def test_a_train_step_of_keras(devices):
    if devices == 1:
        found = keras_recipe.step(1)
    elif side_name == "keras-torch":
        pytest.skip("Keras distributes on TensorFlow and JAX")
    else:
        found = many_devices.found(keras_recipe.__file__, devices, str(devices))
    found = {key: np.array(value) for key, value in found.items()}

    kept = found["labels"] >= 0
    labels, inputs = found["labels"][kept], found["inputs"][kept]
    logits = inputs @ found["kernel"] + found["bias"]
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = inputs.T @ (probability - np.eye(4)[labels]) / len(labels)
    np.testing.assert_allclose(found["kernel"] - found["kernel_after"], gradient, rtol=0, atol=1e-6)
    loss = -np.log(probability[np.arange(len(labels)), labels]).mean()
    assert found["step_loss"] == pytest.approx(loss, rel=1e-6)
