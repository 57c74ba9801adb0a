"""Jensen-Shannon divergence between a label and p: at most log 2."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid, softplus


class _JensenShannon:
    """The curve (p log(2p / (1+p)) + (1-p) log 2 + log(2 / (1+p))) / 2, p = sigmoid(m).

    Reference: Lin, 1991, Divergence Measures Based on the Shannon Entropy, doi:10.1109/18.61115.
    """

    def curve(self, log_odds: Tensor) -> Tensor:
        is_likely = log_odds >= 0
        m = torch.clamp(log_odds, min=-1e5)  # at -inf p log p would be 0 times infinity
        surprise, p, other = softplus(-m), sigmoid(log_odds), sigmoid(-log_odds)
        bits = torch.log1p(p)
        # Where p > 1/2: (u log((1+p) / p) + log(1 - w^2)) / 2, with u = 1 - p and w = u / (1+p).
        half = torch.clamp(other, max=0.5)
        w = half / (2 - half)
        likely = other * (surprise + bits) + torch.log1p(-w * w)
        # Elsewhere: log 2 - ((1+p) log(1+p) - p log p) / 2. A p below the smallest normal number lacks digits that
        # p log p needs, so p is the square of a root there.
        root = torch.exp(torch.clamp(m, max=0.0) / 2)
        unlikely = 2 * math.log(2) - (1 + p) * bits - root * (root * (surprise / (1 + root * root)))
        return torch.where(is_likely, likely, unlikely) / 2


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalJensenShannon(_JensenShannon, CategoricalLoss):
    """Jensen-Shannon divergence of each label from p = softmax(logits), expected over the target; at most log 2.

    sum_c t_c w_c (KL(e_c || a) + KL(p || a)) / 2, e_c the one-hot label and a the mean of both.
    """


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryJensenShannon(_JensenShannon, BinaryLoss):
    """Binary and multi-label Jensen-Shannon divergence of the label from (p_t, 1 - p_t); at most log 2."""
