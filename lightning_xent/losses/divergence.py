"""Kullback-Leibler divergence from a distribution, and from a teacher."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_xent import log_odds, reading, targets
from lightning_xent.categorical import Softmax
from lightning_xent.log_odds import sigmoid, softplus
from lightning_xent.losses.cross_entropy import CategoricalCrossEntropy
from lightning_xent.reduction import Rows
from shared_specs.common import arguments

SHARED = ["axis", "class_weight", "softcap", "label_smoothing", "smooth_over", "ignore_index", "check_labels"]
SHARED += ["hard_fraction", "reduction"]
"""Keywords that also apply to the labels of a distillation."""


@dataclass(kw_only=True, eq=False, repr=False)
class KLDivergence(CategoricalCrossEntropy):
    """Kullback-Leibler divergence KL(t || p) = sum_c t_c w_c (log t_c - log p_c), p = softmax(logits).

    Targets are distributions or class indices, for which it is cross-entropy. It is not linear in the target.

    Reference: Kullback and Leibler, 1951, On Information and Sufficiency, doi:10.1214/aoms/1177729694.
    """

    def of_target(self, softmax: Softmax, target: Tensor, class_weight: Tensor | None) -> Tensor:
        is_empty = target == 0
        own = torch.where(is_empty, 0.0, target * torch.log(torch.where(is_empty, 1.0, target)))  # [..., C]
        own = own if class_weight is None else own * class_weight
        return super().of_target(softmax, target, class_weight) + own.sum(-1)


@dataclass(kw_only=True, eq=False, repr=False)
class Distillation(KLDivergence):
    """Distillation: alpha T^2 KL(softmax(teacher / T) || softmax(logits / T)) + (1 - alpha) CE(label, softmax(logits)).

    The target holds the K logits of the teacher along the class axis and, where alpha < 1, the class index as one more
    entry there. T is `temperature`; it does not apply to the cross-entropy with the label. `ignore_index` is compared
    with the label; with alpha = 1 it has no effect. "mean" is over the rows, which torch.nn.KLDivLoss calls
    "batchmean". Rounding errors grow with T: for ten classes in float32 they stay below 8 eps up to T = 6 (value) and
    T = 20 (gradient). Only logits are accepted: `from_logits=False` raises ValueError.

    Args:
        alpha: Share of the teacher, in [0, 1].

    Reference: Hinton et al., 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531.
    """

    alpha: float = arguments.field(1.0, arguments.number, "[0, 1]")

    logits_only: ClassVar[bool] = True
    takes_distributions: ClassVar[bool] = False

    def fields_changed(self) -> None:
        super().fields_changed()
        self._labels = CategoricalCrossEntropy(**{keyword: getattr(self, keyword) for keyword in SHARED})

    def of_target(self, softmax: Softmax, target: Tensor, class_weight: Tensor | None) -> Tensor:
        if self.alpha == 0.0:
            return 0.0 * log_odds.poison(softmax.logits).squeeze(-1)
        scale = self.alpha * self.temperature**2
        if class_weight is not None:
            return scale * super().of_target(softmax, target, class_weight)
        # p and t both sum to 1, so p - t adds nothing, and leaves terms >= 0 of the order of (p - t)^2. The square of
        # the temperature would magnify the rounding error of a difference of logarithms.
        m = self.of_classes(softmax)
        p, is_empty = sigmoid(m), target == 0
        safe = torch.where(is_empty, 1.0, target)
        deviation = (p - target) / safe
        is_near = torch.abs(deviation) < 0.5
        near = -torch.log1p(torch.where(is_near, deviation, 0.0))
        far = torch.log(safe) + softplus(-torch.where(is_empty, 0.0, m))
        divergence = torch.where(is_empty, 0.0, target * torch.where(is_near, near, far))
        return scale * (divergence + (p - target)).sum(-1)

    def _rows(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None) -> Rows:
        logits = logits.to(reading.compute_dtype(logits))
        teacher, label = targets.teacher_and_label(target, logits, self.axis, has_label=self.alpha < 1.0)
        axis = targets.class_axis(logits, self.axis)
        teacher = torch.softmax(log_odds.scaled(teacher, self.temperature), axis)
        if label is None:
            return super()._rows(logits, teacher, sample_weight, mask, check_labels)
        hard = self._labels._rows(logits, label, sample_weight, mask, check_labels)
        kept = mask if hard.kept is None else hard.kept
        soft = super()._rows(logits, teacher, sample_weight, kept, check_labels)
        ones = torch.ones_like(hard.losses)
        labels, taught = (ones if rows.weights is None else rows.weights for rows in (hard, soft))
        weights = (1 - self.alpha) * labels + self.alpha * taught
        losses = soft.losses + (1 - self.alpha) * hard.losses
        return Rows(losses, weights, soft.kept, soft.sample_weight)
