"""Cross-entropy: the curve softplus(-m)."""

from dataclasses import dataclass
from typing import ClassVar

import keras
from keras import KerasTensor as Tensor

from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss, Softmax
from keras_xent.log_odds import of_distribution, sigmoid, softplus
from keras_xent.shapes import along_classes


class _CrossEntropy:
    """The curve -log p, p = sigmoid(m)."""

    def curve(self, log_odds: Tensor) -> Tensor:
        return softplus(-log_odds)


@keras.saving.register_keras_serializable(package="keras_xent")
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
        masses = target if class_weight is None else target * along_classes(class_weight, target)
        return of_distribution(softmax.logits, masses, softmax.divisor)


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class SparseCategoricalCrossEntropy(CategoricalCrossEntropy):
    """Cross-entropy over K classes with class indices as targets: -w_y log p_y, p = softmax(logits).

    A distribution as target is an error. A target in the shape of the logits holds indices, even if K = 1.

    Reference: Good, 1952, Rational Decisions, doi:10.1111/j.2517-6161.1952.tb00104.x.
    """

    labels_only: ClassVar[bool] = True


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class BinaryCrossEntropy(_CrossEntropy, BinaryLoss):
    """Binary and multi-label cross-entropy: -(t w_1 log p + (1 - t) log(1 - p)), p = sigmoid(logits).

    Reference: Cox, 1958, The Regression Analysis of Binary Sequences, doi:10.1111/j.2517-6161.1958.tb00292.x.
    """

    has_slope: ClassVar[bool] = True
    is_cross_entropy: ClassVar[bool] = True

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return softplus(x), sigmoid(x)  # TensorFlow's own is off by 6 ulp
