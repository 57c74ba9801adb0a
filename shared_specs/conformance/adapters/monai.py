"""monai.losses.FocalLoss."""

from typing import Any

from monai.losses import FocalLoss
from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "monai")
DISTRIBUTION = "monai"


def focal(asked: Asked) -> Offer | str | None:
    """FocalLoss(use_softmax=True), with an entry for each class."""
    if not asked.only("gamma", "class_weight", *(["ignore_index"] if asked.has_indices else [])):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        scores = shared.second(asked, logits)
        if asked.has_indices:
            given = shared.labels(asked, target).unsqueeze(1 if logits.ndim > 1 else 0)
        else:
            given = shared.second(asked, target)
        if logits.ndim == 1:
            scores, given = scores[None], given[None]
        loss = FocalLoss(
            to_onehot_y=asked.has_indices,
            gamma=asked.get("gamma", 2.0),
            weight=asked.get("class_weight"),
            reduction="none" if undo else asked.reduction,
            use_softmax=True,
            ignore_index=asked.get("ignore_index"),
        )
        value = loss(scores, given)
        return shared.reduced(asked, value.sum(1)) if undo or asked.reduction == "none" else value

    return offered(
        call,
        "without ignore_index, mean divides by the rows times the classes" if asked.reduction == "mean" else None,
        "sum is over the means of each image" if asked.reduction == "sum" else None,
    )


def binary_focal(asked: Asked) -> Offer | str | None:
    """FocalLoss(), of at least two axes."""
    if not asked.only("gamma", "alpha", "ignore_index"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        scores, given = logits, shared.binary(asked, logits, target)
        if logits.ndim == 1 or "ignore_index" in asked.config:
            # Of several channels it ignores a channel, or pixels without any class.
            scores, given = scores.reshape(-1, 1), given.reshape(-1, 1)
        options: dict[str, Any] = {"gamma": asked.get("gamma", 2.0), "alpha": asked.get("alpha")}
        options["ignore_index"] = asked.get("ignore_index")
        if undo:
            loss = FocalLoss(reduction="none", **options)
            return shared.reduced(asked, shared.mixed_labels(asked, given, lambda labels: loss(scores, labels)))
        value = FocalLoss(reduction=asked.reduction, **options)(scores, given)
        return value.reshape(asked.row_shape) if asked.reduction == "none" else value

    return offered(
        call,
        None if asked.is_hard else "soft labels have the sign of their mixture in the modulator",
        "sum is over the means of each image" if asked.reduction == "sum" else None,
    )


OFFERS = {"BinaryFocalCrossEntropy": binary_focal, "CategoricalFocalCrossEntropy": focal}

offer = answers(OFFERS)
