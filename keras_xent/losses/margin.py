"""Cross-entropy in which the true class must lead by a margin: its logit is reduced, and all are scaled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import weighting
from keras_xent.categorical import Margin
from keras_xent.losses.cross_entropy import CategoricalCrossEntropy
from shared_specs.common import arguments


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class LDAMCrossEntropy(CategoricalCrossEntropy):
    """Label-distribution-aware margin loss: cross-entropy of scale * (x_c - margin_c) against scale * x_j, j != c.

    margin_c is proportional to class_counts_c^(-1/4), x the logits / temperature: cosines of features and class
    vectors, in [-1, 1]. With logits that are not normalised set `scale` to 1. Regularisers use scale * x, without the
    margin. Only logits are accepted: `from_logits=False` raises ValueError.

    Args:
        class_counts: K numbers of training rows, > 0.
        max_margin: Margin of the rarest class, >= 0.
        scale: Factor > 0 of the logits.

    Reference: Cao et al., 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
        arXiv:1906.07413.
    """

    class_counts: Sequence[float] = field(metadata=arguments.checked(arguments.counts))
    max_margin: float = arguments.field(0.5, arguments.number, "[0, inf)")
    scale: float = arguments.field(30.0, arguments.number, "(0, inf)")

    logits_only: ClassVar[bool] = True

    def fields_changed(self) -> None:
        super().fields_changed()
        arguments.same_length("class_counts", self.class_counts, self.class_weight)
        self._margins = weighting.constant(self.margins)

    @property
    def margins(self) -> tuple[float, ...]:
        """The margins of the K classes."""
        rarest = min(self.class_counts)
        return tuple(self.max_margin * (rarest / count) ** 0.25 for count in self.class_counts)

    @property
    def divisor(self) -> float:
        return self.temperature / self.scale

    def margin_in(self, logits: Tensor) -> Margin:
        margins: Tensor = self.temperature * weighting.per_class("class_counts", self._margins, logits)  # [C]
        return margins


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class CosFaceCrossEntropy(CategoricalCrossEntropy):
    """CosFace, AM-softmax: cross-entropy of scale * (x_c - margin) against scale * x_j, j != c.

    x are the logits / temperature: cosines of features and class vectors. Logits beyond [-1, 1] warn. Regularisers use
    scale * x, without the margin. Only logits are accepted: `from_logits=False` raises ValueError.

    Args:
        margin: Number >= 0 that is subtracted from the cosine of the true class.
        scale: Factor > 0 of the cosines.

    Reference: Wang et al., 2018, CosFace: Large Margin Cosine Loss for Deep Face Recognition, arXiv:1801.09414; Wang et
        al., 2018, Additive Margin Softmax for Face Verification, arXiv:1801.05599.
    """

    margin: float = arguments.field(0.35, arguments.number, "[0, inf)")
    scale: float = arguments.field(64.0, arguments.number, "(0, inf)")

    logits_only: ClassVar[bool] = True
    takes_cosines: ClassVar[bool] = True

    @property
    def divisor(self) -> float:
        return self.temperature / self.scale

    def margin_in(self, logits: Tensor) -> Margin:
        return self.temperature * self.margin


@keras.saving.register_keras_serializable(package="keras_xent")
@dataclass(kw_only=True, eq=False, repr=False)
class ArcFaceCrossEntropy(CategoricalCrossEntropy):
    """ArcFace: cross-entropy of scale * cos(angle_c + margin) against scale * x_j, j != c.

    x = cos(angle) are cosines of features and class vectors. Logits beyond [-1, 1] warn. Where angle + margin is beyond
    pi the cosine of the true class is x_c - margin * sin(margin), which keeps falling with the angle. The gradient is
    that of the value; where rounding takes |x_c| to 1 or beyond, the infinite part of it is left out. Regularisers use
    scale * x, without the margin. Only logits are accepted: `from_logits=False` raises ValueError. So does a
    temperature: use `scale`.

    Args:
        margin: Number of radians in [0, pi / 2] that is added to the angle of the true class.
        scale: Factor > 0 of the cosines.

    Reference: Deng et al., 2019, ArcFace: Additive Angular Margin Loss for Deep Face Recognition, arXiv:1801.07698.
    """

    margin: float = arguments.field(0.5, arguments.number, f"[0, {math.pi / 2}]")
    scale: float = arguments.field(64.0, arguments.number, "(0, inf)")

    logits_only: ClassVar[bool] = True
    takes_cosines: ClassVar[bool] = True

    def fields_changed(self) -> None:
        super().fields_changed()
        if self.temperature != 1.0:
            raise ValueError(f"temperature must be 1 for {type(self).__name__}, got {self.temperature}")

    @property
    def divisor(self) -> float:
        return 1 / self.scale

    def margin_in(self, logits: Tensor) -> Margin:
        return self._margin_of_cosine

    def _margin_of_cosine(self, cosine: Tensor) -> Tensor:
        is_inside = ops.abs(cosine) < 1
        inside = ops.where(is_inside, cosine, 0.0)
        sine = ops.where(is_inside, ops.sqrt((1 - inside) * (1 + inside)), 0.0)
        cos_margin, sin_margin = math.cos(self.margin), math.sin(self.margin)
        lost = (1 - cos_margin) * ops.where(ops.isinf(cosine), 0.0, cosine) + sin_margin * sine
        return ops.where(cosine > -cos_margin, lost, self.margin * sin_margin)
