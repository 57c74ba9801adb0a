"""Taylor cross-entropy: the curve sum_{j=1..order} sigmoid(-m)^j / j."""

from dataclasses import dataclass

from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class _Taylor:
    """The curve sum_{j=1..order} (1 - p)^j / j, p = sigmoid(m).

    Args:
        order: Number of terms, >= 1. 1 is half the mean absolute error; towards infinity it is cross-entropy.

    Reference: Feng et al., 2020, Can Cross Entropy Loss Be Robust to Label Noise? doi:10.24963/ijcai.2020/305.
    """

    order: int = arguments.field(2, arguments.integer, 1)

    def curve(self, log_odds: Tensor) -> Tensor:
        rest = sigmoid(-log_odds)
        value = rest / self.order
        for power in range(self.order - 1, 0, -1):
            value = rest * (1 / power + value)
        return value


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalTaylorCrossEntropy(_Taylor, CategoricalLoss):
    """Taylor series of cross-entropy: sum_c t_c w_c sum_{j=1..order} (1 - p_c)^j / j, p = softmax(logits)."""


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryTaylorCrossEntropy(_Taylor, BinaryLoss):
    """Taylor series of binary and multi-label cross-entropy: sum_{j=1..order} (1 - p_t)^j / j, elementwise."""
