"""transformers: fixed_cross_entropy, which its models call, the LabelSmoother of its Trainer, and DETR's focal loss."""

from typing import Any

from torch import Tensor
from transformers.loss.loss_for_object_detection import sigmoid_focal_loss
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.trainer_pt_utils import LabelSmoother

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "transformers")
DISTRIBUTION = "transformers"


def cross_entropy(asked: Asked) -> Offer | str | None:
    """The denominator of a case is num_items_in_batch."""
    if not asked.only("ignore_index", "label_smoothing", "denominator"):
        return None
    if not asked.has_indices:
        return "takes class indices only"
    if asked.reduction != "mean" and not (asked.reduction == "sum" and "denominator" in asked.inputs):
        return "has the mean, and the sum over num_items_in_batch"

    def call(logits: Tensor, target: Tensor, *, undo: bool, denominator: Tensor | None = None) -> Tensor:
        rows, labels = shared.flat(asked, logits), target.reshape(-1)
        ignored = asked.get("ignore_index", -100)
        if "label_smoothing" in asked.config:
            smoother = LabelSmoother(asked.config["label_smoothing"], ignored)
            return smoother({"logits": rows}, labels, num_items_in_batch=denominator)
        return fixed_cross_entropy(rows, labels, denominator, ignored)

    return offered(call)


def binary_focal(asked: Asked) -> Offer | str | None:
    """The mean over axis 1, then the sum, divided by num_boxes."""
    if not asked.only("gamma", "alpha"):
        return None
    if asked.reduction != "mean":
        return "has a mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        scores, given = (tensor.reshape(-1, 1) for tensor in (logits, shared.binary(asked, logits, target)))
        options: dict[str, Any] = {"alpha": asked.get("alpha", -1), "gamma": asked.get("gamma", 2.0)}

        def loss(labels: Tensor) -> Tensor:
            return sigmoid_focal_loss(scores, labels, len(scores), **options)

        if not undo:
            return loss(given)
        # It has no rows to mix: each element is a call of its own.
        elements = zip(scores, given, strict=True)
        total = sum(
            share * sigmoid_focal_loss(score[None], share.new_ones(1, 1), 1, **options)
            + (1 - share) * sigmoid_focal_loss(score[None], share.new_zeros(1, 1), 1, **options)
            for score, share in elements
        )
        return (total / len(scores)).reshape(())

    return offered(call, None if asked.is_hard else "soft labels are mixed inside the modulator")


OFFERS = {
    "BinaryFocalCrossEntropy": binary_focal,
    "CategoricalCrossEntropy": cross_entropy,
    "SparseCategoricalCrossEntropy": cross_entropy,
}
offer = answers(OFFERS)
