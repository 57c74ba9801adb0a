"""Losses over two classes, elementwise: logits and a target give the loss of each element."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_xent import log_odds, reading, reduction, targets, weighting
from lightning_xent.base import Loss
from lightning_xent.reduction import Rows
from shared_specs.common.options import BinaryOptions


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryLoss(BinaryOptions, Loss):
    """Base of the losses over two classes, elementwise; multi-label is the same call. A variant adds its curve.

    Every element of the logits is a row. Its target is in [0, 1], 1 for the positive label, of any dtype and of
    the shape of the logits. An axis of size 1, the last or axis 1, may be missing in one of the two: (N,) for (N, 1),
    (B, H, W) for (B, 1, H, W). The loss is the expectation over the two labels: t w_1 curve(x) + (1 - t) w_0 curve(-x).
    """

    is_linear: ClassVar[bool] = True
    has_slope: ClassVar[bool] = False
    is_cross_entropy: ClassVar[bool] = False
    facts: ClassVar[Mapping[str, Collection[str]]] = {
        "is_linear": {"of_target"},
        "has_slope": {"curve", "of_target"},
        "is_cross_entropy": {"curve", "of_target"},
    }
    proofs: ClassVar[Mapping[str, str]] = {"has_slope": "with_slope"}

    def fields_changed(self) -> None:
        super().fields_changed()
        self._pos_weight = None if self.pos_weight is None else weighting.constant(self.pos_weight)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of label 1, elementwise: sigmoid(logits / temperature).

        With from_logits=False the input is returned.
        """
        logits = reading.checked_logits(reading.whole(logits))
        logits = logits.to(reading.compute_dtype(logits))
        return log_odds.sigmoid(log_odds.scaled(logits, self.temperature)) if self.from_logits else logits

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a label, curve(-x), and its derivative, given the log-odds x of the other label.

        A class that defines it, and states `has_slope`, saves automatic differentiation.
        """
        raise NotImplementedError

    def of_target(self, x: Tensor, target: Tensor, weight_1: Tensor | float, weight_0: Tensor | float) -> Tensor:
        """Return the loss of each target, given the log-odds x of label 1 and the weights of both labels."""
        positive = self._expected(self.curve, target * weight_1, x)
        return positive + self._expected(self.curve, (1 - target) * weight_0, -x)

    def _rows(
        self,
        logits: Tensor,
        target: Any,
        sample_weight: Any,
        mask: Any,
        check_labels: bool | None,
        *,
        adds_up: bool = False,
    ) -> Rows:
        logits = logits.to(reading.compute_dtype(logits))
        target = targets.binary_target(target, logits)
        pos_weight = None
        if self._pos_weight is not None:
            # [], or like the logits
            pos_weight = weighting.label_weights("pos_weight", self._pos_weight, logits, self.axis)

        sample_weight = weighting.sample_weight_per_row(sample_weight, tuple(logits.shape), logits)
        kept = weighting.mask_per_row(mask, tuple(logits.shape), logits)
        if self.ignore_index is not None:
            kept = weighting.both(kept, target != self.ignore_index)
        active = kept if sample_weight is None else weighting.both(kept, sample_weight != 0)
        logits = weighting.harmless_logits(logits, kept, sample_weight, ranked=self.hard_fraction < 1.0)

        target, validity, is_label = targets.checked_probabilities(target, active, check_labels)
        target = target.to(logits.dtype)

        x = log_odds.of_positive(logits, self.temperature, self.from_logits)
        given = () if pos_weight is None else (pos_weight,)
        weights = self._weights(target, pos_weight) if self.reduction == "weighted_mean" else None
        by_label = is_label and self._is_of_label_alone and (self.label_smoothing == 0.0 or reading.are_finite(x))
        function: log_odds.Function = self._of_label if by_label else self._of_smoothed
        with_slope: log_odds.WithSlope | None = None
        if self.has_slope:
            with_slope = self._with_slope_of_label if by_label else self._with_slope_of_smoothed
        elements = (function, with_slope, x, target, *given)
        adds_up &= self.entropy_penalty == 0.0 and self.hard_fraction == 1.0
        adds_up &= all(each is None for each in (weights, kept, sample_weight, validity))
        size = reduction.size_of(x) if adds_up else None
        losses = log_odds.elementwise(*elements) if size is None else log_odds.elementwise_sum(*elements)
        if self.entropy_penalty != 0.0:
            losses = losses - self.entropy_penalty * log_odds.binary_entropy(logits, self.temperature, self.from_logits)
        if validity is not None:
            losses = losses * validity.to(losses.dtype)
            self._watch.say_unchecked(type(self).__name__, losses, check_labels)
        return Rows(losses, weights, kept, sample_weight, size)

    def _added_rows(
        self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None
    ) -> Rows:
        return self._rows(logits, target, sample_weight, mask, check_labels, adds_up=True)

    def _weights(self, target: Tensor, pos_weight: Tensor | None = None) -> Tensor | None:
        """Return the weights of targets, elementwise; None if all are 1."""
        if pos_weight is None and self.balance() == (1.0, 1.0):
            return None
        weight_1, weight_0 = self._label_weights(pos_weight)
        return target * weight_1 + (1 - target) * weight_0

    def _label_weights(self, pos_weight: Tensor | None) -> tuple[Tensor | float, float]:
        """Return the weights of labels 1 and 0."""
        weight_1, weight_0 = self.balance()
        return (weight_1 if pos_weight is None else weight_1 * pos_weight), weight_0

    def _of_label(self, x: Tensor, label: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        m, weights = x * log_odds.sign(label), self._weights(label, pos_weight)
        losses = self.curve(m)
        if self._share_of_other > 0.0:
            losses = losses + self._share_of_other * m
        return losses if weights is None else weights * losses

    def _with_slope_of_label(
        self, x: Tensor, label: Tensor, pos_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        sign, weights = log_odds.sign_of_other(label), self._weights(label, pos_weight)
        m = x * sign
        losses, slope = self.with_slope(m)
        if self._share_of_other > 0.0:
            losses, slope = losses - self._share_of_other * m, slope - self._share_of_other
        return (losses, slope, sign) if weights is None else (weights * losses, slope, weights * sign)

    def _of_smoothed(self, x: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        smoothed = targets.smoothed_binary(target, self.label_smoothing, self.smooth_over)
        return self.of_target(x, smoothed, *self._label_weights(pos_weight))

    def _with_slope_of_smoothed(
        self, x: Tensor, target: Tensor, pos_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor, float]:
        smoothed = targets.smoothed_binary(target, self.label_smoothing, self.smooth_over)
        weight_1, weight_0 = self._label_weights(pos_weight)
        mass_1, mass_0 = smoothed * weight_1, (1 - smoothed) * weight_0

        def expected(of_1: Tensor, of_0: Tensor) -> Tensor:
            return self._expected(lambda _: of_1, mass_1, x) + self._expected(lambda _: of_0, mass_0, -x)

        (loss_1, slope_1), (loss_0, slope_0) = self.with_slope(-x), self.with_slope(x)
        return expected(loss_1, loss_0), expected(-slope_1, slope_0), 1.0
