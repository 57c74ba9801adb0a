"""The last linear layer with its loss: chunks of the logits, and never all of them.

The gradients of hidden states, weight and bias are computed in the forward pass, from logits that are there: three
products. Where the slopes of the rows are not known by then, the logits are computed again: four.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from lightning_xent.kernels import blocks, tensors
from lightning_xent.kernels.blocks import compute_dtype
from lightning_xent.kernels.plain import OfLabel
from lightning_xent.kernels.statistics import Block, Reads, Statistics, merged, slopes_of
from lightning_xent.kernels.statistics import found as found_of

SHARE = 8
"""A chunk holds 1 / SHARE of the logits, within the limits of its device."""
MOST_ROWS = 1024
"""Rows of a chunk that does not have all classes."""


TILE = 1 << 24
"""Entries of a product that is added to a sum of another dtype."""


class Limits(NamedTuple):
    """What bounds a chunk."""

    least: int
    """Bytes that it may have, however few logits there are."""
    most: int
    """Bytes that it never has more of."""
    rows: int
    """With fewer rows, products are slower: with 64 for 128 by 18 % at 512 x 512 x 128256 on a CPU with 2 cores."""
    of_rows: int
    """Bytes that a chunk of that many rows may have."""


LIMITS = {"cpu": Limits(1 << 23, 1 << 28, 128, 1 << 26), "cuda": Limits(1 << 26, 1 << 30, 1024, 1 << 29)}


class Head(NamedTuple):
    """The last layer of a network and its input: the logits are hidden @ weight.T + bias."""

    hidden: Tensor
    """[N, D]"""
    weight: Tensor
    """[C, D]"""
    bias: Tensor | None
    """[C]"""

    def logits(self, rows: slice, classes: slice, memory: Tensor | None = None) -> Tensor:
        """Return the logits [n, v] of some rows and classes, in the dtype of the hidden states."""
        hidden, weight = self.hidden[rows], self.weight[classes]
        out = None if memory is None else memory[: hidden.shape[0] * weight.shape[0]].view(len(hidden), len(weight))
        if self.bias is None:
            return torch.mm(hidden, weight.T, out=out)
        return torch.addmm(self.bias[classes], hidden, weight.T, out=out)


class Chunks(NamedTuple):
    """Rows and classes of one chunk."""

    rows: int
    classes: int

    def of(self, head: Head) -> tuple[Iterator[slice], list[slice]]:
        """Return slices of the rows, and slices of the classes."""
        classes = list(_slices(head.weight.shape[0], self.classes))
        return _slices(head.hidden.shape[0], self.rows), classes


def chunks(head: Head, copies: int, *, splits_classes: bool) -> Chunks:
    """Return the size of a chunk.

    Args:
        head: The last layer.
        copies: How many tensors of the size of a chunk its loss needs.
        splits_classes: Whether a chunk may have a part of the classes.
    """
    count, classes = head.hidden.shape[0], head.weight.shape[0]
    limits = LIMITS["cuda" if head.hidden.is_cuda else "cpu"]
    size = copies * max(4, head.hidden.element_size())
    enough = min(limits.of_rows, limits.rows * classes * size)
    most = min(max(count * classes * size // (SHARE * copies), enough, limits.least), limits.most)
    entries = max(1, most // size)
    rows = entries // max(1, classes)
    if rows < min(limits.rows // 2, count) and splits_classes:
        rows = min(count, MOST_ROWS, entries)
        return Chunks(rows, max(1, min(classes, entries // rows)))
    parts = max(1, math.ceil(count / max(1, rows)))
    return Chunks(max(1, math.ceil(count / parts)), max(1, classes))


class Best:
    """The class of the largest logit of each row, found while a chunk of the logits is there."""

    def __init__(self) -> None:
        self.found: Tensor | None = None
        """[N]; None if the loss was not computed in chunks."""
        self._values: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._is_done = False

    def see(self, logits: Tensor, classes: slice) -> None:
        """Look at the next chunk [n, v]: rows in the outer loop, classes in the inner one."""
        if self._is_done:  # another gradient of the same graph
            return
        value, place = logits.max(-1)
        if classes.start > 0:
            before, last = self._values.pop(), self._classes.pop()
            is_better = value > before
            value, place = torch.where(is_better, value, before), torch.where(is_better, place + classes.start, last)
        self._values.append(value)
        self._classes.append(place)

    def finish(self, places: Tensor | None, count: int) -> None:
        """Put the rows seen, whose numbers are `places` (None: all), among `count` rows; the others get class 0."""
        self._is_done = True
        if self._classes:
            classes = torch.cat(self._classes)
            self.found = classes if places is None else classes.new_zeros(count).index_copy_(0, places, classes)


class Gradients:
    """The gradients of a head, which chunks add to: rows in the outer loop, classes in the inner one."""

    def __init__(self, head: Head, needs: Sequence[bool]) -> None:
        self._head = head
        wide = compute_dtype(head.hidden)
        given = head.hidden, head.weight, head.bias
        self.found = [
            torch.empty_like(tensor, dtype=wide) if is_needed and tensor is not None else None
            for tensor, is_needed in zip(given, needs, strict=True)
        ]
        if head.hidden.shape[0] == 0:
            for gradient in self.found:
                _ = gradient is None or gradient.zero_()

    def add(self, rows: slice, classes: slice, of_logits: Tensor) -> None:
        """Add what the gradient [n, v] of some logits gives."""
        hidden, weight, bias = self.found
        of_logits = of_logits.to(self._head.hidden.dtype)
        if hidden is not None:
            _add(hidden[rows], of_logits, self._head.weight[classes], is_first=classes.start == 0)
        if weight is not None:
            _add(weight[classes], of_logits.T, self._head.hidden[rows], is_first=rows.start == 0)
        if bias is not None:
            total = of_logits.sum(0, dtype=bias.dtype)
            _ = bias[classes].copy_(total) if rows.start == 0 else bias[classes].add_(total)


@dataclass(frozen=True)
class ByRows:
    """Any loss: `losses_of(logits [n, C], rows)` gives the losses [n] of some rows, and autograd their gradient."""

    losses_of: Callable[[Tensor, slice | Tensor], Tensor]
    plain: Callable[..., Tensor]
    rows: int
    best: Best | None = None
    """Sees the logits of the first pass."""

    def tried(self, head: Head) -> Tensor:
        """Return the loss of one row, which has a gradient only if the loss has tensors of its own that need one."""
        return self.losses_of(head.hidden.new_zeros(1, len(head.weight)), slice(0, 1))

    def losses(self, head: Head) -> Tensor:
        """Return the losses [N]."""
        found, classes = [], slice(0, len(head.weight))
        for rows in _slices(len(head.hidden), self.rows):
            logits = head.logits(rows, classes)
            if self.best is not None:
                self.best.see(logits, classes)
            found.append(self.losses_of(logits, rows))
        return torch.cat(found) if found else _none(head)

    def gradient(self, head: Head, slopes: Tensor, gradients: Gradients, places: Tensor | None = None) -> Tensor:
        """Return the losses [n], and add the gradient of sum_i slopes_i losses_i; `places` are numbers of the rows."""
        found, classes = [], slice(0, len(head.weight))
        for rows in _slices(len(head.hidden), self.rows):
            logits = head.logits(rows, classes)
            if self.best is not None:
                self.best.see(logits, classes)
            logits.requires_grad_()
            with torch.enable_grad():
                losses = self.losses_of(logits, _numbers(rows, places))
            (gradient,) = torch.autograd.grad(losses, logits, slopes[rows])
            gradients.add(rows, classes, gradient)
            found.append(losses.detach())
        return torch.cat(found) if found else _none(head)


@dataclass(frozen=True)
class ByLabel:
    """A loss that reads the statistics of a label: `losses_of(found, rows=...)` gives the losses [n] of some rows."""

    losses_of: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    label: Tensor
    reads: Reads
    size: Chunks
    best: Best | None = None
    """Sees the logits of the first pass."""

    def tried(self, head: Head) -> Tensor:
        """Return the loss of one row, which has a gradient only if the loss has tensors of its own that need one."""
        number = head.hidden.new_ones(1, dtype=compute_dtype(head.hidden))
        return self.losses_of(OfLabel(number, number, number, number, number), rows=slice(0, 1))

    def losses(self, head: Head) -> Tensor:
        """Return the losses [N]."""
        all_rows, classes = self.size.of(head)
        memory, found = self._memory(head), []
        for rows in all_rows:
            statistics = [self._block(head, rows, part, memory).statistics for part in classes]
            whole = merged(statistics, self.reads.divisor)
            found.append(self.losses_of(found_of(whole, self.reads), rows=rows))
        return torch.cat(found) if found else _none(head)

    def gradient(self, head: Head, slopes: Tensor, gradients: Gradients, places: Tensor | None = None) -> Tensor:
        """Return the losses [n], and add the gradient of sum_i slopes_i losses_i; `places` are numbers of the rows."""
        all_rows, classes = self.size.of(head)
        memory, found = self._memory(head), []
        for rows in all_rows:
            statistics: list[Statistics] = []
            for part in classes:
                block = self._block(head, rows, part, memory, places)
                statistics.append(block.statistics)
            whole = merged(statistics, self.reads.divisor)
            losses_of = partial(self.losses_of, rows=_numbers(rows, places))
            losses, slopes_of_rows = slopes_of(whole, self.reads, losses_of, slopes[rows])
            found.append(losses)
            for part in classes:
                if len(classes) > 1:
                    block = self._block(head, rows, part, memory, places, whole.peak)
                gradients.add(rows, part, block.gradient(slopes_of_rows))
        return torch.cat(found) if found else _none(head)

    def _memory(self, head: Head) -> Tensor | None:
        is_wide = head.hidden.dtype == compute_dtype(head.hidden)
        return head.hidden.new_empty(self.size.rows * self.size.classes) if is_wide else None

    def _block(
        self,
        head: Head,
        rows: slice,
        classes: slice,
        memory: Tensor | None,
        places: Tensor | None = None,
        peak: Tensor | None = None,
    ) -> Block:
        logits = head.logits(rows, classes, memory).to(compute_dtype(head.hidden))
        if self.best is not None and peak is None:
            self.best.see(logits, classes)
        return Block(logits, self.label[_numbers(rows, places)], classes.start, self.reads, peak)


Work = ByRows | ByLabel
"""Computes the losses of all rows of a head, chunk by chunk, and adds the gradients."""


def total(head: Head, slopes: Tensor, work: Work) -> Tensor:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""
    if not torch.is_grad_enabled():
        return (slopes * work.losses(head)).sum()
    if _has_parameters(head, work):
        return (slopes * _again_by_autograd(head, work)).sum()
    value: Tensor = tensors.applied(_Total, _total_of_all_logits, *head, slopes, work)
    return value


def losses(head: Head, work: Work) -> Tensor:
    """Return the losses [N]; the gradient computes the logits again."""
    if not torch.is_grad_enabled():
        return work.losses(head)
    if _has_parameters(head, work):
        return _again_by_autograd(head, work)
    values: Tensor = tensors.applied(_Losses, _losses_of_all_logits, *head, work)
    return values


def _total_of_all_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, slopes: Tensor, work: Work) -> Tensor:
    return (slopes * work.plain(linear(hidden, weight, bias))).sum()


def _losses_of_all_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, work: Work) -> Tensor:
    return work.plain(linear(hidden, weight, bias))


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
            found = ctx.work.plain(linear(*head)) if torch.is_grad_enabled() else found
            return *_plain_gradients(head, ctx, slopes * factor), found * factor, None
        of_slopes = found * factor if ctx.needs_input_grad[3] else None
        if ctx.is_spent:
            return *_again(head, ctx, slopes * factor), of_slopes, None
        ctx.is_spent = True
        # Their memory is taken for the result; `data` hides that from autograd, which counts changes of saved tensors.
        scaled = [None if each is None else each.data.mul_(factor) for each in kept]
        return *_as(scaled, head), of_slopes, None


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
        for rows in _slices(len(head.hidden), step)
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
    return _as([hidden, weight, bias], head)


def _plain_gradients(head: Head, ctx: Any, slopes: Tensor) -> list[Tensor | None]:
    """The gradients from operations that autograd can differentiate again, with all logits."""
    needs, create_graph = ctx.needs_input_grad[:3], torch.is_grad_enabled()
    with torch.enable_grad():
        found = ctx.work.plain(linear(*head))
    wanted = [tensor for tensor, is_needed in zip(head, needs, strict=True) if is_needed and tensor is not None]
    gradients = iter(torch.autograd.grad(found, wanted, slopes, create_graph=create_graph) if wanted else ())
    return [next(gradients) if is_needed else None for is_needed in needs]


def _add(into: Tensor, first: Tensor, second: Tensor, *, is_first: bool) -> None:
    """Add, or at first set, the product of two matrices; one in half precision a tile at a time, as it needs memory."""
    if into.dtype != first.dtype:
        for tile in _slices(len(into), max(1, TILE // into.shape[1])):
            product = first[tile] @ second
            _ = into[tile].copy_(product) if is_first else into[tile].add_(product)
    elif is_first:
        torch.mm(first, second, out=into)
    else:
        into.addmm_(first, second)


def _as(gradients: Sequence[Tensor | None], head: Head) -> list[Tensor | None]:
    """The gradients in the dtypes of the head."""
    pairs = zip(gradients, head, strict=True)
    return [None if each is None or like is None else each.to(like.dtype) for each, like in pairs]


def _numbers(rows: slice, places: Tensor | None) -> slice | Tensor:
    """The rows as the caller counts them."""
    return rows if places is None else places[rows]


def _slices(count: int, step: int) -> Iterator[slice]:
    yield from (slice(first, min(first + step, count)) for first in range(0, count, step))


def _none(head: Head) -> Tensor:
    return head.hidden.new_empty(0, dtype=compute_dtype(head.hidden))
