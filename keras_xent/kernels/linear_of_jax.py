"""The last linear layer with its loss on JAX: a scan over chunks of rows."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from keras_xent.kernels.jax_trace import explicit_sharding, is_in_shard_map
from keras_xent.kernels.linear import Head, Work, all_logits, pieces, rows_of_chunk, without
from keras_xent.kernels.passes import compute_dtype


def total(head: Head, slopes: Any, work: Work) -> Any:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""
    rows = _rows(head, work)
    losses_of, constants = _closed(head, work, rows)
    return _total(losses_of, rows, *_alike((head, slopes, work.data, constants)))


def losses(head: Head, work: Work) -> Any:
    """Return the losses [N]; the gradient computes the logits again."""
    rows = _rows(head, work)
    losses_of, constants = _closed(head, work, rows)
    return _losses(losses_of, rows, *_alike((head, work.data, constants)))


def _rows(head: Head, work: Work) -> int:
    count = head.hidden.shape[0]
    return int(min(count, rows_of_chunk(count, head, work.copies)))


def _closed(head: Head, work: Work, rows: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return a function of (logits, *data, *constants) of a chunk, and what else the loss reads: variables of its own.

    A rule for cotangents may not read them from outside.
    """
    if any(explicit_sharding(each) is not None for each in jax.tree.leaves((head, work.data))):
        raise ValueError(
            "hidden, kernel, y_true and their weights must not be sharded over explicit axes of a mesh in linear(): "
            "call it inside jax.shard_map, or make the mesh with axis_types=(jax.sharding.AxisType.Auto,)"
        )
    hidden, *data = jax.eval_shape(lambda *arrays: [each[:rows] for each in arrays], head.hidden, *work.data)
    logits = jax.eval_shape(lambda hidden: all_logits(head._replace(hidden=hidden)), hidden)
    losses_of, constants = jax.closure_convert(work.losses_of, logits, *data)
    return losses_of, tuple(constants)


def _alike(arrays: Any) -> Any:
    """Return the arrays, each of which differs between the devices of a shard_map if one of them does.

    A rule for cotangents has to give each array a cotangent of its own kind. Without a shard_map they are returned as
    they are.
    """
    leaves, tree = jax.tree.flatten(arrays)
    if not any(is_in_shard_map(leaf) for leaf in leaves):
        return arrays
    zero = sum(jnp.sum(jnp.zeros_like(leaf, dtype="float32")) for leaf in leaves)
    return jax.tree.unflatten(tree, [leaf + zero.astype(leaf.dtype) for leaf in leaves])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(losses_of: Callable[..., Any], rows: int, head: Head, slopes: Any, data: Any, constants: Any) -> Any:
    return jnp.sum(slopes * _losses_of_chunks(losses_of, rows, head, data, constants))


def _total_forward(losses_of: Callable[..., Any], rows: int, *given: Any) -> Any:
    (head, slopes, data, constants), varies = _values(given)
    found, *gradients = _gradient(losses_of, rows, head, slopes, data, constants, varies)
    return jnp.sum(slopes * found), (head, found, gradients)


def _total_backward(losses_of: Callable[..., Any], rows: int, kept: Any, factor: Any) -> Any:
    head, found, gradients = kept
    factor = _number(factor, found)
    of_head, of_data, of_constants = jax.tree.map(lambda each: factor * each, gradients)
    return _as(of_head, head), factor * found, of_data, of_constants


