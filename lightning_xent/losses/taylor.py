"""Taylor cross-entropy: the curve sum_{j=1..order} sigmoid(-m)^j / j."""

from dataclasses import dataclass

from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalTaylorCrossEntropy(CategoricalLoss):
    """Taylor series of cross-entropy: sum_c t_c w_c sum_{j=1..order} (1 - p_c)^j / j, p = softmax(logits).

    Args:
        order: Number of terms, >= 1. 1 is half the mean absolute error; towards infinity it is cross-entropy.

    Reference: Feng et al., 2020, Can Cross Entropy Loss Be Robust to Label Noise?
    """

    order: int = arguments.field(2, arguments.integer, 1)

    def curve(self, log_odds: Tensor) -> Tensor:
        return taylor(log_odds, self.order)


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryTaylorCrossEntropy(BinaryLoss):
    """Taylor series of binary and multi-label cross-entropy: sum_{j=1..order} (1 - p_t)^j / j, elementwise.

    Args:
        order: Number of terms, >= 1. 1 is half the mean absolute error; towards infinity it is cross-entropy.

    Reference: Feng et al., 2020, Can Cross Entropy Loss Be Robust to Label Noise?
    """

    order: int = arguments.field(2, arguments.integer, 1)

    def curve(self, log_odds: Tensor) -> Tensor:
        return taylor(log_odds, self.order)


def taylor(log_odds: Tensor, order: int) -> Tensor:
    """The first `order` terms of the series of -log p in 1 - p, p = sigmoid(log_odds)."""
    rest = sigmoid(-log_odds)
    value = rest / order
    for power in range(order - 1, 0, -1):
        value = rest * (1 / power + value)
    return value
