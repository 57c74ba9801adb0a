"""Logits, and the weight of a last layer, that are a DTensor: which classes and rows this rank has, and its losses.

All ranks get the losses of all rows, bit by bit the same, as if the logits were whole. Labels, weights and masks are
those of the whole batch on every rank. So a wrong one raises on every rank.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from lightning_xent import fused, reading, targets
from lightning_xent.kernels import sharded, sharded_linear, tensors
from lightning_xent.kernels.linear import Head
from lightning_xent.kernels.sharded import Exchange, Label, Part
from lightning_xent.kernels.statistics import Reads, Statistics, found
from lightning_xent.kernels.work import of_statistics, statistics_of, takes_statistics
from lightning_xent.reduction import Rows

if TYPE_CHECKING:
    from lightning_xent.categorical import CategoricalLoss


@dataclass(frozen=True)
class _Logits:
    """Logits of which this rank has some classes, some rows, or both."""

    local: Tensor
    """What this rank has, in the layout of the user."""
    whole: Tensor
    """All logits. They take no memory, and only their shape, dtype and device are read."""
    axis: int
    """Of the classes."""
    of_classes: Part | None
    of_rows: Part | None
    place: int
    """Axis of the rows, without the class axis, that `of_rows` is a part of."""

    @property
    def rows(self) -> tuple[int, ...]:
        """The shape of all rows."""
        return reading.without_axis(tuple(self.whole.shape), self.axis)

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The shape that `local` has to have."""
        shape = list(self.rows)
        if self.of_rows is not None:
            shape[self.place] = self.of_rows.length
        shape.insert(self.axis, self.whole.shape[self.axis] if self.of_classes is None else self.of_classes.length)
        return tuple(shape)

    def own_rows(self, values: Any) -> Any:
        """Return the part of this rank of values [...] or [..., C] of all rows; None for None."""
        if values is None or self.of_rows is None:
            return values
        return sharded.own_part(values.movedim(self.place, 0), self.of_rows).movedim(0, self.place)


class _Read(NamedTuple):
    """What was given beside the logits."""

    target: Tensor
    """Class indices [...] in range, or distributions [..., C]."""
    kept: Tensor | None
    active: Tensor | None
    sample_weight: Tensor | None
    is_labels: bool
    class_weight: Tensor | None
    """[C]"""
    weights: Tensor | None
    """[...] of the rows in a weighted mean."""
    validity: Tensor | None
    """[...]: NaN for rows with an invalid label, else 1."""


def of_logits(
    loss: "CategoricalLoss", logits: Any, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None
) -> Rows | None:
    """Return all rows, given logits that are a DTensor; None if the logits have to be whole for them."""
    exchange = Exchange()
    placed = _placed(loss, _with_all_classes(loss, logits, target, exchange), target)
    if placed is None:
        return None
    wide = placed.whole.new_empty(0, dtype=reading.compute_dtype(placed.whole))
    read = exchange.attempt(lambda: _read(loss, placed, target, sample_weight, mask, check_labels))
    reads, statistics = statistics_of(loss, None if read is None else read.class_weight, placed.whole), None
    if placed.of_classes is not None and read is None:
        count = math.prod(reading.without_axis(placed.own_shape, placed.axis))
        sharded.send_failure(wide, reads, placed.of_classes, exchange, count)
    elif placed.of_classes is not None:
        statistics = _statistics(loss, placed, read, reads, exchange)
    losses = exchange.attempt(lambda: _losses(loss, placed, read, reads, statistics, check_labels))
    if placed.of_rows is not None:
        rest = reading.without_axis(placed.rows, placed.place)
        if losses is None:
            sharded.send_failure_of_rows(wide, rest, placed.of_rows, exchange)
        else:
            losses = sharded.gathered(losses.movedim(placed.place, 0), placed.of_rows, exchange).movedim(
                0, placed.place
            )
    exchange.finish(check_labels)
    losses = losses if read.validity is None else losses * read.validity.to(losses.dtype)
    return Rows(losses, read.weights, read.kept, read.sample_weight)


