"""The last linear layer with its loss: chunks of the logits, and never all of them.

Each loss has its work, by rows or by statistics of the label; `linear_gradients` gives it to autograd.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

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
        classes = list(slices(head.weight.shape[0], self.classes))
        return slices(head.hidden.shape[0], self.rows), classes


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
            add_product(hidden[rows], of_logits, self._head.weight[classes], is_first=classes.start == 0)
        if weight is not None:
            add_product(weight[classes], of_logits.T, self._head.hidden[rows], is_first=rows.start == 0)
        if bias is not None:
            total = of_logits.sum(0, dtype=bias.dtype)
            _ = bias[classes].copy_(total) if rows.start == 0 else bias[classes].add_(total)


class Work(ABC):
    """Computes the losses of all rows of a head, chunk by chunk, and adds the gradients."""

    plain: Callable[..., Tensor]
    """Returns the losses [n] of logits [n, C] of some rows, by operations that autograd can differentiate again."""
    best: Best | None
    """Sees the logits of the first pass."""

    @abstractmethod
    def seen_by(self, best: Best) -> "Work":
        """Return this work, whose logits `best` sees."""

    @abstractmethod
    def tried(self, head: Head) -> Tensor:
        """Return the loss of one row, which has a gradient only if the loss has tensors of its own that need one."""

    @abstractmethod
    def losses(self, head: Head) -> Tensor:
        """Return the losses [N]."""

    @abstractmethod
    def gradient(self, head: Head, slopes: Tensor, gradients: Gradients, places: Tensor | None = None) -> Tensor:
        """Return the losses [n], and add the gradient of sum_i slopes_i losses_i; `places` are numbers of the rows."""

    def of_all_logits(self, head: Head) -> Tensor:
        """Return the losses [N] by operations that autograd can differentiate again."""
        losses: Tensor = self.plain(linear(*head))
        return losses

    def summed(self, of_hidden: Tensor) -> Tensor:
        """Return the gradient of the hidden states, given what `gradient` has added to it."""
        return of_hidden


@dataclass(frozen=True)
class ByRows(Work):
    """Any loss: `losses_of(logits [n, C], rows)` gives the losses [n] of some rows, and autograd their gradient."""

    losses_of: Callable[[Tensor, slice | Tensor], Tensor]
    plain: Callable[..., Tensor]
    copies: int
    """How many tensors of the size of a chunk the loss needs."""
    best: Best | None = None

    def seen_by(self, best: Best) -> "ByRows":
        return ByRows(self.losses_of, self.plain, self.copies, best)

    def tried(self, head: Head) -> Tensor:
        return self.losses_of(head.hidden.new_zeros(1, len(head.weight)), slice(0, 1))

    def losses(self, head: Head) -> Tensor:
        found, classes = [], slice(0, len(head.weight))
        for rows in slices(len(head.hidden), chunks(head, self.copies, splits_classes=False).rows):
            logits = head.logits(rows, classes)
            if self.best is not None:
                self.best.see(logits, classes)
            found.append(self.losses_of(logits, rows))
        return torch.cat(found) if found else _none(head)

    def gradient(self, head: Head, slopes: Tensor, gradients: Gradients, places: Tensor | None = None) -> Tensor:
        found, classes = [], slice(0, len(head.weight))
        for rows in slices(len(head.hidden), chunks(head, self.copies, splits_classes=False).rows):
            logits = head.logits(rows, classes)
            if self.best is not None:
                self.best.see(logits, classes)
            logits.requires_grad_()
            with torch.enable_grad():
                losses = self.losses_of(logits, numbers_of(rows, places))
            (gradient,) = torch.autograd.grad(losses, logits, slopes[rows])
            gradients.add(rows, classes, gradient)
            found.append(losses.detach())
        return torch.cat(found) if found else _none(head)


@dataclass(frozen=True)
class ByLabel(Work):
    """A loss that reads the statistics of a label: `losses_of(found, rows=...)` gives the losses [n] of some rows."""

    losses_of: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    label: Tensor
    reads: Reads
    copies: int
    """How many tensors of the size of a chunk the loss needs."""
    best: Best | None = None

    def seen_by(self, best: Best) -> "ByLabel":
        return ByLabel(self.losses_of, self.plain, self.label, self.reads, self.copies, best)

    def tried(self, head: Head) -> Tensor:
        number = head.hidden.new_ones(1, dtype=compute_dtype(head.hidden))
        return self.losses_of(OfLabel(number, number, number, number, number), rows=slice(0, 1))

    def losses(self, head: Head) -> Tensor:
        size = chunks(head, self.copies, splits_classes=True)
        all_rows, classes = size.of(head)
        memory, found = memory_of(head, size), []
        for rows in all_rows:
            statistics = [self._block(head, rows, part, memory).statistics for part in classes]
            whole = merged(statistics, self.reads.divisor)
            found.append(self.losses_of(found_of(whole, self.reads), rows=rows))
        return torch.cat(found) if found else _none(head)

    def gradient(self, head: Head, slopes: Tensor, gradients: Gradients, places: Tensor | None = None) -> Tensor:
        size = chunks(head, self.copies, splits_classes=True)
        all_rows, classes = size.of(head)
        memory, found = memory_of(head, size), []
        for rows in all_rows:
            statistics: list[Statistics] = []
            for part in classes:
                block = self._block(head, rows, part, memory, places)
                statistics.append(block.statistics)
            whole = merged(statistics, self.reads.divisor)
            losses_of = partial(self.losses_of, rows=numbers_of(rows, places))
            losses, slopes_of_rows = slopes_of(whole, self.reads, losses_of, slopes[rows])
            found.append(losses)
            for part in classes:
                if len(classes) > 1:
                    block = self._block(head, rows, part, memory, places, whole.peak)
                gradients.add(rows, part, block.gradient(slopes_of_rows))
        return torch.cat(found) if found else _none(head)

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
        return Block(logits, self.label[numbers_of(rows, places)], classes.start, self.reads, peak)


def add_product(into: Tensor, first: Tensor, second: Tensor, *, is_first: bool = False) -> None:
    """Add, or at first set, the product of two matrices; one in half precision a tile at a time, as it needs memory."""
    if into.dtype != first.dtype:
        for tile in slices(len(into), max(1, TILE // into.shape[1])):
            product = first[tile] @ second
            _ = into[tile].copy_(product) if is_first else into[tile].add_(product)
    elif is_first:
        torch.mm(first, second, out=into)
    else:
        into.addmm_(first, second)


def numbers_of(rows: slice, places: Tensor | None) -> slice | Tensor:
    """Return rows as the caller counts them."""
    return rows if places is None else places[rows]


def slices(count: int, step: int) -> Iterator[slice]:
    """Yield slices of `step` of `count` things, and one of the rest."""
    yield from (slice(first, min(first + step, count)) for first in range(0, count, step))


def memory_of(head: Head, size: Chunks) -> Tensor | None:
    """Return memory for a chunk of logits; None where they get another dtype."""
    is_wide = head.hidden.dtype == compute_dtype(head.hidden)
    return head.hidden.new_empty(size.rows * size.classes) if is_wide else None


def _none(head: Head) -> Tensor:
    return head.hidden.new_empty(0, dtype=compute_dtype(head.hidden))
