"""The kernel for class indices on TensorFlow and JAX: one pass over the logits for the loss, one for the gradient.

Automatic differentiation would keep several tensors of the size of the logits. On TensorFlow, XLA compiles each pass
separately. That halves the time in graph mode, and costs nothing if the whole step is compiled.
"""

import sys
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.targets import along_classes, class_numbers, is_at_least

_BACKEND = keras.backend.backend()

if _BACKEND == "tensorflow":
    from keras_xent.tensorflow_graph import of_class
else:
    of_class = partial(ops.take_along_axis, axis=-1)

COMPILED_FROM = 1000
"""From this many classes on, TensorFlow compiles the passes; that takes some tenths of a second for each shape."""

RECOMPUTED_FROM = 10_000
"""From this many classes on, JAX computes the exponentials again for the gradient, instead of keeping them."""


class _Statistics(NamedTuple):
    """What the gradient needs of each row, all [..., 1]; the shifted logits are (x_c - peak) / temperature."""

    peak: Tensor
    own: Tensor
    """The shifted logit of the label."""
    rivals: Tensor
    """Sum of the exponentials of the other classes' shifted logits."""
    weight: Tensor | None
    """Sum of the other classes' weights."""


def applies(logits: Tensor) -> bool:
    """Whether the kernel accepts these logits: neither symbolic ones, which need no gradient, nor an empty batch."""
    return _BACKEND in ("tensorflow", "jax") and not isinstance(logits, Tensor) and 0 not in logits.shape


