"""The last linear layer with its loss on JAX: a scan over chunks of rows, and a loop over those of classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from keras_xent.kernels.classes_of_jax import Classes
from keras_xent.kernels.jax_trace import explicit_sharding, is_in_shard_map
from keras_xent.kernels.linear import (
    MOST_ROWS,
    ByLabel,
    Head,
    Work,
    all_logits,
    classes_of_chunk,
    pieces,
    rows_of_chunk,
    without,
)
from keras_xent.kernels.passes import compute_dtype
from keras_xent.kernels.statistics import Statistics, found


@dataclass(frozen=True, eq=False)
class _Plan:
    """How the chunks are computed."""

    losses_of: Callable[..., Any]
    """Of (logits, *data, *constants), or with chunks of classes of (found, *data, *constants)."""
    rows: int
    classes: int | None
    """Of a chunk; None: all."""
    by_label: ByLabel | None


def total(head: Head, slopes: Any, work: Work) -> Any:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""
    plan, constants = _planned(head, work)
    return _total(plan, *_alike((head, slopes, work.data, constants)))


def losses(head: Head, work: Work) -> Any:
    """Return the losses [N]; the gradient computes the logits again."""
    plan, constants = _planned(head, work)
    return _losses(plan, *_alike((head, work.data, constants)))


def _planned(head: Head, work: Work) -> tuple[_Plan, tuple[Any, ...]]:
    """Return the plan, and what else the loss reads: variables of its own.

    A rule for cotangents may not read them from outside.
    """
    if any(explicit_sharding(each) is not None for each in jax.tree.leaves((head, work.data))):
        raise ValueError(
            "hidden, kernel, y_true and their weights must not be sharded over explicit axes of a mesh in linear(): "
            "call it inside jax.shard_map, or make the mesh with axis_types=(jax.sharding.AxisType.Auto,)"
        )
    count = head.hidden.shape[0]
    # Of classes that are sharded, which only the compiler knows, each part of them would be sent to all devices.
    is_of_one_device = jax.device_count() == 1 or is_in_shard_map(head.kernel)
    classes = classes_of_chunk(count, head, work.copies) if work.by_label is not None and is_of_one_device else None
    rows = int(min(count, rows_of_chunk(count, head, work.copies) if classes is None else MOST_ROWS))
    hidden, *some = jax.eval_shape(lambda *arrays: [each[:rows] for each in arrays], head.hidden, *work.data)
    if work.by_label is None or classes is None:
        logits = jax.eval_shape(lambda hidden: all_logits(head._replace(hidden=hidden)), hidden)
        losses_of, constants = jax.closure_convert(work.losses_of, logits, *some)
        return _Plan(losses_of, rows, None, None), tuple(constants)
    by_label = work.by_label
    number = jax.eval_shape(lambda hidden: hidden[:, 0].astype(compute_dtype(hidden)), hidden)
    example = jax.eval_shape(lambda *each: found(Statistics(*each), by_label.reads), *(number,) * 6)
    losses_of, constants = jax.closure_convert(by_label.losses_of, example, *some)
    if by_label.class_weight is None:
        return _Plan(losses_of, rows, classes, by_label), tuple(constants)
    # The blocks read the weights, the loss does not.
    return _Plan(lambda *given: losses_of(*given[:-1]), rows, classes, by_label), (*constants, by_label.class_weight)


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


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _total(plan: _Plan, head: Head, slopes: Any, data: Any, constants: Any) -> Any:
    return jnp.sum(slopes * _losses_of_chunks(plan, head, data, constants))


def _total_forward(plan: _Plan, *given: Any) -> Any:
    (head, slopes, data, constants), varies = _values(given)
    values, *gradients = _gradient(plan, head, slopes, data, constants, varies)
    return jnp.sum(slopes * values), (head, values, gradients)


def _total_backward(plan: _Plan, kept: Any, factor: Any) -> Any:
    head, values, gradients = kept
    factor = _number(factor, values)
    of_head, of_data, of_constants = jax.tree.map(lambda each: factor * each, gradients)
    return _as(of_head, head), factor * values, of_data, of_constants


_total.defvjp(_total_forward, _total_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(plan: _Plan, head: Head, data: Any, constants: Any) -> Any:
    return _losses_of_chunks(plan, head, data, constants)


def _losses_forward(plan: _Plan, *given: Any) -> Any:
    (head, data, constants), varies = _values(given)
    values = _losses_of_chunks(plan, head, data, constants)
    return values, (head, data, constants, values, [jnp.zeros(int(each)) for each in varies])


def _losses_backward(plan: _Plan, kept: Any, slopes: Any) -> Any:
    head, data, constants, values, varies = kept
    varies = [bool(each.size) for each in varies]
    slopes = _number(slopes, values)
    _, of_head, *others = _gradient(plan, head, slopes, data, constants, varies)
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


def _losses_of_chunks(plan: _Plan, head: Head, data: Any, constants: Any) -> Any:
    def of_chunk(carry: None, chunk: Any) -> tuple[None, Any]:
        hidden, data = chunk
        some = head._replace(hidden=hidden)
        if plan.classes is None:
            return carry, plan.losses_of(all_logits(some), *data, *constants)
        classes = _classes(plan, some, data, constants)
        return carry, plan.losses_of(found(classes.statistics(), classes.by_label.reads), *data, *constants)

    return _each(of_chunk, None, plan.rows, (head.hidden, data))[1]


def _gradient(
    plan: _Plan, head: Head, slopes: Any, data: Any, constants: Any, varies: Sequence[bool]
) -> tuple[Any, Head, Any, Any]:
    """Return the losses [N], and the gradients of sum_i slopes_i losses_i: of the layer, the data and the constants.

    Data and constants of which `varies` is False get None.
    """
    wide = compute_dtype(head.hidden)
    some, data = without(head, data, slopes)

    def of_chunk(carry: Any, chunk: Any) -> tuple[Any, Any]:
        (hidden, slopes, data), (sums, of_constants) = chunk, carry
        given = (*data, *constants)

        def of_inputs(read: Any, floats: Any) -> Any:
            rest = iter(floats)
            return plan.losses_of(read, *(next(rest) if own else each for each, own in zip(given, varies, strict=True)))

        floats = [each for each, own in zip(given, varies, strict=True) if own]
        part = head._replace(hidden=hidden)
        if plan.classes is None:
            values, pull = jax.vjp(of_inputs, all_logits(part), floats)
            of_logits, of_floats = pull(slopes)
            of_hidden = jnp.matmul(of_logits, head.kernel.T, preferred_element_type=wide)
            sums = _added(sums, hidden, of_logits)
        else:
            classes = _classes(plan, part, data, constants)
            whole = classes.statistics()

            def of_whole(whole: Any, floats: Any) -> Any:
                return of_inputs(found(whole, classes.by_label.reads), floats)

            values, pull = jax.vjp(of_whole, whole, floats)
            of_statistics, of_floats = pull(slopes)
            of_hidden, sums = classes.gradients(whole.peak, of_statistics, sums)
        rest = iter(of_floats)
        of_given = [next(rest) if own else None for own in varies]
        of_constants = jax.tree.map(jnp.add, of_constants, tuple(of_given[len(data) :]))
        return (sums, of_constants), (values, of_hidden, tuple(of_given[: len(data)]))

    zeros = tuple(None if each is None else jnp.zeros_like(each, wide) for each in (head.kernel, head.bias))
    of_own = zip(constants, varies[len(data) :], strict=True)
    of_constants = tuple(jnp.zeros_like(each) if own else None for each, own in of_own)
    (sums, of_constants), (values, of_hidden, of_data) = _each(
        of_chunk, (zeros, of_constants), plan.rows, (some.hidden, slopes, data)
    )
    return values, Head(of_hidden, *sums), of_data, of_constants


def _added(sums: tuple[Any, Any], hidden: Any, of_logits: Any) -> tuple[Any, Any]:
    """Return the gradients of kernel and bias with what a chunk of the logits gives."""
    of_kernel, of_bias = sums
    if of_bias is not None:
        of_bias = of_bias + jnp.sum(of_logits, 0, dtype=of_bias.dtype)
    return _with_product(of_kernel, hidden, of_logits), of_bias


def _classes(plan: _Plan, head: Head, data: Any, constants: Any) -> Classes:
    """Return the classes of some rows, in blocks."""
    assert plan.by_label is not None and plan.classes is not None
    weights = None if plan.by_label.class_weight is None else constants[-1]
    return Classes(head, data, plan.by_label, weights, plan.classes)


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
