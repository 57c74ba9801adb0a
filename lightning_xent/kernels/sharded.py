"""Classes or rows over several ranks: each computes what its part adds, and a gather gives all ranks the same numbers.

The gradient of the logits needs no exchange.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.functional import pad

from lightning_xent.kernels import plain, tensors
from lightning_xent.kernels.blocks import BLOCK, compute_dtype
from lightning_xent.kernels.linear import LIMITS
from lightning_xent.kernels.statistics import LEAST, Block, Reads, Slopes, Statistics, merged

CONSTANT = (0, 4)
"""Places in `Statistics` of the peak and the weight, which have no gradient."""
FAILED = "this loss failed on another rank, whose error says why; no rank waits for it"


@dataclass(frozen=True)
class Part:
    """The part of an axis that this rank has; all parts are as torch.chunk cuts them, and the last may be empty."""

    size: int
    """Of the whole axis."""
    mesh: Any
    dimension: int
    """Of the mesh: its ranks have the parts."""
    ranks: int
    rank: int

    @property
    def group(self) -> Any:
        """The process group of the ranks."""
        return self.mesh.get_group(self.dimension)

    @property
    def most(self) -> int:
        """Size of the largest part."""
        return math.ceil(self.size / self.ranks)

    def of(self, rank: int) -> slice:
        """Return the part of a rank."""
        first = min(rank * self.most, self.size)
        return slice(first, min(first + self.most, self.size))

    @property
    def own(self) -> slice:
        """The part of this rank."""
        return self.of(self.rank)

    @property
    def length(self) -> int:
        """Size of the part of this rank."""
        return self.own.stop - self.own.start


class Exchange:
    """The exchanges of a call. All ranks take part in all of them, also one that fails, so that no rank waits forever.

    A rank that fails sends NaN, and raises its error in `finish`. Under torch.compile no values are read: errors are
    those of all ranks, and are raised at once. What is gathered there is a DTensor, which has a gradient.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.flags: list[Tensor] = []

    def attempt(self, function: Callable[[], Any]) -> Any:
        """Return function(), or None if that, or an earlier attempt, has failed."""
        if tensors.is_compiling():
            return function()
        if self.error is None:
            try:
                return function()
            except Exception as error:
                self.error = error
        return None

    def gather(self, part: Part, shape: Sequence[int], like: Tensor, values: Callable[[], Tensor]) -> Tensor:
        """Return the values [ranks, *shape] of the ranks that share `part`, in the dtype of `like`."""
        if tensors.is_compiling():
            own = values().reshape(1, *shape).to(like.dtype)
            return torch.distributed.tensor.DTensor.from_local(own, part.mesh, _placements(part, 0)).full_tensor()
        size = math.prod(shape)
        sent = like.new_full((size + 1,), math.nan)
        given = self.attempt(lambda: sent[:-1].copy_(values().reshape(-1)))
        if given is None:
            sent.fill_(math.nan)
        else:
            sent[-1] = self._failures(like)
        found = sent.new_empty(part.ranks, size + 1)
        distributed.all_gather(list(found.unbind(0)), sent, group=part.group)
        self.flags.append(found[:, -1].clone())  # not the memory of all that came
        return found[:, :-1].reshape(part.ranks, *shape)

    def swap(self, part: Part, shape: Sequence[int], like: Tensor, fill: Callable[[Tensor], None]) -> Tensor:
        """Return what each rank sends to this one [ranks, *shape]; `fill` puts what this one sends in such zeros."""
        size = math.prod(shape)
        sent = like.new_zeros(part.ranks, size + 1)
        self.attempt(lambda: fill(sent[:, :-1].view(part.ranks, *shape)))
        if self.error is not None:
            sent.fill_(math.nan)
        else:
            sent[:, -1] = self._failures(like)
        found = torch.empty_like(sent)
        distributed.all_to_all_single(found, sent, group=part.group)
        self.flags.append(found[:, -1].clone())  # not the memory of all that came
        return found[:, :-1].view(part.ranks, *shape)

    def finish(self, check: bool | None) -> None:
        """Raise the error of this rank, or say that another rank has one.

        That is read as labels are, by default on the CPU only. Where it is not read, the losses are NaN.
        """
        if tensors.is_compiling():
            return
        if self.error is not None:
            raise self.error
        is_read = check is not False and all(check or flags.device.type == "cpu" for flags in self.flags)
        if is_read and any(flags.isnan().any() for flags in self.flags):
            raise RuntimeError(FAILED)

    def _failures(self, like: Tensor) -> Tensor:
        """NaN if a rank has failed, else 0."""
        return sum((flags.sum().to(like.dtype) for flags in self.flags), like.new_zeros(()))


