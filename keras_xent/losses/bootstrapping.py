"""Bootstrapping: labels mixed with the network's own prediction."""

from dataclasses import dataclass
from typing import Literal

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import log_odds
from keras_xent.categorical import CategoricalLoss, Softmax
from keras_xent.log_odds import sigmoid, softplus
from shared_specs.common import arguments


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class Bootstrapping(CategoricalLoss):
    """Bootstrapping: -sum_c (beta t_c w_c + (1 - beta) b_c) log p_c, p = softmax(logits).

    With "soft", b is p, not detached, so its term is the entropy of p. With "hard", b is the most probable class, as a
    one-hot row. Class weights do not apply to b.

    Args:
        beta: Share of the target, in [0, 1]; 1 is cross-entropy. The paper uses 0.95 for "soft" and 0.8 for "hard", so
            set it together with `mode`.
        mode: "soft" or "hard".

    Reference: Reed et al., 2015, Training Deep Neural Networks on Noisy Labels with Bootstrapping, arXiv:1412.6596.
    """

    beta: float = arguments.field(0.95, arguments.number, "[0, 1]")
    mode: Literal["soft", "hard"] = arguments.field("soft", arguments.choice, ("soft", "hard"))

    def curve(self, log_odds: Tensor) -> Tensor:
        if self.beta == 0.0:
            return ops.where(ops.isnan(log_odds), log_odds, 0.0)
        return self.beta * softplus(-log_odds)

    def regulariser(self, softmax: Softmax, inputs: Tensor) -> Tensor:
        own = (1 - self.beta) * self._own_loss(softmax)
        others = super().regulariser(softmax, inputs)
        return own if others is None else own + others

    def _own_loss(self, softmax: Softmax) -> Tensor:
        logits, divisor = softmax.logits, softmax.divisor
        if self.mode == "soft" and self.from_logits:
            return log_odds.entropy(logits, divisor, from_logits=True)
        if self.mode == "soft":  # of the limited probabilities, like the cross-entropy
            m = self.of_classes(softmax)
            return ops.sum(sigmoid(m) * softplus(-m), -1)
        return softplus(-log_odds.of_label(logits, ops.argmax(logits, -1), divisor, self.from_logits))
