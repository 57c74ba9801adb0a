"""keras.losses, on any backend: the targets keras-tensorflow, keras-jax and keras-torch."""

from collections.abc import Callable
from typing import Any

import keras
from keras import losses, ops

from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

Tensor = Any
REDUCTIONS = {"mean": "sum_over_batch_size", "weighted_mean": "mean_with_sample_weight"}
MEAN_OF_LABELS = "the mean over the last axis comes before the reduction"
LAST_AXIS = "sample weights align with the last axis, and count as they are before they are broadcast"
SMOOTHED_BY_LAST_AXIS = "smoothing divides by the size of the last axis"
MEAN_OF_CLASSES = "the mean over the classes comes before the reduction"
UNNORMALISED = "probabilities are taken as they are, not divided by their sum"
UNCLIPPED = "probabilities have no clip at 1e-7"
MIXED = "soft labels are mixed inside the modulator"


def built(asked: Asked, loss: Any, logits: Tensor, reduction: str | None = None, **options: Any) -> Any:
    """An instance of a loss, which computes in float32 or wider."""
    wide = {"dtype": "float64"} if keras.backend.standardize_dtype(logits.dtype) == "float64" else {}
    return loss(reduction=reduction or REDUCTIONS.get(asked.reduction, asked.reduction), **options | wide)


def weights(asked: Asked, inputs: dict[str, Tensor], undo: bool) -> dict[str, Tensor]:
    """The sample weights of a call; with undo they have the shape of the rows."""
    given = inputs.get("sample_weight")
    if given is None:
        return {}
    return {"sample_weight": against_rows(asked, given) if undo else given}


def against_rows(asked: Asked, weights: Tensor) -> Tensor:
    """Sample weights, or a mask, in the shape of the rows."""
    return ops.broadcast_to(ops.reshape(weights, asked.against_rows(weights.shape)), asked.row_shape)


def aligned(asked: Asked) -> str | None:
    """The convention of sample weights that have not the shape of the rows."""
    given = asked.inputs.get("sample_weight")
    return LAST_AXIS if given is not None and given.shape != asked.row_shape else None


