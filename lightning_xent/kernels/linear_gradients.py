"""The loss of the last linear layer, for autograd.

The gradients of hidden states, weight and bias are computed in the forward pass, from logits that are there: three
products. Where the slopes of the rows are not known by then, the logits are computed again: four.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from lightning_xent.kernels import blocks, linear_traced, tensors
from lightning_xent.kernels.linear import Gradients, Head, Work, chunks, slices


def total(head: Head, slopes: Tensor, work: Work) -> Tensor:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""
    if tensors.is_compiling():
        return linear_traced.total(head, slopes, work)
    if not torch.is_grad_enabled():
        return (slopes * work.losses(head)).sum()
    if _has_parameters(head, work):
        return (slopes * _again_by_autograd(head, work)).sum()
    value: Tensor = tensors.applied(_Total, _total_of_all_logits, *head, slopes, work)
    return value


def losses(head: Head, work: Work) -> Tensor:
    """Return the losses [N]; the gradient computes the logits again."""
    if tensors.is_compiling():
        return linear_traced.losses(head, work)
    if not torch.is_grad_enabled():
        return work.losses(head)
    if _has_parameters(head, work):
        return _again_by_autograd(head, work)
    values: Tensor = tensors.applied(_Losses, _losses_of_all_logits, *head, work)
    return values


def _total_of_all_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, slopes: Tensor, work: Work) -> Tensor:
    return (slopes * work.of_all_logits(Head(hidden, weight, bias))).sum()


def _losses_of_all_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work) -> Tensor:
    return work.of_all_logits(Head(hidden, weight, bias))


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, slopes: Tensor, work: Work) -> Tensor:
        head = Head(hidden, weight, bias)
        if any(ctx.needs_input_grad[:3]):
            gradients = Gradients(head, ctx.needs_input_grad[:3])
            found, kept = work.gradient(head, slopes, gradients), gradients.found
        else:
            found, kept = work.losses(head), [None] * 3
        ctx.work, ctx.is_spent = work, False
        ctx.save_for_backward(*head, slopes, found, *kept)
        return (slopes * found).sum()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, slopes, found, *kept = ctx.saved_tensors
        head = Head(hidden, weight, bias)
        if blocks.needs_plain_operations([factor]):
            found = ctx.work.of_all_logits(head) if torch.is_grad_enabled() else found
            return *_plain_gradients(head, ctx, slopes * factor), found * factor, None
        of_slopes = found * factor if ctx.needs_input_grad[3] else None
        if ctx.is_spent:
            return *_again(head, ctx, slopes * factor), of_slopes, None
        ctx.is_spent = True
        # Their memory is taken for the result; `data` hides that from autograd, which counts changes of saved tensors.
        scaled = [None if each is None else each.data.mul_(factor) for each in kept]
        return *_as(scaled, head, ctx.work), of_slopes, None


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work) -> Tensor:
        head = Head(hidden, weight, bias)
        ctx.work = work
        ctx.save_for_backward(*head)
        return work.losses(head)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        head = Head(*ctx.saved_tensors)
        found = _plain_gradients if blocks.needs_plain_operations([slopes]) else _again
        return *found(head, ctx, slopes), None


def _has_parameters(head: Head, work: Work) -> bool:
    """Whether the loss has tensors of its own that get a gradient, which the chunks here would lose."""
    return len(head.hidden) > 0 and work.tried(head).requires_grad


def _again_by_autograd(head: Head, work: Work) -> Tensor:
    """The losses [N] in chunks of rows that autograd computes again for every gradient."""

    def of_rows(hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
        return work.plain(linear(hidden, weight, bias), rows)

    step = chunks(head, 4, splits_classes=False).rows
    found = [
        checkpoint(of_rows, head.hidden[rows], head.weight, head.bias, rows, use_reentrant=False)
        for rows in slices(len(head.hidden), step)
    ]
    return torch.cat(found)


def _again(head: Head, ctx: Any, slopes: Tensor) -> list[Tensor | None]:
    """The gradients, from the rows with a slope alone: those that hard_fraction leaves out may hold NaN."""
    places: Tensor | None = (slopes != 0).nonzero().squeeze(1)
    assert places is not None
    some = head._replace(hidden=head.hidden[places])
    if len(places) == len(slopes):
        some, places = head, None
    gradients = Gradients(some, ctx.needs_input_grad[:3])
    ctx.work.gradient(some, slopes if places is None else slopes[places], gradients, places)
    hidden, weight, bias = gradients.found
    if places is not None and hidden is not None:
        hidden = torch.zeros_like(head.hidden, dtype=hidden.dtype).index_copy_(0, places, hidden)
    return _as([hidden, weight, bias], head, ctx.work)


def _plain_gradients(head: Head, ctx: Any, slopes: Tensor) -> list[Tensor | None]:
    """The gradients from operations that autograd can differentiate again, with all logits."""
    needs, create_graph = ctx.needs_input_grad[:3], torch.is_grad_enabled()
    with torch.enable_grad():
        found = ctx.work.of_all_logits(head)
    wanted = [tensor for tensor, is_needed in zip(head, needs, strict=True) if is_needed and tensor is not None]
    gradients = iter(torch.autograd.grad(found, wanted, slopes, create_graph=create_graph) if wanted else ())
    return [next(gradients) if is_needed else None for is_needed in needs]


def _as(gradients: Sequence[Tensor | None], head: Head, work: Work) -> list[Tensor | None]:
    """The gradients, over all ranks, in the dtypes of the head."""
    hidden, *rest = gradients
    pairs = zip((None if hidden is None else work.summed(hidden), *rest), head, strict=True)
    return [None if each is None or like is None else each.to(like.dtype) for each, like in pairs]
