"""Weights and means: the one place where the losses of the rows become one number."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_xent import weighting
from lightning_xent.kernels import tensors


class Rows(NamedTuple):
    """The rows of a batch: everything that a reduction needs."""

    losses: Tensor
    """l_i [...]: the loss of each row, without sample weights. If a `size` is given, their sum []."""
    weights: Tensor | None
    """u_i [...]: class weight of the target before smoothing; None if all are 1."""
    kept: Tensor | None
    """k_i [...]: False for an ignored or masked row; None if all rows are kept."""
    sample_weight: Tensor | None
    """s_i [...]; None if all are 1."""
    size: int | None = None
    """Number of rows whose losses are added up, with no weights and all kept; None if they are not."""


def hardest(losses: Tensor, kept: Tensor | None, fraction: float) -> Tensor | None:
    """Keep the ceil(fraction * kept * (1 - 1e-6)) rows [...] with the largest loss: NaN first, ties by lower index."""
    if fraction == 1.0:
        return kept
    if kept is None:
        kept = torch.ones_like(losses, dtype=torch.bool)
    ranked = torch.where(kept, losses.detach(), -math.inf).flatten()
    rank = ranked.argsort(descending=True, stable=True).argsort()
    count = torch.ceil(fraction * _count(losses, kept) * (1 - 1e-6))
    return kept & (rank < count).reshape(losses.shape)


def counted(rows: Rows) -> Tensor | None:
    """Whether each row [...] is kept and has a weight other than 0; None if all do."""
    has_weight = None if rows.sample_weight is None else rows.sample_weight != 0
    if rows.kept is None or has_weight is None:
        return has_weight if rows.kept is None else rows.kept
    return rows.kept & has_weight


def weighted_losses(rows: Rows) -> Tensor:
    """k_i s_i l_i [...]; exactly 0 with gradient 0 where k_i or s_i is 0, whatever l_i is."""
    losses, weight = rows.losses, rows.sample_weight
    if rows.kept is not None:
        losses = torch.where(rows.kept, losses, 0.0)
        weight = None if weight is None else torch.where(rows.kept, weight, 0.0)  # NaN * 0 is NaN
    if weight is None:
        return losses
    return torch.where(weight == 0, 0.0, weight * losses)


def parts(rows: Rows, reduction: str) -> tuple[Tensor, Tensor]:
    """(sum k s l, denominator of the reduction); the loss is the quotient."""
    total = weighted_losses(rows).sum()
    if reduction == "sum":
        return total, torch.ones_like(total)
    if reduction == "mean" or rows.size is not None:
        return total, _count(rows.losses, rows.kept, rows.size)
    weights = torch.ones_like(rows.losses) if rows.weights is None else rows.weights
    return total, weighted_losses(Rows(weights, None, rows.kept, rows.sample_weight)).sum()


def reduce(rows: Rows, reduction: str, denominator: Any = None, check: bool | None = None) -> Tensor:
    """Reduce the rows to their losses [...] or to one number, divided by the caller's `denominator` if there is one.

    It is read as labels are, with `check`.
    """
    if denominator is not None:
        _needs_a_sum(reduction)
        total = weighted_losses(rows).sum()
        return quotient(total, weighting.scalar("denominator", denominator, total, check))
    if reduction == "none":
        return weighted_losses(rows)
    if reduction == "mean" and rows.kept is None and not tensors.is_compiling():  # a trace may not know the size
        size = size_of(rows.losses) if rows.size is None else rows.size
        if size > 0:
            return weighted_losses(rows).sum() / size  # the gradient of mean() is a whole tensor
    return quotient(*parts(rows, reduction))


def quotient(total: Tensor, denominator: Tensor) -> Tensor:
    """total / denominator; 0 with gradient 0 where the denominator is 0."""
    is_empty = denominator == 0
    return total.masked_fill(is_empty, 0.0) / denominator.masked_fill(is_empty, 1.0)


def size_of(losses: Tensor) -> int:
    """Number of losses [...]."""
    return losses.numel()


def _needs_a_sum(reduction: str) -> None:
    if reduction == "none":
        raise ValueError(
            'denominator must be None with the reduction "none", which does not divide: '
            'set the reduction to "mean", "weighted_mean" or "sum"'
        )


def _count(losses: Tensor, kept: Tensor | None, size: int | None = None) -> Tensor:
    """Number of kept rows. The sum is of integers, because a float32 sum of ones stops at 2^24."""
    if kept is not None:
        return kept.sum().to(losses.dtype)
    return losses.new_full((), size_of(losses) if size is None else size)
