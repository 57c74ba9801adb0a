"""Jensen-Shannon divergence of a label from p: at most log 2."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import sigmoid, softplus


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalJensenShannon(CategoricalLoss):
    """Jensen-Shannon divergence of each label from p = softmax(logits), expected over the target; at most log 2.

    sum_c t_c w_c (KL(e_c || a) + KL(p || a)) / 2, e_c the one-hot label and a the mean of both.

    Reference: Lin, 1991, Divergence Measures Based on the Shannon Entropy.
    """

    def curve(self, log_odds: Tensor) -> Tensor:
        return jensen_shannon(log_odds)


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryJensenShannon(BinaryLoss):
    """Binary and multi-label Jensen-Shannon divergence of the label from (p_t, 1 - p_t); at most log 2.

    Reference: Lin, 1991, Divergence Measures Based on the Shannon Entropy.
    """

    def curve(self, log_odds: Tensor) -> Tensor:
        return jensen_shannon(log_odds)


def jensen_shannon(log_odds: Tensor) -> Tensor:
    """(p log(2p / (1+p)) + (1-p) log 2 + log(2 / (1+p))) / 2 of p = sigmoid(log_odds)."""
    rest, p = sigmoid(-log_odds), sigmoid(log_odds)
    # p log p, which is 0 from -200 down; there its gradient would be 0 times infinity.
    surprise = p * softplus(-torch.where(log_odds < -200, -200.0, log_odds))
    return (rest * math.log(2) - surprise + (1 + p) * torch.log1p(rest / (1 + p))) / 2
