"""The last linear layer with its loss on JAX: a scan over chunks of rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from keras_xent.kernels.linear import Head, Work, all_logits, rows_of_chunk, without
from keras_xent.kernels.passes import compute_dtype


def total(head: Head, slopes: Any, work: Work) -> Any:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""
    return _total(work.losses_of, _rows(head, work), head, slopes, work.data)


def losses(head: Head, work: Work) -> Any:
    """Return the losses [N]; the gradient computes the logits again."""
    return _losses(work.losses_of, _rows(head, work), head, work.data)


def _rows(head: Head, work: Work) -> int:
    return int(rows_of_chunk(head.hidden.shape[0], head, work.copies))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(losses_of: Callable[..., Any], rows: int, head: Head, slopes: Any, data: Any) -> Any:
    return jnp.sum(slopes * _losses_of_chunks(losses_of, rows, head, data))


def _total_forward(losses_of: Callable[..., Any], rows: int, *given: Any) -> Any:
    (head, slopes, data), has_tangent = _values(given)
    found, *gradients = _gradient(losses_of, rows, head, slopes, data, has_tangent)
    return jnp.sum(slopes * found), (head, found, gradients)


def _total_backward(losses_of: Callable[..., Any], rows: int, kept: Any, factor: Any) -> Any:
    head, found, gradients = kept
    factor = _number(factor, found)
    of_head, of_data = jax.tree.map(lambda each: factor * each, gradients)
    return _as(of_head, head), factor * found, of_data


_total.defvjp(_total_forward, _total_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(losses_of: Callable[..., Any], rows: int, head: Head, data: Any) -> Any:
    return _losses_of_chunks(losses_of, rows, head, data)


def _losses_forward(losses_of: Callable[..., Any], rows: int, *given: Any) -> Any:
    (head, data), has_tangent = _values(given)
    found = _losses_of_chunks(losses_of, rows, head, data)
    return found, (head, data, found, jnp.zeros(int(has_tangent)))


def _losses_backward(losses_of: Callable[..., Any], rows: int, kept: Any, slopes: Any) -> Any:
    head, data, found, has_tangent = kept
    slopes = _number(slopes, found)
    _, of_head, of_data = _gradient(losses_of, rows, head, slopes, data, bool(has_tangent.size))
    return _as(of_head, head), of_data


_losses.defvjp(_losses_forward, _losses_backward, symbolic_zeros=True)


def _values(given: Any) -> tuple[Any, bool]:
    """Return what a rule for cotangents was given, and whether the data, its last part, need a gradient."""

    def is_leaf(each: Any) -> bool:
        return isinstance(each, jax.custom_derivatives.CustomVJPPrimal)

    has_tangent = any(leaf.perturbed for leaf in jax.tree.leaves(given[-1], is_leaf=is_leaf))
    return jax.tree.map(lambda leaf: leaf.value, given, is_leaf=is_leaf), has_tangent


def _number(cotangent: Any, like: Any) -> Any:
    is_zero = isinstance(cotangent, jax.custom_derivatives.SymbolicZero)
    return jnp.zeros(cotangent.shape, like.dtype) if is_zero else cotangent


def _losses_of_chunks(losses_of: Callable[..., Any], rows: int, head: Head, data: Any) -> Any:
    def of_chunk(carry: None, chunk: Any) -> tuple[None, Any]:
        hidden, data = chunk
        return carry, losses_of(all_logits(head._replace(hidden=hidden)), *data)

    return _each(of_chunk, None, rows, (head.hidden, data))[1]


def _gradient(
    losses_of: Callable[..., Any], rows: int, head: Head, slopes: Any, data: Any, has_tangent: bool
) -> tuple[Any, Head, Any]:
    """Return the losses [N], and the gradients of sum_i slopes_i losses_i: of the layer, and of data that need it."""
    wide = compute_dtype(head.hidden)
    some, data = without(head, data, slopes)

    def of_chunk(carry: Any, chunk: Any) -> tuple[Any, Any]:
        (hidden, slopes, data), (of_kernel, of_bias) = chunk, carry
        is_given = [has_tangent and jnp.issubdtype(each.dtype, jnp.floating) for each in data]

        def of_inputs(logits: Any, floats: Any) -> Any:
            rest = iter(floats)
            return losses_of(logits, *(next(rest) if own else each for each, own in zip(data, is_given, strict=True)))

        floats = [each for each, own in zip(data, is_given, strict=True) if own]
        found, pull = jax.vjp(of_inputs, all_logits(head._replace(hidden=hidden)), floats)
        of_logits, of_floats = pull(slopes)
        of_hidden = jnp.matmul(of_logits, head.kernel.T, preferred_element_type=wide)
        of_kernel = of_kernel + jnp.matmul(hidden.T, of_logits, preferred_element_type=wide)
        of_bias = None if of_bias is None else of_bias + jnp.sum(of_logits, 0, dtype=wide)
        rest = iter(of_floats)
        of_data = tuple(next(rest) if own else None for own in is_given)
        return (of_kernel, of_bias), (found, of_hidden, of_data)

    zeros = [None if each is None else jnp.zeros(each.shape, wide) for each in (head.kernel, head.bias)]
    of_layer, (found, of_hidden, of_data) = _each(of_chunk, tuple(zeros), rows, (some.hidden, slopes, data))
    return found, Head(of_hidden, *of_layer), of_data


def _each(function: Callable[..., Any], carry: Any, rows: int, arrays: Any) -> tuple[Any, Any]:
    """Return what function(carry, chunk) makes of all chunks of the arrays [N, ...], like jax.lax.scan."""
    leaves = jax.tree.leaves(arrays)
    count = leaves[0].shape[0]
    if count <= rows:
        return function(carry, arrays)
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        # A scan would be compiled again by each call, because its function is a new one.
        found = []
        for first in range(0, count, rows):
            carry, part = function(carry, jax.tree.map(lambda each: each[first : first + rows], arrays))  # noqa: B023
            found.append(part)
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    chunks = -(-count // rows)

    def cut(each: Any) -> Any:
        missing = [(0, chunks * rows - count)] + [(0, 0)] * (each.ndim - 1)
        return jnp.reshape(jnp.pad(each, missing), (chunks, rows, *each.shape[1:]))

    carry, found = jax.lax.scan(function, carry, jax.tree.map(cut, arrays))
    return carry, jax.tree.map(lambda each: jnp.reshape(each, (-1, *each.shape[2:]))[:count], found)


def _as(gradients: Head, head: Head) -> Head:
    """The gradients in the dtypes of the head."""
    return jax.tree.map(lambda each, like: each.astype(like.dtype), gradients, head)
