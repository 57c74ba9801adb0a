"""Generalized cross-entropy: the curve (1 - p^q) / q, p = sigmoid(m)."""

import math
from dataclasses import dataclass

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from keras_xent.log_odds import expm1, power_of_sigmoid, softplus
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class _Generalized:
    """The curve (1 - p^q) / q, p = sigmoid(m), constant below `truncate_at`.

    Args:
        q: Exponent, in (0, 1]. Towards 0 it is cross-entropy; 1 is half the mean absolute error.
        truncate_at: Probability in (0, 1) below which the loss of a class stays that of `truncate_at`, with
            gradient 0. None: no truncation.

    Reference: Zhang and Sabuncu, 2018, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
        Labels, arXiv:1805.07836.
    """

    q: float = arguments.field(0.7, arguments.number, "(0, 1]")
    truncate_at: float | None = arguments.field(None, arguments.number, "(0, 1)")

    def curve(self, log_odds: Tensor) -> Tensor:
        if self.truncate_at is not None:
            lowest = math.log(self.truncate_at) - math.log1p(-self.truncate_at)
            log_odds = ops.where(log_odds < lowest, lowest, log_odds)
        surprise = softplus(-log_odds)
        z = self.q * surprise
        # The gradient of expm1(-z) is computed from its value plus 1, which loses all digits at large z.
        is_small = z < 1
        small = -expm1(-ops.where(is_small, z, 1.0))
        value = ops.where(is_small, small, 1 - power_of_sigmoid(log_odds, self.q)) / self.q
        # With a small q, z underflows before -log p does.
        return value if self.q > 0.1 else ops.where(z < 1e-17, surprise, value)


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalGeneralizedCrossEntropy(_Generalized, CategoricalLoss):
    """Generalized cross-entropy (Lq) over K classes: sum_c t_c w_c (1 - p_c^q) / q, p = softmax(logits)."""


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BinaryGeneralizedCrossEntropy(_Generalized, BinaryLoss):
    """Binary and multi-label generalized cross-entropy (Lq): (1 - p_t^q) / q, p_t the probability of the label."""
