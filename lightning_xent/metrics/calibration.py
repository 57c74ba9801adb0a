"""Expected calibration error over an epoch."""

from typing import Any

import torch
from torch import Tensor

from lightning_xent import reading, targets, weighting
from lightning_xent.log_odds import take
from lightning_xent.losses.cross_entropy import CategoricalCrossEntropy
from lightning_xent.metrics.prediction import by_rows, distribution, target_of
from lightning_xent.metrics.sums import Sums, wide
from lightning_xent.reduction import quotient
from shared_specs.common import arguments

BINS = 15
"""Bins of the calibration error, as in Guo et al., 2017, On Calibration of Modern Neural Networks."""
ROWS = 2**14
"""Rows that are sorted into bins at a time, which takes 15 numbers per row."""


class CalibrationError(Sums):
    """Calibration error of confidences: sum_b abs(sum_{i in b} s_i (hit_i - confidence_i)) / sum s, in [0, 1].

    Bin b holds the rows with a confidence in ((b-1)/bins, b/bins]; a confidence of exactly 1 lies in the last. A bin
    keeps three sums: rows, hits and confidences.

    Args:
        bins: Number of bins of equal width, >= 1.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = arguments.integer("bins", bins, minimum=1)
        super().__init__(3, self.bins)

    def update(self, confidence: Tensor, hit: Tensor, weight: Tensor) -> None:
        """Add rows [...] with these confidences, hits and weights; rows of weight 0 may hold anything.

        They are added in parts of 2^14 rows, which float32 can count.
        """
        counts = weight != 0
        confidence = torch.where(counts, confidence, 0.0).float()
        values = torch.stack([torch.ones_like(confidence), hit.to(confidence.dtype), confidence])  # [3, ...]
        values = torch.where(counts, weight.float() * values, 0.0).reshape(3, -1)
        # Minus 1e-6, because rounding may put a confidence of 1/3 just above 1/3, where a bin ends.
        places = (confidence.reshape(-1) * (self.bins * (1 - 1e-6))).ceil().nan_to_num(0.0).clamp(1, self.bins)
        ends = torch.arange(1, self.bins + 1, device=places.device, dtype=places.dtype)
        for place, part in zip(torch.split(places, ROWS), torch.split(values, ROWS, -1), strict=True):
            inside = place.unsqueeze(-1) == ends  # [N, B]
            of_bins = [torch.where(inside, value.unsqueeze(-1), 0.0).sum(0, dtype=wide(value)) for value in part]
            self._add(torch.stack(of_bins))  # [3, B]

    def compute(self) -> Tensor:
        """Return the error of all rows so far; 0 if none counts."""
        (_, hits, confidences), (_, more_hits, more_confidences) = self.sums, self.excess
        gaps = (hits - confidences) - (more_hits - more_confidences)
        return quotient(gaps.abs().sum(), (self.sums - self.excess)[0].sum())


class ExpectedCalibrationError(CalibrationError):
    """Expected calibration error: sum_b abs(sum_{i in b} s_i (hit_i - confidence_i)) / sum s, in [0, 1].

    The confidence of a row is its largest probability. Its hit is 1 if that class is the label, else 0; for a
    distribution it is the mass of that class. Bin b holds the rows with a confidence in ((b-1)/bins, b/bins]. Targets
    are class indices or distributions, one for each row: a position of the logits without the class axis.
    `keras_xent.metrics` has the same class, with the same values.

    Args:
        bins: Number of bins of equal width, >= 1.
        from_logits: Whether the input holds logits. False: probabilities, p_c / sum p.
        ignore_index: Rows with this label are ignored, even if their logits are NaN.
        axis: Class axis of the logits. None: 1, and 0 for 1-D logits, as in torch.

    Reference: Guo et al., 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """

    def __init__(
        self, bins: int = BINS, *, from_logits: bool = True, ignore_index: int | None = None, axis: int | None = None
    ) -> None:
        super().__init__(bins)
        self._loss = CategoricalCrossEntropy(from_logits=from_logits, ignore_index=ignore_index, axis=axis)

    def update(self, logits: Tensor, target: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Add a batch, with the arguments of a loss."""
        logits, target, sample_weight, mask = map(reading.whole, (logits, target, sample_weight, mask))
        logits = reading.checked_logits(logits)
        target, is_label, kept = target_of(self._loss, logits, target, mask)
        weight = weighting.sample_weight_per_row(sample_weight, tuple(kept.shape), logits)
        weight = torch.ones_like(kept, dtype=torch.float32) if weight is None else weight
        if is_label:
            classes = logits.shape[targets.class_axis(logits, self._loss.axis)]
            target, validity = targets.checked_labels(target, classes, kept, kept & (weight != 0), None)
        else:
            target, validity = distribution(self._loss, logits, target, kept & (weight != 0))
        weight = weight if validity is None else weight * validity
        predicted, confidence, _ = by_rows(self._loss, logits, target if is_label else target.argmax(-1))
        hit = predicted == target if is_label else take(target, predicted)
        assert confidence is not None
        super().update(confidence, hit, torch.where(kept, weight, 0.0))
