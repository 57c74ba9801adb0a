"""What a loss of a label needs of a row, from blocks of its classes that merge: for many classes on TensorFlow and JAX.

A block is [n, v] logits. With y the label, T the temperature and M the largest logit of the other classes, its rivals:
e_c = exp((x_c - M) / T). M is that of the rivals, so that their sum is at least 1 and a margin of 100 keeps its digits.
Automatic differentiation gives the gradient of a block, for a given M.
"""

import math
from typing import NamedTuple

from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.kernels.passes import harmless, is_label, softplus

LEAST = -1e4
"""Bound of a shifted logit where exp of it, which is 0, is multiplied by it."""


class Reads(NamedTuple):
    """What the losses of labels read of a row."""

    divisor: float
    """What divides the logits, or the tanh of the capped ones."""
    bound: float | None
    """Of the capped logits."""
    others: bool
    log_partition: bool
    entropy: bool


class Statistics(NamedTuple):
    """What a block of classes adds to each row, all [n]."""

    peak: Tensor
    """Largest logit M of the other classes; -inf if there is none."""
    own: Tensor
    """Logit of the label; -inf in a block without it."""
    rivals: Tensor
    """Sum of e_c over the other classes."""
    spread: Tensor
    """Minus the weighted sum of (x_c - M) / T over the other classes."""
    weight: Tensor
    """Sum of the weights of the other classes."""
    tilt: Tensor
    """Sum of e_c (x_c - M) / T over the other classes."""


class Found(NamedTuple):
    """What a loss of a label needs of each row, all [n]; None what was not asked for."""

    log_odds: Tensor
    own: Tensor
    """The logit of the label, capped."""
    others: Tensor | None
    """sum_{c != y} w_c (-log p_c)"""
    log_partition: Tensor | None
    """logsumexp(logits / T)"""
    entropy: Tensor | None
    """That of the softmax, in nats."""


def none(like: Tensor) -> Statistics:
    """Return the statistics of no class, for rows like [n]."""
    zero = ops.zeros_like(like)
    least = zero - math.inf
    return Statistics(least, least, zero, zero, zero, zero)


def of_block(
    logits: Tensor, label: Tensor, counts: Tensor, weights: Tensor | None, reads: Reads, peak: Tensor | None = None
) -> Statistics:
    """Return the statistics of a block [n, v], relative to M [n] of all blocks; None: to that of this block.

    Args:
        logits: Of any float dtype.
        label: Class indices [n], counted from the first class of the block.
        counts: Whether [n] each row counts; others may hold any logits.
        weights: Weights [v] of the classes; None: 1.
        reads: What the losses read.
        peak: M.
    """
    x = harmless(logits, counts)
    if reads.bound is not None:
        is_number = ops.max(x, -1, keepdims=True) < math.inf  # tanh would turn +inf into a number
        x = ops.where(is_number, ops.tanh(x / reads.bound), math.nan)
    is_own = is_label(label, x)
    is_inside = ops.any(is_own, -1)
    own = ops.where(is_inside, ops.sum(ops.where(is_own, x, 0.0), -1), -math.inf)
    rivals = ops.where(is_own, -math.inf, x)
    peak = ops.stop_gradient(ops.max(rivals, -1)) if peak is None else peak
    shift = ops.expand_dims(ops.where(ops.equal(peak, -math.inf), 0.0, peak), -1)
    shifted = (rivals - shift) / reads.divisor
    exponentials = ops.exp(shifted)
    spread = weight = tilt = ops.zeros_like(own)
    if reads.others:
        weights = ops.ones_like(x[:1]) if weights is None else ops.expand_dims(weights, 0)
        of_others = ops.where(is_own, 0.0, weights)
        weight = ops.sum(of_others, -1)
        spread = -ops.sum(of_others * ops.where(ops.equal(of_others, 0), 0.0, shifted), -1)
    if reads.entropy:
        tilt = ops.sum(exponentials * ops.maximum(shifted, LEAST), -1)
    return Statistics(peak, own, ops.sum(exponentials, -1), spread, weight, tilt)


def merged(first: Statistics, second: Statistics, divisor: float) -> Statistics:
    """Return the statistics of two blocks together."""
    peak = ops.maximum(first.peak, second.peak)
    own = ops.maximum(first.own, second.own)
    return Statistics(peak, own, *map(ops.add, _sums(first, peak, divisor), _sums(second, peak, divisor)))


def _sums(block: Statistics, peak: Tensor, divisor: float) -> tuple[Tensor, ...]:
    """The sums of a block, relative to another peak, which is as large."""
    # Equal peaks are not shifted, even if both are infinite; an infinite shift meets sums that are 0.
    shift = ops.where(ops.equal(block.peak, peak), 0.0, (block.peak - peak) / divisor)
    has_rivals, has_weight = ops.not_equal(block.rivals, 0), ops.not_equal(block.weight, 0)
    factor, bounded = ops.exp(shift), ops.maximum(ops.where(has_rivals, shift, 0.0), LEAST)
    return (
        ops.where(has_rivals, factor * block.rivals, 0.0),
        block.spread - block.weight * ops.where(has_weight, shift, 0.0),
        block.weight,
        ops.where(has_rivals, factor * (block.tilt + block.rivals * bounded), 0.0),
    )


def found(statistics: Statistics, reads: Reads) -> Found:
    """Return what the loss of each row [n] needs, given the statistics of all of its classes."""
    given, rivals = statistics.own, statistics.rivals
    peak = ops.where(ops.equal(statistics.peak, -math.inf), 0.0, statistics.peak)
    own = ops.where(ops.equal(given, math.inf), math.nan, (given - peak) / reads.divisor)
    is_alone = ops.equal(rivals, 0)
    safe = ops.where(is_alone, 1.0, rivals)
    log_rivals = ops.where(is_alone, -math.inf, ops.log(safe))
    log_odds, others, log_partition, entropy = own - log_rivals, None, None, None
    log_sum = ops.where(log_odds > 0, own + softplus(-log_odds), log_rivals + softplus(log_odds))
    if reads.others:
        has_weight = ops.not_equal(statistics.weight, 0)
        others = statistics.weight * ops.where(has_weight, log_sum, 0.0) + statistics.spread
    if reads.log_partition:
        log_partition = peak / reads.divisor + log_sum
    if reads.entropy:
        # By the chain rule: of the label against its rivals, and among the rivals.
        among = ops.where(is_alone, 0.0, ops.log(safe) - statistics.tilt / safe)
        bounded = ops.clip(log_odds, -750.0, 750.0)
        entropy = ops.sigmoid(bounded) * softplus(-bounded)
        entropy = entropy + ops.sigmoid(-bounded) * (softplus(bounded) + among)
    return Found(log_odds, given if reads.bound is None else reads.bound * given, others, log_partition, entropy)
