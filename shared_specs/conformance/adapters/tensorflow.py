"""tf.nn, and tf.compat.v1.losses where a case has sample weights or smoothed labels; tf.keras is keras-tensorflow."""

from typing import Any

import tensorflow as tf

from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "tensorflow"
REQUIREMENTS = ("tensorflow-cpu",)
DISTRIBUTION = "tensorflow-cpu"

Tensor = Any
older = tf.compat.v1.losses
REDUCTIONS = {
    "none": older.Reduction.NONE,
    "sum": older.Reduction.SUM,
    "mean": older.Reduction.SUM_OVER_BATCH_SIZE,
    "weighted_mean": older.Reduction.MEAN,
}
OLDER = ("label_smoothing", "sample_weight")


def reduced(asked: Asked, values: Tensor) -> Tensor:
    """Rows, or tf.reduce_mean or tf.reduce_sum of them."""
    if asked.reduction == "none":
        return tf.reshape(values, asked.row_shape)
    return tf.reduce_sum(values) if asked.reduction == "sum" else tf.reduce_mean(values)


def against_rows(asked: Asked, weights: Tensor) -> Tensor:
    """Sample weights in the shape of the rows."""
    return tf.broadcast_to(tf.reshape(weights, asked.against_rows(weights.shape)), asked.row_shape)


def options(asked: Asked, inputs: dict[str, Tensor], flat: bool) -> dict[str, Any]:
    """Weights, smoothing and reduction of tf.compat.v1.losses."""
    given = inputs.get("sample_weight")
    weights = 1.0 if given is None else against_rows(asked, given)
    if given is not None and flat:
        weights = tf.reshape(weights, [-1])
    return {"weights": weights, "reduction": REDUCTIONS[asked.reduction]}


def cross_entropy(asked: Asked) -> Offer | str | None:
    """(sparse_)softmax_cross_entropy_with_logits."""
    if not asked.only(*OLDER):
        return None
    amount = asked.get("label_smoothing", 0.0)

    def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
        if undo:
            shares = flat(asked, target, logits) * (1 - amount) + amount / asked.classes
            total = tf.reduce_sum(shares, -1)
            rows = tf.reshape(tf.experimental.numpy.moveaxis(logits, asked.axis, -1), [-1, asked.classes])
            normal = tf.math.divide_no_nan(shares, total[:, None])
            value = total * tf.nn.softmax_cross_entropy_with_logits(normal, rows)
            return reduced(
                asked, value * tf.reshape(against_rows(asked, inputs.get("sample_weight", tf.ones(()))), [-1])
            )
        if {*asked.config, *inputs}.intersection(OLDER):
            rows = tf.reshape(tf.experimental.numpy.moveaxis(logits, asked.axis, -1), [-1, asked.classes])
            smooths = {"label_smoothing": amount}
            value = older.softmax_cross_entropy(
                flat(asked, target, logits), rows, **options(asked, inputs, True), **smooths
            )
            return tf.reshape(value, asked.row_shape) if asked.reduction == "none" else value
        if asked.has_indices:
            rows = tf.experimental.numpy.moveaxis(logits, asked.axis, -1)
            labels = tf.reshape(target, asked.row_shape)
            return reduced(asked, tf.nn.sparse_softmax_cross_entropy_with_logits(labels, rows))
        given = tf.cast(target, logits.dtype)
        return reduced(asked, tf.nn.softmax_cross_entropy_with_logits(given, logits, axis=asked.axis))

    return offered(call, None if asked.sums_to_one else "the gradient takes 1 for the sum of a target")


def flat(asked: Asked, target: Tensor, logits: Tensor) -> Tensor:
    """The target as probabilities [rows, classes]."""
    if asked.has_indices:
        return tf.one_hot(tf.reshape(target, [-1]), asked.classes, dtype=logits.dtype)
    moved = tf.experimental.numpy.moveaxis(tf.cast(target, logits.dtype), asked.axis, -1)
    return tf.reshape(moved, [-1, asked.classes])


def binary_cross_entropy(asked: Asked) -> Offer | str | None:
    """sigmoid_cross_entropy_with_logits, weighted_cross_entropy_with_logits with a pos_weight."""
    if not (asked.only("pos_weight") or asked.only(*OLDER)):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
        labels = tf.reshape(tf.cast(target, logits.dtype), asked.shape)
        if "pos_weight" in asked.config:
            weight = tf.cast(tf.constant(asked.pos_weight), logits.dtype)
            return reduced(asked, tf.nn.weighted_cross_entropy_with_logits(labels, logits, weight))
        if {*asked.config, *inputs}.intersection(OLDER):
            smooths = {"label_smoothing": asked.get("label_smoothing", 0.0)}
            return older.sigmoid_cross_entropy(labels, logits, **options(asked, inputs, False), **smooths)
        return reduced(asked, tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))

    return offered(call)


def hinge(asked: Asked) -> Offer | str | None:
    """tf.compat.v1.losses.hinge_loss of labels 0 and 1."""
    if not asked.only("sample_weight"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
        labels = tf.reshape(tf.cast(target, logits.dtype), asked.shape)
        if not undo:
            return older.hinge_loss(labels, logits, **options(asked, inputs, False))
        values = {
            label: older.hinge_loss(tf.fill(asked.shape, tf.cast(label, logits.dtype)), logits, reduction="none")
            for label in (0, 1)
        }
        mixture = labels * values[1] + (1 - labels) * values[0]
        given = inputs.get("sample_weight")
        weights = tf.ones_like(mixture) if given is None else against_rows(asked, given)
        total = reduced(asked, weights * mixture)
        return total / tf.reduce_mean(weights) if asked.reduction == "weighted_mean" else total

    return offered(call, None if asked.is_hard else "soft labels are mixed inside the hinge")


OFFERS = {
    "BinaryCrossEntropy": binary_cross_entropy,
    "BinaryHinge": hinge,
    "CategoricalCrossEntropy": cross_entropy,
    "SparseCategoricalCrossEntropy": cross_entropy,
}


def weighted_mean(asked: Asked) -> bool:
    """The mean can divide by the sum of sample weights."""
    return "sample_weight" in asked.inputs and asked.sums_to_one and "pos_weight" not in asked.config


offer = answers(OFFERS, weighted_mean)