def _placements(part: Part, axis: int) -> list[Any]:
    """Those of a DTensor with an axis of which each rank has its part."""
    shard, whole = torch.distributed.tensor.Shard(axis), torch.distributed.tensor.Replicate()
    return [shard if each == part.dimension else whole for each in range(part.mesh.ndim)]


@dataclass(frozen=True)
class Label:
    """What the statistics of the labels of some rows are computed with."""

    label: Tensor
    """Class indices [n] among all classes."""
    reads: Reads
    part: Part
    """Of the classes."""
    exchange: Exchange
    rows: int
    """Number of rows that every rank knows, at least n: so many are sent."""

    @property
    def columns(self) -> list[int]:
        """The places in `Statistics` of what is sent."""
        spread = [3, 4] if self.reads.others else []
        return [0, 1, 2, *spread, *([5] if self.reads.entropy else [])]

    def local(self) -> "Label":
        """Return the same for the classes of this rank, counted from 0."""
        classes, weights, reads = self.part.own, self.reads.class_weight, self.reads
        if weights is not None and weights.ndim > 0:
            weights = weights[classes]
        reads = Reads(reads.divisor, reads.bound, weights, reads.others, reads.log_partition, reads.entropy)
        return Label(self.label - classes.start, reads, self.part, self.exchange, self.rows)

    def merged(self, like: Tensor, parts: Callable[[], Statistics]) -> Statistics:
        """Return the statistics [n] of all classes, given a function for those of this rank; merged in rank order."""
        columns, count = self.columns, len(self.label)

        def padded() -> Tensor:
            statistics = parts()
            return pad(torch.stack([statistics[column] for column in columns]), (0, self.rows - count))

        found = self.exchange.gather(self.part, (len(columns), self.rows), like, padded)[..., :count]
        zero = like.new_zeros(count)
        blocks = []
        for part in found:
            given = dict(zip(columns, part, strict=True))
            blocks.append(Statistics(*(given.get(column, zero) for column in range(6))))
        return merged(blocks, self.reads.divisor)


def send_failure(like: Tensor, reads: Reads, part: Part, exchange: Exchange, rows: int) -> None:
    """Take part in the gather of `merged` on a rank that has failed."""
    no_rows = torch.zeros(0, dtype=torch.long, device=like.device)
    Label(no_rows, reads, part, exchange, rows).merged(like, lambda: nothing(like, 0))


def send_failure_of_rows(like: Tensor, rest: Sequence[int], part: Part, exchange: Exchange) -> None:
    """Take part in the gather of `gathered` on a rank that has failed; `rest` are the other axes."""
    exchange.gather(part, (part.most, *rest), like, lambda: like)


def of_logits(logits: Tensor, counts: Tensor | None, given: Label) -> Statistics:
    """Return the statistics [n] of all classes, given the logits [n, v] of this rank.

    Rows where `counts` is False may hold anything.
    """
    if tensors.is_compiling():
        local, wide = given.local(), logits.to(compute_dtype(logits))
        wide = wide if counts is None else torch.where(counts.unsqueeze(1), wide, 0.0)
        return given.merged(wide, lambda: _plain(wide, local.label, local.reads))
    return Statistics(*_OfLogits.apply(logits, counts, given))  # type: ignore[no-untyped-call]


