"""Cross-entropy: the curve softplus(-m)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss, Softmax
from lightning_xent.log_odds import of_distribution, softplus


class _CrossEntropy:
    """The curve -log p, p = sigmoid(m)."""

    def curve(self, log_odds: Tensor) -> Tensor:
        return softplus(-log_odds)


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalCrossEntropy(_CrossEntropy, CategoricalLoss):
    """Cross-entropy over K classes: -sum_c t_c w_c log p_c, p = softmax(logits).

    Targets are class indices or distributions.

    Reference: Good, 1952, Rational Decisions, doi:10.1111/j.2517-6161.1952.tb00104.x.
    """

    is_cross_entropy: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True

    def of_target(self, softmax: Softmax, target: Tensor, class_weight: Tensor | None) -> Tensor:
        if not (self.is_cross_entropy and self.from_logits) or softmax.has_margin:
            return super().of_target(softmax, target, class_weight)
        masses = target if class_weight is None else target * class_weight
        return of_distribution(softmax.logits, masses, softmax.divisor)


@dataclass(kw_only=True, eq=False, repr=False)
class SparseCategoricalCrossEntropy(CategoricalCrossEntropy):
    """Cross-entropy over K classes with class indices as targets: -w_y log p_y, p = softmax(logits).

    A distribution as target is an error. A target in the shape of the logits holds indices, even if K = 1.

    Reference: Good, 1952, Rational Decisions, doi:10.1111/j.2517-6161.1952.tb00104.x.
    """

    labels_only: ClassVar[bool] = True


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryCrossEntropy(_CrossEntropy, BinaryLoss):
    """Binary and multi-label cross-entropy: -(t w_1 log p + (1 - t) log(1 - p)), p = sigmoid(logits).

    Reference: Cox, 1958, The Regression Analysis of Binary Sequences, doi:10.1111/j.2517-6161.1958.tb00292.x.
    """

    has_slope: ClassVar[bool] = True
    is_cross_entropy: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(x), torch.sigmoid(x)
