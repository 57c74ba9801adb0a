"""segmentation_models_pytorch.losses: cross-entropies and the focal loss."""

from typing import Any

from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

shared.make_torchvision_importable()

from segmentation_models_pytorch import losses  # noqa: E402

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
DISTRIBUTION = "segmentation-models-pytorch"

IGNORED_COUNT = "ignored elements stay in the mean"


def ignores(asked: Asked) -> str | None:
    """The convention of means beside ignored labels."""
    return IGNORED_COUNT if "ignore_index" in asked.config and asked.reduction == "mean" else None


def cross_entropy(asked: Asked) -> Offer | str | None:
    """SoftCrossEntropyLoss, whose default smooth_factor, None, fails."""
    if not asked.only("ignore_index", "label_smoothing"):
        return None
    if not asked.has_indices:
        return "takes class indices only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        loss = losses.SoftCrossEntropyLoss(
            reduction="none" if undo else asked.reduction,
            smooth_factor=asked.get("label_smoothing", 0.0),
            ignore_index=asked.get("ignore_index", -100),
        )
        scores, labels = shared.second(asked, logits), shared.labels(asked, target)
        value = loss(scores[None], labels[None]) if logits.ndim == 1 else loss(scores, labels)
        return shared.reduced(asked, value) if undo or asked.reduction == "none" else value

    return offered(call, ignores(asked))


def binary_cross_entropy(asked: Asked) -> Offer | str | None:
    """SoftBCEWithLogitsLoss, which smooths over the other label."""
    if not asked.only("ignore_index", "label_smoothing", "smooth_over", "pos_weight", "sample_weight"):
        return None
    over_both = "label_smoothing" in asked.config and "smooth_over" not in asked.config

    def call(logits: Tensor, target: Tensor, *, undo: bool, sample_weight: Tensor | None = None) -> Tensor:
        options: dict[str, Any] = {"ignore_index": asked.get("ignore_index", -100)}
        if sample_weight is not None:
            options["weight"] = shared.against_rows(asked, sample_weight)
        if "pos_weight" in asked.config:
            options["pos_weight"] = logits.new_tensor(asked.pos_weight)
        if "label_smoothing" in asked.config:
            options["smooth_factor"] = asked.config["label_smoothing"] * (0.5 if undo and over_both else 1)
        loss = losses.SoftBCEWithLogitsLoss(reduction="none" if undo else asked.reduction, **options)
        value = loss(logits, shared.binary(asked, logits, target))
        return shared.reduced(asked, value) if undo else value

    return offered(call, ignores(asked), "the share of smoothing goes to the other label" if over_both else None)


def binary_focal(asked: Asked) -> Offer | str | None:
    """FocalLoss("binary"); "multiclass" is one class against the rest, by sigmoids."""
    if not asked.only("gamma", "alpha", "ignore_index", "from_logits"):
        return None
    if asked.reduction == "none" and "ignore_index" in asked.config:
        return "leaves out the elements that are ignored"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        def loss(labels: Tensor, reduction: str) -> Tensor:
            function = losses.FocalLoss(
                "binary",
                alpha=asked.get("alpha"),
                gamma=asked.get("gamma", 2.0),
                ignore_index=None if undo else asked.get("ignore_index"),
                from_logits=asked.has_logits,
                reduction=reduction,
            )
            return function(logits, labels)

        given = shared.binary(asked, logits, target)
        if undo:
            mixture = shared.mixed_labels(asked, given, lambda labels: loss(labels, "none").reshape(asked.row_shape))
            return shared.reduced(asked, mixture)
        value = loss(given, asked.reduction)
        return value.reshape(asked.row_shape) if asked.reduction == "none" else value

    return offered(call, None if asked.is_hard else "the modulator of a soft label is made from its cross-entropy")


OFFERS = {
    "BinaryCrossEntropy": binary_cross_entropy,
    "BinaryFocalCrossEntropy": binary_focal,
    "CategoricalCrossEntropy": cross_entropy,
    "SparseCategoricalCrossEntropy": cross_entropy,
}
offer = answers(OFFERS)
