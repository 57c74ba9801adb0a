"""Weights and means: the one place where the losses of the rows become one number."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops
from keras.backend import standardize_dtype

from keras_xent import reading, weighting
from keras_xent.shapes import are_known

_IS_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

if _IS_ON_TENSORFLOW:
    from keras_xent.kernels import tensorflow_graph


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
        kept = ops.ones_like(losses, dtype="bool")
    # Backends sort NaN differently. So NaN takes the place of +inf, and +inf that of the largest finite number.
    largest = float(np.finfo(standardize_dtype(losses.dtype)).max)
    ranked = ops.where(ops.isnan(losses), math.inf, ops.minimum(losses, largest))
    ranked = ops.reshape(ops.where(kept, ops.stop_gradient(ranked), -math.inf), (-1,))
    rank = ops.argsort(ops.argsort(-ranked))
    count = ops.ceil(fraction * _count(losses, kept) * (1 - 1e-6))
    return ops.logical_and(kept, reading.in_shape_of(losses, ops.cast(rank, losses.dtype) < count))


def counted(rows: Rows) -> Tensor | None:
    """Whether each row [...] is kept and has a weight other than 0; None if all do."""
    has_weight = None if rows.sample_weight is None else rows.sample_weight != 0
    if rows.kept is None or has_weight is None:
        return has_weight if rows.kept is None else rows.kept
    return ops.logical_and(rows.kept, has_weight)


def weighted_losses(rows: Rows) -> Tensor:
    """k_i s_i l_i [...]; exactly 0 with gradient 0 where k_i or s_i is 0, whatever l_i is."""
    losses, weight, zero = rows.losses, rows.sample_weight, ops.zeros_like(rows.losses)
    if rows.kept is not None:
        losses = ops.where(rows.kept, losses, zero)
        weight = None if weight is None else ops.where(rows.kept, weight, ops.zeros_like(weight))  # NaN * 0 is NaN
    if weight is None:
        return losses
    return ops.where(ops.equal(weight, 0), zero, weight * losses)


def parts(rows: Rows, reduction: str) -> tuple[Tensor, Tensor]:
    """(sum k s l, denominator of the reduction); the loss is the quotient."""
    total = ops.sum(weighted_losses(rows))
    if reduction == "sum":
        return total, ops.ones_like(total)
    if reduction == "mean" or rows.size is not None:
        return total, _count(rows.losses, rows.kept, rows.size)
    weights = ops.ones_like(rows.losses) if rows.weights is None else rows.weights
    return total, ops.sum(weighted_losses(Rows(weights, None, rows.kept, rows.sample_weight)))


def reduce(rows: Rows, reduction: str, denominator: Any = None, check: bool | None = None) -> Tensor:
    """Reduce the rows to their losses [...] or to one number, for the rows of all replicas.

    If the caller gives a `denominator`, it divides the sum. It is read as labels are, with `check`.
    """
    if reduction == "none":
        if denominator is not None:
            raise ValueError(
                'denominator must be None with the reduction "none", which does not divide: '
                'set the reduction to "mean", "weighted_mean" or "sum"'
            )
        return weighted_losses(rows)
    return of_parts(*parts(rows, reduction), reduction, denominator, check)


def of_parts(total: Tensor, own: Tensor, reduction: str, denominator: Any = None, check: bool | None = None) -> Tensor:
    """Return the loss of the rows of all replicas, given the `parts` of this one; see `reduce`."""
    if denominator is not None:
        whole = total if replicas() == 1 else _over_replicas(total, None)
        return quotient(whole, weighting.scalar("denominator", denominator, total, check))
    if replicas() == 1:
        return quotient(total, own)
    return _over_replicas(total, None if reduction == "sum" else own)


def quotient(total: Tensor, denominator: Tensor) -> Tensor:
    """total / denominator; 0 with gradient 0 where the denominator is 0."""
    is_empty = ops.equal(denominator, 0)
    total = ops.where(is_empty, ops.zeros_like(total), total)
    return total / ops.where(is_empty, ops.ones_like(denominator), denominator)


def size_of(losses: Tensor) -> int | None:
    """Number of losses [...]; None if only run time knows it."""
    return math.prod(losses.shape) if are_known(*losses.shape) else None


def replicas() -> int:
    """Number of replicas of tf.distribute that share a batch; 1 outside of a replica."""
    return tensorflow_graph.replicas() if _IS_ON_TENSORFLOW else 1


def _over_replicas(total: Tensor, denominator: Tensor | None) -> Tensor:
    """Return the loss of the rows of all replicas over their number, because Keras adds up what the replicas return.

    It adds up their gradients too. The gradient of an all-reduced sum is all-reduced: over the number, it is the local
    one.
    """
    own = ops.stack([total, ops.zeros_like(total) if denominator is None else denominator])
    total, whole = ops.unstack(tensorflow_graph.sum_over_replicas(own))
    total = total / replicas()
    return total if denominator is None else quotient(total, whole)


def _count(losses: Tensor, kept: Tensor | None, size: int | None = None) -> Tensor:
    """Number of kept rows. The sum is of integers, because a float32 sum of ones stops at 2^24."""
    if kept is not None:
        return ops.cast(ops.sum(ops.cast(kept, "int32")), losses.dtype)
    size = size_of(losses) if size is None else size
    # ops.size cannot be traced by Dynamo for any number of rows.
    return ops.cast(ops.size(losses), losses.dtype) if size is None else ops.ones((), dtype=losses.dtype) * size