def everywhere(values: Tensor, part: Part) -> Any:
    """Return values that are the same on all ranks as a DTensor."""
    placements = [torch.distributed.tensor.Replicate()] * part.mesh.ndim
    return torch.distributed.tensor.DTensor.from_local(values, part.mesh, placements)


def gathered(values: Tensor, part: Part, exchange: Exchange | None = None) -> Tensor:
    """Return the whole of an axis, the first one of `values`; the gradient of the whole is the same on all ranks."""
    if tensors.is_compiling():
        rest = values.shape[1:]
        padded = pad(values, (*[0, 0] * len(rest), 0, part.most - len(values)))
        return Exchange().gather(part, padded.shape, values, lambda: padded).reshape(-1, *rest)[: part.size]
    whole: Tensor = _Gathered.apply(values, part, exchange)  # type: ignore[no-untyped-call]
    return whole


def own_part(values: Tensor, part: Part) -> Tensor:
    """Return the part of this rank of the first axis of `values`, which are the same on all ranks."""
    if tensors.is_compiling():
        local: Tensor = everywhere(values, part).redistribute(placements=_placements(part, 0)).to_local()
        return local
    own: Tensor = _Own.apply(values, part)  # type: ignore[no-untyped-call]
    return own


def same(values: Tensor, part: Part) -> Tensor:
    """Return values that are the same on all ranks; their gradient is the sum of what each rank computes with them."""
    found: Tensor = _Same.apply(values, part)  # type: ignore[no-untyped-call]
    return found


def summed(values: Tensor, part: Part) -> Tensor:
    """Return the sum over the ranks, the same on all of them."""
    total: Tensor = _Summed.apply(values, part)  # type: ignore[no-untyped-call]
    return total


def nothing(like: Tensor, rows: int) -> Statistics:
    """Return the statistics of no classes, for some rows."""
    zero = like.new_zeros(rows, dtype=compute_dtype(like))
    least = torch.full_like(zero, -math.inf)
    return Statistics(least, least, zero, zero, zero, zero)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, part: Part, exchange: Exchange | None) -> Tensor:
        ctx.part = part
        rest = values.shape[1:]

        def padded() -> Tensor:
            sent = values.new_zeros(part.most, *rest)
            sent[: len(values)] = values
            return sent

        given = Exchange() if exchange is None else exchange
        found = given.gather(part, (part.most, *rest), values, padded)
        if exchange is None:
            given.finish(check=False)
        return found.reshape(-1, *rest)[: part.size].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return own_part(gradient, ctx.part), None, None


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return values[part.own].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gathered(gradient, ctx.part), None


class _Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return summed(gradient, ctx.part), None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, part: Part) -> Tensor:
        ctx.part = part
        total = values.contiguous().clone()
        distributed.all_reduce(total, group=part.group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return same(gradient, ctx.part), None


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor | None, given: Label) -> tuple[Tensor, ...]:
        def parts() -> Statistics:
            if logits.shape[1] == 0:
                return nothing(logits, len(logits))
            local = given.local()
            return _joined([_block(logits, rows, counts, local).statistics for rows in _rows(logits)], logits)

        statistics = given.merged(logits.new_empty(0, dtype=compute_dtype(logits)), parts)
        ctx.given = given
        ctx.save_for_backward(logits, counts, statistics.peak)
        ctx.mark_non_differentiable(statistics.peak, statistics.weight)
        return tuple(statistics)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        logits, counts, peak = ctx.saved_tensors
        given: Label = ctx.given
        if torch.is_grad_enabled():

            def whole_of(local: Tensor) -> Tensor:
                whole = gathered(local.T, given.part).T
                return whole if counts is None else torch.where(counts.unsqueeze(1), whole, 0.0)

            return _plain_gradient(whole_of, logits, given, slopes), None, None
        local, has_slope = given.local(), _have_slopes(slopes)
        peak = torch.where(has_slope, peak, 0.0)
        gradient = torch.empty_like(logits)
        for rows in _rows(logits) if logits.shape[1] else ():
            block = _block(logits, rows, has_slope, local, peak[rows])
            gradient[rows] = block.gradient(_slopes(slopes, rows, given.reads))
        return gradient, None, None


