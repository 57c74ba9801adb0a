"""TensorFlow, by its tape; compiled: tf.function."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from shared_specs.conformance.evaluate import Found

DTYPES = ("float64", "float32", "bfloat16", "float16")
MODES = ("eager", "compiled")
DEVICES = ("cpu",)
VERSIONS = ("tensorflow", "tensorflow-cpu")


def evaluate(
    call: Callable[..., Any],
    inputs: Mapping[str, NDArray[Any]],
    dtype: str,
    mode: str,
    device: str,
    jit_compile: bool = False,
) -> Found:
    """Value and gradient of a call."""

    def step(logits: Any, target: Any, others: dict[str, Any]) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            if logits.dtype.is_floating:  # integers are for the loss to refuse
                tape.watch(logits)
            value = call(logits, target, **others)
            total = tf.reduce_sum(value)
        return value, tape.gradient(total, logits)

    tensors = {name: tensor(array, dtype) for name, array in inputs.items()}
    logits, target = tensors.pop("logits"), tensors.pop("target")
    run = tf.function(step, jit_compile=jit_compile) if mode == "compiled" else step
    value, gradient = run(logits, target, tensors)
    if gradient is None:
        raise ValueError("the loss has no gradient on the logits")
    gradient = tf.convert_to_tensor(gradient)  # that of a gather is indices and slices
    return Found(numpy(value), value.dtype.name, numpy(gradient), gradient.dtype.name)


def tensor(array: NDArray[Any], dtype: str) -> Any:
    """A tensor; one of floats in `dtype`."""
    given = tf.convert_to_tensor(array)
    return tf.cast(given, dtype) if array.dtype.kind == "f" else given


def numpy(value: Any) -> NDArray[Any]:
    return tf.cast(value, "float64").numpy()
