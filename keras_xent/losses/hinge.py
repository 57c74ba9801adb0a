"""Hinge losses, for comparison: the curve max(0, 1 - m), where m is a margin between logits."""

import math
from dataclasses import dataclass

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import log_odds
from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss, Softmax


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalHinge(CategoricalLoss):
    """Hinge loss over K classes: sum_c t_c w_c max(0, 1 - (x_c - max_{j != c} x_j)), x the logits / temperature.

    Only logits are accepted: `from_logits=False` raises ValueError.

    Reference: Crammer and Singer, 2001, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines.
    """

    def fields_changed(self) -> None:
        super().fields_changed()
        self._needs_logits()

    def of_classes(self, softmax: Softmax) -> Tensor:
        return log_odds.margin_of_classes(softmax.logits, softmax.divisor)

    def curve(self, log_odds: Tensor) -> Tensor:
        return hinge(log_odds)


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BinaryHinge(BinaryLoss):
    """Binary and multi-label hinge loss: max(0, 1 - m), m the logit, or minus the logit for label 0.

    Only logits are accepted: `from_logits=False` raises ValueError.

    Reference: Cortes and Vapnik, 1995, Support-Vector Networks.
    """

    def fields_changed(self) -> None:
        super().fields_changed()
        self._needs_logits()

    def curve(self, log_odds: Tensor) -> Tensor:
        return hinge(log_odds)


def hinge(margin: Tensor) -> Tensor:
    """max(0, 1 - margin)."""
    step = ops.where(margin >= 1, 0.0, ops.where(ops.isnan(margin), margin, ops.ones_like(margin)))
    return (1 - ops.where(ops.equal(margin, math.inf), 1.0, margin)) * step
