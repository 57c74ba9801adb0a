"""Focal loss: the curve (1 - p)^gamma * softplus(-m), p = sigmoid(m)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import power_of_sigmoid, sigmoid, softplus
from shared_specs.common import arguments

LARGEST_LOW = math.nextafter(math.log(0.25), -math.inf)
"""The largest log-odds at which p is below 0.2, in float64, and also when rounded to float32."""
LARGE = 1e4
"""A larger -log p counts as this where it is multiplied by p, which is 0 there: 0 times infinity would be NaN."""


@dataclass(kw_only=True, eq=False, repr=False)
class _Focal:
    """The curve (1 - p)^gamma * (-log p), p = sigmoid(m).

    Args:
        gamma: Focusing exponent, >= 0; 0 is cross-entropy. "flsd53": 5 where p < 0.2, else 3 (Mukhoti et al., 2020,
            Calibrating Deep Neural Networks using Focal Loss, arXiv:2002.09437).

    Reference: Lin et al., 2017, Focal Loss for Dense Object Detection, arXiv:1708.02002.
    """

    gamma: float | Literal["flsd53"] = arguments.field(2.0, arguments.number_or_name, "[0, inf)", ("flsd53",))

    def curve(self, log_odds: Tensor) -> Tensor:
        return focal(log_odds, self.gamma)


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalFocalCrossEntropy(_Focal, CategoricalLoss):
    """Focal loss over K classes: -sum_c t_c w_c (1 - p_c)^gamma log p_c, p = softmax(logits)."""


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryFocalCrossEntropy(_Focal, BinaryLoss):
    """Binary and multi-label focal loss: -(t w_1 (1-p)^gamma log p + (1-t) w_0 p^gamma log(1-p)), p = sigmoid(logits).

    Args:
        alpha: Weight of label 1, in [0, 1]; label 0 has 1 - alpha. None: 1 for both.
    """

    alpha: float | None = arguments.field(None, arguments.number, "[0, 1]")

    has_slope: ClassVar[bool] = True

    def balance(self) -> tuple[float, float]:
        return (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        m, surprise = -x, softplus(x)
        # 1 - p. torch's own is closer, but 0 from -88.8 down. There the loss is 0 too, for these gammas.
        other = torch.sigmoid(x) if self.gamma in (1.0, 2.0) else sigmoid(x)
        if self.gamma == 0.0:
            return surprise, other
        exponent = torch.where(is_low(m), 5.0, 3.0) if isinstance(self.gamma, str) else self.gamma
        share, bounded = power(m, other, self.gamma), torch.clamp(surprise, max=LARGE)
        return share * surprise, share * (exponent * torch.sigmoid(m) * bounded + other)


def focal(log_odds: Tensor, gamma: float | str) -> Tensor:
    """(1 - p)^gamma * (-log p), p = sigmoid(log_odds)."""
    surprise = softplus(-log_odds)
    return surprise if gamma == 0.0 else modulator(log_odds, gamma) * surprise


def modulator(log_odds: Tensor, gamma: float | str) -> Tensor:
    """(1 - p)^gamma, p = sigmoid(log_odds), for gamma > 0."""
    return power(log_odds, sigmoid(-log_odds), gamma)


def power(log_odds: Tensor, other: Tensor, gamma: float | str) -> Tensor:
    """other^gamma, other = 1 - p, p = sigmoid(log_odds), for gamma > 0."""
    if isinstance(gamma, str):
        low, high = power_of_sigmoid(-log_odds, 5.0), power_of_sigmoid(-log_odds, 3.0)
        return torch.where(is_low(log_odds), low, high)
    # The rounding error of a factor counts gamma times, and the slope of a root is infinite at 0. A power would take
    # gamma as a variable in code that torch compiles for all sizes, where inductor fails.
    if gamma in (1.0, 2.0):
        return other if gamma == 1.0 else other * other
    return power_of_sigmoid(-log_odds, gamma)


def is_low(log_odds: Tensor) -> Tensor:
    """Whether p is below 0.2."""
    return log_odds <= LARGEST_LOW
