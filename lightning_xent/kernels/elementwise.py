"""The kernel for any function of elements or rows: blocks keep its intermediate results in the cache."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_xent.kernels import blocks, tensors

Function = Callable[..., Tensor]
WithSlope = Callable[..., tuple[Tensor, Tensor, Tensor | float]]
"""A function of elements, and two factors of its derivative."""


def elementwise(function: Function, with_slope: WithSlope | None, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others), elementwise in x [...]; the others get no gradient.

    with_slope(x, *others) returns the same and two factors of its derivative in x, which are multiplied into the memory
    of the gradient. If it is None, automatic differentiation computes the derivative.
    """
    given = _elements(function, x, *others)
    if given is None:
        return function(x, *others)
    return _blockwise(function, with_slope, given[0].shape, *given).reshape(x.shape)


def elementwise_sum(function: Function, with_slope: WithSlope | None, x: Tensor, *others: Tensor) -> Tensor:
    """The sum [] of `elementwise`, which stores no values."""
    given = _elements(function, x, *others)
    return function(x, *others).sum() if given is None else _blockwise(function, with_slope, None, *given)


def rowwise(function: Function, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others) [...], row by row, of x [..., C]. The others, [...] or [..., C], get no gradient."""
    if tensors.is_compiling() or x.numel() <= blocks.BLOCK or x.is_cuda or _has_parameters(function, x, *others):
        return function(x, *others)
    return _blockwise(function, None, x.shape[:-1], x, *others)


def _elements(function: Function, x: Tensor, *others: Tensor) -> list[Tensor] | None:
    """x and the others in the shape of x, with an axis that blocks can split; None if there is nothing to split."""
    if tensors.is_compiling() or x.numel() <= blocks.BLOCK or not x.is_contiguous() or x.is_cuda:
        return None
    given = [x, *(other.expand_as(x) for other in others)]
    if x.ndim == 1:
        given = [each.unsqueeze(-1) for each in given]
    return None if _has_parameters(function, *given) else given


def _has_parameters(function: Function, x: Tensor, *others: Tensor) -> bool:
    """Whether a function has tensors of its own that get a gradient, which blocks would lose; it is tried on a row."""
    first = (0,) * (x.ndim - 1)
    with torch.enable_grad():
        value = function(*(tensor.detach()[first].unsqueeze(0) for tensor in (x, *others)))
    return value.requires_grad or tensors.has_tangent(value)


def _blockwise(
    function: Function, with_slope: WithSlope | None, shape: torch.Size | None, x: Tensor, *others: Tensor
) -> Tensor:
    """The values of a function, in the given shape, or their sum if it is None, with their derivative in x."""
    if blocks.keeps(x):
        values: Tensor = tensors.applied(_Blockwise, _at_once, function, with_slope, shape, x, *others)
        return values
    return _by_parts(function, shape, x, x, *others)


def _at_once(function: Function, _: Any, shape: torch.Size | None, x: Tensor, *others: Tensor) -> Tensor:
    values = function(x, *others)
    return values.sum() if shape is None else values.reshape(shape)


def _by_parts(function: Function, shape: torch.Size | None, x: Tensor, *given: Tensor) -> Tensor:
    """The values of a function of parts of what is given, or their sum; parts are whole rows of x."""
    if shape is None:
        return torch.stack([function(*parts).sum() for parts in blocks.parts(x, *given)]).sum()
    values = x.new_empty(shape)
    for value, *parts in blocks.parts(x, values, *given):
        value.copy_(function(*parts))
    return values


class _Blockwise(torch.autograd.Function):
    """A function and its derivative, block by block, so that intermediate results stay in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Function,
        with_slope: WithSlope | None,
        shape: torch.Size | None,
        x: Tensor,
        *others: Tensor,
    ) -> Tensor:
        def of_parts(slopes: Tensor, part: Tensor, *rest: Tensor) -> Tensor:
            if with_slope is None:
                value, derivative = _derivative(function, part.detach().requires_grad_(), rest)
                slopes.copy_(derivative)
            else:
                value, *factors = with_slope(part, *rest)
                torch.mul(*factors, out=slopes)
            return value

        kept = x.new_empty(x.shape)
        values = _by_parts(of_parts, shape, x, kept, x, *others)
        ctx.function, ctx.is_spent = function, False
        ctx.save_for_backward(kept, x, *others)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, x, *others = ctx.saved_tensors
        slopes = None if blocks.needs_plain_operations([gradient]) else blocks.taken(ctx, kept)
        if slopes is None:
            _, result = _derivative(ctx.function, x, others, gradient, create_graph=torch.is_grad_enabled())
        else:
            result = slopes.mul_(gradient if gradient.ndim in (0, x.ndim) else gradient.unsqueeze(-1))
        return None, None, None, result, *(None for _ in others)


def _derivative(
    function: Function, x: Tensor, others: Sequence[Tensor], gradient: Tensor | None = None, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return function(x, *others), and its derivative in x times the `gradient` of the values, or of their sum."""
    with torch.enable_grad():
        values = function(x, *others)
    if not values.requires_grad:
        return values, torch.zeros_like(x)
    gradient = torch.ones_like(values) if gradient is None else gradient.expand_as(values)
    (slopes,) = torch.autograd.grad(values, x, gradient, create_graph=create_graph)
    return values, slopes
