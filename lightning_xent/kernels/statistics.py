"""What a loss of a label needs of a row, from blocks of its classes that merge: for many classes, and for shards.

A block is [n, v] logits, which are overwritten. With y the label, T the temperature and M the largest logit of the
other classes, its rivals: e_c = exp((x_c - M) / T). M is that of the rivals, so that their sum is at least 1 and a
margin of 100 keeps its digits.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_xent.kernels import blocks, plain
from lightning_xent.kernels.plain import OfLabel

LEAST = -1e4
"""Bound of a shifted logit where exp of it, which is 0, is multiplied by it."""


@dataclass(frozen=True)
class Reads:
    """What the losses of labels read of a row."""

    divisor: float
    """What divides the logits, or the tanh of the capped ones."""
    bound: float | None
    """Of the capped logits."""
    class_weight: Tensor | None
    """[C] or []: weights of the other classes, in the compute dtype."""
    others: bool
    log_partition: bool
    entropy: bool

    def copies(self, logits: Tensor) -> int:
        """Return how many tensors of its size a block of logits needs, given anything of their dtype."""
        is_cast = logits.dtype != blocks.compute_dtype(logits)
        return 1 + int(self.entropy) + int(self.bound is not None) + int(is_cast)


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


class Slopes(NamedTuple):
    """Slopes of the loss of each row in its statistics, all [n, 1]."""

    own: Tensor
    rivals: Tensor
    spread: Tensor | None
    tilt: Tensor | None


class Block:
    """Logits [n, v] of the classes from `first` on, which it overwrites, and the statistics of their rows.

    Args:
        logits: In the compute dtype.
        label: Class indices [n].
        first: Number of the first class.
        reads: What the losses read.
        peak: M [n] of all blocks. None: that of this block.
    """

    def __init__(self, logits: Tensor, label: Tensor, first: int, reads: Reads, peak: Tensor | None = None) -> None:
        size = logits.shape[1]
        self._reads, self._capped = reads, None
        place = label - first
        self._is_inside = ((place >= 0) & (place < size)).unsqueeze(1)  # [n, 1]
        self._place = place.clamp(0, max(0, size - 1)).unsqueeze(1)  # [n, 1]
        self._weights = None
        if reads.others and reads.class_weight is not None:
            weights = reads.class_weight
            self._weights = weights if weights.ndim == 0 else weights[first : first + size]
        if reads.bound is not None:
            is_bad = ~(logits.amax(1, keepdim=True) < math.inf)  # tanh would turn +inf into a number
            self._capped = logits.div_(reads.bound).tanh_()
            self._capped.masked_fill_(is_bad, math.nan)
            logits = self._capped.clone()
        own = self._at_label(logits, -math.inf)
        self._set_label(logits, -math.inf)
        largest = logits.amax(1, keepdim=True) if size else own.new_full(own.shape, -math.inf)
        given = largest if peak is None else peak.unsqueeze(1)
        shift = given.masked_fill(given == -math.inf, 0.0)
        shifted = logits.sub_(shift)
        if reads.divisor != 1.0:
            shifted.div_(reads.divisor)
        spread, weight = torch.zeros_like(own), torch.zeros_like(own)
        if self._weights is not None:
            spread, weight = self._spread(shifted)
        self._shifted = shifted.clamp(min=LEAST) if reads.entropy else None
        self.exponentials = shifted.exp_()
        rivals = self.exponentials.sum(1, keepdim=True)
        tilt = torch.zeros_like(own)
        if self._shifted is not None:
            tilt = blocks.product_sums(self._shifted, self.exponentials)
        found = given, own, rivals, spread, weight, tilt
        self.statistics = Statistics(*(each.squeeze(1) for each in found))

    def gradient(self, slopes: Slopes) -> Tensor:
        """Return the gradient [n, v] of the logits, in the memory of the exponentials."""
        divisor, gradient = self._reads.divisor, self.exponentials
        if slopes.tilt is not None and self._shifted is not None:
            factor = self._shifted.add_(1.0).mul_(slopes.tilt / divisor).add_(slopes.rivals / divisor)
            gradient.mul_(factor)
        else:
            gradient.mul_(slopes.rivals / divisor)
        if slopes.spread is not None and self._weights is not None:
            if self._weights.ndim == 0:
                gradient.sub_(self._weights * slopes.spread / divisor)
            else:
                gradient.addcmul_(slopes.spread / divisor, self._weights, value=-1.0)
        self._set_label(gradient, slopes.own)
        if self._capped is not None and self._reads.bound is not None:
            slope = self._capped.square_().neg_().add_(1.0)
            gradient.mul_(slope.div_(self._reads.bound))
        return gradient

    def _spread(self, shifted: Tensor) -> tuple[Tensor, Tensor]:
        weights = self._weights
        assert weights is not None
        self._set_label(shifted, 0.0)
        if weights.ndim == 0:
            product = weights * shifted.sum(1, keepdim=True)
            weight = weights * (shifted.shape[1] - self._is_inside.to(shifted.dtype))
        else:
            product = blocks.product_sums(shifted, weights, skips_zeros=bool((weights == 0).any()))
            place = torch.where(self._is_inside, self._place, -1)
            weight = _sum_without(weights, place)
        self._set_label(shifted, -math.inf)
        return -product, weight

    def _at_label(self, values: Tensor, otherwise: float) -> Tensor:
        if values.shape[1] == 0:
            return values.new_full((values.shape[0], 1), otherwise)
        return values.gather(1, self._place).masked_fill(~self._is_inside, otherwise)

    def _set_label(self, values: Tensor, value: Tensor | float) -> None:
        if values.shape[1]:
            values.scatter_(1, self._place, torch.where(self._is_inside, value, values.gather(1, self._place)))


def merged(blocks_of_row: Sequence[Statistics], divisor: float) -> Statistics:
    """Return the statistics of all classes, given those of blocks; the order counts for the last digit."""
    if len(blocks_of_row) == 1:
        return blocks_of_row[0]
    given = [torch.stack(each) for each in zip(*blocks_of_row, strict=True)]  # [B, n]
    peaks, own, rivals, spread, weight, tilt = given
    peak = peaks.amax(0)
    # Equal peaks are not shifted, even if both are infinite; an infinite shift meets sums that are 0.
    shift = torch.where(peaks == peak, 0.0, (peaks - peak) / divisor)
    factor = shift.exp()
    shift_of_sums = torch.where(rivals == 0, 0.0, shift)
    return Statistics(
        peak,
        own.amax(0),
        torch.where(rivals == 0, 0.0, factor * rivals).sum(0),
        (spread - weight * torch.where(weight == 0, 0.0, shift)).sum(0),
        weight.sum(0),
        torch.where(rivals == 0, 0.0, factor * (tilt + rivals * shift_of_sums.clamp(min=LEAST))).sum(0),
    )


def found(statistics: Statistics, reads: Reads) -> OfLabel:
    """Return what the loss of each row [n] needs, given the statistics of all of its classes."""
    divisor = reads.divisor
    peak = statistics.peak.masked_fill(statistics.peak == -math.inf, 0.0)
    own = torch.where(statistics.own == math.inf, math.nan, (statistics.own - peak) / divisor)
    log_rivals = plain.safe_log(statistics.rivals)
    log_odds, others, log_partition, entropy = own - log_rivals, None, None, None
    log_sum = torch.logaddexp(own, log_rivals) if reads.others or reads.log_partition else own
    if reads.others:
        others = statistics.weight * torch.where(statistics.weight == 0, 0.0, log_sum) + statistics.spread
    if reads.log_partition:
        log_partition = peak / divisor + log_sum
    if reads.entropy:
        # By the chain rule: of the label against its rivals, and among the rivals.
        is_alone = statistics.rivals == 0
        safe = torch.where(is_alone, 1.0, statistics.rivals)
        among = torch.where(is_alone, 0.0, safe.log() - statistics.tilt / safe)
        bounded = log_odds.clamp(-750.0, 750.0)
        own_part = torch.sigmoid(bounded) * _softplus(-bounded)
        entropy = own_part + torch.sigmoid(-bounded) * (_softplus(bounded) + among)
    logit = statistics.own if reads.bound is None else reads.bound * statistics.own
    return OfLabel(log_odds, others, log_partition, entropy, logit)


def slopes_of(
    statistics: Statistics, reads: Reads, losses_of: Callable[[OfLabel], Tensor], factor: Tensor
) -> tuple[Tensor, Slopes]:
    """Return the losses [n], and the slopes of factor * loss in the statistics; the peak is a constant."""
    with torch.enable_grad():
        given = statistics._replace(
            own=statistics.own.detach().requires_grad_(),
            rivals=statistics.rivals.detach().requires_grad_(),
            spread=statistics.spread.detach().requires_grad_(reads.others),
            tilt=statistics.tilt.detach().requires_grad_(reads.entropy),
        )
        losses = losses_of(found(given, reads))
    wanted = [given.own, given.rivals]
    wanted += [given.spread] if reads.others else []
    wanted += [given.tilt] if reads.entropy else []
    slopes = [each.unsqueeze(1) for each in torch.autograd.grad(losses, wanted, factor)]
    own, rivals, *rest = slopes
    spread = rest.pop(0) if reads.others else None
    return losses.detach(), Slopes(own, rivals, spread, rest[0] if reads.entropy else None)


def of_block(slopes: Slopes, block: Statistics, whole: Statistics, divisor: float) -> Slopes:
    """Return the slopes in the statistics of a block at its own peak, given those in what it is `merged` to."""
    # As in `merged`: no shift of equal peaks, nor of a block without rivals.
    shift = torch.where((block.peak == whole.peak) | (block.rivals == 0), 0.0, (block.peak - whole.peak) / divisor)
    factor, shift = shift.exp().unsqueeze(1), shift.clamp(min=LEAST).unsqueeze(1)
    rivals = slopes.rivals if slopes.tilt is None else slopes.rivals + shift * slopes.tilt
    tilt = None if slopes.tilt is None else factor * slopes.tilt
    return slopes._replace(rivals=factor * rivals, tilt=tilt)


def _sum_without(weights: Tensor, place: Tensor) -> Tensor:
    """Sum [n, 1] of the weights [v] without the one at `place` [n, 1], -1: of all; rounded once."""
    wide = weights.double()
    zero = wide.new_zeros(1)
    # Sums from both ends, because the sum of all minus one weight may lose all digits.
    before, after = torch.cat([zero, wide.cumsum(0)]), torch.cat([wide.flip(0).cumsum(0).flip(0), zero])
    total = torch.where(place < 0, before[-1], before[place.clamp(min=0)] + after[place.clamp(min=0) + 1])
    return total.to(weights.dtype)


def _softplus(value: Tensor) -> Tensor:
    return torch.nn.functional.softplus(value, threshold=80.0)
