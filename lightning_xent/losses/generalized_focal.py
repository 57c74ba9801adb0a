"""Focal losses for detectors. Their targets are qualities in [0, 1], and the loss is not linear in them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_xent.log_odds import sigmoid
from lightning_xent.losses.cross_entropy import BinaryCrossEntropy
from lightning_xent.losses.focal import focal
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class QualityFocalLoss(BinaryCrossEntropy):
    """Quality focal loss: -|t - p|^beta (t w_1 log p + (1 - t) log(1 - p)), p = sigmoid(logits), elementwise.

    The target is a quality in [0, 1], such as the overlap of a box; the loss is 0 where p equals it. It is not linear
    in the target.

    Args:
        beta: Focusing exponent, >= 0; 0 is binary cross-entropy.

    Reference: Li et al., 2020, Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes,
        arXiv:2006.04388.
    """

    beta: float = arguments.field(2.0, arguments.number, "[0, inf)")

    def of_target(self, x: Tensor, target: Tensor, weight_1: Tensor | float, weight_0: Tensor | float) -> Tensor:
        cross_entropy = super().of_target(x, target, weight_1, weight_0)
        if self.beta == 0.0:
            return cross_entropy
        distance = torch.abs(target * sigmoid(-x) - (1 - target) * sigmoid(x))
        # Here its slope is 0 in float64 too. The factor of the slope may overflow: beta * 2e38 does in float32.
        distance = torch.where(torch.abs(x) < 1e3, distance, distance.detach())
        is_met = distance == 0
        return torch.where(is_met, 0.0, torch.where(is_met, 1.0, distance) ** self.beta) * cross_entropy


@dataclass(kw_only=True, eq=False, repr=False)
class VarifocalLoss(BinaryCrossEntropy):
    """Varifocal loss: -t (t w_1 log p + (1 - t) log(1 - p)) where t > 0, else -alpha p^gamma log(1 - p), elementwise.

    p = sigmoid(logits). The target is a quality in [0, 1], such as the overlap of a box, 0 for the background. It is
    not linear in the target.

    Args:
        alpha: Weight of the background, >= 0.
        gamma: Focusing exponent of the background, >= 0.

    Reference: Zhang et al., 2021, VarifocalNet: An IoU-aware Dense Object Detector, arXiv:2008.13367.
    """

    alpha: float = arguments.field(0.75, arguments.number, "[0, inf)")
    gamma: float = arguments.field(2.0, arguments.number, "[0, inf)")

    def of_target(self, x: Tensor, target: Tensor, weight_1: Tensor | float, weight_0: Tensor | float) -> Tensor:
        foreground = super().of_target(x, target, target * weight_1, target * weight_0)
        background = torch.where(target > 0, 0.0, self.alpha * weight_0 * torch.ones_like(target))
        return foreground + self._expected(self.background_curve, background, -x)

    def background_curve(self, log_odds: Tensor) -> Tensor:
        """Return the loss of the background, elementwise, given its log-odds."""
        return focal(log_odds, self.gamma)
