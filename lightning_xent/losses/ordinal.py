"""Losses over ordered classes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_xent import log_odds
from lightning_xent.categorical import CategoricalLoss, Softmax
from lightning_xent.log_odds import sigmoid, softplus
from lightning_xent.losses.cross_entropy import CategoricalCrossEntropy


@dataclass(kw_only=True, eq=False, repr=False)
class OrdinalCrossEntropy(CategoricalCrossEntropy):
    """Cross-entropy over K ordered classes of K - 1 logits (CORN): -sum_c t_c w_c log P(c).

    Logit k is the logit of P(y > k | y >= k), so P(c) = prod_{k < c} sigmoid(x_k) * (1 - sigmoid(x_c)), with the last
    factor for c < K - 1 only. "mean" is over the rows; the authors' code divides by the number of pairs of a row and a
    logit that it trains. The entropy penalty uses P. Only logits are accepted: `from_logits=False` raises ValueError.
    So does z_loss, because P is normalised already.

    Reference: Shi et al., 2023, Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional
        Probabilities, arXiv:2111.08851.
    """

    logits_only: ClassVar[bool] = True

    def fields_changed(self) -> None:
        super().fields_changed()
        if self.z_loss != 0.0:
            raise ValueError(f"z_loss must be 0 for {type(self).__name__}, got {self.z_loss}")
        if not type(self).has_plain_softmax:
            raise TypeError(f"{type(self).__name__} must not have a divisor or margin_in of its own: it has no softmax")

    def count_classes(self, size: int) -> int:
        return size + 1

    def class_probabilities(self, softmax: Softmax) -> Tensor:
        return torch.exp(softmax.plain)

    def softmax_input(self, inputs: Tensor) -> Softmax:
        logits = self.capped(inputs)
        x = log_odds.scaled(logits, self.temperature)
        surprise = softplus(-x)
        passed = -(log_odds.sums_before(surprise) + surprise)  # [..., C - 1]: log P(y > k)
        first = torch.zeros_like(x[..., :1])
        stopped = torch.cat([-softplus(x), first], -1)  # [..., C]
        return Softmax((torch.cat([first, passed], -1) + stopped) * log_odds.poison(logits), 1.0)


@dataclass(kw_only=True, eq=False, repr=False)
class SquaredEarthMoverDistance(CategoricalLoss):
    """Squared earth mover's distance over K ordered classes: sum_c t_c w_c sum_k (P_k - [c <= k])^2.

    P_k = p_0 + ... + p_k, p = softmax(logits). For a soft target it is the expectation: the squared distance between
    both cumulative distributions plus a constant, sum_k T_k (1 - T_k).

    Reference: Hou et al., 2016, Squared Earth Mover's Distance-based Loss for Training Deep Neural Networks,
        arXiv:1611.05916.
    """

    def of_classes(self, softmax: Softmax) -> Tensor:
        p = sigmoid(super().of_classes(softmax))  # [..., C]
        below = (log_odds.sums_before(p) + p) ** 2  # P_k^2
        above = (log_odds.sums_after(p) + p) ** 2  # (1 - P_{k-1})^2
        return log_odds.sums_before(below) + log_odds.sums_after(above)

    def curve(self, log_odds: Tensor) -> Tensor:
        return log_odds