def masked(asked: Asked, logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Logits with the mask of the case, as layers of Keras attach one."""
    if "mask" in inputs:
        logits = ops.multiply(logits, 1)  # never the input itself
        keras.src.backend.set_keras_mask(logits, against_rows(asked, inputs["mask"]))
    return logits


def reduced(asked: Asked, values: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Rows times their weights, or their sum, or a mean."""
    values = ops.reshape(values, asked.row_shape)
    given = weights(asked, inputs, undo=True).get("sample_weight")
    values = values if given is None else values * ops.cast(given, values.dtype)
    if asked.reduction == "none":
        return values
    total = ops.sum(values)
    if asked.reduction == "mean":
        return total / max(values.shape and int(ops.size(values)), 1)
    return total if asked.reduction == "sum" else total / ops.sum(given)


def one_hot(asked: Asked, target: Tensor, dtype: Any) -> Tensor:
    """The target as probabilities, in the shape of the logits."""
    if not asked.has_indices:
        return ops.cast(target, dtype)
    return ops.one_hot(ops.reshape(target, asked.row_shape), asked.classes, axis=asked.axis, dtype=dtype)


def probabilities(asked: Asked, logits: Tensor, undo: bool) -> Tensor:
    """The softmax of logits; probabilities as they are, or with undo normalised and clipped."""
    if asked.has_logits:
        return ops.softmax(logits, axis=asked.axis)
    if not undo:
        return logits
    return ops.clip(logits / ops.sum(logits, axis=asked.axis, keepdims=True), 1e-7, 1 - 1e-7)


def last(asked: Asked, tensor: Tensor) -> Tensor:
    """Logits, or a distribution, with the classes on the last axis and at least one row."""
    moved = ops.moveaxis(tensor, asked.axis, -1)
    return moved[None] if len(asked.shape) == 1 else moved


def cross_entropy(asked: Asked) -> Offer | str | None:
    """SparseCategoricalCrossentropy of indices, CategoricalCrossentropy of distributions and smoothed labels."""
    smooths = "label_smoothing" in asked.config
    is_sparse = asked.has_indices and not smooths
    if not asked.only("from_logits", "sample_weight", "mask", "ignore_index" if is_sparse else "label_smoothing"):
        return None
    is_last = asked.axis == len(asked.shape) - 1
    is_unnormalised = is_sparse and not asked.has_logits
    takes_one = keras.backend.backend() == "tensorflow" and asked.has_logits and not asked.sums_to_one

    def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
        axis = asked.axis
        options: dict[str, Any] = {"from_logits": asked.has_logits}
        if undo and is_unnormalised:
            logits = logits / ops.sum(logits, axis=axis, keepdims=True)
        if undo and takes_one:
            wanted = last(asked, one_hot(asked, target, logits.dtype))
            amount = asked.get("label_smoothing", 0.0)
            wanted = wanted * (1 - amount) + amount / asked.classes
            total = ops.sum(wanted, axis=-1, keepdims=True)
            function = built(asked, losses.CategoricalCrossentropy, logits, reduction="none", from_logits=True)
            rows = function(ops.divide_no_nan(wanted, total), last(asked, logits))
            return reduced(asked, total[..., 0] * rows, inputs)
        if is_sparse:
            given, loss = ops.reshape(target, asked.row_shape), losses.SparseCategoricalCrossentropy
            options["ignore_class"] = asked.get("ignore_index")
        else:
            given, loss = one_hot(asked, target, logits.dtype), losses.CategoricalCrossentropy
            options["label_smoothing"] = asked.get("label_smoothing", 0.0)
        if undo or (is_sparse and not is_last):
            # On TensorFlow the sparse loss has the classes on the last axis only.
            logits, axis = ops.moveaxis(logits, axis, -1), -1
            given = given if is_sparse else ops.moveaxis(given, asked.axis, -1)
        if len(asked.shape) == 1:
            logits, given = logits[None], given[None]
            inputs = {name: ops.reshape(value, (1,)) for name, value in inputs.items()}
            function = built(asked, loss, logits, axis=-1, **options)
            value = function(given, masked_row(logits, inputs), **{k: v for k, v in inputs.items() if k != "mask"})
            return value[0] if asked.reduction == "none" else value
        function = built(asked, loss, logits, axis=axis, **options)
        return function(given, masked(asked, logits, inputs), **weights(asked, inputs, undo))

    return offered(
        call,
        aligned(asked),
        SMOOTHED_BY_LAST_AXIS if smooths and not is_last else None,
        UNNORMALISED if is_unnormalised else None,
        "the gradient takes 1 for the sum of a target" if takes_one else None,
    )


def masked_row(logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """One row of logits with its mask."""
    if "mask" in inputs:
        logits = ops.multiply(logits, 1)
        keras.src.backend.set_keras_mask(logits, inputs["mask"])
    return logits


def elementwise(
    loss: Any, names: tuple[str, ...], options_of: Callable[[Asked], dict[str, Any]], mixes: bool = True
) -> Any:
    """A binary loss, which takes the mean over the last axis: an axis of size 1 keeps the elements apart."""

    def make(asked: Asked) -> Offer | str | None:
        if not asked.only("sample_weight", "mask", *names):
            return None
        is_mixed = mixes and (not asked.is_hard or "label_smoothing" in asked.config)
        # Weights and masks of elements, and rows of one element, need that axis in any case.
        apart = len(asked.shape) < 2 or bool(asked.inputs)

        def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
            target = ops.cast(ops.reshape(target, asked.shape), logits.dtype)
            options = options_of(asked)
            if undo and is_mixed:
                amount = options.pop("label_smoothing", 0.0)
                target = target * (1 - amount) + amount / 2
                function = built(asked, loss, logits, reduction="none", **options)

                def rows(label: float) -> Tensor:
                    return function(ops.full_like(target, label)[..., None], logits[..., None])

                return reduced(asked, target * rows(1.0) + (1 - target) * rows(0.0), inputs)
            function = built(asked, loss, logits, **options)
            if not (apart or undo):
                return function(target, logits)
            value = function(
                target[..., None], masked_elements(asked, logits[..., None], inputs), **weights(asked, inputs, undo)
            )
            return ops.reshape(value, asked.row_shape) if asked.reduction == "none" else value

        return offered(
            call,
            MIXED if is_mixed else None,
            None if apart or asked.reduction == "mean" else MEAN_OF_LABELS,
            aligned(asked),
        )

    return make


def masked_elements(asked: Asked, logits: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Logits [..., 1] with the mask of the elements."""
    if "mask" in inputs:
        mask = against_rows(asked, inputs["mask"])
        keras.src.backend.set_keras_mask(logits, mask)
    return logits


def focal(asked: Asked) -> Offer | str | None:
    """CategoricalFocalCrossentropy; its alpha, a factor or one of each class, is our class_weight."""
    if not asked.only("gamma", "class_weight", "label_smoothing", "from_logits", "sample_weight", "mask"):
        return None
    is_last = asked.axis == len(asked.shape) - 1

    def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
        scores, wanted = last(asked, logits), last(asked, one_hot(asked, target, logits.dtype))
        axis = -1
        if not undo and not is_last and "class_weight" not in asked.config:
            scores, wanted, axis = logits, one_hot(asked, target, logits.dtype), asked.axis
        function = built(
            asked,
            losses.CategoricalFocalCrossentropy,
            logits,
            alpha=asked.get("class_weight", 1.0),
            gamma=asked.get("gamma", 2.0),
            from_logits=asked.has_logits,
            label_smoothing=asked.get("label_smoothing", 0.0),
            axis=axis,
        )
        value = function(wanted, masked(asked, scores, inputs), **weights(asked, inputs, undo))
        return ops.reshape(value, asked.row_shape) if asked.reduction == "none" else value

    return offered(
        call, aligned(asked), SMOOTHED_BY_LAST_AXIS if "label_smoothing" in asked.config and not is_last else None
    )


def of_probabilities(loss: Any, *names: str, takes_indices: bool = False, over_classes: bool = False) -> Any:
    """A loss of probabilities, which are the softmax of logits."""

    def make(asked: Asked) -> Offer | str | None:
        if not asked.only("from_logits", "sample_weight", "mask", *names):
            return None
        if over_classes and asked.is_clipped:
            return UNCLIPPED
        if (takes_indices or over_classes) and not asked.is_hard:
            return "of soft targets it is another loss"
        if takes_indices and (not asked.has_indices or not 0 < asked.get("q", 0.7) < 1):
            return "takes class indices, and q between 0 and 1"

        def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
            p = last(asked, probabilities(asked, logits, undo))
            if takes_indices:
                wanted = ops.reshape(target, p.shape[:-1])
            else:
                wanted = last(asked, one_hot(asked, target, logits.dtype))
            options = {"q": asked.get("q", 0.7)} if takes_indices else {}
            function = built(asked, loss, logits, **options)
            value = function(wanted, masked(asked, p, inputs), **weights(asked, inputs, undo))
            value = ops.reshape(value, asked.row_shape) if asked.reduction == "none" else value
            return value * asked.classes if undo and over_classes else value

        is_clipped = loss is losses.KLDivergence
        return offered(
            call,
            MEAN_OF_CLASSES if over_classes else None,
            aligned(asked),
            None if asked.has_logits else UNNORMALISED if is_clipped else f"{UNNORMALISED}; {UNCLIPPED}",
        )

    return make


def hinge(asked: Asked) -> Offer | str | None:
    """CategoricalHinge of one-hot rows."""
    if not asked.only("sample_weight", "mask"):
        return None
    if not asked.is_hard:
        return "of soft targets it is another loss"

    def call(logits: Tensor, target: Tensor, *, undo: bool, **inputs: Tensor) -> Tensor:
        scores, wanted = last(asked, logits), last(asked, one_hot(asked, target, logits.dtype))
        if undo:
            scores = scores - ops.min(scores, axis=-1, keepdims=True)
        function = built(asked, losses.CategoricalHinge, logits)
        value = function(wanted, masked(asked, scores, inputs), **weights(asked, inputs, undo))
        return ops.reshape(value, asked.row_shape) if asked.reduction == "none" else value

    return offered(call, "rivals below 0 count as 0", aligned(asked))


def of_labels(asked: Asked) -> dict[str, Any]:
    return {"from_logits": asked.has_logits, "label_smoothing": asked.get("label_smoothing", 0.0)}


def of_focal(asked: Asked) -> dict[str, Any]:
    balance = {"apply_class_balancing": True, "alpha": asked.config["alpha"]} if "alpha" in asked.config else {}
    return {**of_labels(asked), "gamma": asked.get("gamma", 2.0), **balance}


BINARY = ("from_logits", "label_smoothing")
OFFERS = {
    "BinaryCrossEntropy": elementwise(losses.BinaryCrossentropy, BINARY, of_labels, mixes=False),
    "BinaryFocalCrossEntropy": elementwise(losses.BinaryFocalCrossentropy, (*BINARY, "gamma", "alpha"), of_focal),
    "BinaryHinge": elementwise(losses.Hinge, (), lambda asked: {}),
    "CategoricalCrossEntropy": cross_entropy,
    "CategoricalFocalCrossEntropy": focal,
    "CategoricalGeneralizedCrossEntropy": of_probabilities(
        losses.CategoricalGeneralizedCrossEntropy, "q", takes_indices=True
    ),
    "CategoricalHinge": hinge,
    "CategoricalMeanAbsoluteError": of_probabilities(losses.MeanAbsoluteError, over_classes=True),
    "CategoricalSquaredError": of_probabilities(losses.MeanSquaredError, over_classes=True),
    "KLDivergence": of_probabilities(losses.KLDivergence),
    "SparseCategoricalCrossEntropy": cross_entropy,
}


def weighted_mean(asked: Asked) -> bool:
    """The mean can divide by the sum of sample weights."""
    has_other_weights = bool({"alpha", "class_weight"} & set(asked.config))
    return "sample_weight" in asked.inputs and asked.sums_to_one and not has_other_weights


offer = answers(OFFERS, weighted_mean)
