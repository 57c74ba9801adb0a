"""What a loss predicts: classes, confidences and surprises of the rows that count."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_xent import fused, reading, shards, targets, weighting
from lightning_xent.base import Loss
from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.layers import LinearLoss
from lightning_xent.log_odds import scaled, softplus, take
from lightning_xent.losses.bi_tempered import BiTemperedLogistic
from lightning_xent.losses.divergence import Distillation

IGNORED = -1
PARTS, SMALL = 16, 2**16
"""Batches whose logits have more than SMALL elements are processed in PARTS parts of their rows."""


class Predictions(NamedTuple):
    """The predictions of a network for the rows of a batch, and their labels."""

    predicted: Tensor
    """The most probable class [...]; for a binary loss 1 if label 1 is more likely than label 0, else 0."""
    label: Tensor
    """Labels [...]; IGNORED for rows that do not count."""
    confidence: Tensor | None
    """Probability [...] of the predicted class, or of label 1; None if it is not wanted."""
    surprise: Tensor | None
    """-log p [...] of the label, in nats; None if it is not wanted."""
    classes: int
    """Number of classes, or of labels that do not exclude each other."""
    is_binary: bool


@torch.no_grad()
def predictions(
    loss: Loss,
    logits: Tensor,
    target: Any,
    sample_weight: Any = None,
    mask: Any = None,
    *,
    has_probabilities: bool = True,
) -> Predictions:
    """Return predictions and labels, read from logits and target as `loss` does.

    Rows that are ignored, masked or have a sample weight of 0 do not count. The label of a soft target is the class of
    largest mass; a binary target of 1/2 or more is label 1. Predictions are without margins or adjustments.

    Args:
        loss: The loss.
        logits: Input of the loss.
        target: Its target.
        sample_weight: Its sample weights.
        mask: Its mask.
        has_probabilities: Whether confidences and surprises are wanted.
    """
    logits, best = logits.detach(), None
    target, sample_weight, mask = map(reading.whole, (target, sample_weight, mask))
    if reading.is_distributed(logits) and isinstance(loss, CategoricalLoss):
        best = shards.best(loss, logits, target)
    logits = reading.whole(logits) if best is None else best.placed.whole
    if isinstance(loss, CategoricalLoss):
        target, is_label, kept = target_of(loss, logits, target, mask)
        validity = None
        if not is_label:
            weight = weighting.sample_weight_per_row(sample_weight, tuple(kept.shape), logits)
            target, validity = distribution(loss, logits, target, kept if weight is None else kept & (weight != 0))
        label = target if is_label else target.argmax(-1)
        kept = kept if validity is None else kept & (validity == 1)
        classes = loss.count_classes(logits.shape[targets.class_axis(logits, loss.axis)])
        kept = kept & (label >= 0) & (label < classes)
        label = torch.where(kept, label, 0)
        if best is None:
            predicted, confidence, surprise = by_rows(loss, logits, label, has_probabilities=has_probabilities)
        else:
            predicted, *both = best.of_rows(label)
            confidence, surprise = both if has_probabilities else (None, None)
    else:
        assert isinstance(loss, BinaryLoss)
        classes = logits.shape[-1] if logits.ndim == 2 else 1
        predicted, label, kept, confidence, surprise = _of_binary(loss, logits, target, mask, has_probabilities)
    weight = weighting.sample_weight_per_row(sample_weight, tuple(label.shape), logits)
    kept = kept if weight is None else kept & (weight != 0)
    label = torch.where(kept, label, IGNORED)
    return Predictions(predicted, label, confidence, surprise, classes, isinstance(loss, BinaryLoss))


@torch.no_grad()
def predictions_of_layer(
    layer: LinearLoss,
    hidden: Tensor,
    target: Any,
    sample_weight: Any = None,
    mask: Any = None,
    *,
    has_probabilities: bool = True,
    predicted: Tensor | None = None,
) -> Predictions:
    """Return the `predictions` of a layer for hidden states [..., D], with all rows [N] in one axis.

    The logits are computed in chunks, unless the `predicted` classes [N] are given and suffice.
    """
    loss = layer.loss
    size = shards.stand_in(layer.weight), shards.stand_in(layer.bias)
    head, label, counts = fused.labels(loss, hidden.detach(), *size, target, sample_weight, mask)
    classes = loss.count_classes(layer.classes)
    label_or_ignored = torch.where(counts, label, IGNORED)
    if predicted is not None and not has_probabilities:
        return Predictions(predicted, label_or_ignored, None, None, classes, False)
    found: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
    for rows in [*fused.chunks_of_rows(head)] or [slice(0, 0)]:
        logits = layer.logits(head.hidden[rows])
        best = shards.best(loss, logits, label[rows]) if reading.is_distributed(logits) else None
        if best is None:
            logits = reading.whole(logits)
            found.append(by_rows(loss, logits, label[rows], has_probabilities=has_probabilities))
        else:
            found.append(best.of_rows(label[rows]))
    predicted = torch.cat([part[0] for part in found])
    confidence, surprise = (
        torch.cat([part[place] for part in found]) if has_probabilities else None  # type: ignore[misc]
        for place in (1, 2)
    )
    return Predictions(predicted, label_or_ignored, confidence, surprise, classes, False)


def target_of(loss: CategoricalLoss, logits: Tensor, target: Any, mask: Any) -> tuple[Tensor, bool, Tensor]:
    """Return labels [...] or distributions [..., K], whether they are labels, and which rows [...] are kept."""
    axis = targets.class_axis(logits, loss.axis)
    classes = loss.count_classes(logits.shape[axis])
    if isinstance(loss, Distillation):
        teacher, label = targets.teacher_and_label(target, logits, loss.axis, has_label=loss.alpha < 1.0)
        target = teacher if label is None else label
    target, is_label = targets.labels_or_distribution(target, logits, axis, classes, labels_only=loss.labels_only)
    rows = tuple(target.shape) if is_label else tuple(target.shape)[:-1]
    kept = weighting.mask_per_row(mask, rows, logits)
    if is_label and loss.ignore_index is not None:
        kept = weighting.both(kept, target != loss.ignore_index)
    return target, is_label, torch.ones(rows, dtype=torch.bool, device=logits.device) if kept is None else kept


def distribution(loss: CategoricalLoss, logits: Tensor, target: Tensor, active: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a distribution [..., K] and the validity [...] of its rows, as the loss reads them."""
    axis, dtype = targets.class_axis(logits, loss.axis), reading.compute_dtype(logits)
    return targets.checked_distribution(target, axis, active, loss.check_labels, loss.ignore_index, dtype)


