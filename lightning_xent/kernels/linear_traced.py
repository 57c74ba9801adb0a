"""The loss of the last linear layer where torch.compile traces it: a graph of some chunks of rows.

The number of chunks depends on two comparisons alone, so one graph serves many numbers of rows.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from lightning_xent.kernels.blocks import compute_dtype
from lightning_xent.kernels.linear import LIMITS, SHARE, Head, Work, add_product

TRACES_BACKWARD = torch.__version__ >= (2, 7)  # type: ignore[operator]
"""Whether Dynamo traces a transform of torch.func in the backward pass of a function."""


@torch.library.custom_op("crossent::add_product", mutates_args=("into",))
def _add_product(into: Tensor, first: Tensor, second: Tensor) -> None:
    """As one operation, which the compiler leaves in place: its own sum of products is another tensor."""
    add_product(into, first, second)


@torch.library.custom_op("crossent::after", mutates_args=(), schema="(Tensor value, Tensor[] others) -> Tensor")
def _after(value: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Return the value, once the others are there: so the compiler cannot move them, or what reads the value."""
    return value.clone()


@_after.register_fake
def _(value: Tensor, others: Sequence[Tensor]) -> Tensor:
    return torch.empty_like(value)


def total(head: Head, slopes: Tensor, work: Work) -> Tensor:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""
    needs = _needs(head)
    if work.tried(head).requires_grad:
        return (slopes * work.of_all_logits(head)).sum()
    if not any(needs):
        return (slopes * _losses(head, work)).sum()
    fixed = Head(head.hidden.detach(), head.weight.detach(), None if head.bias is None else head.bias.detach())
    found, gradients = _gradients(fixed, slopes.detach(), work, needs)
    value: Tensor = _Total.apply(*head, slopes, found, *gradients)  # type: ignore[no-untyped-call]
    return value


def losses(head: Head, work: Work) -> Tensor:
    """Return the losses [N]; the gradient computes the logits again."""
    if work.tried(head).requires_grad or not TRACES_BACKWARD:
        return work.of_all_logits(head)
    if not any(_needs(head)):
        return _losses(head, work)
    values: Tensor = _Losses.apply(*head, work)  # type: ignore[no-untyped-call]
    return values


def _needs(head: Head) -> list[bool]:
    """Whether hidden states, weight and bias need a gradient."""
    return [each is not None and each.requires_grad and torch.is_grad_enabled() for each in head]


def _losses(head: Head, work: Work) -> Tensor:
    """The losses [N]."""
    return torch.cat([work.plain(_logits(head, rows, work), rows) for rows in _chunks(head)])


def _gradients(head: Head, slopes: Tensor, work: Work, needs: Sequence[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """Return the losses [N], and the gradients of sum_i slopes_i l_i in the layer; sums are in the compute dtype."""
    found: list[Tensor] = []
    of_hidden: list[Tensor] = []
    of_weight = of_bias = None
    for rows in _chunks(head):
        logits = _logits(head, rows, work)
        of_rows, gradient_of = torch.func.vjp(partial(work.plain, rows=rows), logits)  # type: ignore[misc]
        (gradient,) = gradient_of(slopes[rows])
        gradient, hidden = gradient.to(logits.dtype), head.hidden[rows]
        found.append(of_rows)
        if needs[0]:
            of_hidden.append(gradient @ head.weight)
        if needs[1]:
            of_weight = _sum_of_products(of_weight, gradient.T, hidden)
        if needs[2]:
            of_bias_here = gradient.sum(0, dtype=compute_dtype(logits))
            of_bias = of_bias_here if of_bias is None else of_bias + of_bias_here
    return torch.cat(found), [torch.cat(of_hidden) if needs[0] else None, of_weight, of_bias]


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.work = work
        return _losses(Head(hidden, weight, bias), work)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        # After the slopes: else the compiler would find that these logits are those of the forward pass, and keep all.
        hidden, counts = _after(hidden, [slopes]), (slopes != 0).unsqueeze(1)  # others may hold NaN
        head = Head(torch.where(counts, hidden, torch.zeros_like(hidden)), weight, bias)
        _, gradients = _gradients(head, slopes, ctx.work, ctx.needs_input_grad[:3])
        return *(None if each is None else each.to(hidden.dtype) for each in gradients), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        slopes: Tensor,
        found: Tensor,
        *gradients: Tensor | None,
    ) -> Tensor:
        ctx.dtype = hidden.dtype
        ctx.save_for_backward(found, *gradients)
        # Else the compiler would leave the products to the backward pass, and keep all logits for them.
        return _after((slopes * found).sum(), [each for each in gradients if each is not None])

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        found, *gradients = ctx.saved_tensors
        scaled = (None if each is None else (each * factor).to(ctx.dtype) for each in gradients)
        return *scaled, found * factor, None, None, None, None


def _logits(head: Head, rows: slice, work: Work) -> Tensor:
    logits = linear(head.hidden[rows], head.weight, head.bias)
    if work.best is not None:
        work.best.see(logits.detach(), slice(0, len(head.weight)))
    return logits


def _sum_of_products(total: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    """Return total + first @ second, of two matrices, in the compute dtype; the total is overwritten."""
    dtype = compute_dtype(first)
    if total is None and first.dtype == dtype:
        return first @ second
    if total is None:
        total = first.new_zeros(len(first), second.shape[1], dtype=dtype)
    _add_product(total, first, second)
    return total


def _chunks(head: Head) -> list[slice]:
    """Return the rows of the chunks: as many in each, and the rest in the last.

    There are SHARE, half of that where their products would be slow, or one. Each other number would be another graph,
    of which torch.compile keeps eight.
    """
    count, classes = head.hidden.shape[0], head.weight.shape[0]
    limits = LIMITS["cuda" if head.hidden.device.type == "cuda" else "cpu"]
    of_row = classes * max(4, head.hidden.element_size())
    enough = max(limits.least, min(limits.of_rows, limits.rows * of_row))
    if count * of_row <= 2 * enough or count < SHARE:
        return [slice(0, count)]
    number = SHARE // 2 if count * of_row < SHARE * enough else SHARE
    step = count // number
    return [*(slice(i * step, (i + 1) * step) for i in range(number - 1)), slice((number - 1) * step, count)]
