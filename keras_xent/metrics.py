"""Metrics of the same definition as the losses: each is a quotient of sums over all rows of an epoch.

A mean of the batches' means would be another number where batches differ in rows, ignored rows or weights. Under
tf.distribute Keras adds up the sums of the replicas. In `fit` on JAX it passes predictions without their mask, in
`evaluate` with it. Precision, recall and F1 are Keras' own.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import arguments, log_odds, reduction, targets
from keras_xent.base import Loss
from keras_xent.categorical import CategoricalLoss
from keras_xent.losses.cross_entropy import BinaryCrossEntropy, CategoricalCrossEntropy


class SumMetric(keras.metrics.Metric):
    """Base of the metrics: sums over all rows, from which a metric computes its result.

    Args:
        shape: Shape of the sums.
        name: Name of the metric in Keras.
    """

    def __init__(self, shape: tuple[int, ...], name: str) -> None:
        # Whatever floatx is: half precision would lose count at 256 or 2048 rows.
        super().__init__(name=name, dtype="float32")
        self.sums = self.add_variable(shape=shape, initializer="zeros", dtype=self.dtype, name="sums")
        self.excess = self.add_variable(shape=shape, initializer="zeros", dtype=self.dtype, name="excess")
        self._direction = "down"  # for callbacks that monitor it

    def add(self, values: Tensor) -> None:
        """Add the sums of a batch; float32 ones alone would stop at 2^24 rows (Kahan, 1965)."""
        # A tensor: Keras' symbolic build on torch mixes devices where a variable takes part in an operation.
        before, excess = ops.convert_to_tensor(self.sums), ops.convert_to_tensor(self.excess)
        values = ops.cast(values, self.dtype) - excess
        after = before + values
        self.excess.assign(ops.where(ops.isfinite(after), (after - before) - values, 0.0))
        self.sums.assign(after)


class LossMetric(SumMetric):
    """Base of the metrics that are the loss of all rows of an epoch.

    Args:
        loss: A loss of this package, of any reduction but "none".
        name: Name of the metric in Keras.
    """

    def __init__(self, loss: Loss, name: str) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss of keras_xent, got {loss!r}")
        if loss.reduction == "none":
            raise ValueError('reduction of the loss must be "mean", "weighted_mean" or "sum", got "none"')
        super().__init__((2,), name)
        self.loss = loss

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Count a batch, given as to the loss."""
        # Keras' torch trainer would record a gradient.
        rows = self.loss._counted(y_pred, y_true, sample_weight, mask, has_gradient=False)
        self.add(ops.stack(reduction.parts(rows, self.loss.reduction)))

    def result(self) -> Tensor:
        """Return the loss of all rows so far; 0 where none counts."""
        total, denominator = ops.unstack(ops.convert_to_tensor(self.sums))
        return total if self.loss.reduction == "sum" else reduction.quotient(total, denominator)


