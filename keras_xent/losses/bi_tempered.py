"""Bi-tempered logistic loss: a tempered divergence of a tempered softmax."""

import math
from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import log_odds
from keras_xent.categorical import CategoricalLoss, Softmax
from keras_xent.log_odds import expm1, log1p, softplus
from keras_xent.shapes import along_classes
from shared_specs.common import arguments

SEARCH_STEPS = 8
"""Newton steps to the normaliser. 7 reach the last digit of float64, for 2 to 100000 classes and t2 from 0.5 to 10."""


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BiTemperedLogistic(CategoricalLoss):
    """Bi-tempered logistic loss: sum_c t_c (log_t1 t_c - log_t1 p_c) - (t_c^(2-t1) - p_c^(2-t1)) / (2-t1).

    log_t1(u) = (u^(1-t1) - 1) / (1-t1), and p = exp_t2(logits - norm) is the softmax of temperature t2,
    exp_t2(u) = (1 + (1-t2) u)^(1/(1-t2)). Not linear in the target, but its gradient is: the loss is the expectation
    over the classes plus sum_c w_c t_c log_t1(t_c) / (2-t1). Only logits are accepted: `from_logits=False` raises
    ValueError.

    Args:
        t1: Temperature of the logarithm, in [0, 2); below 1 the loss is bounded.
        t2: Temperature of the softmax, > 0; above 1 its tails are heavy. t1 = t2 = 1 is the divergence KL(t || p).
            K^(t2 - 1) must not overflow; in float32 it must be below 3e38.

    Reference: Amid et al., 2019, Robust Bi-Tempered Logistic Loss Based on Bregman Divergences, arXiv:1906.03361.
    """

    t1: float = arguments.field(0.8, arguments.number, "[0, 2)")
    t2: float = arguments.field(1.2, arguments.number, "(0, inf)")

    logits_only: ClassVar[bool] = True

    def of_classes(self, softmax: Softmax) -> Tensor:
        log_p = self.log_probabilities(softmax)  # [..., C]
        power = ops.exp((2 - self.t1) * log_p)
        others = log_odds.sum_of_others(power)
        return tempered_log(log_p, self.t1 - 1) - tempered_log(log_p, self.t1) + others / (2 - self.t1)

    def curve(self, log_odds: Tensor) -> Tensor:
        return log_odds

    def of_target(self, softmax: Softmax, target: Tensor, class_weight: Tensor | None) -> Tensor:
        is_empty = ops.equal(target, 0)
        log_t = ops.log(ops.where(is_empty, 1.0, target))
        own = ops.where(is_empty, 0.0, target * tempered_log(log_t, self.t1)) / (2 - self.t1)  # [..., C]
        own = own if class_weight is None else own * along_classes(class_weight, own)
        return super().of_target(softmax, target, class_weight) + ops.sum(own, -1)

    def class_probabilities(self, softmax: Softmax) -> Tensor:
        return ops.exp(self.log_probabilities(softmax))

    def log_probabilities(self, softmax: Softmax) -> Tensor:
        """Logarithms [..., C] of the tempered softmax."""
        if self.t2 == 1.0:
            return -softplus(-super().of_classes(softmax))
        activations = log_odds.scaled(log_odds.relative(softmax.logits), softmax.divisor)
        fixed = ops.stop_gradient(activations)
        norm = ops.zeros_like(fixed[..., :1])
        for _ in range(SEARCH_STEPS):
            norm = norm + newton_step(fixed - norm, self.t2)
        # Two more steps do not move the root, but carry its first and second derivatives (implicit functions).
        for _ in range(2):
            norm = norm + newton_step(activations - norm, self.t2)
        return tempered_exponent(activations - norm, self.t2)


def newton_step(shifted: Tensor, t: float) -> Tensor:
    """Step [..., 1] of the norm towards sum_c p_c = 1, from p = exp_t(shifted) [..., C].

    The step is for (sum p)^(1-t), which is concave or convex in the norm, so no step from 0 goes too far.
    """
    log_p = tempered_exponent(shifted, t)
    log_total = ops.logsumexp(log_p, (-1,), keepdims=True)
    log_slope = ops.logsumexp(t * log_p, (-1,), keepdims=True) - log_total
    return expm1((t - 1) * log_total) / (t - 1) * ops.exp(-log_slope)


def tempered_exponent(shifted: Tensor, t: float) -> Tensor:
    """log(exp_t(shifted)) = -log(1 + (1-t) shifted) / (t-1); -inf with gradient 0 where exp_t is 0."""
    inner = (1 - t) * shifted
    is_zero = inner <= -1
    return ops.where(is_zero, -math.inf, log1p(ops.where(is_zero, 0.0, inner)) / (1 - t))


def tempered_log(log_value: Tensor, t: float) -> Tensor:
    """log_t(value) = (value^(1-t) - 1) / (1-t), given log(value); at value 0 the limit, with gradient 0."""
    is_zero = ops.equal(log_value, -math.inf)
    safe = ops.where(is_zero, 0.0, log_value)
    value = safe if t == 1.0 else expm1((1 - t) * safe) / (1 - t)
    return ops.where(is_zero, -1 / (1 - t) if t < 1 else -math.inf, value)