_total.defvjp(_total_forward, _total_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(losses_of: Callable[..., Any], rows: int, head: Head, data: Any, constants: Any) -> Any:
    return _losses_of_chunks(losses_of, rows, head, data, constants)


def _losses_forward(losses_of: Callable[..., Any], rows: int, *given: Any) -> Any:
    (head, data, constants), varies = _values(given)
    found = _losses_of_chunks(losses_of, rows, head, data, constants)
    return found, (head, data, constants, found, [jnp.zeros(int(each)) for each in varies])


def _losses_backward(losses_of: Callable[..., Any], rows: int, kept: Any, slopes: Any) -> Any:
    head, data, constants, found, varies = kept
    varies = [bool(each.size) for each in varies]
    slopes = _number(slopes, found)
    _, of_head, *others = _gradient(losses_of, rows, head, slopes, data, constants, varies)
    return _as(of_head, head), *others


_losses.defvjp(_losses_forward, _losses_backward, symbolic_zeros=True)


def _values(given: Any) -> tuple[Any, list[bool]]:
    """Return what a rule for cotangents was given, and which of the data and constants, its end, need a gradient."""

    def is_leaf(each: Any) -> bool:
        return isinstance(each, jax.custom_derivatives.CustomVJPPrimal)

    varies = [leaf.perturbed and jnp.issubdtype(leaf.value.dtype, jnp.floating) for part in given[-2:] for leaf in part]
    return jax.tree.map(lambda leaf: leaf.value, given, is_leaf=is_leaf), varies


def _number(cotangent: Any, like: Any) -> Any:
    is_zero = isinstance(cotangent, jax.custom_derivatives.SymbolicZero)
    return jnp.zeros(cotangent.shape, like.dtype) if is_zero else cotangent


def _losses_of_chunks(losses_of: Callable[..., Any], rows: int, head: Head, data: Any, constants: Any) -> Any:
    def of_chunk(carry: None, chunk: Any) -> tuple[None, Any]:
        hidden, data = chunk
        return carry, losses_of(all_logits(head._replace(hidden=hidden)), *data, *constants)

    return _each(of_chunk, None, rows, (head.hidden, data))[1]


def _gradient(
    losses_of: Callable[..., Any], rows: int, head: Head, slopes: Any, data: Any, constants: Any, varies: Sequence[bool]
) -> tuple[Any, Head, Any, Any]:
    """Return the losses [N], and the gradients of sum_i slopes_i losses_i: of the layer, the data and the constants.

    Data and constants of which `varies` is False get None.
    """
    wide = compute_dtype(head.hidden)
    some, data = without(head, data, slopes)

    def of_chunk(carry: Any, chunk: Any) -> tuple[Any, Any]:
        (hidden, slopes, data), (of_kernel, of_bias, of_constants) = chunk, carry
        given = (*data, *constants)

        def of_inputs(logits: Any, floats: Any) -> Any:
            rest = iter(floats)
            return losses_of(logits, *(next(rest) if own else each for each, own in zip(given, varies, strict=True)))

        floats = [each for each, own in zip(given, varies, strict=True) if own]
        found, pull = jax.vjp(of_inputs, all_logits(head._replace(hidden=hidden)), floats)
        of_logits, of_floats = pull(slopes)
        of_hidden = jnp.matmul(of_logits, head.kernel.T, preferred_element_type=wide)
        of_kernel = _with_product(of_kernel, hidden, of_logits)
        of_bias = None if of_bias is None else of_bias + jnp.sum(of_logits, 0, dtype=wide)
        rest = iter(of_floats)
        of_given = [next(rest) if own else None for own in varies]
        of_constants = jax.tree.map(jnp.add, of_constants, tuple(of_given[len(data) :]))
        return (of_kernel, of_bias, of_constants), (found, of_hidden, tuple(of_given[: len(data)]))

    zeros = [None if each is None else jnp.zeros_like(each, wide) for each in (head.kernel, head.bias)]
    of_own = zip(constants, varies[len(data) :], strict=True)
    zeros.append(tuple(jnp.zeros_like(each) if own else None for each, own in of_own))
    sums, (found, of_hidden, of_data) = _each(of_chunk, tuple(zeros), rows, (some.hidden, slopes, data))
    return found, Head(of_hidden, *sums[:2]), of_data, sums[2]


def _with_product(sums: Any, hidden: Any, of_logits: Any) -> Any:
    """Return sums [D, C] + hidden.T @ of_logits in pieces: the whole product would be as large as the sums."""

    def product(hidden: Any) -> Any:
        return jnp.matmul(hidden.T, of_logits, preferred_element_type=sums.dtype)

    count = pieces(*hidden.shape)
    if count == 1 or not isinstance(of_logits, jax.core.Tracer):
        return sums + product(hidden)
    size = hidden.shape[1] // count

    def step(place: Any, sums: Any) -> Any:
        own = jax.lax.dynamic_slice_in_dim(sums, place * size, size)
        own = own + product(jax.lax.dynamic_slice_in_dim(hidden, place * size, size, 1))
        return jax.lax.dynamic_update_slice_in_dim(sums, own, place * size, 0)

    return jax.lax.fori_loop(0, count, step, sums)


def _each(function: Callable[..., Any], carry: Any, rows: int, arrays: Any) -> tuple[Any, Any]:
    """Return what function(carry, chunk) makes of all chunks of the arrays [N, ...], like jax.lax.scan."""
    leaves = jax.tree.leaves(arrays)
    count = leaves[0].shape[0]
    if count <= rows:
        return function(carry, arrays)
    chunks = -(-count // rows)

    def cut(each: Any) -> Any:
        missing = [(0, chunks * rows - count)] + [(0, 0)] * (each.ndim - 1)
        return jnp.reshape(jnp.pad(each, missing), (chunks, rows, *each.shape[1:]))

    def joined(each: Any) -> Any:
        return jnp.reshape(each, (-1, *each.shape[2:]))[:count]

    cuts = jax.tree.map(cut, arrays)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        carry, found = jax.lax.scan(function, carry, cuts)
        return carry, jax.tree.map(joined, found)
    # A scan would be compiled again by each call, because its function is a new one.
    parts = []
    for place in range(chunks):
        carry, part = function(carry, jax.tree.map(lambda each: each[place], cuts))  # noqa: B023
        parts.append(part)
    return carry, jax.tree.map(lambda *each: joined(jnp.stack(each)), *parts)


def _as(gradients: Head, head: Head) -> Head:
    """The gradients in the dtypes of the head."""
    return jax.tree.map(lambda each, like: each.astype(like.dtype), gradients, head)
