"""sklearn.metrics: log_loss, hinge_loss and brier_score_loss, which have a value and no gradient."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "numpy"
REQUIREMENTS = ("scikit-learn",)
DISTRIBUTION = "scikit-learn"

Array = NDArray[Any]
WEIGHTED = "mean divides by the sum of the sample weights"


def rows(asked: Asked, logits: Array) -> Array:
    """Logits, or probabilities, [rows, classes]; of a binary loss [rows]."""
    return logits.reshape(-1) if asked.is_binary else np.moveaxis(logits, asked.axis, -1).reshape(-1, asked.classes)


def against_rows(asked: Asked, weights: Array) -> Array:
    """Sample weights [rows]."""
    return np.broadcast_to(weights.reshape(asked.against_rows(weights.shape)), asked.row_shape).reshape(-1)


def probabilities(asked: Asked, logits: Array) -> Array:
    """The softmax or sigmoid of logits; probabilities as they are."""
    given = rows(asked, logits)
    if not asked.has_logits:
        return given
    if asked.is_binary:
        return 1 / (1 + np.exp(-given))
    exponentials = np.exp(given - given.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def refused(asked: Asked) -> str | None:
    """What raises an error, which is no wrong number."""
    scores, weights = asked.scores, asked.inputs.get("sample_weight")
    if not scores.size or not np.isfinite(scores).all():
        return "raises an error without rows, and for scores that are not finite"
    if weights is not None and not weights.any():
        return "raises an error where all weights are 0"
    if asked.classes < 2:
        return "raises an error for one class"
    if not (asked.has_logits or asked.is_binary) and not np.allclose(scores.sum(asked.axis), 1):
        return "probabilities must sum to 1"
    return None


def metric(loss: Callable[..., Any], scores: Callable[[Asked, Array], Array], *names: str, **options: Any) -> Any:
    """A metric of labels and scores, whose mean divides by the sum of the sample weights."""

    def make(asked: Asked) -> Offer | str | None:
        if not asked.only("sample_weight", *names):
            return None
        if not asked.is_hard:
            return "takes labels only"
        if asked.reduction == "none" or (asked.reduction == "sum" and loss is not metrics.log_loss):
            return "has the mean only, log_loss the sum too"
        has_weights = "sample_weight" in asked.inputs
        if refusal := refused(asked):
            return refusal

        def call(logits: Array, target: Array, *, undo: bool, sample_weight: Array | None = None) -> Array:
            labels = target.reshape(-1) if asked.is_binary or asked.has_indices else rows(asked, target).argmax(-1)
            given: dict[str, Any] = dict(options)
            if not (asked.is_binary and loss is metrics.brier_score_loss):
                given["labels"] = np.arange(asked.classes)
            if sample_weight is not None:
                given["sample_weight"] = against_rows(asked, sample_weight)
            if loss is metrics.log_loss:
                given["normalize"] = asked.reduction != "sum"
            value = loss(labels.astype(int), scores(asked, logits), **given)
            if undo and has_weights:
                value = value * given["sample_weight"].mean()
            # The metrics return Python floats.
            return np.asarray(value, logits.dtype)

        return offered(call, WEIGHTED if has_weights and asked.reduction == "mean" else None)

    return make


def weighted_mean(asked: Asked) -> bool:
    """All means divide by the sum of the sample weights."""
    return "sample_weight" in asked.inputs and not {"class_weight", "pos_weight", "alpha"} & set(asked.config)


OFFERS = {
    "BinaryCrossEntropy": metric(metrics.log_loss, probabilities, "from_logits"),
    "BinaryHinge": metric(metrics.hinge_loss, rows),
    "BinarySquaredError": metric(metrics.brier_score_loss, probabilities, "from_logits"),
    "CategoricalCrossEntropy": metric(metrics.log_loss, probabilities, "from_logits"),
    "CategoricalHinge": metric(metrics.hinge_loss, rows),
    "CategoricalSquaredError": metric(metrics.brier_score_loss, probabilities, "from_logits", scale_by_half=False),
    "SparseCategoricalCrossEntropy": metric(metrics.log_loss, probabilities, "from_logits"),
}
offer = answers(OFFERS, weighted_mean)
