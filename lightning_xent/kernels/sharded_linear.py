"""The last linear layer whose classes are over several ranks, with its loss: what the ranks exchange for each chunk.

A chunk is some rows, the same on all ranks. Where statistics of the label are enough, the ranks exchange those. For
other losses they exchange classes for rows: each gets some rows of the chunk with all classes.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from lightning_xent.kernels.blocks import compute_dtype
from lightning_xent.kernels.linear import (
    Best,
    ByLabel,
    ByRows,
    Chunks,
    Gradients,
    Head,
    Work,
    chunks,
    memory_of,
    numbers_of,
    slices,
)
from lightning_xent.kernels.sharded import Exchange, Label, Part, gathered, nothing, same, summed
from lightning_xent.kernels.statistics import Block, Reads, Statistics, merged, of_block, slopes_of
from lightning_xent.kernels.statistics import found as found_of

COPIES = 7
"""Tensors of the size of a chunk that a loss of all classes needs: four of its own, and those that are exchanged."""


class Layer(NamedTuple):
    """What every rank knows of a layer, also one that has failed."""

    part: Part
    """Of the classes."""
    exchange: Exchange
    rows: int
    """At least those of a head."""
    features: int
    like: Tensor
    """[], of the dtype and device of the hidden states."""
    check: bool | None
    """Whether to read if a rank has failed; None: on the CPU."""

    @property
    def wide(self) -> Tensor:
        """Of the compute dtype."""
        return self.like.new_empty(0, dtype=compute_dtype(self.like))

    def size(self, copies: int, *, splits_classes: bool) -> Chunks:
        """Return the size of a chunk on the rank with the most classes."""
        hidden, weight = (self.like.expand(count, self.features) for count in (self.rows, self.part.most))
        return chunks(Head(hidden, weight, None), copies, splits_classes=splits_classes)


class Pass(NamedTuple):
    """One pass over all chunks."""

    head: Head
    memory: Tensor | None
    slopes: Tensor | None = None
    """[N]; None if no gradient is wanted."""
    gradients: Gradients | None = None
    places: Tensor | None = None
    """Numbers [N] of the rows of the head; None if those are all."""

    def numbers(self, rows: slice) -> slice | Tensor:
        """Return some rows as the work of all rows counts them."""
        return numbers_of(rows, self.places)


class _Sharded(Work):
    """Has the work of all classes. It is None on a rank that has failed, which takes part in all that is exchanged."""

    best = None

    def __init__(self, layer: Layer, work: Any, size: Chunks) -> None:
        self.layer, self.work, self.size = layer, work, size
        self.number = max(1, math.ceil(layer.rows / size.rows))
        """Of the chunks."""
        self.rows_of_chunk = math.ceil(layer.rows / self.number)
        """At most."""

    @abstractmethod
    def chunk(self, rows: slice, given: Pass | None, *, has_gradient: bool) -> Tensor | None:
        """Return the losses [n] of some rows, and add their gradient if it is wanted; None if this rank has failed."""

    @property
    def ends_alone(self) -> bool:
        """Whether a pass works on after its last exchange: another one tells then if a rank has failed."""
        return False

    def plain(self, logits: Tensor, rows: Any = slice(None)) -> Tensor:
        """Return the losses [n], given the logits [n, v] of this rank."""
        losses: Tensor = self.work.plain(gathered(logits.T, self.layer.part).T, rows)
        return losses

    def of_all_logits(self, head: Head) -> Tensor:
        return self.plain(linear(same(head.hidden, self.layer.part), head.weight, head.bias))

    def summed(self, of_hidden: Tensor) -> Tensor:
        return summed(of_hidden, self.layer.part)

    def seen_by(self, best: Best) -> Work:
        return self

    def tried(self, head: Head) -> Tensor:
        layer = self.layer

        def tried() -> None:
            whole = Head(head.hidden, layer.like.expand(layer.part.size, layer.features), None)
            if self.work.tried(whole).requires_grad:
                raise TypeError(
                    "tensors of the loss that need a gradient must be its parameters (torch.nn.Parameter) where the "
                    "weight of the layer is a DTensor, got another tensor"
                )

        layer.exchange.attempt(tried)
        return layer.like

    def losses(self, head: Head) -> Tensor:
        return self._all(Pass(head, self._memory(head)), has_gradient=False)

    def gradient(self, head: Head, slopes: Tensor, gradients: Gradients, places: Tensor | None = None) -> Tensor:
        given = Pass(head, self._memory(head), slopes, gradients, places)
        return self._all(given, has_gradient=True)

    def fail(self, *, has_gradient: bool) -> None:
        """Take part in what the other ranks exchange, for losses alone or for a gradient too, and raise the error."""
        self._all(None, has_gradient=has_gradient)

    def _all(self, given: Pass | None, *, has_gradient: bool) -> Tensor:
        count = 0 if given is None else len(given.head.hidden)
        layer, ends_alone = self.layer, self.ends_alone
        found = [self.chunk(rows, given, has_gradient=has_gradient) for rows in self._chunks(count)]
        failures = layer.wide.new_zeros(())
        if ends_alone:
            failures = layer.exchange.gather(layer.part, (), layer.wide, lambda: failures).sum()
        layer.exchange.finish(layer.check)
        return torch.cat([each for each in found if each is not None]) + failures

    def _memory(self, head: Head) -> Tensor | None:
        memory: Tensor | None = self.layer.exchange.attempt(lambda: memory_of(head, self.size))
        return memory

    def _chunks(self, count: int) -> Iterator[slice]:
        """Slices of the rows, as many on every rank; some may be empty."""
        step = math.ceil(count / self.number)
        for number in range(self.number):
            yield slice(min(number * step, count), min((number + 1) * step, count))


class LabelOfShards(_Sharded):
    """A loss that reads the statistics of a label. Once those of all classes are known, gradients exchange nothing."""

    def __init__(self, layer: Layer, work: ByLabel | None, reads: Reads) -> None:
        super().__init__(layer, work, layer.size(reads.copies(layer.like), splits_classes=True))
        self._reads, self._known = reads, list[Statistics]()
        self._classes = [*slices(layer.part.length, self.size.classes)]

    @property
    def ends_alone(self) -> bool:
        return len(self._known) < self.number

    def chunk(self, rows: slice, given: Pass | None, *, has_gradient: bool) -> Tensor | None:
        whole, only = self._statistics(rows, given)

        def losses() -> Tensor:
            assert given is not None
            losses_of = partial(self.work.losses_of, rows=given.numbers(rows))
            if given.slopes is None or given.gradients is None:
                return losses_of(found_of(whole, self._reads))
            found, slopes = slopes_of(whole, self._reads, losses_of, given.slopes[rows])
            if not self._classes:
                given.gradients.add(rows, slice(0, 0), given.head.hidden.new_empty(len(found), 0))
            for part in self._classes:
                block = self._block(rows, part, given, whole.peak) if only is None else only
                of_part = slopes if only is None else of_block(slopes, only.statistics, whole, self._reads.divisor)
                given.gradients.add(rows, part, block.gradient(of_part))
            return found

        found: Tensor | None = self.layer.exchange.attempt(losses)
        return found

    def _statistics(self, rows: slice, given: Pass | None) -> tuple[Statistics, Block | None]:
        """The statistics of all classes; and the block of this rank if it has only one, and they had to be found."""
        layer, last = self.layer, list[Block]()
        if given is not None and len(self._known) == self.number:
            numbers = given.numbers(rows)
            return Statistics(*(torch.cat(each)[numbers] for each in zip(*self._known, strict=True))), None

        def parts() -> Statistics:
            assert given is not None
            found = []
            for part in self._classes:
                last[:] = [self._block(rows, part, given)]
                found.append(last[0].statistics)
            return merged(found, self._reads.divisor) if found else nothing(layer.wide, rows.stop - rows.start)

        whole = self._label(rows, given).merged(layer.wide, parts)
        if given is not None and given.places is None:
            self._known.append(whole)
        return whole, last[0] if last and len(self._classes) == 1 else None

    def _label(self, rows: slice, given: Pass | None) -> Label:
        layer = self.layer
        if given is None:
            label, reads = layer.like.new_empty(0, dtype=torch.long), self._reads
        else:
            label, reads = self.work.label[given.numbers(rows)], self.work.reads
        return Label(label, reads, layer.part, layer.exchange, self.rows_of_chunk)

    def _block(self, rows: slice, classes: slice, given: Pass, peak: Tensor | None = None) -> Block:
        """Some rows and classes, which are counted from the first class of this rank."""
        logits = given.head.logits(rows, classes, given.memory).to(compute_dtype(given.head.hidden))
        local = self._label(rows, given).local()
        return Block(logits, local.label, classes.start, local.reads, peak)


class RowsOfShards(_Sharded):
    """A loss that needs all classes of a row."""

    def __init__(self, layer: Layer, work: ByRows | None) -> None:
        super().__init__(layer, work, layer.size(COPIES, splits_classes=False))
        part = layer.part
        self._classes = [slice(0, part.of(rank).stop - part.of(rank).start) for rank in range(part.ranks)]
        """Of each rank, in what it sends."""

    def chunk(self, rows: slice, given: Pass | None, *, has_gradient: bool) -> Tensor | None:
        part, exchange, like = self.layer.part, self.layer.exchange, self.layer.like
        count, share = rows.stop - rows.start, math.ceil(self.rows_of_chunk / part.ranks)
        rows_of = [slice(min(rank * share, count), min((rank + 1) * share, count)) for rank in range(part.ranks)]
        own, classes = rows_of[part.rank], self._classes[part.rank]
        own_rows, few = slice(rows.start + own.start, rows.start + own.stop), slice(0, own.stop - own.start)

        def send_logits(sent: Tensor) -> None:
            assert given is not None
            logits = given.head.logits(rows, classes, given.memory)
            for into, place in zip(sent, rows_of, strict=True):
                into[: place.stop - place.start, classes] = logits[place]

        def losses() -> tuple[Tensor, Tensor | None]:
            assert given is not None
            logits = torch.cat([each[few, place] for each, place in zip(received, self._classes, strict=True)], 1)
            numbers = given.numbers(own_rows)
            if given.slopes is None:
                return self.work.losses_of(logits, numbers), None
            with torch.enable_grad():
                losses = self.work.losses_of(logits.requires_grad_(), numbers)
            (gradient,) = torch.autograd.grad(losses, logits, given.slopes[own_rows])
            return losses.detach(), gradient

        def send_gradient(sent: Tensor) -> None:
            for rank, (into, place) in enumerate(zip(sent, self._classes, strict=True)):
                into[few, place] = found[1][:, part.of(rank)]

        def add() -> None:
            assert given is not None and given.gradients is not None
            pairs = zip(received, rows_of, strict=True)
            of_logits = torch.cat([each[: place.stop - place.start, classes] for each, place in pairs])
            given.gradients.add(rows, classes, of_logits)

        received = exchange.swap(part, (share, part.most), like, send_logits)
        found = exchange.attempt(losses)
        if has_gradient:
            received = exchange.swap(part, (share, part.most), like, send_gradient)
            exchange.attempt(add)
        of_all = exchange.gather(part, (share,), self.layer.wide, lambda: pad(found[0], (0, share - len(found[0]))))
        return of_all.reshape(-1)[:count]