def of_layer(
    loss: "CategoricalLoss",
    hidden: Any,
    weight: Any,
    bias: Any,
    target: Any,
    sample_weight: Any,
    mask: Any,
    *,
    is_ranked: bool,
) -> fused.Call | None:
    """Return the call of a last layer, of whose weight this rank has some classes; None if that has to be whole."""
    parts = _parts(weight) if reading.is_distributed(weight) else None
    if parts and not reading.is_distributed(hidden):
        raise ValueError(
            "hidden must be a DTensor, as weight is one. If all ranks have the same rows, pass "
            "DTensor.from_local(hidden, weight.device_mesh, [Replicate()]). If FSDP has sharded the weight, each rank "
            "has rows of its own: call the LinearLoss itself, which FSDP gives the whole weight"
        )
    if not parts or set(parts) != {0} or weight.ndim != 2 or _learns(loss) or _needs_gradient(target):
        return None
    if tensors.is_compiling():
        return None
    part, exchange = parts[0], Exchange()
    hidden, target, sample_weight, mask = map(reading.whole, (hidden, target, sample_weight, mask))
    shape, local = (*hidden.shape[:-1], weight.shape[0]), weight.to_local()
    is_placed = _is_placed_as(bias, weight)
    bias = bias if is_placed else reading.whole(bias)

    def read() -> tuple[fused.Call, Head]:
        # Layers that take no memory have the shape and the dtype.
        given = hidden, stand_in(weight), stand_in(bias), target, sample_weight, mask
        call = fused.read(loss, *given, is_ranked=is_ranked, is_sharded=True)
        _check_part("weight", local, (part.length, weight.shape[1]), tuple(weight.shape))
        own_bias = bias
        if is_placed:
            own_bias = bias.to_local()
            _check_part("bias", own_bias, (part.length,), tuple(bias.shape))
        elif bias is not None:
            own_bias = sharded.own_part(bias, part)
        dtype = call.head.hidden.dtype
        return call, Head(call.head.hidden, local.to(dtype), None if own_bias is None else own_bias.to(dtype))

    found = exchange.attempt(read)
    like = local.detach().new_zeros((), dtype=fused.autocast_dtype(hidden) or hidden.dtype)
    layer = sharded_linear.Layer(part, exchange, math.prod(shape[:-1]), weight.shape[1], like, loss.check_labels)
    work: sharded_linear.LabelOfShards | sharded_linear.RowsOfShards
    of_all_classes = None if found is None else found[0].work
    if takes_statistics(loss) and not _is_distribution(loss, target, shape, len(shape) - 1):
        work = sharded_linear.LabelOfShards(layer, of_all_classes, statistics_of(loss, None, like))
    else:
        work = sharded_linear.RowsOfShards(layer, of_all_classes)
    if found is None:
        needs_gradient = any(isinstance(each, Tensor) and each.requires_grad for each in (hidden, weight, bias))
        has_sum = loss.reduction != "none" and loss.hard_fraction == 1.0
        work.fail(has_gradient=torch.is_grad_enabled() and needs_gradient and has_sum)
    call, head = found
    return call._replace(head=head, work=work, fuses=True)


