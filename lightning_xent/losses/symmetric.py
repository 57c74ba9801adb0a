"""Symmetric cross-entropy: the curve alpha * softplus(-m) - beta * log_zero * sigmoid(-m)."""

from dataclasses import dataclass

from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid, softplus
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class _Symmetric:
    """The curve -alpha log p - beta log_zero (1 - p), p = sigmoid(m).

    Args:
        alpha: Weight of the cross-entropy, >= 0.
        beta: Weight of the reverse cross-entropy, >= 0.
        log_zero: Number < 0 in place of log 0 of a one-hot target. The paper has -4; code that clips the target at
            1e-4 has -9.21.

    Reference: Wang et al., 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels, arXiv:1908.06112.
    """

    alpha: float = arguments.field(0.1, arguments.number, "[0, inf)")
    beta: float = arguments.field(1.0, arguments.number, "[0, inf)")
    log_zero: float = arguments.field(-4.0, arguments.number, "(-inf, 0)")

    def curve(self, log_odds: Tensor) -> Tensor:
        reverse = -self.beta * self.log_zero * sigmoid(-log_odds)
        return reverse if self.alpha == 0.0 else self.alpha * softplus(-log_odds) + reverse


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalSymmetricCrossEntropy(_Symmetric, CategoricalLoss):
    """Cross-entropy plus reverse cross-entropy: sum_c t_c w_c (-alpha log p_c - beta log_zero (1 - p_c))."""


@dataclass(kw_only=True, eq=False, repr=False)
class BinarySymmetricCrossEntropy(_Symmetric, BinaryLoss):
    """Binary and multi-label symmetric cross-entropy: -alpha log p_t - beta log_zero (1 - p_t), elementwise."""
