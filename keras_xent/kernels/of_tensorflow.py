"""The kernel for class indices on TensorFlow.

XLA compiles each pass separately. That halves the time in graph mode, and costs nothing if the whole step is compiled.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras import ops

from keras_xent.kernels import passes
from keras_xent.kernels.tensorflow_graph import with_class
from keras_xent.shapes import along_classes, is_at_least

COMPILED_FROM = 1000
"""From this many classes on the passes are compiled; that takes some tenths of a second for each shape."""


def gradient(
    logits: Any,
    label: Any,
    counts: Any,
    class_weight: Any,
    temperature: float,
    statistics: passes.Statistics,
    slopes: Sequence[Any],
) -> Any:
    """Return the gradient [N, C] of the sum of the outputs, each times its slope [N]."""
    x = passes.harmless(logits, counts)  # [N, C]
    peak, own, rivals, weight = statistics
    slopes = [slope / temperature for slope in slopes]
    if counts is not None:
        slopes = [ops.where(counts, slope, 0.0) for slope in slopes]
    slopes = [tf.expand_dims(slope, -1) for slope in slopes]
    is_alone = tf.equal(rivals, 0)
    of_rivals = ops.where(is_alone, 0.0, -slopes[0] / ops.where(is_alone, 1.0, rivals))
    of_own = slopes[0]
    if weight is not None:
        share = weight * slopes[1] / (rivals + tf.exp(own))
        of_rivals, of_own = of_rivals + share, of_own + share * tf.exp(own)
    found = of_rivals * tf.exp((x - peak) / temperature)
    if class_weight is not None:
        found = found - along_classes(class_weight, x) * slopes[1]
    return tf.cast(with_class(found, label, of_own[:, 0]), logits.dtype)


PASSES = passes.outputs, gradient
COMPILED = [tf.function(each, jit_compile=True, reduce_retracing=True) for each in PASSES]


def kernel(logits: Any, label: Any, counts: Any, class_weight: Any, temperature: float) -> Any:
    """Return the outputs [...] of `passes.outputs`, with their gradient."""
    outputs, of_outputs = COMPILED if is_at_least(logits.shape[-1], COMPILED_FROM) else PASSES
    # After logits of two ranks, the traced function would see those of a third rank with an unknown rank.
    rows, flat = tf.shape(label), [-1]
    logits = tf.reshape(logits, [-1, tf.shape(logits)[-1]])
    label = tf.reshape(label, flat)
    counts = None if counts is None else tf.reshape(counts, flat)

    def of_logits(logits: Any) -> Any:
        values, statistics = outputs(logits, label, counts, class_weight, temperature)

        def backward(*slopes: Any) -> Any:
            return of_outputs(logits, label, counts, class_weight, temperature, statistics, slopes)

        return values, backward

    return [tf.reshape(values, rows) for values in tf.custom_gradient(of_logits)(logits)]
