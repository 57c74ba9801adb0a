"""Normalized cross-entropy, and its active-passive loss, the sum with reverse cross-entropy."""

import math
from dataclasses import dataclass

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.categorical import CategoricalLoss, Softmax
from keras_xent.log_odds import sigmoid, softplus
from shared_specs.common import arguments


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class NormalizedCrossEntropy(CategoricalLoss):
    """Normalized cross-entropy: sum_c t_c w_c (alpha log p_c / sum_k log p_k - beta log_zero (1 - p_c)).

    p = softmax(logits). The first term is the active loss, the second, reverse cross-entropy, the passive one.

    Args:
        alpha: Weight of the normalized cross-entropy, >= 0.
        beta: Weight of the reverse cross-entropy, >= 0; the active-passive loss of the paper has 1 and 1 on CIFAR-10.
        log_zero: Number < 0 in place of log 0 of a one-hot target. The authors' code clips the target at 1e-4: -9.21.

    Reference: Ma et al., 2020, Normalized Loss Functions for Deep Learning with Noisy Labels, arXiv:2006.13554.
    """

    alpha: float = arguments.field(1.0, arguments.number, "[0, inf)")
    beta: float = arguments.field(0.0, arguments.number, "[0, inf)")
    log_zero: float = arguments.field(-4.0, arguments.number, "(-inf, 0)")

    def of_classes(self, softmax: Softmax) -> Tensor:
        m = super().of_classes(softmax)
        surprise = softplus(-m)  # [..., C]
        total = ops.sum(surprise, -1, keepdims=True)
        # The ratio is 1 for an impossible class, and 0 for the classes beside it and for the only class.
        is_certain = ops.equal(total, 0) | ops.equal(surprise, math.inf)
        ratio = ops.where(is_certain, 0.0, surprise) / ops.where(ops.equal(total, 0), 1.0, total)
        ratio = ops.where(ops.equal(surprise, math.inf), 1.0, ratio)
        return self.alpha * ratio - self.beta * self.log_zero * sigmoid(-m)

    def curve(self, log_odds: Tensor) -> Tensor:
        return log_odds
