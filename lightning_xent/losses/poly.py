"""Poly-1 loss: the curve softplus(-m) + epsilon * sigmoid(-m)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid, softplus
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class _Poly:
    """The curve -log p + epsilon (1 - p), p = sigmoid(m).

    Args:
        epsilon: Weight of the first polynomial term, >= -1; 0 is cross-entropy.

    Reference: Leng et al., 2022, PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions,
        arXiv:2204.12511.
    """

    epsilon: float = arguments.field(1.0, arguments.number, "[-1, inf)")

    def curve(self, log_odds: Tensor) -> Tensor:
        other = sigmoid(-log_odds)
        if self.epsilon > -0.5:
            return softplus(-log_odds) + self.epsilon * other
        # Towards epsilon = -1 the two cancel. other^2 / 2 + other^3 / 3 + ... is left, computed here from
        # -log(1 - other) = 2 artanh(w) and 2 w - other = w * other.
        is_likely = log_odds > -0.5
        small = torch.where(is_likely, other, 0.0)
        w = small / (2 - small)  # up to 0.452
        square = w * w
        series = square / 47
        for power in range(45, 1, -2):
            series = square * (1 / power + series)
        left = torch.where(is_likely, w * (small + 2 * series), softplus(-log_odds) - other)
        return (1 + self.epsilon) * other + left


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalPolyCrossEntropy(_Poly, CategoricalLoss):
    """Poly-1 loss over K classes: sum_c t_c w_c (-log p_c + epsilon (1 - p_c)), p = softmax(logits)."""


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryPolyCrossEntropy(_Poly, BinaryLoss):
    """Binary and multi-label poly-1 loss: -log p_t + epsilon (1 - p_t), p_t the probability of the label."""
