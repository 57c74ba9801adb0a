"""The kernel for class indices on JAX."""

from functools import partial
from typing import Any

import jax
from keras import ops

from keras_xent.kernels import passes
from keras_xent.shapes import along_classes


# Rules for tangents keep all modes of JAX; rules for cotangents do not.
@partial(jax.custom_jvp, nondiff_argnums=(4,))
def kernel(logits: Any, label: Any, counts: Any, class_weight: Any, temperature: float) -> Any:
    """Return the outputs [...] of `passes.outputs`, with their derivative."""
    return passes.outputs(logits, label, counts, class_weight, temperature)[0]


@kernel.defjvp  # type: ignore[untyped-decorator]
def _tangents(temperature: float, inputs: Any, input_tangents: Any) -> Any:
    logits, label, counts, class_weight = inputs
    row = passes.row(logits, label, counts, temperature)
    of_others = _stored(row.of_others)
    outputs, (_, own, rivals, weight) = passes.of_row(row._replace(of_others=of_others), label, counts, class_weight)
    is_own = passes.is_label(label, logits)  # [..., C]
    # A tangent enters each sum once, so that XLA makes one pass of the gradient.
    tangent = ops.cast(input_tangents[0], own.dtype) / temperature
    of_own = ops.sum(ops.where(is_own, tangent, 0.0), -1, keepdims=True)
    of_rivals = ops.sum(of_others * tangent, -1, keepdims=True)
    is_alone = ops.equal(rivals, 0)
    found = [of_own - ops.where(is_alone, 0.0, of_rivals / ops.where(is_alone, 1.0, rivals))]
    if weight is not None:
        own = ops.exp(own)
        of_spread = ops.sum(along_classes(class_weight, tangent) * ops.where(is_own, 0.0, tangent), -1, keepdims=True)
        found.append(weight * (of_rivals + own * of_own) / (rivals + own) - of_spread)
    if counts is not None:
        found = [ops.where(ops.expand_dims(counts, -1), part, 0.0) for part in found]
    return outputs, tuple(ops.squeeze(part, -1) for part in found)


@jax.custom_jvp  # type: ignore[untyped-decorator]
def _stored(values: Any) -> Any:
    """The values, kept in memory, where a float32 gradient replaces them; XLA would compute them again for each use."""
    return jax.lax.optimization_barrier(values)


@_stored.defjvp  # type: ignore[untyped-decorator]
def _tangents_of_stored(values: Any, tangents: Any) -> Any:  # older versions of JAX have no rule for a barrier
    return _stored(*values), *tangents