def _plain_gradient(
    whole_of: Callable[[Tensor], Tensor], local: Tensor, given: Label, slopes: Sequence[Tensor]
) -> Tensor:
    """The gradient of local logits by operations that autograd can differentiate again, with all logits."""
    with torch.enable_grad():
        found = _plain(whole_of(local).to(slopes[0].dtype), given.label, given.reads)
    columns = [column for column in given.columns if column not in CONSTANT]
    outputs, of_outputs = ([each[column] for column in columns] for each in (found, slopes))
    (gradient,) = torch.autograd.grad(outputs, local, of_outputs, create_graph=True)
    return gradient


def _plain(logits: Tensor, label: Tensor, reads: Reads) -> Statistics:
    """The statistics of logits [n, v] by operations that autograd can differentiate again; the peak is a constant."""
    if logits.shape[1] == 0:
        peak, own, _, *rest = nothing(logits, len(logits))
        return Statistics(peak, own, logits.sum(1), *rest)  # 0, with a gradient
    if reads.bound is not None:
        is_number = plain.largest(logits) < math.inf  # tanh would turn +inf into a number
        logits = torch.where(is_number, torch.tanh(logits / reads.bound), math.nan)
    is_own = plain.is_class(label, logits)
    is_inside = (label >= 0) & (label < logits.shape[1])
    own = torch.where(is_inside, plain.entry(logits, is_own).squeeze(1), -math.inf)
    of_rivals = torch.where(is_own, -math.inf, logits)
    peak = plain.largest(of_rivals)
    shifted = (of_rivals - torch.where(peak == -math.inf, 0.0, peak)) / reads.divisor
    exponentials, bounded = shifted.exp(), torch.where(is_own, 0.0, shifted)
    spread = weight = tilt = torch.zeros_like(own)
    if reads.others and reads.class_weight is not None:
        has_weight = ~is_own & (reads.class_weight != 0)
        spread = -torch.where(has_weight, reads.class_weight * torch.where(has_weight, bounded, 0.0), 0.0).sum(1)
        weight = torch.where(has_weight, reads.class_weight, 0.0).sum(1)
    if reads.entropy:
        tilt = (exponentials * bounded.clamp(min=LEAST)).sum(1)
    return Statistics(peak.squeeze(1), own, exponentials.sum(1), spread, weight, tilt)


def _rows(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of logits [n, v] whose blocks stay in a cache, or are few on an accelerator."""
    block = BLOCK if logits.device.type == "cpu" else LIMITS["cuda"].least // 4
    step = max(1, block // max(1, logits.shape[1]))
    yield from (slice(first, min(first + step, len(logits))) for first in range(0, len(logits), step))


def _block(logits: Tensor, rows: slice, counts: Tensor | None, local: Label, peak: Tensor | None = None) -> Block:
    """The block of some rows, whose logits are 0 where `counts` is False."""
    part = logits[rows].to(compute_dtype(logits), copy=True, memory_format=torch.contiguous_format)
    if counts is not None:
        part.masked_fill_(~counts[rows].unsqueeze(1), 0.0)
    return Block(part, local.label[rows], 0, local.reads, peak)


def _joined(found: Sequence[Statistics], like: Tensor) -> Statistics:
    """The statistics of all rows, given those of parts of them."""
    if not found:
        return nothing(like, 0)
    return Statistics(*(torch.cat(each) for each in zip(*found, strict=True)))


def _have_slopes(slopes: Sequence[Tensor]) -> Tensor:
    """Whether the loss of each row [n] has a gradient; NaN is one."""
    return torch.stack([slopes[column] for column in (1, 2, 3, 5)]).ne(0).any(0)


def _slopes(slopes: Sequence[Tensor], rows: slice, reads: Reads) -> Slopes:
    own, rivals, spread, tilt = (slopes[column][rows].unsqueeze(1) for column in (1, 2, 3, 5))
    return Slopes(own, rivals, spread if reads.others else None, tilt if reads.entropy else None)
