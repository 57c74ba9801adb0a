"""The recipe for Keras of docs/training_loops.md: a train_step that accumulates, on one device and on two."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import keras_recipe
from sides import name as side_name


@pytest.mark.parametrize("devices", [1, 2])
def test_a_train_step_of_keras(devices):
    if devices == 1:
        found = keras_recipe.step(1)
    elif side_name == "keras-torch":
        pytest.skip("Keras distributes on TensorFlow and JAX")
    else:
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, keras_recipe.__file__, str(devices)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        found = json.loads(run.stdout.splitlines()[-1])
    found = {key: np.array(value) for key, value in found.items()}

    kept = found["labels"] >= 0
    labels, inputs = found["labels"][kept], found["inputs"][kept]
    logits = inputs @ found["kernel"] + found["bias"]
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = inputs.T @ (probability - np.eye(4)[labels]) / len(labels)
    np.testing.assert_allclose(found["kernel"] - found["kernel_after"], gradient, rtol=0, atol=1e-6)
    loss = -np.log(probability[np.arange(len(labels)), labels]).mean()
    assert found["step_loss"] == pytest.approx(loss, rel=1e-6)
