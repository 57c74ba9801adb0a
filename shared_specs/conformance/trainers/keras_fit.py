"""Keras' fit on the backend KERAS_BACKEND.

Two devices are those of `tf.distribute.MirroredStrategy` on TensorFlow, and of `keras.distribution.DataParallel` on
JAX. There the step is also taken without micro-batches, because the devices already split it.
"""

from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

import keras_xent
from shared_specs.conformance.trainers import step

BACKEND = keras.backend.backend()
NATIVE = "`SparseCategoricalCrossentropy`"
NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}

if BACKEND == "tensorflow":
    from shared_specs.conformance.trainers.keras_tensorflow import Accumulating
elif BACKEND == "jax":
    from shared_specs.conformance.trainers.keras_jax import Accumulating
else:
    from shared_specs.conformance.trainers.keras_torch import Accumulating


def distributed() -> tuple[str, Any]:
    """How several devices of the CPU share a batch, and the scope of the model."""
    devices = step.DEVICES
    if devices == 1:
        return "", nullcontext
    if BACKEND == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
        return ", MirroredStrategy", tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)]).scope
    import jax

    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()[:devices]))
    return ", DataParallel", nullcontext


def trained(scope: Any, model_class: Any, loss: Any, scenario: str, accumulated: int | None) -> Any:
    """Fit for one step, of one batch or of as many as the optimizer accumulates; return the gradient."""
    inputs, labels = (np.concatenate(parts) for parts in zip(*step.batches(scenario), strict=True))
    with scope():
        source = keras.Input((step.FEATURES,))
        model = model_class(source, keras.layers.Dense(step.CLASSES, use_bias=False)(source))
        model.set_weights([step.kernel()])
        model.compile(keras.optimizers.SGD(1.0, gradient_accumulation_steps=accumulated), loss=loss)
    before = model.get_weights()[0].astype("float64")
    rows = len(labels) // (accumulated or 1)
    model.fit(inputs.astype("float32"), labels, batch_size=rows, shuffle=False, verbose=0)
    return before - model.get_weights()[0]


def native(scope: Any, accumulated: int | None) -> Any:
    """The step with Keras' own loss."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    return lambda scenario: trained(scope, keras.Model, loss, scenario, accumulated)


def ours(scope: Any, model_class: Any) -> Any:
    """The step with ours: in `compile`, or in the recipe, which has it itself."""
    loss = keras_xent.SparseCategoricalCrossEntropy(ignore_index=-100) if model_class is keras.Model else None
    return lambda scenario: trained(scope, model_class, loss, scenario, None)


def main() -> None:
    """Print a row for each number of micro-batches."""
    how, scope = distributed()
    name = f"Keras' fit, {NAMES[BACKEND]}{how}"
    packages = ["keras", "tensorflow-cpu" if BACKEND == "tensorflow" else BACKEND]
    plain, recipe = ours(scope, keras.Model), ours(scope, Accumulating)
    if step.DEVICES > 1:
        step.report(name, NATIVE, native(scope, None), plain, packages, micro_batches=1)
    step.report(name, NATIVE, native(scope, step.MICRO_BATCHES), recipe, packages)
