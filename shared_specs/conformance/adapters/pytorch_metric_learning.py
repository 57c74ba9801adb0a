"""pytorch_metric_learning.losses, given the cosines in place of the embeddings."""

import math
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, reducers
from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "pytorch-metric-learning")
DISTRIBUTION = "pytorch-metric-learning"


class Cosines(distances.CosineSimilarity):
    """The distance of cosines that are known: they are the embeddings."""

    def forward(self, query_emb: Tensor, ref_emb: Tensor | None = None) -> Tensor:
        return query_emb


def called(asked: Asked, loss: Any, logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """A loss of rows, with the reducer that the case asks for."""
    reducer: Any = reducers.SumReducer() if asked.reduction == "sum" else reducers.MeanReducer()
    if "class_weight" in asked.config:
        reducer = reducers.ClassWeightedReducer(shared.class_weight(asked, logits))
    elif asked.reduction == "none":
        reducer = reducers.DoNothingReducer()
    function = loss(asked.classes, asked.classes, reducer=reducer, **options)
    value = function(shared.flat(asked, logits), target.reshape(-1))
    return value["loss"]["losses"].reshape(asked.row_shape) if asked.reduction == "none" else value


def refusal(asked: Asked, *names: str) -> str | None:
    """Why a case is not offered."""
    if not asked.only("class_weight", *names):
        return f"no argument for {', '.join(asked.beyond)}"
    if not asked.has_indices:
        return "takes class indices only"
    return (
        "class weights come with the mean only"
        if "class_weight" in asked.config and asked.reduction != "mean"
        else None
    )


def margin(loss: Any, default: float, is_angle: bool) -> Any:
    """ArcFaceLoss, whose margin is in degrees, and CosFaceLoss."""

    def make(asked: Asked) -> Offer | str | None:
        def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
            width = asked.get("margin", default)
            return called(
                asked,
                loss,
                logits,
                target,
                margin=math.degrees(width) if is_angle else width,
                scale=asked.get("scale", 64.0),
                distance=Cosines(),
            )

        return refusal(asked, "margin", "scale") or offered(call)

    return make


def cross_entropy(asked: Asked) -> Offer | str | None:
    """NormalizedSoftmaxLoss, whose class vectors are those of the axes here, so that the embeddings are the logits."""

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        return called(
            asked,
            losses.NormalizedSoftmaxLoss,
            logits,
            target,
            temperature=asked.get("temperature", 1.0),
            weight_init_func=torch.nn.init.eye_,
            distance=distances.DotProductSimilarity(normalize_embeddings=False),
        )

    if not np.isfinite(asked.scores).all():
        return "takes embeddings, which are finite"
    return refusal(asked, "temperature") or offered(call)


OFFERS = {
    "ArcFaceCrossEntropy": margin(losses.ArcFaceLoss, 0.5, is_angle=True),
    "CategoricalCrossEntropy": cross_entropy,
    "CosFaceCrossEntropy": margin(losses.CosFaceLoss, 0.35, is_angle=False),
    "SparseCategoricalCrossEntropy": cross_entropy,
}
offer = answers(OFFERS)
