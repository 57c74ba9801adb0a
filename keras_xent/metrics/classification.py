"""Accuracy, precision, recall and F1 over an epoch, of inputs that are read as a loss reads them."""

import math
from typing import Any, NamedTuple

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import private, reading, reduction, targets, weighting
from keras_xent.base import Loss
from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from keras_xent.losses.divergence import Distillation
from keras_xent.metrics.sums import SumMetric
from shared_specs.common import arguments

AVERAGES = ("macro", "micro", "weighted", "none")


class _Predictions(NamedTuple):
    """Labels and predictions of a batch, flattened: [N] for classes, [N, L] for binary labels."""

    label: Tensor
    """The class; for a binary loss 1 if the target is at least 1/2, else 0."""
    predicted: Tensor
    """The most probable class; for a binary loss 1 if the probability is above the threshold, else 0."""
    weight: Tensor
    """Sample weight; 0 for a row that does not count, NaN for one with a label out of range or a NaN prediction."""
    classes: int
    """K, or L."""


def _predictions(loss: Loss, y_true: Any, y_pred: Any, sample_weight: Any, mask: Any, threshold: float) -> _Predictions:
    """Return labels and predictions of a batch, read as `loss` does, except that `hard_fraction` has no effect."""
    keras_mask = private.keras_mask_of(y_pred)
    y_pred, y_true, sample_weight, mask = map(reading.whole, (y_pred, y_true, sample_weight, mask))
    logits = ops.stop_gradient(reading.checked_logits(y_pred))
    logits = ops.cast(logits, reading.compute_dtype(logits))
    probability = loss.probabilities(logits)
    is_label = True
    if isinstance(loss, CategoricalLoss):
        axis = targets.class_axis(logits, loss.axis)
        if isinstance(loss, Distillation):
            teacher, label = targets.teacher_and_label(y_true, logits, loss.axis, has_label=loss.alpha < 1.0)
            y_true = teacher if label is None else label
        classes = loss.count_classes(logits.shape[axis])
        rows, shape = targets.rows_of(logits, axis), tuple(logits.shape)
        target, is_label = targets.labels_or_distribution(
            y_true, rows, shape, axis, classes, labels_only=loss.labels_only
        )
        probability = targets.class_axis_last(probability, axis)  # [..., K]
        like, classes = probability[..., 0], probability.shape[-1]
    else:
        target = targets.binary_target(y_true, logits)
        like, classes = probability, probability.shape[-1] if len(probability.shape) == 2 else 1
    if not isinstance(classes, int):
        raise ValueError("y_pred must have a static number of classes for a metric, got one that only run time tells")
    weight = weighting.sample_weight_per_row(sample_weight, like)
    kept = weighting.mask_per_row(mask, keras_mask, like)
    if is_label and loss.ignore_index is not None:
        kept = weighting.both(kept, targets.differs(target, loss.ignore_index))
    active = kept if weight is None else weighting.both(kept, weight != 0)
    if isinstance(loss, BinaryLoss):
        target, validity, _ = targets.checked_probabilities(target, active, loss.check_labels)
        label, predicted = ops.cast(target, probability.dtype) >= 0.5, probability > threshold
        is_bad = ops.isnan(probability)
    else:
        if is_label:
            label, validity = targets.checked_labels(target, classes, active, loss.check_labels)
        else:
            given = loss.check_labels, loss.ignore_index, probability.dtype
            distribution, validity = targets.checked_distribution(target, axis, active, *given)
            label = ops.argmax(reading.fitted("y_true", distribution, probability), -1)
        predicted, is_bad = ops.argmax(probability, -1), ops.any(ops.isnan(probability), -1)
    weight = ops.ones_like(like) if weight is None else weight
    weight = weight * ops.where(is_bad, math.nan, ops.ones_like(like))
    weight = weight if validity is None else weight * ops.cast(validity, weight.dtype)
    weight = weight if active is None else ops.where(active, weight, 0.0)
    shape = (-1, classes) if isinstance(loss, BinaryLoss) else (-1,)
    label, predicted = (ops.reshape(ops.cast(values, "int32"), shape) for values in (label, predicted))
    return _Predictions(label, predicted, ops.reshape(weight, shape), classes)


