"""Asymmetric loss: one focal curve for label 1, another for label 0, of a shifted probability."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.log_odds import sigmoid, softplus
from lightning_xent.losses.focal import modulator
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class AsymmetricLoss(BinaryLoss):
    """Multi-label loss: -(t w_1 (1-p)^gamma_pos log p + (1-t) q^gamma_neg log(1-q)), q = max(p - margin, 0).

    p = sigmoid(logits), elementwise. A label 0 with p below the margin has loss 0.

    Args:
        gamma_pos: Focusing exponent of label 1, >= 0.
        gamma_neg: Focusing exponent of label 0, >= 0.
        margin: Shift of the probability for label 0, in [0, 1).
        detach_modulator: Whether the factors (1-p)^gamma_pos and q^gamma_neg get no gradient. The value is the same.

    Reference: Ridnik et al., 2021, Asymmetric Loss For Multi-Label Classification, arXiv:2009.14119.
    """

    gamma_pos: float = arguments.field(0.0, arguments.number, "[0, inf)")
    gamma_neg: float = arguments.field(4.0, arguments.number, "[0, inf)")
    margin: float = arguments.field(0.05, arguments.number, "[0, 1)")
    detach_modulator: bool = arguments.field(False, arguments.choice, (True, False))

    def of_target(self, x: Tensor, target: Tensor, weight_1: Tensor | float, weight_0: Tensor | float) -> Tensor:
        positive = self._expected(self.curve, target * weight_1, x)
        return positive + self._expected(self.negative_curve, (1 - target) * weight_0, -x)

    def curve(self, log_odds: Tensor) -> Tensor:
        """Return the loss of label 1, elementwise, given its log-odds."""
        return self._focal(log_odds, self.gamma_pos)

    def negative_curve(self, log_odds: Tensor) -> Tensor:
        """Return the loss of label 0, elementwise, given its log-odds."""
        if self.margin == 0.0:
            return self._focal(log_odds, self.gamma_neg)
        shifted = sigmoid(-log_odds) - self.margin
        is_easy = shifted <= 0
        shifted = torch.where(is_easy, 0.5, shifted)
        # log1p keeps the digits of a small probability, the sum with the margin those of one near 1.
        is_small = shifted < 0.5
        near_one = torch.log(sigmoid(log_odds) + self.margin)
        surprise = -torch.where(is_small, torch.log1p(-torch.where(is_small, shifted, 0.0)), near_one)
        if self.gamma_neg != 0.0:
            surprise = self._modulator(shifted**self.gamma_neg) * surprise
        return torch.where(is_easy, 0.0, surprise)

    def _focal(self, log_odds: Tensor, gamma: float) -> Tensor:
        surprise = softplus(-log_odds)
        if gamma == 0.0:
            return surprise
        return self._modulator(modulator(log_odds, gamma)) * surprise

    def _modulator(self, factor: Tensor) -> Tensor:
        return factor.detach() if self.detach_modulator else factor
