"""timm.loss."""

from typing import Any

import torch
from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer
from shared_specs.load import Case

shared.make_torchvision_importable()

from timm import loss as losses  # noqa: E402

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "torchvision", "timm")
DISTRIBUTION = "timm"

MIXED = "soft labels are mixed inside the modulator"


def cross_entropy(asked: Asked) -> Offer | str | None:
    """LabelSmoothingCrossEntropy of indices, SoftTargetCrossEntropy of distributions: both have the mean only."""
    if not asked.only(*(["label_smoothing"] if asked.has_indices else [])):
        return None
    if asked.reduction != "mean":
        return "has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        if asked.has_indices:
            loss = losses.LabelSmoothingCrossEntropy(asked.get("label_smoothing", 0.0))
            return loss(shared.flat(asked, logits), target.reshape(-1))
        return losses.SoftTargetCrossEntropy()(shared.flat(asked, logits), shared.flat(asked, target.to(logits.dtype)))

    return offered(call)


def focal(asked: Asked) -> Offer | str | None:
    """AsymmetricLossSingleLabel with gamma_neg=0, which is a softmax focal loss."""
    if not asked.only("gamma", "label_smoothing"):
        return None
    if not asked.has_indices or asked.reduction == "sum":
        return "takes class indices only, and has no sum"
    smoothing = asked.get("label_smoothing", 0.0)

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        scores, indices = shared.flat(asked, logits), target.reshape(-1)
        options: dict[str, Any] = {"gamma_pos": asked.get("gamma", 2.0), "gamma_neg": 0}
        if not undo:
            value = losses.AsymmetricLossSingleLabel(**options, eps=smoothing, reduction=asked.reduction)(
                scores, indices
            )
            return value.reshape(asked.row_shape) if asked.reduction == "none" else value
        loss = losses.AsymmetricLossSingleLabel(**options, eps=0.0, reduction="none")
        shares = torch.nn.functional.one_hot(indices, asked.classes).to(logits.dtype)
        rows = shared.mixed_classes(shared.smoothed(asked, shares), lambda labels: loss(scores, labels))
        return shared.reduced(asked, rows)

    return offered(call, "only the label is modulated, not the classes that smoothing adds" if smoothing else None)


def binary_cross_entropy(asked: Asked) -> Offer | str | None:
    """BinaryCrossEntropy with smooth_dense=True."""
    if not asked.only("label_smoothing", "pos_weight"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        loss = losses.BinaryCrossEntropy(
            smoothing=asked.get("label_smoothing", 0.0),
            smooth_dense=True,
            pos_weight=logits.new_tensor(asked.pos_weight) if "pos_weight" in asked.config else None,
            reduction=asked.reduction,
        )
        return loss(logits, shared.binary(asked, logits, target))

    return offered(call)


def asymmetric(asked: Asked) -> Offer | str | None:
    """AsymmetricLossMultiLabel; its clip is our margin."""
    if not asked.only("gamma_pos", "gamma_neg", "margin", "detach_modulator", "pos_weight", "label_smoothing"):
        return None
    smoothing = asked.get("label_smoothing", 0.0)

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        def loss(labels: Tensor, **options: Any) -> Tensor:
            function = losses.AsymmetricLossMultiLabel(
                gamma_neg=asked.get("gamma_neg", 4.0),
                gamma_pos=asked.get("gamma_pos", 0.0),
                clip=asked.get("margin", 0.05),
                disable_torch_grad_focal_loss=asked.get("detach_modulator", False),
                pos_weight=logits.new_tensor(asked.pos_weight) if "pos_weight" in asked.config else None,
                **options,
            )
            return function(logits, labels)

        target = shared.binary(asked, logits, target)
        if not undo:
            return loss(target, reduction=asked.reduction, smoothing=smoothing)
        target = target * (1 - smoothing) + smoothing / 2
        return shared.reduced(asked, shared.mixed_labels(asked, target, lambda hard: loss(hard, reduction="none")))

    return offered(call, MIXED if smoothing or not asked.is_hard else None)


def poly(asked: Asked) -> Offer | str | None:
    """PolyCrossEntropy; indices only are smoothed."""
    if not asked.only("epsilon", *(["label_smoothing"] if asked.has_indices else [])):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        def loss(labels: Tensor, smoothing: float, reduction: str) -> Tensor:
            return losses.PolyCrossEntropy(asked.get("epsilon", 1.0), smoothing, reduction)(scores, labels)

        scores = shared.flat(asked, logits)
        if undo:
            shares = shared.flat(asked, target.to(logits.dtype))
            return shared.reduced(asked, shared.mixed_classes(shares, lambda labels: loss(labels, 0.0, "none")))
        given = target.reshape(-1) if asked.has_indices else shared.flat(asked, target)
        value = loss(given, asked.get("label_smoothing", 0.0), asked.reduction)
        return value.reshape(asked.row_shape) if asked.reduction == "none" else value

    return offered(call, None if asked.sums_to_one else "the polynomial term has 1 for the sum of a target")


def binary_poly(asked: Asked) -> Offer | str | None:
    """PolyBinaryCrossEntropy."""
    if not asked.only("epsilon", "label_smoothing"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        loss = losses.PolyBinaryCrossEntropy(
            epsilon=asked.get("epsilon", 1.0), smoothing=asked.get("label_smoothing", 0.0), reduction=asked.reduction
        )
        return loss(logits, shared.binary(asked, logits, target))

    return offered(call)


def consistency(asked: Asked) -> Offer | str | None:
    """JsdCrossEntropy, whose views lie one after the other along the rows."""
    views = asked.get("views", 3)
    is_index = asked.target.ndim < len(asked.shape)
    if not asked.only("views", "weight", "label_smoothing"):
        return None
    if not is_index or asked.reduction != "mean":
        return "takes class indices only, and has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        loss = losses.JsdCrossEntropy(views, asked.get("weight", 12.0), asked.get("label_smoothing", 0.0))
        rows = torch.cat(shared.flat(asked, logits).chunk(views, 1))
        return loss(rows, target.reshape(-1).repeat(views))

    return offered(call)


OFFERS = {
    "AsymmetricLoss": asymmetric,
    "BinaryCrossEntropy": binary_cross_entropy,
    "BinaryPolyCrossEntropy": binary_poly,
    "CategoricalCrossEntropy": cross_entropy,
    "CategoricalFocalCrossEntropy": focal,
    "CategoricalPolyCrossEntropy": poly,
    "JensenShannonConsistency": consistency,
    "SparseCategoricalCrossEntropy": cross_entropy,
}

OFFER = answers(OFFERS)


def offer(case: Case) -> Offer | str | None:
    """The call of timm that is nearest to a case."""
    return "smoothing is below 1" if case.config.get("label_smoothing") == 1.0 else OFFER(case)