@keras.saving.register_keras_serializable(package="keras_xent")
class MeanLoss(LossMetric):
    """Loss of all rows of an epoch at once: sum k s l / sum k for "mean", sum k s l / sum k s u for "weighted_mean".

    The sum of all batches with the reduction "sum". hard_fraction ranks each batch by itself.

    Args:
        loss: A loss of this package, of any reduction but "none"; its keywords and shapes are those of the metric.
        name: Name of the metric in Keras.

    Raises:
        TypeError: Another loss.
        ValueError: A loss with the reduction "none".
    """

    def __init__(self, loss: Loss, name: str = "mean_loss") -> None:
        super().__init__(loss, name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        return {"loss": keras.saving.serialize_keras_object(self.loss), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MeanLoss":
        """Build the metric of a config."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


@keras.saving.register_keras_serializable(package="keras_xent")
class CategoricalNegativeLogLikelihood(LossMetric):
    """Negative log-likelihood over K classes: sum s (-sum_c t_c log p_c) / sum s sum_c t_c, p = softmax(logits).

    In nats, in [0, inf]. Targets are class indices or distributions, one for each row: a position of the logits without
    the class axis.

    Args:
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited to +-16.118.
        ignore_index: Rows with this label count nowhere, whatever their logits hold.
        axis: Class axis of the logits. None: the last, as in Keras.
        name: Name of the metric in Keras.

    Reference: Good, 1952, Rational Decisions.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_index: int | None = None,
        axis: int | None = None,
        name: str = "categorical_negative_log_likelihood",
    ) -> None:
        options: Any = {"from_logits": from_logits, "ignore_index": ignore_index, "axis": axis}
        super().__init__(CategoricalCrossEntropy(reduction="weighted_mean", **options), name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        options = ("from_logits", "ignore_index", "axis")
        return {**{option: getattr(self.loss, option) for option in options}, "name": self.name}


@keras.saving.register_keras_serializable(package="keras_xent")
class Perplexity(CategoricalNegativeLogLikelihood):
    """Perplexity: exp of the negative log-likelihood of all rows, in [1, inf]; K for a uniform guess among K classes.

    Arguments and inputs are those of `CategoricalNegativeLogLikelihood`.

    Reference: Jelinek et al., 1977, Perplexity: A Measure of the Difficulty of Speech Recognition Tasks.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_index: int | None = None,
        axis: int | None = None,
        name: str = "perplexity",
    ) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, axis=axis, name=name)

    def result(self) -> Tensor:
        """Return the perplexity of all rows so far; 1 where none counts."""
        return ops.exp(super().result())


@keras.saving.register_keras_serializable(package="keras_xent")
class BinaryNegativeLogLikelihood(LossMetric):
    """Negative log-likelihood of labels 0 and 1: sum s -(t log p + (1 - t) log(1 - p)) / sum s, p = sigmoid(logits).

    In nats, in [0, inf]. Every element of the logits is a row, with a target in [0, 1]; multi-label is the same call.

    Args:
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited to +-16.118.
        ignore_index: Elements with this target count nowhere, whatever their logits hold.
        name: Name of the metric in Keras.

    Reference: Cox, 1958, The Regression Analysis of Binary Sequences.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_index: float | None = None,
        name: str = "binary_negative_log_likelihood",
    ) -> None:
        options: Any = {"from_logits": from_logits, "ignore_index": ignore_index}
        super().__init__(BinaryCrossEntropy(reduction="weighted_mean", **options), name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        return {"from_logits": self.loss.from_logits, "ignore_index": self.loss.ignore_index, "name": self.name}


@dataclass(kw_only=True, eq=False, repr=False)
class _Hit(CategoricalLoss):
    """1 where the most probable class is the label; of a distribution its mass there."""

    def curve(self, log_odds: Tensor) -> Tensor:
        return log_odds

    def score(self, logits: Tensor, label: Tensor) -> Tensor:
        return ops.cast(ops.argmax(logits, -1) == ops.cast(label, "int32"), logits.dtype)

    def scores(self, logits: Tensor) -> Tensor:
        return ops.cast(log_odds.is_class(ops.argmax(logits, -1), logits), logits.dtype)


@keras.saving.register_keras_serializable(package="keras_xent")
class ExpectedCalibrationError(SumMetric):
    """Expected calibration error: sum_b abs(sum_{i in b} s_i (hit_i - confidence_i)) / sum s, in [0, 1].

    The confidence of a row is its largest probability; its hit is 1 where that class is the label, else 0, or the mass
    that a distribution has there. Bin b holds the rows with a confidence in ((b-1)/bins, b/bins]. Targets are class
    indices or distributions, one for each row: a position of the logits without the class axis. A bin keeps three sums:
    rows, hits and confidences. `lightning_xent.metrics` has the same class, with the same values.

    Args:
        bins: Number of bins of equal width, >= 1.
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited to +-16.118.
        ignore_index: Rows with this label count nowhere, whatever their logits hold.
        axis: Class axis of the logits. None: the last, as in Keras.
        name: Name of the metric in Keras.

    Reference: Guo et al., 2017, On Calibration of Modern Neural Networks.
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
        self._hit._has_looked = True  # it would warn in its own name
        super().__init__((3, self.bins), name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Count a batch, given as to a loss."""
        rows = self._hit._counted(y_pred, y_true, sample_weight, mask, has_gradient=False)
        logits = ops.cast(ops.stop_gradient(ops.convert_to_tensor(y_pred)), rows.losses.dtype)
        logits = targets.class_axis_last(logits, targets.class_axis(logits, self._hit.axis))  # [..., C]
        most_odds = ops.max(log_odds.of_classes(logits, 1.0, self._hit.from_logits), -1)  # [...]
        confidence = log_odds.sigmoid(most_odds)
        # Less 1e-6: rounding may put a confidence of 1/3 just above 1/3, where a bin ends. NaN, as a row that counts
        # nowhere may have, is cast to any number.
        places = ops.cast(ops.ceil(confidence * (self.bins * (1 - 1e-6))), "int32") - 1
        places = ops.clip(places, 0, self.bins - 1)
        inside = ops.equal(ops.reshape(places, (-1, 1)), ops.arange(self.bins, dtype="int32"))  # [N, B]
        values = [
            reduction.weighted_losses(rows._replace(losses=value))
            for value in (ops.ones_like(confidence), rows.losses, confidence)
        ]
        self.add(ops.stack([ops.sum(ops.where(inside, ops.reshape(value, (-1, 1)), 0.0), 0) for value in values]))

    def result(self) -> Tensor:
        """Return the error of all rows so far; 0 where none counts."""
        weights, hits, confidences = ops.unstack(ops.convert_to_tensor(self.sums))  # [B]
        _, more_hits, more_confidences = ops.unstack(ops.convert_to_tensor(self.excess))
        gaps = (hits - confidences) - (more_hits - more_confidences)
        return reduction.quotient(ops.sum(ops.abs(gaps)), ops.sum(weights))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        options = ("from_logits", "ignore_index", "axis")
        return {"bins": self.bins, **{option: getattr(self._hit, option) for option in options}, "name": self.name}