def by_rows(
    loss: CategoricalLoss, logits: Tensor, label: Tensor, *, has_probabilities: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the most probable class [...], its probability [...] and -log p [...] of the label [...].

    The rows are processed in 16 parts, because a tensor of all probabilities would be as large as the logits.
    """
    logits = targets.class_axis_last(logits, targets.class_axis(logits, loss.axis))  # [..., C]
    if logits.ndim == 1:
        found = _of_rows(loss, logits, label, has_probabilities)
        return found[0], *(found[1:] if has_probabilities else (None, None))
    longest = max(range(logits.ndim - 1), key=logits.shape.__getitem__)
    size = max(1, math.ceil(logits.shape[longest] / PARTS))
    if logits.numel() <= SMALL:
        size = max(1, logits.shape[longest])
    pairs = zip(torch.split(logits, size, longest), torch.split(label, size, longest), strict=True)
    parts = zip(*(_of_rows(loss, *pair, has_probabilities) for pair in pairs), strict=True)
    found = [torch.cat(part, longest) for part in parts]
    return found[0], *(found[1:] if has_probabilities else (None, None))


def _of_rows(loss: CategoricalLoss, logits: Tensor, label: Tensor, has_probabilities: bool) -> list[Tensor]:
    """Return the same as `by_rows`, for one part of the logits [..., C], with the class axis last."""
    logits = logits.to(reading.compute_dtype(logits))
    softmax = loss.softmax_input(logits)
    if isinstance(loss, BiTemperedLogistic):
        scores = loss.log_probabilities(softmax)
    else:
        scores = scaled(softmax.plain, softmax.divisor) if loss.from_logits else softmax.plain.log()  # [..., K]
    peak, predicted = scores.max(-1)
    if not has_probabilities:
        return [predicted]
    exponentials = (scores - peak.unsqueeze(-1)).exp_().scatter_(-1, predicted.unsqueeze(-1), 0.0)
    rest = exponentials.sum(-1) + 0.0 * peak  # NaN if the peak is infinite
    return [predicted, 1 / (1 + rest), torch.log1p(rest) + (peak - take(scores, label))]


def _of_binary(
    loss: BinaryLoss, logits: Tensor, target: Any, mask: Any, has_probabilities: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return predictions, labels, which rows are kept, confidences and surprises, in the shape of the logits."""
    target = targets.binary_target(target, logits)
    kept = (target >= 0) & (target <= 1)
    if loss.ignore_index is not None:
        kept &= target != loss.ignore_index
    given = weighting.mask_per_row(mask, tuple(logits.shape), logits)
    kept = kept if given is None else kept & given
    logits = logits.to(reading.compute_dtype(logits))
    scores = scaled(logits, loss.temperature) if loss.from_logits else torch.logit(logits)
    predicted, label = (scores > 0).long(), (target >= 0.5).long()
    if not has_probabilities:
        return predicted, label, kept, None, None
    return predicted, label, kept, scores.sigmoid(), softplus(torch.where(label == 1, -scores, scores))