def rows_of_traced_layer(
    loss: "CategoricalLoss", hidden: Any, weight: Any, bias: Any, target: Any, sample_weight: Any, mask: Any
) -> Rows | None:
    """Return all rows of a last layer under torch.compile, from the logits of this rank's classes; or None."""
    if not tensors.is_compiling() or not (reading.is_distributed(weight) and reading.is_distributed(hidden)):
        return None
    parts = _parts(weight)
    if not parts or set(parts) != {0} or weight.ndim != 2 or not loss.reads_one_logits or not loss.from_logits:
        return None
    is_ranked = loss.hard_fraction < 1.0
    if (
        loss.axis not in (None, 1, -1)
        or isinstance(target, (fused.TopK, tuple))
        or (is_ranked and sample_weight is not None)
    ):
        return None
    target, sample_weight, mask = map(reading.whole, (target, sample_weight, mask))
    shape, whole = tuple(hidden.shape[:-1]), stand_in(hidden[..., :1]).expand(*hidden.shape[:-1], weight.shape[0])
    given = loss._given(whole, len(shape), target, sample_weight, mask)
    counts = given.kept if is_ranked else given.active
    if counts is not None:  # the gradient of the weight multiplies the hidden states of all rows
        hidden = hidden.masked_fill(sharded.everywhere(~counts.unsqueeze(-1), parts[0]), 0.0)
    if bias is not None and not reading.is_distributed(bias):
        bias = sharded.everywhere(bias, parts[0])
    logits = linear(hidden.reshape(-1, hidden.shape[-1]), weight, bias)
    target = given.target.reshape(-1, *given.target.shape[len(shape) :])
    sample_weight, kept = (None if each is None else each.reshape(-1) for each in (given.sample_weight, given.kept))
    rows = loss._counted(logits, target, sample_weight, kept, loss.check_labels)
    weights, kept, sample_weight = (None if each is None else each.reshape(shape) for each in rows[1:4])
    return Rows(rows.losses.reshape(shape), weights, kept, sample_weight)


def stand_in(value: Any) -> Any:
    """Return a tensor of zeros that takes no memory, of the shape, dtype and device of a DTensor; others unchanged."""
    if not reading.is_distributed(value):
        return value
    return value.detach().to_local().new_zeros(()).expand(value.shape)


def best(loss: "CategoricalLoss", logits: Any, target: Any) -> "Best | None":
    """Return what finds predictions in logits that are a DTensor; None if they have to be whole for it."""
    placed = _placed(loss, logits, target)
    return None if placed is None or placed.of_classes is None else Best(loss, placed)


