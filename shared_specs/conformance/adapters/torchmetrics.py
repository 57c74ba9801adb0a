"""torchmetrics.functional: the metrics that are losses of logits or probabilities, with their gradient."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional import classification, regression

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "torchmetrics")
DISTRIBUTION = "torchmetrics"


def binary_hinge(asked: Asked) -> Offer | str | None:
    """binary_hinge_loss, which takes the sigmoid of scores that leave [0, 1]."""
    if not asked.only("ignore_index"):
        return None
    if not asked.is_hard or asked.reduction != "mean" or not isinstance(asked.get("ignore_index", 0), int):
        return "takes labels 0 and 1, and has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        labels = target.reshape(asked.shape).long()
        return classification.binary_hinge_loss(logits, labels, ignore_index=asked.get("ignore_index"))

    return offered(call)


def hinge(asked: Asked) -> Offer | str | None:
    """multiclass_hinge_loss, which takes the softmax of scores that leave [0, 1]."""
    if not asked.only("ignore_index"):
        return None
    if not asked.has_indices or asked.reduction != "mean":
        return "takes class indices, and has the mean only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        return classification.multiclass_hinge_loss(
            shared.flat(asked, logits), target.reshape(-1), asked.classes, ignore_index=asked.get("ignore_index")
        )

    return offered(call)


def divergence(function: Any) -> Any:
    """kl_divergence(p, q) and jensen_shannon_divergence(p, q), p the target: both normalise p and q."""

    def make(asked: Asked) -> Offer | str | None:
        if not asked.only("from_logits"):
            return None
        mixes = function is regression.jensen_shannon_divergence and not asked.is_hard
        if not asked.sums_to_one:
            return "normalises the target"
        if function is regression.jensen_shannon_divergence and asked.is_clipped:
            return shared.UNCLIPPED

        def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
            p = shared.flat(asked, shared.probabilities(asked, logits, normalise=False))
            p = shared.clipped(p / p.sum(1, keepdim=True)) if undo and asked.is_clipped else p
            shares = shared.flat(asked, shared.distribution(asked, logits, target)).to(p.dtype)
            if undo and mixes:
                return shared.reduced(
                    asked,
                    shared.mixed_classes(
                        shares,
                        lambda labels: function(
                            torch.nn.functional.one_hot(labels, asked.classes).to(p.dtype), p, reduction="none"
                        ),
                    ),
                )
            value = function(shares, p, reduction=asked.reduction).to(logits.dtype)
            return value.reshape(asked.row_shape) if asked.reduction == "none" else value

        return offered(
            call,
            "the divergence is that of the mixture, not the mixture of divergences" if mixes else None,
            shared.UNCLIPPED if asked.is_clipped else None,
        )

    return make


OFFERS = {
    "BinaryHinge": binary_hinge,
    "CategoricalHinge": hinge,
    "CategoricalJensenShannon": divergence(regression.jensen_shannon_divergence),
    "KLDivergence": divergence(regression.kl_divergence),
}
offer = answers(OFFERS)
