"""kornia.losses: the focal losses, and the divergences of heat maps, whose cells are the classes here."""

from typing import Any

import torch
from kornia import losses
from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "kornia")
DISTRIBUTION = "kornia"

IGNORED_COUNT = "ignored elements stay in the mean"


def focal(asked: Asked) -> Offer | str | None:
    """focal_loss, with an entry for each class, of which all but one are 0."""
    if not asked.only("gamma", "class_weight", "ignore_index"):
        return None
    if not asked.has_indices:
        return "takes class indices only"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        scores, given = shared.second(asked, logits), shared.labels(asked, target)
        if logits.ndim == 1:
            scores, given = scores[None], given[None]
        options: dict[str, Any] = {
            "gamma": asked.get("gamma", 2.0),
            "weight": shared.class_weight(asked, logits),
            "ignore_index": asked.get("ignore_index"),
        }
        if undo or asked.reduction == "none":
            return shared.reduced(asked, losses.focal_loss(scores, given, None, **options).sum(1))
        return losses.focal_loss(scores, given, None, reduction=asked.reduction, **options)

    entries = "mean divides by the rows, ignored ones too, times the classes"
    return offered(call, entries if asked.reduction == "mean" else None)


def binary_focal(asked: Asked) -> Offer | str | None:
    """binary_focal_loss_with_logits, of at least two axes."""
    if not asked.only("gamma", "alpha", "pos_weight", "ignore_index"):
        return None
    is_flat = asked.pos_weight.ndim == 1 and len(asked.shape) == 2
    if not (asked.pos_weight.ndim == 0 or is_flat):
        return "pos_weight is one number for each channel"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        scores, given = logits, shared.binary(asked, logits, target)
        if logits.ndim == 1:
            scores, given = scores[:, None], given[:, None]
        weight = logits.new_tensor(asked.pos_weight).expand(scores.shape[1]) if "pos_weight" in asked.config else None
        value = losses.binary_focal_loss_with_logits(
            scores,
            given,
            asked.get("alpha"),
            asked.get("gamma", 2.0),
            "none" if undo else asked.reduction,
            weight,
            ignore_index=asked.get("ignore_index"),
        )
        if undo:
            return shared.reduced(asked, value)
        return value.reshape(asked.row_shape) if asked.reduction == "none" else value

    return offered(call, IGNORED_COUNT if asked.reduction == "mean" and "ignore_index" in asked.config else None)


def divergence(function: Any) -> Any:
    """kl_div_loss_2d and js_div_loss_2d: a row is a heat map of one line."""

    def make(asked: Asked) -> Offer | str | None:
        if not asked.only("from_logits"):
            return None
        mixes = function is losses.js_div_loss_2d and not asked.is_hard
        if function is losses.js_div_loss_2d and asked.is_clipped:
            return shared.UNCLIPPED

        def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
            p = shared.flat(asked, shared.probabilities(asked, logits, normalise=undo))
            p = shared.clipped(p) if undo and asked.is_clipped else p
            shares = shared.flat(asked, shared.distribution(asked, logits, target)).to(p.dtype)

            def loss(wanted: Tensor, reduction: str) -> Tensor:
                return function(p[:, None, None], wanted[:, None, None], reduction)

            if undo and mixes:
                rows = shared.mixed_classes(
                    shares,
                    lambda labels: loss(torch.nn.functional.one_hot(labels, asked.classes).to(p.dtype), "none")[:, 0],
                )
                return shared.reduced(asked, rows).to(logits.dtype)
            value = loss(shares, asked.reduction).to(logits.dtype)
            return value.reshape(asked.row_shape) if asked.reduction == "none" else value

        return offered(
            call,
            "the divergence is that of the mixture, not the mixture of divergences" if mixes else None,
            shared.of_probabilities(asked),
        )

    return make


OFFERS = {
    "BinaryFocalCrossEntropy": binary_focal,
    "CategoricalFocalCrossEntropy": focal,
    "CategoricalJensenShannon": divergence(losses.js_div_loss_2d),
    "KLDivergence": divergence(losses.kl_div_loss_2d),
}

offer = answers(OFFERS)
