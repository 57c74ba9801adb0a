"""Label relaxation: the divergence of (1 - alpha, alpha) from (p, 1 - p) where p < 1 - alpha, else 0."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import expm1, softplus
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class _LabelRelaxation:
    """The curve KL((1 - alpha, alpha) || (p, 1 - p)), p = sigmoid(m), where p < 1 - alpha, else 0.

    Args:
        alpha: Imprecision of a label, in (0, 1); towards 0 it is cross-entropy.

    Reference: Lienen and Hüllermeier, 2021, From Label Smoothing to Label Relaxation, doi:10.1609/aaai.v35i10.17041.
    """

    alpha: float = arguments.field(0.1, arguments.number, "(0, 1)")

    def curve(self, log_odds: Tensor) -> Tensor:
        alpha = self.alpha
        highest = math.log1p(-alpha) - math.log(alpha)
        # The terms of `far` cancel near its end; far from it the rounding of highest counts in the exponents of `near`.
        is_far = log_odds < highest - 4
        m = torch.clamp(log_odds, max=highest - 4)
        label = (1 - alpha) * (math.log1p(-alpha) + softplus(-m))
        far = label + alpha * (math.log(alpha) + softplus(m))
        # With d = m - highest it is log((1 - alpha) exp(alpha d) + alpha exp(-(1 - alpha) d)), which keeps all digits
        # close to d = 0, where it is of the order of d^2.
        d = -torch.relu(torch.where(is_far, 0.0, highest - log_odds))
        near = torch.log1p(alpha * expm1(-(1 - alpha) * d) + (1 - alpha) * expm1(alpha * d))
        return torch.where(is_far, far, near)


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalLabelRelaxation(_LabelRelaxation, CategoricalLoss):
    """Divergence of p = softmax(logits) from the nearest distribution that gives the label 1 - alpha or more.

    sum_c t_c w_c ((1 - alpha) log((1 - alpha) / p_c) + alpha log(alpha / (1 - p_c))) where p_c < 1 - alpha, else 0.
    """


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryLabelRelaxation(_LabelRelaxation, BinaryLoss):
    """Binary and multi-label relaxation: KL((1 - alpha, alpha) || (p_t, 1 - p_t)) where p_t < 1 - alpha, else 0."""
