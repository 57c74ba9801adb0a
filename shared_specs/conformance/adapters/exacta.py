"""exacta.losses: FocalLoss and TopKCELoss, whose fraction is our hard_fraction. Both have the mean only."""

from typing import Any

from exacta import losses
from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "exacta")
DISTRIBUTION = "exacta"


def in_space(
    asked: Asked, logits: Tensor, target: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Logits [cases, classes, rows], their target, and the mask: exacta wants at least one axis of space."""
    scores = shared.flat(asked, logits).T[None]
    given = target.reshape(1, -1) if asked.has_indices else shared.flat(asked, target.to(logits.dtype)).T[None]
    if mask is None:
        return scores, given, {}
    return scores, given, {"mask": shared.against_rows(asked, mask).expand(asked.row_shape).reshape(1, -1)}


def cross_entropy(asked: Asked) -> Offer | str | None:
    """TopKCELoss."""
    if not asked.only("ignore_index", "mask", "hard_fraction"):
        return None
    if not asked.has_indices or asked.reduction != "mean":
        return "takes class indices only, and has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool, mask: Tensor | None = None) -> Tensor:
        scores, given, options = in_space(asked, logits, target, mask)
        loss = losses.TopKCELoss(fraction=asked.get("hard_fraction", 1.0), ignore_index=asked.get("ignore_index"))
        return loss(scores, given, **options)

    return offered(call)


def focal(asked: Asked) -> Offer | str | None:
    """FocalLoss of a softmax."""
    if not asked.only("gamma", "mask", *(["ignore_index"] if asked.has_indices else [])):
        return None
    if asked.reduction != "mean":
        return "has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool, mask: Tensor | None = None) -> Tensor:
        scores, given, options = in_space(asked, logits, target, mask)
        loss = losses.FocalLoss(
            target_format="index" if asked.has_indices else "one-hot",
            gamma=asked.get("gamma", 2.0),
            ignore_index=asked.get("ignore_index"),
        )
        return loss(scores, given, **options)

    return offered(call)


def binary_focal(asked: Asked) -> Offer | str | None:
    """FocalLoss of sigmoids, each element a voxel of one channel."""
    if not asked.only("gamma", "alpha", "mask"):
        return None
    if asked.reduction != "mean":
        return "has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool, mask: Tensor | None = None) -> Tensor:
        scores, given = (tensor.reshape(1, 1, -1) for tensor in (logits, shared.binary(asked, logits, target)))
        options = (
            {} if mask is None else {"mask": shared.against_rows(asked, mask).expand(asked.row_shape).reshape(1, -1)}
        )
        loss = losses.FocalLoss(
            activation="sigmoid", target_format="one-hot", gamma=asked.get("gamma", 2.0), alpha=asked.get("alpha")
        )
        return loss(scores, given, **options)

    return offered(call)


OFFERS = {
    "BinaryFocalCrossEntropy": binary_focal,
    "CategoricalCrossEntropy": cross_entropy,
    "CategoricalFocalCrossEntropy": focal,
    "SparseCategoricalCrossEntropy": cross_entropy,
}
offer = answers(OFFERS)