def of_label(logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C], in float32 or float64.

    Where `counts` [...] is False they are 0, with gradient 0, for any logits.
    """
    return _kernel()(logits, label, counts, None, temperature)[0]


def of_label_and_others(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    if class_weight is None:
        class_weight = ops.ones((1,), dtype=_compute_dtype(logits))
    log_odds, others = _kernel()(logits, label, counts, class_weight, temperature)
    return log_odds, others


@cache
def _kernel() -> Any:
    return {"tensorflow": _of_tensorflow, "jax": _of_jax}[_BACKEND]()


def _of_tensorflow() -> Any:
    tensorflow = sys.modules["tensorflow"]
    passes = _outputs, _gradient
    compiled = [tensorflow.function(each, jit_compile=True, reduce_retracing=True) for each in passes]

    def kernel(logits: Any, label: Any, counts: Any, class_weight: Any, temperature: float) -> Any:
        outputs, gradient = compiled if is_at_least(logits.shape[-1], COMPILED_FROM) else passes
        # After logits of two ranks, the traced function would see those of a third rank with an unknown rank.
        rows, flat = tensorflow.shape(label), [-1]
        logits = tensorflow.reshape(logits, [-1, tensorflow.shape(logits)[-1]])
        label = tensorflow.reshape(label, flat)
        counts = None if counts is None else tensorflow.reshape(counts, flat)

        def of_logits(logits: Any) -> Any:
            values, statistics = outputs(logits, label, counts, class_weight, temperature)

            def backward(*slopes: Any) -> Any:
                return gradient(logits, label, counts, class_weight, temperature, statistics, slopes)

            return values, backward

        return [tensorflow.reshape(values, rows) for values in tensorflow.custom_gradient(of_logits)(logits)]

    return kernel


def _of_jax() -> Any:
    jax = sys.modules["jax"]

    # Rules for tangents keep all modes of JAX; rules for cotangents do not.
    @partial(jax.custom_jvp, nondiff_argnums=(4,))
    def kernel(logits: Any, label: Any, counts: Any, class_weight: Any, temperature: float) -> Any:
        return _outputs(logits, label, counts, class_weight, temperature)[0]

    def tangents(temperature: float, inputs: Any, input_tangents: Any) -> Any:
        logits, label, counts, class_weight = inputs
        outputs, statistics = _outputs(logits, label, counts, class_weight, temperature)
        peak, own, rivals, weight = statistics
        if is_at_least(
            logits.shape[-1], RECOMPUTED_FROM
        ):  # without this XLA would notice that both passes need the exponentials, and keep them
            peak = jax.lax.optimization_barrier(peak)
        x, is_own = _harmless(logits, counts), _is_own(label, logits)  # [..., C]
        # A tangent enters each sum once, so that XLA makes one pass of the gradient.
        tangent = ops.cast(input_tangents[0], x.dtype) / temperature
        exponentials = ops.where(is_own, 0.0, ops.exp((x - peak) / temperature))
        of_own = ops.sum(ops.where(is_own, tangent, 0.0), -1, keepdims=True)
        of_rivals = ops.sum(exponentials * tangent, -1, keepdims=True)
        is_alone = ops.equal(rivals, 0)
        found = [of_own - ops.where(is_alone, 0.0, of_rivals / ops.where(is_alone, 1.0, rivals))]
        if weight is not None:
            own = ops.exp(own)
            of_spread = ops.sum(along_classes(class_weight, x) * ops.where(is_own, 0.0, tangent), -1, keepdims=True)
            found.append(weight * (of_rivals + own * of_own) / (rivals + own) - of_spread)
        if counts is not None:
            found = [ops.where(ops.expand_dims(counts, -1), part, 0.0) for part in found]
        return outputs, tuple(ops.squeeze(part, -1) for part in found)

    kernel.defjvp(tangents)
    return kernel


def _outputs(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[tuple[Tensor, ...], _Statistics]:
    """The log-odds of the label, given weights the weighted sum of -log p of the others, and the statistics."""
    x = _harmless(logits, counts)  # [..., C]
    peak = ops.stop_gradient(ops.max(x, -1, keepdims=True))  # [..., 1]
    is_own, place = _is_own(label, x), ops.expand_dims(label, -1)
    own = (of_class(x, place) - peak) / temperature
    shifted = (x - peak) / temperature
    rivals = ops.sum(ops.where(is_own, 0.0, ops.exp(shifted)), -1, keepdims=True)
    weight = None
    outputs = [own - ops.log(rivals)]
    if class_weight is not None:
        others = ops.where(is_own, 0.0, along_classes(class_weight, x) * ops.ones_like(x))
        weight = ops.sum(others, -1, keepdims=True)
        spread = -ops.sum(others * ops.where(ops.equal(others, 0), 0.0, shifted), -1, keepdims=True)
        outputs.append(weight * ops.log(rivals + ops.exp(own)) + spread)
    if counts is not None:
        outputs = [ops.where(ops.expand_dims(counts, -1), output, 0.0) for output in outputs]
    values = tuple(ops.squeeze(output, -1) for output in outputs)
    return values, _Statistics(peak, own, rivals, weight)


def _gradient(
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    statistics: _Statistics,
    slopes: Sequence[Tensor],
) -> Tensor:
    """The gradient [..., C] of the sum of the outputs, each times its slope [...]."""
    x = _harmless(logits, counts)  # [..., C]
    peak, own, rivals, weight = statistics
    slopes = [ops.expand_dims(slope, -1) for slope in slopes]
    if counts is not None:
        slopes = [ops.where(ops.expand_dims(counts, -1), slope, 0.0) for slope in slopes]
    is_alone = ops.equal(rivals, 0)
    of_rivals = ops.where(is_alone, 0.0, -slopes[0] / ops.where(is_alone, 1.0, rivals))
    of_own = slopes[0]
    if weight is not None:
        share = weight * slopes[1] / (rivals + ops.exp(own))
        of_rivals, of_own = of_rivals + share, of_own + share * ops.exp(own)
    gradient = of_rivals * ops.exp((x - peak) / temperature)
    if class_weight is not None:
        gradient = gradient - along_classes(class_weight, x) * slopes[1]
    gradient = ops.where(_is_own(label, x), of_own, gradient) / temperature
    return ops.cast(gradient, logits.dtype)


def _harmless(logits: Tensor, counts: Tensor | None) -> Tensor:
    """Logits in the compute dtype, 0 in the rows that do not count."""
    logits = ops.cast(logits, _compute_dtype(logits))
    return logits if counts is None else ops.where(ops.expand_dims(counts, -1), logits, 0.0)


def _is_own(label: Tensor, x: Tensor) -> Tensor:
    """Whether each class of x [..., C] is the label."""
    return ops.equal(ops.expand_dims(label, -1), class_numbers(x, label.dtype))


def _compute_dtype(logits: Tensor) -> str:
    return "float64" if keras.backend.standardize_dtype(logits.dtype) == "float64" else "float32"