class _OfPredictions(SumMetric):
    """Base of the metrics of predicted labels: the first batch, which shows the number of classes, creates the sums."""

    def __init__(self, loss: Loss, threshold: float, name: str) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss of keras_xent, got {loss!r}")
        self.threshold = arguments.number("threshold", threshold, "[0, 1]")
        super().__init__(None, name)
        self.loss = loss
        self._direction = "up"

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Count a batch, given as to the loss."""
        found = _predictions(self.loss, y_true, y_pred, sample_weight, mask, self.threshold)
        self.build_sums(self.shape_of(found.classes))
        self.add(self.counts(found))

    def shape_of(self, classes: int) -> tuple[int, ...]:
        """Return the shape of the sums."""
        return 3, classes

    def counts(self, found: _Predictions) -> Tensor:
        """Return the total weights [3, K] of the hits, the predictions and the rows of each class."""
        label, predicted, weight = found.label, found.predicted, found.weight
        if not isinstance(self.loss, BinaryLoss):
            numbers = ops.reshape(ops.arange(found.classes, dtype="int32"), (1, -1))
            label, predicted = (ops.equal(ops.expand_dims(classes, -1), numbers) for classes in (label, predicted))
            weight = ops.expand_dims(weight, -1)  # [N, 1]
        label, predicted = ops.cast(label, "bool"), ops.cast(predicted, "bool")  # [N, K]
        masks = ops.logical_and(label, predicted), predicted, label
        return ops.stack([ops.sum(ops.where(each, weight, 0.0), 0) for each in masks])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        loss = keras.saving.serialize_keras_object(self.loss)
        return {"loss": loss, "threshold": self.threshold, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Build the metric from a config."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


@keras.saving.register_keras_serializable(package="keras_xent")
class Accuracy(_OfPredictions):
    """Share of the rows whose most probable class is their label: sum s [predicted = label] / sum s, in [0, 1].

    With a binary loss every element is a row. The label of a soft target is the class of largest mass; a binary target
    of 1/2 or more is label 1. Ignored and masked rows do not count. Predictions come from `loss.probabilities`, without
    margins.

    Args:
        loss: A loss of this package; the metric uses its keywords and shapes.
        threshold: Probability in [0, 1] above which label 1 is predicted, for binary losses only.
        name: Name of the metric in Keras.

    Raises:
        TypeError: Another loss.

    Example:
        >>> import numpy as np, keras_xent
        >>> from keras_xent import metrics
        >>> metric = metrics.Accuracy(keras_xent.CategoricalCrossEntropy(ignore_index=-1))
        >>> metric.update_state(np.array([0, -1, 1]), np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]], "float32"))
        >>> float(metric.result())
        0.5

    Reference: Sokolova and Lapalme, 2009, A Systematic Analysis of Performance Measures for Classification Tasks.
    """

    def __init__(self, loss: Loss, *, threshold: float = 0.5, name: str = "accuracy") -> None:
        super().__init__(loss, threshold, name)

    def shape_of(self, classes: int) -> tuple[int, ...]:
        return (2,)

    def counts(self, found: _Predictions) -> Tensor:
        hits = ops.where(ops.equal(found.label, found.predicted), found.weight, 0.0 * found.weight)
        return ops.stack([ops.sum(hits), ops.sum(found.weight)])

    def result(self) -> Tensor:
        """Return the accuracy of all rows so far; 0 if none counts."""
        if self.sums is None:
            return ops.zeros(())
        return reduction.quotient(*ops.unstack(ops.convert_to_tensor(self.sums)))


class _Averaged(_OfPredictions):
    """Base of the metrics that have a value for each class, and average over the classes."""

    def __init__(self, loss: Loss, average: str | None, threshold: float, name: str) -> None:
        self.average = arguments.choice("average", "none" if average is None else average, AVERAGES)
        super().__init__(loss, threshold, name)

    def ratio(self, hits: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        """Return the metric [K], given the total weights [K] of hits, predictions and rows."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """Return the metric of all rows so far; 0 if none counts."""
        if self.sums is None:
            return ops.zeros(())
        hits, predicted, actual = ops.unstack(ops.convert_to_tensor(self.sums))  # [K]
        if self.average == "micro":
            return self.ratio(ops.sum(hits), ops.sum(predicted), ops.sum(actual))
        values = self.ratio(hits, predicted, actual)
        if self.average == "none":
            return values if values.shape[0] > 1 else values[0]
        weight = actual if self.average == "weighted" else ops.where(ops.equal(predicted + actual, 0), 0.0, 1.0)
        if values.shape[0] == 1:  # one binary label
            return values[0]
        return reduction.quotient(ops.sum(values * weight), ops.sum(weight))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        return {**super().get_config(), "average": self.average}


@keras.saving.register_keras_serializable(package="keras_xent")
class Precision(_Averaged):
    """Precision: hits_c / predicted_c, the share of the predictions of a class that are right, in [0, 1].

    predicted_c is the weight of the rows that are predicted as class c, actual_c that of the rows of class c, and
    hits_c that of the rows that are both. Ignored and masked rows do not count. Predictions come from
    `loss.probabilities`, without margins. For one binary label it is the value of label 1; for several, (N, L), each
    label is a class.

    Args:
        loss: A loss of this package; the metric uses its keywords and shapes.
        average: "macro": mean over the classes that have a row or a prediction. "micro": from sums over all classes.
            "weighted": mean with the weights actual_c. "none": the values [K] of the classes.
        threshold: Probability in [0, 1] above which label 1 is predicted, for binary losses only.
        name: Name of the metric in Keras.

    Raises:
        TypeError: Another loss.
        ValueError: Another average.

    Example:
        >>> import numpy as np, keras_xent
        >>> from keras_xent import metrics
        >>> metric = metrics.Precision(keras_xent.BinaryCrossEntropy(ignore_index=-1))
        >>> metric.update_state(np.array([1, -1, -1, 0]), np.array([0.25, 3.0, -3.0, 0.125], "float32"))
        >>> float(metric.result())
        0.5

    Reference: Sokolova and Lapalme, 2009, A Systematic Analysis of Performance Measures for Classification Tasks.
    """

    def __init__(
        self, loss: Loss, *, average: str | None = "macro", threshold: float = 0.5, name: str = "precision"
    ) -> None:
        super().__init__(loss, average, threshold, name)

    def ratio(self, hits: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        return reduction.quotient(hits, predicted)


@keras.saving.register_keras_serializable(package="keras_xent")
class Recall(_Averaged):
    """Recall: hits_c / actual_c, the share of the rows of a class that are found, in [0, 1].

    predicted_c is the weight of the rows that are predicted as class c, actual_c that of the rows of class c, and
    hits_c that of the rows that are both. Ignored and masked rows do not count. Predictions come from
    `loss.probabilities`, without margins. For one binary label it is the value of label 1; for several, (N, L), each
    label is a class.

    Args:
        loss: A loss of this package; the metric uses its keywords and shapes.
        average: "macro": mean over the classes that have a row or a prediction. "micro": from sums over all classes.
            "weighted": mean with the weights actual_c. "none": the values [K] of the classes.
        threshold: Probability in [0, 1] above which label 1 is predicted, for binary losses only.
        name: Name of the metric in Keras.

    Raises:
        TypeError: Another loss.
        ValueError: Another average.

    Example:
        >>> import numpy as np, keras_xent
        >>> from keras_xent import metrics
        >>> metric = metrics.Recall(keras_xent.BinaryCrossEntropy(ignore_index=-1))
        >>> metric.update_state(np.array([1, -1, -1, 0]), np.array([0.25, 3.0, -3.0, 0.125], "float32"))
        >>> float(metric.result())
        1.0

    Reference: Sokolova and Lapalme, 2009, A Systematic Analysis of Performance Measures for Classification Tasks.
    """

    def __init__(
        self, loss: Loss, *, average: str | None = "macro", threshold: float = 0.5, name: str = "recall"
    ) -> None:
        super().__init__(loss, average, threshold, name)

    def ratio(self, hits: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        return reduction.quotient(hits, actual)


@keras.saving.register_keras_serializable(package="keras_xent")
class F1(_Averaged):
    """F1: 2 hits_c / (predicted_c + actual_c), the harmonic mean of precision and recall, in [0, 1].

    predicted_c is the weight of the rows that are predicted as class c, actual_c that of the rows of class c, and
    hits_c that of the rows that are both. Ignored and masked rows do not count. Predictions come from
    `loss.probabilities`, without margins. For one binary label it is the value of label 1; for several, (N, L), each
    label is a class.

    Args:
        loss: A loss of this package; the metric uses its keywords and shapes.
        average: "macro": mean over the classes that have a row or a prediction. "micro": from sums over all classes.
            "weighted": mean with the weights actual_c. "none": the values [K] of the classes.
        threshold: Probability in [0, 1] above which label 1 is predicted, for binary losses only.
        name: Name of the metric in Keras.

    Raises:
        TypeError: Another loss.
        ValueError: Another average.

    Example:
        >>> import numpy as np, keras_xent
        >>> from keras_xent import metrics
        >>> metric = metrics.F1(keras_xent.BinaryCrossEntropy(ignore_index=-1))
        >>> metric.update_state(np.array([1, -1, -1, 0]), np.array([0.25, 3.0, -3.0, 0.125], "float32"))
        >>> float(metric.result())
        0.6666666865348816

    Reference: Sokolova and Lapalme, 2009, A Systematic Analysis of Performance Measures for Classification Tasks.
    """

    def __init__(self, loss: Loss, *, average: str | None = "macro", threshold: float = 0.5, name: str = "f1") -> None:
        super().__init__(loss, average, threshold, name)

    def ratio(self, hits: Tensor, predicted: Tensor, actual: Tensor) -> Tensor:
        return reduction.quotient(2 * hits, predicted + actual)
