"""Expected calibration error over an epoch."""

from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import log_odds, reading, reduction, targets
from keras_xent.categorical import CategoricalLoss, Softmax
from keras_xent.metrics.sums import SumMetric
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class _Hit(CategoricalLoss):
    """1 where the most probable class is the label, else 0; for a distribution, its mass at that class."""

    def curve(self, log_odds: Tensor) -> Tensor:
        return log_odds

    def of_classes(self, softmax: Softmax) -> Tensor:
        logits = softmax.logits
        return ops.cast(log_odds.is_class(ops.argmax(logits, -1), logits), logits.dtype)


@keras.saving.register_keras_serializable(package="keras_xent")
class ExpectedCalibrationError(SumMetric):
    """Expected calibration error: sum_b abs(sum_{i in b} s_i (hit_i - confidence_i)) / sum s, in [0, 1].

    The confidence of a row is its largest probability. Its hit is 1 if that class is the label, else 0; for a
    distribution it is the mass of that class. Bin b holds the rows with a confidence in ((b-1)/bins, b/bins]. Targets
    are class indices or distributions, one for each row: a position of the logits without the class axis. A bin keeps
    three sums: rows, hits and confidences. `lightning_xent.metrics` has the same class, with the same values.

    Args:
        bins: Number of bins of equal width, >= 1.
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited to +-16.118.
        ignore_index: Rows with this label are ignored, even if their logits are NaN.
        axis: Class axis of the logits. None: the last, as in Keras.
        name: Name of the metric in Keras.

    Reference: Guo et al., 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599.
    """

    def __init__(
        self,
        bins: int = 15,
        *,
        from_logits: bool = True,
        ignore_index: int | None = None,
        axis: int | None = None,
        name: str = "expected_calibration_error",
    ) -> None:
        self.bins = arguments.integer("bins", bins, minimum=1)
        self._hit = _Hit(from_logits=from_logits, ignore_index=ignore_index, axis=axis)
        super().__init__((3, self.bins), name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Count a batch, given as to a loss."""
        y_pred = reading.whole(y_pred)
        rows = self._hit._counted(y_pred, y_true, sample_weight, mask, self._hit.check_labels, has_gradient=False)
        logits = ops.cast(ops.stop_gradient(ops.convert_to_tensor(y_pred)), rows.losses.dtype)
        logits = targets.class_axis_last(logits, targets.class_axis(logits, self._hit.axis))  # [..., C]
        most_odds = ops.max(log_odds.of_classes(logits, 1.0, self._hit.from_logits), -1)  # [...]
        confidence = log_odds.sigmoid(most_odds)
        # Minus 1e-6, because rounding may put a confidence of 1/3 just above 1/3, where a bin ends. The NaN of an
        # ignored row is cast to any number, which `clip` puts into a bin.
        places = ops.cast(ops.ceil(confidence * (self.bins * (1 - 1e-6))), "int32") - 1
        places = ops.clip(places, 0, self.bins - 1)
        numbers = ops.reshape(ops.arange(self.bins, dtype="int32"), (1, -1))
        inside = ops.equal(ops.reshape(places, (-1, 1)), numbers)  # [N, B]
        values = [
            reduction.weighted_losses(rows._replace(losses=value))
            for value in (ops.ones_like(confidence), rows.losses, confidence)
        ]
        self.add(ops.stack([ops.sum(ops.where(inside, ops.reshape(value, (-1, 1)), 0.0), 0) for value in values]))

    def result(self) -> Tensor:
        """Return the error of all rows so far; 0 if none counts."""
        weights, hits, confidences = ops.unstack(ops.convert_to_tensor(self.sums))  # [B]
        _, more_hits, more_confidences = ops.unstack(ops.convert_to_tensor(self.excess))
        gaps = (hits - confidences) - (more_hits - more_confidences)
        return reduction.quotient(ops.sum(ops.abs(gaps)), ops.sum(weights))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        options = ("from_logits", "ignore_index", "axis")
        return {"bins": self.bins, **{option: getattr(self._hit, option) for option in options}, "name": self.name}
