"""The work for the loss of a last layer: by statistics of the label where they are enough, or else by rows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_xent import kernels
from lightning_xent.kernels import tensors
from lightning_xent.kernels.blocks import compute_dtype
from lightning_xent.kernels.linear import ByLabel, ByRows, Head, Work, chunks
from lightning_xent.kernels.plain import OfLabel
from lightning_xent.kernels.statistics import Reads

Places = slice | Tensor
"""Some rows: a slice, or their numbers."""


def takes_statistics(loss: Any) -> bool:
    """Whether the loss of a label is a function of the statistics of its row."""
    return bool(loss._is_of_statistics)


def statistics_of(loss: Any, class_weight: Tensor | None, like: Tensor) -> Reads:
    """Return what a loss that `takes_statistics` reads of a row."""
    smooths = loss.label_smoothing > 0.0
    if smooths and class_weight is None:
        class_weight = torch.ones((), dtype=compute_dtype(like), device=like.device)
    bound = None if loss.softcap is None else loss.softcap * loss.temperature
    return Reads(
        loss.divisor if bound is None else loss.divisor / bound, bound, class_weight,
        others=smooths, log_partition=loss.z_loss != 0.0, entropy=loss.entropy_penalty != 0.0,
    )  # fmt: skip


def of_statistics(loss: Any, found: OfLabel, label: Tensor, weights: Tensor | None, classes: int) -> Tensor:
    """Return the losses [n] of labels [n] with their `weights`, given what the statistics say of each row."""
    score = found.log_odds
    if not loss.has_plain_softmax:
        score = loss._less_margin(score, found.own, label, classes)
    losses: Tensor = loss._of_score(score, found.others, weights, classes)
    regulariser = loss._common_regulariser(found.log_partition, found.entropy)
    return losses if regulariser is None else losses + regulariser


def work_of(
    loss: Any,
    head: Head,
    target_of: Callable[[Places], Tensor],
    label: Tensor | None,
    class_weight: Tensor | None,
    weights: Tensor | None,
    counts: Tensor | None,
    *,
    is_sharded: bool = False,
) -> Work:
    """Return the work for a loss.

    Args:
        loss: A CategoricalLoss, of either package.
        head: The last layer.
        target_of: Returns the targets of some rows: class indices, or distributions in the compute dtype.
        label: The class indices [N] of all rows; None if targets are distributions.
        class_weight: Weights [C] of the classes.
        weights: Weights [N] of the targets.
        counts: Whether [N] each row counts; None if all do.
        is_sharded: Whether the classes are on several devices.
    """
    dtype, is_labels = compute_dtype(head.hidden), label is not None

    def plain(logits: Tensor, rows: Places = slice(None)) -> Tensor:
        target = target_of(rows)
        if counts is not None:
            own = counts[rows].unsqueeze(1)
            logits = torch.where(own, logits, torch.full_like(logits, 0.5))
            target = target if is_labels else torch.where(own, target, torch.full_like(target, 0.5))
        losses: Tensor = loss._losses(logits.to(dtype), target, class_weight, is_labels)
        return losses

    if tensors.is_compiling():
        return ByRows(plain, plain, 4)
    # Kernels that read the logits once need all classes of a row.
    reads_once = loss._reads_what_kernels_know and kernels.reads_once(head.hidden)
    reads_once = reads_once and chunks(head, 2, splits_classes=True).classes == len(head.weight)
    if label is not None and takes_statistics(loss) and (is_sharded or not reads_once):
        reads = statistics_of(loss, class_weight, head.hidden)

        def by_label(found: OfLabel, rows: Places) -> Tensor:
            of_rows = None if weights is None else weights[rows]
            return of_statistics(loss, found, label[rows], of_rows, len(head.weight))

        return ByLabel(by_label, plain, label, reads, reads.copies(head.hidden))

    def by_rows(logits: Tensor, rows: Places) -> Tensor:
        chosen, of_rows = target_of(rows), None if weights is None else weights[rows]
        once = kernels.reads_once(logits, chosen)
        losses: Tensor
        if loss._is_direct(is_labels, once):
            losses = loss._direct(logits, chosen, class_weight, of_rows, None, is_labels, once)
        else:
            losses = loss._indirect(logits.to(dtype), chosen, class_weight, is_labels)
        return losses

    return ByRows(by_rows, plain, 2 if reads_once and is_labels else 4)
