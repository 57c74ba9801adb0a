"""The loss of the last linear layer: what `linear` of a categorical loss reads, and how it chooses the work."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from lightning_xent import kernels, reading, reduction, targets, weighting
from lightning_xent.kernels import blocks, linear_gradients, tensors
from lightning_xent.kernels.linear import Best, Chunks, Head, Work, chunks
from lightning_xent.kernels.work import work_of
from lightning_xent.reduction import Rows
from shared_specs.common import arguments, guard

if TYPE_CHECKING:
    from lightning_xent.categorical import CategoricalLoss, Given


@dataclass(frozen=True, eq=False)
class TopK:
    """A distribution over the classes, given by its largest probabilities, as a teacher saves it.

    Args:
        indices: Class indices [..., k], of an integer dtype, different within a row.
        probabilities: Their probabilities [..., k].
        rest: "drop": the other classes have probability 0. "spread": they share 1 - sum(probabilities) equally.
    """

    indices: Tensor
    probabilities: Tensor
    rest: Literal["drop", "spread"] = "drop"

    def __post_init__(self) -> None:
        for name in ("indices", "probabilities"):
            given: Any = getattr(self, name)
            if not isinstance(given, Tensor):
                object.__setattr__(self, name, torch.as_tensor(guard.as_array(name, given)))
        arguments.choice("rest", self.rest, ("drop", "spread"))
        shapes = tuple(self.indices.shape), tuple(self.probabilities.shape)
        if shapes[0] != shapes[1] or not shapes[0] or shapes[0][-1] == 0:
            raise ValueError(f"probabilities must have the shape of indices, (..., k), got {shapes[1]} and {shapes[0]}")
        if self.indices.is_floating_point() or self.indices.dtype == torch.bool:
            raise TypeError(f"indices must have an integer dtype, got {self.indices.dtype}")

    def dense(self, classes: int, dtype: torch.dtype) -> Tensor:
        """Return the probabilities [..., C] of all classes."""
        probabilities = self.probabilities.to(dtype)
        share = self.share(classes, dtype).unsqueeze(-1)
        whole = share.expand(*share.shape[:-1], classes).clone()
        return whole.scatter_(-1, self.indices.long(), 0.0).scatter_add_(-1, self.indices.long(), probabilities)

    def share(self, classes: int, dtype: torch.dtype) -> Tensor:
        """Return the probability [...] of each class that is not among the indices."""
        probabilities = self.probabilities.to(dtype)
        if self.rest == "drop" or classes <= self.indices.shape[-1]:
            return torch.zeros_like(probabilities[..., 0])
        return (1 - probabilities.sum(-1)) / (classes - self.indices.shape[-1])

    def weights(self, class_weight: Tensor | None, classes: int, dtype: torch.dtype) -> Tensor:
        """Return the sum [...] over the classes of probability times weight."""
        probabilities, share = self.probabilities.to(dtype), self.share(classes, dtype)
        if class_weight is None:
            return probabilities.sum(-1) + share * (classes - self.indices.shape[-1])
        own = class_weight[self.indices.long()]
        return (probabilities * own).sum(-1) + share * (class_weight.sum() - own.sum(-1))


class Call(NamedTuple):
    """A call of `linear`, with the rows in one axis; those that need no loss are left out."""

    head: Head
    work: Work
    shape: tuple[int, ...]
    """Of the rows."""
    places: Tensor | None
    """Numbers [N] of the rows that are left; None if all are."""
    factor: Tensor | None
    """NaN [N] for rows with an invalid target, else 1; None if all are valid."""
    rows: Rows
    """The rows, without their losses."""
    fuses: bool
    """Whether chunks can be computed: not under most traces and transforms, nor if the target has a gradient."""


def parts(loss: "CategoricalLoss", call: Call, best: Best | None = None) -> tuple[Tensor, Tensor]:
    """Return (sum k s l, denominator). `best` sees the logits, where they are computed in chunks."""
    denominator = reduction.parts(call.rows, loss.reduction)[1]
    slopes = call.rows.losses.new_ones(call.shape)
    slopes = reduction.weighted_losses(_with(call.rows, slopes))  # 0 for rows that do not count
    slopes = _left(slopes, call.places)
    slopes = slopes if call.factor is None else slopes * call.factor
    if call.fuses:
        work = call.work if best is None else call.work.seen_by(best)
        total = linear_gradients.total(call.head, slopes, work)
        if best is not None:
            best.finish(call.places, math.prod(call.shape))
        return total, denominator
    return (slopes * call.work.of_all_logits(call.head)).sum(), denominator


def rows(loss: "CategoricalLoss", call: Call) -> Rows:
    """Return all rows, with their losses."""
    losses = linear_gradients.losses(call.head, call.work) if call.fuses else call.work.of_all_logits(call.head)
    losses = losses if call.factor is None else losses * call.factor
    if call.places is not None:
        losses = losses.new_zeros(math.prod(call.shape)).index_copy(0, call.places, losses)
    losses = losses.reshape(call.shape)
    kept = reduction.hardest(losses, call.rows.kept, loss.hard_fraction)
    return Rows(losses, call.rows.weights, kept, call.rows.sample_weight)


def _with(rows: Rows, losses: Tensor) -> Rows:
    """Return rows with their losses; Dynamo of torch 2.6 cannot read `_replace`."""
    return Rows(losses, rows.weights, rows.kept, rows.sample_weight)


def labels(
    loss: "CategoricalLoss",
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Any,
    sample_weight: Any,
    mask: Any,
) -> tuple[Head, Tensor, Tensor]:
    """Return the layer with its rows in one axis, a label [N] for each, and whether [N] the row counts.

    The label of a distribution is the class of largest mass; it is 0 for rows that do not count.
    """
    head, shape = _head(hidden, weight, bias)
    size = len(head.weight)
    given = _given(loss, head, shape, target, sample_weight, mask)
    label = given.target
    if isinstance(label, TopK):
        label = label.indices.gather(-1, label.probabilities.argmax(-1, keepdim=True)).squeeze(-1)
    elif not given.is_labels:
        label = label.argmax(-1)
    counts = (label >= 0) & (label < loss.count_classes(size))
    counts = (counts if given.active is None else counts & given.active).reshape(-1)
    return head, torch.where(counts, label.reshape(-1), 0), counts


def chunks_of_rows(head: Head) -> Iterator[slice]:
    """Return slices of the rows, with logits that leave room for four tensors of their size."""
    return Chunks(chunks(head, 4, splits_classes=False).rows, len(head.weight)).of(head)[0]


def _stand_in(head: Head, shape: tuple[int, ...]) -> Tensor:
    """Logits [..., C] that take no memory. Only their shape, dtype and device are read."""
    return head.hidden.detach().new_zeros(()).expand(*shape, len(head.weight))


def _given(
    loss: "CategoricalLoss", head: Head, shape: tuple[int, ...], target: Any, sample_weight: Any, mask: Any
) -> "Given":
    """Return what is given beside the hidden states, in the layout of the rows."""
    logits = _stand_in(head, shape)
    if isinstance(target, tuple) and len(target) == 2 and all(hasattr(each, "shape") for each in target):
        target = TopK(*target)
    if isinstance(target, TopK):
        return _given_top(loss, logits, target, sample_weight, mask)
    return loss._given(logits, len(shape), target, sample_weight, mask)


def read(
    loss: "CategoricalLoss",
    hidden: Any,
    weight: Any,
    bias: Any,
    target: Any,
    sample_weight: Any,
    mask: Any,
    *,
    is_ranked: bool,
    is_sharded: bool = False,
) -> Call:
    """Return the call. If `is_ranked`, rows of weight 0 have losses too. If `is_sharded`, the layer has no values."""
    if not loss.reads_one_logits:
        raise ValueError(
            f"linear() cannot be used with {type(loss).__name__}, which reads more than one tensor of logits for each "
            "row: compute the logits, and call the loss"
        )
    if not loss.from_logits:
        raise ValueError("from_logits must be True for linear(), whose layer returns logits, got False")
    head, shape = _head(hidden, weight, bias)
    size = len(head.weight)
    if size == 1 and not loss._watch.has_warned:
        loss._watch.has_warned = True
        guard.warn(f"{type(loss).__name__} {guard.of_one_class((*shape, 1), len(shape))}")
    if (
        loss.takes_cosines
        and not loss._watch.has_looked
        and not tensors.is_compiling()
        and kernels.takes_chunks(head.hidden, head.weight)
    ):
        few = head.hidden[: reading.CORNER], head.weight, head.bias
        cosines = linear(*(None if each is None else each.detach() for each in few))  # type: ignore[arg-type]
        loss._watch.look(loss._kind_of_layer(size), cosines, None)
    logits = _stand_in(head, shape)
    class_weight = None
    if loss._class_weight is not None:
        classes = loss.count_classes(size)
        class_weight = weighting.per_class("class_weight", loss._class_weight, logits, classes)  # [C]
    given = _given(loss, head, shape, target, sample_weight, mask)
    checked, weights, validity = _checked(loss, logits, given, class_weight)
    if validity is not None:
        loss._watch.say_unchecked(type(loss).__name__, validity, loss.check_labels)
    counts = given.kept if is_ranked else given.active
    head, places = _without(head, counts)
    checked = _left(checked, places, 0 if given.is_labels else 1)
    counts = None if counts is None or places is not None else counts.reshape(-1)
    work = _work(loss, head, checked, class_weight, _left(weights, places), counts, given.is_labels, is_sharded)
    losses = logits.new_zeros((), dtype=reading.compute_dtype(logits)).expand(shape)
    rows_of_call = Rows(losses, weights, given.kept, given.sample_weight)
    soft = checked.probabilities if isinstance(checked, TopK) else checked
    layer = [tensor for tensor in head if tensor is not None]
    fuses = kernels.takes_chunks(*layer) and not soft.requires_grad
    return Call(head, work, shape, places, _left(validity, places), rows_of_call, fuses)


def _given_top(loss: "CategoricalLoss", logits: Tensor, top: TopK, sample_weight: Any, mask: Any) -> "Given":
    """Return what is given beside the logits, as the loss does for other targets."""
    shape = tuple(logits.shape)[:-1]
    if loss.labels_only or not loss.takes_distributions or tuple(top.indices.shape)[:-1] != shape:
        wanted = f"class indices of shape {shape}" if loss.labels_only else f"TopK of {shape} rows"
        raise ValueError(f"target must be {wanted}, got TopK of shape {tuple(top.indices.shape)}")
    # As one class index a row, of which weights and masks are read. It is none that is ignored.
    no_label = torch.full((), int(loss.ignore_index == 0), device=logits.device).expand(shape)
    probabilities = reading.as_tensor("target", top.probabilities, logits)
    top = TopK(reading.as_tensor("target", top.indices, logits).long(), probabilities, top.rest)
    given = loss._given(logits, len(shape), no_label, sample_weight, mask)
    return type(given)(top, False, *given[2:])


def _checked(
    loss: "CategoricalLoss", logits: Tensor, given: "Given", class_weight: Tensor | None
) -> tuple[Any, Tensor | None, Tensor | None]:
    """Return the target, the weights [...] of the rows in a weighted mean, and a factor [...]: NaN for bad targets."""
    target, _, kept, active, _ = given
    classes, dtype = loss.count_classes(logits.shape[-1]), reading.compute_dtype(logits)
    if isinstance(target, TopK):
        columns = None if active is None else active.unsqueeze(-1).expand(target.indices.shape)
        indices, validity = targets.checked_labels(target.indices, classes, columns, columns, loss.check_labels)
        top = TopK(indices, target.probabilities, target.rest)
        return top, top.weights(class_weight, classes, dtype), None if validity is None else validity.mean(-1)
    if given.is_labels:
        target, validity = targets.checked_labels(target, classes, kept, active, loss.check_labels)
        return target, None if class_weight is None else weighting.per_label(class_weight, target), validity
    validity = weights = None
    if not target.is_floating_point():
        read = loss.check_labels, loss.ignore_index, dtype
        target, validity = targets.checked_distribution(target, logits.ndim - 1, active, *read)
    if loss.reduction == "weighted_mean":
        weights = target.sum(-1, dtype=dtype) if class_weight is None else _weighted_sum(target.to(dtype), class_weight)
    return target, weights, validity


def _weighted_sum(target: Tensor, class_weight: Tensor) -> Tensor:
    """Return the sum [...] over the classes of target [..., C] times weight."""
    return blocks.product_sums(target.reshape(-1, target.shape[-1]), class_weight).reshape(target.shape[:-1])


def _left(values: Any, places: Tensor | None, inner: int = 0) -> Any:
    """Values of the rows that are left, in one axis, with their `inner` axes; None for None."""
    if values is None:
        return None
    if isinstance(values, TopK):
        indices, probabilities = (_left(each, places, inner) for each in (values.indices, values.probabilities))
        return TopK(indices, probabilities, values.rest)
    values = values.reshape(-1, *values.shape[values.ndim - inner :])
    return values if places is None else values[places]


def _head(hidden: Any, weight: Any, bias: Any) -> tuple[Head, tuple[int, ...]]:
    """Return the layer with hidden states [N, D], and the shape of the rows."""
    given = {"hidden": hidden, "weight": weight, **({} if bias is None else {"bias": bias})}
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating-point tensor, got {got}")
        given[name] = reading.rectangular(name, tensors.plain(reading.whole(tensor)))
    hidden, weight = given["hidden"], given["weight"]
    if weight.ndim != 2 or weight.shape[0] == 0 or hidden.ndim == 0 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            "weight must be a matrix of (classes, features), with the features of hidden on its last axis, got shape "
            f"{tuple(weight.shape)} for hidden of shape {tuple(hidden.shape)}"
        )
    if bias is not None and tuple(given["bias"].shape) != (weight.shape[0],):
        raise ValueError(f"bias must have shape ({weight.shape[0]},), got {tuple(given['bias'].shape)}")
    dtype = autocast_dtype(hidden)
    if dtype is not None:
        given = {name: tensor.to(dtype) for name, tensor in given.items()}
    for name, tensor in given.items():
        if tensor.dtype != given["hidden"].dtype:
            raise TypeError(
                f"{name} must have the dtype of hidden, {given['hidden'].dtype}, got {tensor.dtype}: cast one, or use "
                "torch.autocast"
            )
    head = Head(given["hidden"].reshape(-1, weight.shape[1]), given["weight"], given.get("bias"))
    return head, tuple(hidden.shape)[:-1]


def autocast_dtype(hidden: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast gives a layer; None if it leaves it alone."""
    kind = hidden.device.type
    if hidden.is_meta or hidden.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def _without(head: Head, read: Tensor | None) -> tuple[Head, Tensor | None]:
    """Return the layer of the rows that are `read`, and their numbers; under a trace all rows, with 0 in the others."""
    if read is None:
        return head, None
    read = read.reshape(-1)
    if read.is_meta or tensors.is_traced(head.hidden) or tensors.is_traced(read) or not tensors.is_plain(head.hidden):
        return Head(torch.where(read.unsqueeze(1), head.hidden, 0.0), head.weight, head.bias), None
    places = read.nonzero().squeeze(1)
    if len(places) == len(read):
        return head, None
    return head._replace(hidden=head.hidden.index_select(0, places)), places


def _work(
    loss: "CategoricalLoss",
    head: Head,
    target: Any,
    class_weight: Tensor | None,
    weights: Tensor | None,
    counts: Tensor | None,
    is_labels: bool,
    is_sharded: bool,
) -> Work:
    """Return the work for a loss; `counts` [N] are the rows that do, None if all do."""

    def target_of(rows: Any) -> Tensor:
        if isinstance(target, TopK):
            classes = loss.count_classes(len(head.weight))
            top = TopK(target.indices[rows], target.probabilities[rows], target.rest)
            return top.dense(classes, reading.compute_dtype(head.hidden))
        found: Tensor = target[rows]
        return found if is_labels else found.to(reading.compute_dtype(head.hidden))

    label = target if is_labels else None
    return work_of(loss, head, target_of, label, class_weight, weights, counts, is_sharded=is_sharded)
