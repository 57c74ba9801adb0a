"""Cross-entropy of one view, and the agreement of several views of a row."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import log_odds
from keras_xent.categorical import Softmax
from keras_xent.log_odds import log1p, sigmoid, softplus
from keras_xent.losses.cross_entropy import CategoricalCrossEntropy
from shared_specs.common import arguments

LEAST = -1e4
"""Bound of the log-odds, at which p is 0 in float64 too: the difference of two -inf is NaN, 12 * 3e38 infinite."""


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class JensenShannonConsistency(CategoricalCrossEntropy):
    """Cross-entropy of the first view plus weight * JS(p_1, ..., p_V) of all views: sum_v KL(p_v || mean_v p_v) / V.

    The class axis of the logits holds the K logits of each view, one view after the other: V K numbers. Regularisers
    use the first view.

    Args:
        views: Number of views V, >= 2; the first is the clean one.
        weight: Weight of the divergence, >= 0.

    Reference: Hendrycks et al., 2020, AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty,
        arXiv:1912.02781.
    """

    views: int = arguments.field(3, arguments.integer, 2)
    weight: float = arguments.field(12.0, arguments.number, "[0, inf)")

    reads_one_logits: ClassVar[bool] = False

    def count_classes(self, size: Any) -> Any:
        if isinstance(size, int) and size % self.views:
            raise ValueError(f"y_pred must hold {self.views} views of K classes on the class axis, got size {size}")
        return None if size is None else size // self.views

    def softmax_input(self, inputs: Tensor) -> Softmax:
        return self.softmax(self._views(self.capped(inputs))[..., 0, :])

    def regulariser(self, softmax: Softmax, inputs: Tensor) -> Tensor:
        consistency = self.weight * self._divergence(self._views(self.capped(inputs)))
        others = super().regulariser(softmax, inputs)
        return consistency if others is None else consistency + others

    def _views(self, logits: Tensor) -> Tensor:
        self.count_classes(logits.shape[-1])
        # Not a reshape, for which JAX would gather logits whose classes are sharded over devices.
        return ops.stack(ops.split(logits, self.views, axis=-1), axis=-2)  # [..., V, C]

    def _divergence(self, logits: Tensor) -> Tensor:
        """Jensen-Shannon divergence [...] of the views in logits [..., V, C]."""
        m = log_odds.of_classes(logits, self.divisor, self.from_logits)
        m = ops.where(m < LEAST, LEAST, m)
        p, log_p = sigmoid(m), -softplus(-m)
        mean = ops.mean(p, -2, keepdims=True)  # [..., 1, C]
        # p log(p / mean) - (p - mean) sums to the divergence, because the deviations sum to 0: near the mean it is of
        # the order of their squares. Tiny means are not divisors, because JAX squares the divisor for the slope.
        is_divisor = mean > 1e-12
        deviation = (p - mean) / ops.where(is_divisor, mean, 1.0)
        is_near = ops.logical_and(is_divisor, ops.abs(deviation) < 0.5)
        d = ops.where(is_near, deviation, 0.0)
        log_mean = ops.logsumexp(log_p, (-2,), keepdims=True) - math.log(self.views)
        far = p * (log_p - log_mean) - (p - mean)
        term = ops.where(is_near, mean * ((1 + d) * log1p(d) - d), far)
        return ops.mean(ops.sum(term, -1), -1)
