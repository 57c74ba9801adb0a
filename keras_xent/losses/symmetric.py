"""Symmetric cross-entropy: the curve alpha * softplus(-m) - beta * log_zero * sigmoid(-m)."""

from dataclasses import dataclass

import keras
from keras import KerasTensor as Tensor

from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from keras_xent.log_odds import sigmoid, softplus
from shared_specs.common import arguments


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalSymmetricCrossEntropy(CategoricalLoss):
    """Cross-entropy plus reverse cross-entropy: sum_c t_c w_c (-alpha log p_c - beta log_zero (1 - p_c)).

    Args:
        alpha: Weight of the cross-entropy, >= 0.
        beta: Weight of the reverse cross-entropy, >= 0.
        log_zero: Number < 0 in place of log 0 of a one-hot target. The paper has -4; code that clips the target at
            1e-4 has -9.21.

    Reference: Wang et al., 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels.
    """

    alpha: float = arguments.field(0.1, arguments.number, "[0, inf)")
    beta: float = arguments.field(1.0, arguments.number, "[0, inf)")
    log_zero: float = arguments.field(-4.0, arguments.number, "(-inf, 0)")

    def curve(self, log_odds: Tensor) -> Tensor:
        return symmetric(log_odds, self.alpha, self.beta, self.log_zero)


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BinarySymmetricCrossEntropy(BinaryLoss):
    """Binary and multi-label symmetric cross-entropy: -alpha log p_t - beta log_zero (1 - p_t), elementwise.

    Args:
        alpha: Weight of the cross-entropy, >= 0.
        beta: Weight of the reverse cross-entropy, >= 0.
        log_zero: Number < 0 in place of log 0 of a one-hot target. The paper has -4; code that clips the target at
            1e-4 has -9.21.

    Reference: Wang et al., 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels.
    """

    alpha: float = arguments.field(0.1, arguments.number, "[0, inf)")
    beta: float = arguments.field(1.0, arguments.number, "[0, inf)")
    log_zero: float = arguments.field(-4.0, arguments.number, "(-inf, 0)")

    def curve(self, log_odds: Tensor) -> Tensor:
        return symmetric(log_odds, self.alpha, self.beta, self.log_zero)


def symmetric(log_odds: Tensor, alpha: float, beta: float, log_zero: float) -> Tensor:
    """-alpha log p - beta log_zero (1 - p), p = sigmoid(log_odds)."""
    reverse = -beta * log_zero * sigmoid(-log_odds)
    return reverse if alpha == 0.0 else alpha * softplus(-log_odds) + reverse
