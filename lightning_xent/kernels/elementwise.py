"""The kernel for any function of elements or rows: blocks keep its intermediate results in the cache."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_xent.kernels import blocks, tensors

Function = Callable[..., Tensor]


def elementwise(function: Function, slope: Function | None, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others), elementwise in x [...]; the others get no gradient.

    slope(x, *others) is the derivative in x. If it is None, automatic differentiation computes it with the values.
    """
    if tensors.is_compiling() or x.numel() <= blocks.BLOCK or not x.is_contiguous() or x.is_cuda:
        return function(x, *others)
    others = tuple(other.expand_as(x) for other in others)
    if x.ndim == 1:  # one row, which blocks cannot split
        return elementwise(function, slope, x.unsqueeze(-1), *(other.unsqueeze(-1) for other in others)).squeeze(-1)
    if _has_parameters(function, x, *others):
        return function(x, *others)
    return _blockwise(function, slope, x.shape, x, *others)


def rowwise(function: Function, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others) [...], row by row, of x [..., C]. The others, [...] or [..., C], get no gradient."""
    if tensors.is_compiling() or x.numel() <= blocks.BLOCK or x.is_cuda or _has_parameters(function, x, *others):
        return function(x, *others)
    return _blockwise(function, None, x.shape[:-1], x, *others)


def _has_parameters(function: Function, x: Tensor, *others: Tensor) -> bool:
    """Whether a function has tensors of its own that get a gradient, which blocks would lose; it is tried on a row."""
    first = (0,) * (x.ndim - 1)
    with torch.enable_grad():
        value = function(*(tensor.detach()[first].unsqueeze(0) for tensor in (x, *others)))
    return value.requires_grad or tensors.has_tangent(value)


def _blockwise(function: Function, slope: Function | None, shape: torch.Size, x: Tensor, *others: Tensor) -> Tensor:
    """The values of a function, in the given shape, with their derivative in x."""
    if blocks.keeps(x):
        values: Tensor = _Blockwise.apply(function, slope, shape, x, *others)  # type: ignore[no-untyped-call]
        return values
    values = x.new_empty(shape)
    _fill(values, function, x, *others)
    return values


def _fill(values: Tensor, function: Function, x: Tensor, *others: Tensor) -> None:
    for value, *parts in blocks.parts(x, values, x, *others):
        value.copy_(function(*parts))


class _Blockwise(torch.autograd.Function):
    """A function and its derivative, block by block, so that intermediate results stay in the cache."""

    @staticmethod
    def forward(
        ctx: Any, function: Function, slope: Function | None, shape: torch.Size, x: Tensor, *others: Tensor
    ) -> Tensor:
        values, kept = x.new_empty(shape), None
        if slope is None:
            kept = x.new_empty(x.shape)
            for value, slopes, part, *rest in blocks.parts(x, values, kept, x, *others):
                found = _derivative(function, part.detach().requires_grad_(), rest, torch.ones_like(value))
                value.copy_(found[0])
                slopes.copy_(found[1])
        else:
            _fill(values, function, x, *others)
        ctx.function, ctx.slope, ctx.is_spent = function, slope, False
        ctx.save_for_backward(kept, x, *others)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, x, *others = ctx.saved_tensors
        is_plain = blocks.needs_plain_operations([gradient])
        slopes = None if is_plain else blocks.taken(ctx, kept)
        if is_plain or (slopes is None and ctx.slope is None):
            _, result = _derivative(ctx.function, x, others, gradient, create_graph=torch.is_grad_enabled())
        elif slopes is not None:
            result = slopes.mul_(gradient if gradient.ndim == x.ndim else gradient.unsqueeze(-1))
        else:
            result = x.new_empty(x.shape)
            for out, factor, *parts in blocks.parts(x, result, gradient, x, *others):
                torch.mul(ctx.slope(*parts), factor, out=out)
        return None, None, None, result, *(None for _ in others)


def _derivative(
    function: Function, x: Tensor, others: Sequence[Tensor], gradient: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return function(x, *others), and its derivative in x times the `gradient` of the values."""
    with torch.enable_grad():
        values = function(x, *others)
    if not values.requires_grad:
        return values, torch.zeros_like(x)
    (slopes,) = torch.autograd.grad(values, x, gradient, create_graph=create_graph)
    return values, slopes
