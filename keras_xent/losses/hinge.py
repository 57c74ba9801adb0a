"""Hinge losses, for comparison: the curve max(0, 1 - m), where m is a margin between logits."""

import math
from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import log_odds
from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss, Softmax


class _Hinge:
    """The curve max(0, 1 - m)."""

    logits_only: ClassVar[bool] = True

    def curve(self, log_odds: Tensor) -> Tensor:
        step = ops.where(log_odds >= 1, 0.0, ops.where(ops.isnan(log_odds), log_odds, ops.ones_like(log_odds)))
        return (1 - ops.where(ops.equal(log_odds, math.inf), 1.0, log_odds)) * step


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalHinge(_Hinge, CategoricalLoss):
    """Hinge loss over K classes: sum_c t_c w_c max(0, 1 - (x_c - max_{j != c} x_j)), x the logits / temperature.

    Only logits are accepted: `from_logits=False` raises ValueError.

    Reference: Crammer and Singer, 2001, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines.
    """

    def of_classes(self, softmax: Softmax) -> Tensor:
        return log_odds.margin_of_classes(softmax.logits, softmax.divisor)


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BinaryHinge(_Hinge, BinaryLoss):
    """Binary and multi-label hinge loss: max(0, 1 - m), m the logit, or minus the logit for label 0.

    Only logits are accepted: `from_logits=False` raises ValueError.

    Reference: Cortes and Vapnik, 1995, Support-Vector Networks, doi:10.1007/BF00994018.
    """
