"""Mean absolute error of the probabilities: the curve 2 * sigmoid(-m)."""

from dataclasses import dataclass

import keras
from keras import KerasTensor as Tensor

from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from keras_xent.log_odds import sigmoid


class _MeanAbsoluteError:
    """The curve 2 (1 - p), p = sigmoid(m).

    Reference: Ghosh et al., 2017, Robust Loss Functions under Label Noise for Deep Neural Networks, arXiv:1712.09482.
    """

    def curve(self, log_odds: Tensor) -> Tensor:
        return 2 * sigmoid(-log_odds)


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalMeanAbsoluteError(_MeanAbsoluteError, CategoricalLoss):
    """Absolute error of p = softmax(logits) from each label: sum_c t_c w_c 2 (1 - p_c), the sum over all K classes."""


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BinaryMeanAbsoluteError(_MeanAbsoluteError, BinaryLoss):
    """Binary and multi-label absolute error of the probabilities: 2 (1 - p_t), the sum over both labels."""
