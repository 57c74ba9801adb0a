"""Squared error of the probabilities: the Brier score, for comparison."""

from dataclasses import dataclass

from torch import Tensor

from lightning_xent import log_odds
from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss, Softmax
from lightning_xent.log_odds import sigmoid


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalSquaredError(CategoricalLoss):
    """Brier score over K classes: sum_c t_c w_c ||p - e_c||^2, e_c the one-hot label, p = softmax(logits).

    For a soft target it is the expectation: ||p - t||^2 plus a constant, 1 - ||t||^2.

    Reference: Brier, 1950, Verification of Forecasts Expressed in Terms of Probability,
        doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """

    def of_classes(self, softmax: Softmax) -> Tensor:
        m = super().of_classes(softmax)
        squares = sigmoid(m) ** 2  # [..., C]
        return sigmoid(-m) ** 2 + log_odds.sum_of_others(squares)

    def curve(self, log_odds: Tensor) -> Tensor:
        return log_odds


@dataclass(kw_only=True, eq=False, repr=False)
class BinarySquaredError(BinaryLoss):
    """Binary and multi-label squared error: (1 - p_t)^2, p_t the probability of the label; half the Brier score.

    Reference: Brier, 1950, Verification of Forecasts Expressed in Terms of Probability,
        doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """

    def curve(self, log_odds: Tensor) -> Tensor:
        return sigmoid(-log_odds) ** 2
