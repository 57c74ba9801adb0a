"""Mean absolute error of the probabilities: the curve 2 * sigmoid(-m)."""

from dataclasses import dataclass

from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid


class _MeanAbsoluteError:
    """The curve 2 (1 - p), p = sigmoid(m).

    Reference: Ghosh et al., 2017, Robust Loss Functions under Label Noise for Deep Neural Networks, arXiv:1712.09482.
    """

    def curve(self, log_odds: Tensor) -> Tensor:
        return 2 * sigmoid(-log_odds)


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalMeanAbsoluteError(_MeanAbsoluteError, CategoricalLoss):
    """Absolute error of p = softmax(logits) from each label: sum_c t_c w_c 2 (1 - p_c), the sum over all K classes."""


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryMeanAbsoluteError(_MeanAbsoluteError, BinaryLoss):
    """Binary and multi-label absolute error of the probabilities: 2 (1 - p_t), the sum over both labels."""