class Best(NamedTuple):
    """Finds the most probable classes among those of all ranks."""

    loss: "CategoricalLoss"
    placed: _Logits

    def of_rows(self, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the most probable class [...], its probability [...] and -log p [...] of the label [...]."""
        placed, exchange = self.placed, Exchange()
        part = placed.of_classes
        assert part is not None
        label = placed.own_rows(label)
        shape = tuple(label.shape)
        wide = placed.whole.new_empty(0, dtype=torch.float64)  # float32 has no odd class numbers above 2^24

        def of_part() -> Tensor:
            """The largest score, its class, the sum of the other exponentials, and the score of the label."""
            logits = targets.class_axis_last(placed.local, placed.axis)
            scores = self.loss.capped(logits.to(reading.compute_dtype(logits))) / self.loss.divisor
            if part.length == 0:
                least = wide.new_full(shape, -math.inf)
                return torch.stack([least, torch.zeros_like(least), torch.zeros_like(least), least])
            peak, place = scores.max(-1)
            others = (scores - peak.unsqueeze(-1)).exp_().scatter_(-1, place.unsqueeze(-1), 0.0)
            own = label - part.own.start
            is_inside = (own >= 0) & (own < part.length)
            own = scores.gather(-1, own.clamp(0, part.length - 1).unsqueeze(-1)).squeeze(-1)
            own = torch.where(is_inside, own, -math.inf)
            return torch.stack([each.double() for each in (peak, place + part.own.start, others.sum(-1), own)])

        peaks, places, others, own = exchange.gather(part, (4, *shape), wide, of_part).unbind(1)  # [ranks, ...]
        peak, rank = peaks.max(0)
        factor = torch.where(peaks == -math.inf, 0.0, (peaks - peak).exp())
        is_best = torch.arange(part.ranks, device=rank.device).reshape(-1, *[1] * rank.ndim) == rank
        rest = (factor * (others + ~is_best)).sum(0) + 0.0 * peak  # NaN if the peak is infinite
        predicted = torch.where(is_best, places, 0.0).sum(0)
        found = torch.stack([predicted, 1 / (1 + rest), torch.log1p(rest) + (peak - own.amax(0))], -1)
        if placed.of_rows is not None:
            found = sharded.gathered(found.movedim(placed.place, 0), placed.of_rows, exchange).movedim(0, placed.place)
        exchange.finish(self.loss.check_labels)
        predicted, confidence, surprise = found.unbind(-1)
        dtype = reading.compute_dtype(placed.whole)
        return predicted.long(), confidence.to(dtype), surprise.to(dtype)


def _with_all_classes(loss: "CategoricalLoss", logits: Any, target: Any, exchange: Exchange) -> Any:
    """Return the logits of some rows and all classes, as many as this rank has, for a loss that reads all of a row.

    They are unchanged for other losses, and where rows are sharded too. A rank whose part has a wrong shape sends NaN.
    """
    parts, axis, shape = _parts(logits), targets.class_axis(logits, loss.axis), tuple(logits.shape)
    if not parts or set(parts) != {axis} or len(shape) == 1:
        return logits
    if not loss.reads_one_logits or (takes_statistics(loss) and not _is_distribution(loss, target, shape, axis)):
        return logits
    if _learns(loss):
        return logits
    local, wanted = logits.to_local(), (*shape[:axis], parts[axis].length, *shape[axis + 1 :])
    exchange.attempt(lambda: _check_part("logits", local, wanted, shape))
    if exchange.error is not None:
        given = logits.device_mesh, logits.placements
        logits = type(logits).from_local(
            local.new_full(wanted, math.nan), *given, shape=logits.shape, stride=logits.stride()
        )
    size = max(shape[:axis] + shape[axis + 1 :])
    longest = next(place for place in range(len(shape)) if place != axis and shape[place] == size)
    rows = torch.distributed.tensor.Shard(longest)
    return logits.redistribute(placements=[rows if each.is_shard() else each for each in logits.placements])


def _check_part(name: str, local: Tensor, wanted: tuple[int, ...], whole: tuple[int, ...]) -> None:
    """Raise ValueError if the part of this rank has not the shape that it needs."""
    if tuple(local.shape) != wanted:
        raise ValueError(
            f"{name} must have shape {wanted} on this rank, as torch.chunk cuts {whole}, got {tuple(local.shape)}: "
            "use distribute_tensor, or redistribute"
        )


def _learns(loss: "CategoricalLoss") -> bool:
    """Whether the loss has parameters, whose gradient is that of all rows on each rank only if each has all rows."""
    return any(parameter.requires_grad for parameter in loss.parameters())


def _placed(loss: "CategoricalLoss", logits: Any, target: Any) -> _Logits | None:
    """Return the part of the logits that this rank has; None if the loss needs all of them."""
    parts = _parts(logits)
    if not parts or not loss.reads_one_logits or not logits.is_floating_point():
        return None
    shape, axis = tuple(logits.shape), targets.class_axis(logits, loss.axis)
    of_classes = parts.pop(axis, None)
    if of_classes is not None and (not takes_statistics(loss) or _is_distribution(loss, target, shape, axis)):
        return None
    if len(parts) > 1 or (parts and _learns(loss)):
        return None
    local = logits.to_local()
    whole = local.detach().new_zeros(()).expand(shape)
    (place, of_rows), *_ = [*parts.items(), (0, None)]
    return _Logits(local, whole, axis, of_classes, of_rows, place - int(place > axis))


def _read(
    loss: "CategoricalLoss", placed: _Logits, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None
) -> _Read:
    whole = placed.whole
    _check_part("logits", placed.local, placed.own_shape, tuple(whole.shape))
    target, is_labels, kept, active, sample_weight = loss._given(whole, placed.axis, target, sample_weight, mask)
    classes, validity = loss.count_classes(whole.shape[placed.axis]), None
    if is_labels:
        target, validity = targets.checked_labels(target, classes, kept, active, check_labels)
        if validity is not None:
            loss._watch.say_unchecked(type(loss).__name__, validity, check_labels)
    class_weight, weights = loss._weights(target, is_labels, whole, classes)
    return _Read(target, kept, active, sample_weight, is_labels, class_weight, weights, validity)


def _statistics(loss: "CategoricalLoss", placed: _Logits, read: _Read, reads: Reads, exchange: Exchange) -> Statistics:
    """Return the statistics of the rows of this rank, over all classes."""
    assert placed.of_classes is not None
    is_ranked = loss.hard_fraction < 1.0
    label = placed.own_rows(read.target).reshape(-1)
    counts, active = (
        None if each is None else placed.own_rows(each).reshape(-1)
        for each in (read.kept if is_ranked else read.active, read.active)
    )
    logits = targets.class_axis_last(placed.local, placed.axis)
    given = Label(label, reads, placed.of_classes, exchange, len(label))
    logits = logits.reshape(len(label), logits.shape[-1])
    statistics = sharded.of_logits(logits, counts, given)
    if not is_ranked or active is None:
        return statistics
    # Rows of weight 0 are ranked, and have no gradient, which may be NaN.
    return Statistics(*(torch.where(active, each, each.detach()) for each in statistics))


def _losses(
    loss: "CategoricalLoss",
    placed: _Logits,
    read: _Read,
    reads: Reads,
    statistics: Statistics | None,
    check_labels: bool | None,
) -> Tensor:
    """Return the losses of the rows of this rank."""
    if statistics is not None:
        weights = None if read.weights is None else placed.own_rows(read.weights).reshape(-1)
        label = placed.own_rows(read.target).reshape(-1)
        losses = of_statistics(loss, found(statistics, reads), label, weights, placed.whole.shape[placed.axis])
        return losses.reshape(reading.without_axis(placed.own_shape, placed.axis))
    target = placed.own_rows(read.target)
    target = target if read.is_labels else target.movedim(-1, placed.axis)
    logits = reading.checked_logits(placed.local)
    others = placed.own_rows(read.sample_weight), placed.own_rows(read.kept)
    return loss._rows(logits, target, *others, False if read.is_labels else check_labels).losses


def _parts(value: Any) -> dict[int, Part] | None:
    """Return the parts of a DTensor by axis; None if this rank cannot tell which part of its values it has."""
    parts: dict[int, Part] = {}
    mesh = value.device_mesh
    place = mesh.get_coordinate()
    if place is None:
        return None
    for dimension, placement in enumerate(value.placements):
        if placement.is_replicate():
            continue
        if not placement.is_shard():
            return None
        axis = placement.dim % value.ndim
        if axis in parts:
            return None
        parts[axis] = Part(value.shape[axis], mesh, dimension, mesh.size(dimension), place[dimension])
    return parts


def _is_placed_as(bias: Any, weight: Any) -> bool:
    """Whether each rank has the bias of its classes."""
    if not reading.is_distributed(bias):
        return False
    return bool(bias.placements == weight.placements and bias.device_mesh == weight.device_mesh)


def _needs_gradient(target: Any) -> bool:
    """Whether a target, or the probabilities of one, need a gradient."""
    target = target.probabilities if isinstance(target, fused.TopK) else target
    given = target if isinstance(target, tuple) else (target,)
    return any(isinstance(each, Tensor) and each.requires_grad for each in given)


def _is_distribution(loss: "CategoricalLoss", target: Any, shape: tuple[int, ...], axis: int) -> bool:
    """Whether a target for logits of this shape is not one of class indices."""
    if isinstance(target, (fused.TopK, tuple)):
        return True
    given = tuple(target.shape) if isinstance(target, Tensor) else np.shape(target)
    return len(given) == len(shape) and not loss.labels_only and (given[axis] != 1 or shape[axis] == 1)
