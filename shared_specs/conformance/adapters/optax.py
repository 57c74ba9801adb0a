"""optax.losses, whose functions do not reduce: `.mean()` and `.sum()` follow, as they do in most code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "jax"
REQUIREMENTS = ("jax", "optax")
DISTRIBUTION = "optax"
# JAX compiles each operation of an eager call for each shape: minutes for all cases.
MODES = ("compiled", "eager")

Tensor = Any
IN_THE_MEAN = "rows that `where` leaves out stay in the mean"


def reduced(asked: Asked, values: Tensor, count: Any = None) -> Tensor:
    """Rows, or their sum, or their mean, over `count` of them."""
    if asked.reduction == "none":
        return values.reshape(asked.row_shape)
    if asked.reduction == "sum":
        return values.sum()
    return values.mean() if count is None else values.sum() / count


def against_rows(asked: Asked, mask: Tensor) -> Tensor:
    """A mask that broadcasts against the rows."""
    return mask.reshape(asked.against_rows(mask.shape))


def distribution(asked: Asked, target: Tensor, dtype: Any) -> Tensor:
    """The target as probabilities, in the shape of the logits."""
    if not asked.has_indices:
        return target.astype(dtype)
    return jax.nn.one_hot(target.reshape(asked.row_shape), asked.classes, axis=asked.axis, dtype=dtype)


def cross_entropy(asked: Asked) -> Offer | str | None:
    """softmax_cross_entropy, of indices with_integer_labels; smooth_labels; `where` is a mask."""
    names = ("ignore_index", "mask") if asked.has_indices else ("mask",)
    if not (asked.only("label_smoothing") or asked.only(*names)):
        return None
    has_infinity = asked.only() and asked.has_indices and bool(np.isposinf(asked.scores).any())
    leaves_out = bool({*asked.config, *asked.inputs}.intersection(names))

    def call(logits: Tensor, target: Tensor, *, undo: bool, mask: Tensor | None = None) -> Tensor:
        where = (
            None if mask is None else jnp.broadcast_to(mask.reshape(asked.against_rows(mask.shape)), asked.row_shape)
        )
        if "ignore_index" in asked.config:
            kept = target.reshape(asked.row_shape) != asked.config["ignore_index"]
            where = kept if where is None else where & kept
        count = jnp.maximum(where.sum(), 1) if undo and where is not None else None
        if asked.has_indices and "label_smoothing" not in asked.config:
            given = target.reshape(asked.row_shape)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, given, asked.axis, where)
            if undo and has_infinity:
                loss = loss * jnp.where(jnp.isposinf(logits).any(asked.axis), jnp.nan, 1)
            return reduced(asked, loss, count)
        wanted = distribution(asked, target, logits.dtype)
        if "label_smoothing" in asked.config:
            wanted = optax.smooth_labels(wanted, asked.config["label_smoothing"], axis=asked.axis)
        return reduced(asked, optax.softmax_cross_entropy(logits, wanted, asked.axis, where), count)

    return offered(
        call,
        IN_THE_MEAN if leaves_out and asked.reduction == "mean" else None,
        "beside a logit of +inf the loss is inf, not NaN" if has_infinity else None,
    )


def binary_cross_entropy(asked: Asked) -> Offer | str | None:
    """sigmoid_binary_cross_entropy."""
    if not asked.only():
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        return reduced(asked, optax.sigmoid_binary_cross_entropy(logits, target.reshape(asked.shape)))

    return offered(call)


def binary_focal(asked: Asked) -> Offer | str | None:
    """sigmoid_focal_loss."""
    if not asked.only("gamma", "alpha"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        def loss(labels: Tensor) -> Tensor:
            return optax.sigmoid_focal_loss(logits, labels, alpha=asked.get("alpha"), gamma=asked.get("gamma", 2.0))

        labels = target.reshape(asked.shape).astype(logits.dtype)
        if undo:
            ones = jnp.ones_like(labels)
            return reduced(asked, labels * loss(ones) + (1 - labels) * loss(1 - ones))
        return reduced(asked, loss(labels))

    return offered(call, None if asked.is_hard else "soft labels are mixed inside the modulator")


def poly(asked: Asked) -> Offer | str | None:
    """poly_loss_cross_entropy; its default epsilon is 2."""
    if not asked.only("epsilon"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        wanted = distribution(asked, target, logits.dtype)
        epsilon = asked.get("epsilon", 1.0)
        loss = optax.losses.poly_loss_cross_entropy(logits, wanted, epsilon=epsilon, axis=asked.axis)
        if undo:
            loss = loss + epsilon * (wanted.sum(asked.axis) - 1)
        return reduced(asked, loss)

    return offered(call, None if asked.sums_to_one else "the polynomial term has 1 for the sum of a target")


def kl_divergence(asked: Asked) -> Offer | str | None:
    """kl_divergence of the log-softmax, or of the logarithm of probabilities."""
    if not asked.only("from_logits", "mask"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool, mask: Tensor | None = None) -> Tensor:
        wanted = distribution(asked, target, logits.dtype)
        if asked.has_logits:
            logs = jax.nn.log_softmax(logits, axis=asked.axis)
        else:
            p = logits / logits.sum(asked.axis, keepdims=True) if undo else logits
            logs = jnp.log(jnp.clip(p, 1e-7, 1 - 1e-7) if undo else p)
        where = count = None
        if mask is not None:
            where = jnp.broadcast_to(
                jnp.expand_dims(mask.reshape(asked.against_rows(mask.shape)), asked.axis), asked.shape
            )
            count = jnp.maximum(mask.sum(), 1) if undo else None
        return reduced(asked, optax.kl_divergence(logs, wanted, asked.axis, where), count)

    return offered(
        call,
        None if asked.has_logits else "probabilities are taken as they are, not divided by their sum, without a clip",
        IN_THE_MEAN if "mask" in asked.inputs and asked.reduction == "mean" else None,
    )


def binary_hinge(asked: Asked) -> Offer | str | None:
    """hinge_loss of labels -1 and 1."""
    if not asked.only():
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        labels = target.reshape(asked.shape).astype(logits.dtype)
        if undo:
            return reduced(
                asked, labels * optax.hinge_loss(logits, 1.0) + (1 - labels) * optax.hinge_loss(logits, -1.0)
            )
        return reduced(asked, optax.hinge_loss(logits, 2 * labels - 1))

    return offered(call, None if asked.is_hard else "soft labels are mixed inside the hinge")


def hinge(asked: Asked) -> Offer | str | None:
    """multiclass_hinge_loss, which is Crammer and Singer's."""
    if not asked.only():
        return None
    if not asked.has_indices:
        return "takes class indices only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        rows = jnp.moveaxis(logits, asked.axis, -1)
        return reduced(asked, optax.losses.multiclass_hinge_loss(rows, target.reshape(asked.row_shape)))

    return offered(call)


OFFERS = {
    "BinaryCrossEntropy": binary_cross_entropy,
    "BinaryFocalCrossEntropy": binary_focal,
    "BinaryHinge": binary_hinge,
    "CategoricalCrossEntropy": cross_entropy,
    "CategoricalHinge": hinge,
    "CategoricalPolyCrossEntropy": poly,
    "KLDivergence": kl_divergence,
    "SparseCategoricalCrossEntropy": cross_entropy,
}

offer = answers(OFFERS)
