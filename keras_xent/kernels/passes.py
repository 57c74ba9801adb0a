"""The pass over logits with class indices for what the loss needs; each backend has a pass of its own for the gradient.

Automatic differentiation would keep several tensors of the size of the logits.
"""

from functools import partial
from typing import NamedTuple

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.shapes import along_classes, are_known, class_numbers

if keras.backend.backend() == "tensorflow":
    from keras_xent.kernels.tensorflow_graph import of_class, without_class
else:
    of_class = partial(ops.take_along_axis, axis=-1)

    def without_class(values: Tensor, label: Tensor) -> Tensor:
        """`values` [..., C] with 0 at `label` [...]."""
        return are_others(label, values) * values


COUNTED_BY_FLOATS = 2**24
"""Up to so many classes, float32 holds their numbers exactly."""


class Statistics(NamedTuple):
    """What the gradient needs of each row, all [..., 1]; the shifted logits are (x_c - peak) / temperature."""

    peak: Tensor
    own: Tensor
    """The shifted logit of the label."""
    rivals: Tensor
    """Sum of the exponentials of the other classes' shifted logits."""
    weight: Tensor | None
    """Sum of the other classes' weights."""


class Row(NamedTuple):
    """What one pass over the logits gives."""

    peak: Tensor
    own: Tensor
    shifted: Tensor
    of_others: Tensor
    """The exponentials [..., C] of the shifted logits, 0 at the label."""


def outputs(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[tuple[Tensor, ...], Statistics]:
    """The log-odds of the label, given weights the weighted sum of -log p of the others, and the statistics."""
    return of_row(row(logits, label, counts, temperature), label, counts, class_weight)


def row(logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float) -> Row:
    """The shifted logits of each row, and their exponentials."""
    x = harmless(logits, counts)  # [..., C]
    peak = ops.stop_gradient(ops.max(x, -1, keepdims=True))  # [..., 1]
    own = (of_class(x, ops.expand_dims(label, -1)) - peak) / temperature
    shifted = (x - peak) / temperature
    return Row(peak, own, shifted, without_class(ops.exp(shifted), label))


def of_row(
    found: Row, label: Tensor, counts: Tensor | None, class_weight: Tensor | None
) -> tuple[tuple[Tensor, ...], Statistics]:
    """What `outputs` returns, given what a pass over the logits found."""
    own, rivals, weight = found.own, ops.sum(found.of_others, -1, keepdims=True), None
    outputs = [own - ops.log(rivals)]
    if class_weight is not None:
        others = along_classes(class_weight, found.shifted) * are_others(label, found.shifted)
        weight = ops.sum(others, -1, keepdims=True)
        spread = -ops.sum(others * ops.where(ops.equal(others, 0), 0.0, found.shifted), -1, keepdims=True)
        outputs.append(weight * ops.log(rivals + ops.exp(own)) + spread)
    if counts is not None:
        outputs = [ops.where(ops.expand_dims(counts, -1), output, 0.0) for output in outputs]
    values = tuple(ops.squeeze(output, -1) for output in outputs)
    return values, Statistics(found.peak, own, rivals, weight)


def harmless(logits: Tensor, counts: Tensor | None) -> Tensor:
    """Logits in the compute dtype, 0 in the rows that do not count."""
    logits = ops.cast(logits, compute_dtype(logits))
    return logits if counts is None else ops.where(ops.expand_dims(counts, -1), logits, 0.0)


def is_label(label: Tensor, x: Tensor) -> Tensor:
    """Whether each class of x [..., C] is the label."""
    return ops.equal(ops.expand_dims(label, -1), class_numbers(x, label.dtype))


def are_others(label: Tensor, x: Tensor) -> Tensor:
    """1 for each class of x [..., C] that is not the label, 0 for the label.

    It is arithmetic: on the CPU, XLA computes a sum with a comparison in it one number at a time, in two to three times
    the time.
    """
    if not (are_known(x.shape[-1]) and x.shape[-1] <= COUNTED_BY_FLOATS):
        return ops.cast(ops.logical_not(is_label(label, x)), x.dtype)
    distance = ops.abs(class_numbers(x, x.dtype) - ops.cast(ops.expand_dims(label, -1), x.dtype))
    return ops.minimum(distance, 1.0)


def compute_dtype(logits: Tensor) -> str:
    """Return float64 for float64 logits, float32 for all others."""
    return "float64" if keras.backend.standardize_dtype(logits.dtype) == "float64" else "float32"


def softplus(value: Tensor) -> Tensor:
    """log(1 + exp(value)), exact in the tail. ops.softplus is off by 7 ulp on TensorFlow, and from 20 up on torch."""
    is_negative = value < 0
    rest = ops.log1p(ops.exp(ops.where(is_negative, value, -value)))
    return ops.where(is_negative, 0.0, value) + rest
