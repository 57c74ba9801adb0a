"""The kernel for class indices on TensorFlow.

XLA compiles each pass separately. That halves the time in graph mode, and costs nothing if the whole step is compiled.
"""

from typing import Any

import tensorflow as tf

from keras_xent.kernels import passes
from keras_xent.shapes import is_at_least

COMPILED_FROM = 1000
"""From this many classes on the passes are compiled; that takes some tenths of a second for each shape."""
PASSES = passes.outputs, passes.gradient
COMPILED = [tf.function(each, jit_compile=True, reduce_retracing=True) for each in PASSES]


def kernel(logits: Any, label: Any, counts: Any, class_weight: Any, temperature: float) -> Any:
    """Return the outputs [...] of `passes.outputs`, with the gradient of `passes.gradient`."""
    outputs, gradient = COMPILED if is_at_least(logits.shape[-1], COMPILED_FROM) else PASSES
    # After logits of two ranks, the traced function would see those of a third rank with an unknown rank.
    rows, flat = tf.shape(label), [-1]
    logits = tf.reshape(logits, [-1, tf.shape(logits)[-1]])
    label = tf.reshape(label, flat)
    counts = None if counts is None else tf.reshape(counts, flat)

    def of_logits(logits: Any) -> Any:
        values, statistics = outputs(logits, label, counts, class_weight, temperature)

        def backward(*slopes: Any) -> Any:
            return gradient(logits, label, counts, class_weight, temperature, statistics, slopes)

        return values, backward

    return [tf.reshape(values, rows) for values in tf.custom_gradient(of_logits)(logits)]
