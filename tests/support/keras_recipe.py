"""One step by the `train_step` of docs/training_loops.md: `python keras_recipe.py DEVICES` prints what it did."""

import contextlib
import json
import sys

import keras
import numpy as np

import training_loops
import two_devices


def step(devices):
    names = training_loops.block("class Accumulating", f"import {keras.backend.backend()}")
    strategy = two_devices.devices() if devices > 1 else None
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(12, 3)).astype("float32")
    labels = np.array([0, -100, 2, 1, -100, 3, -100, -100, 3, 0, -100, -100])
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        source = keras.Input((3,))
        model = names["Accumulating"](source, keras.layers.Dense(4)(source))
        model.compile(keras.optimizers.SGD(1.0))
    kernel, bias = model.get_weights()
    history = model.fit(inputs, labels, batch_size=12, epochs=1, shuffle=False, verbose=0).history
    result = {"inputs": inputs, "labels": labels, "kernel": kernel, "bias": bias}
    result |= {"kernel_after": model.get_weights()[0], "step_loss": np.array(history["step_loss"][0])}
    return {key: value.tolist() for key, value in result.items()}


if __name__ == "__main__":
    print(json.dumps(step(int(sys.argv[1]))))
