"""liger_kernel: LigerCrossEntropyLoss and LigerKLDIVLoss, in Triton's interpreter where there is no GPU."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from liger_kernel.transformers import LigerCrossEntropyLoss, LigerKLDIVLoss
from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

FRAMEWORK = "torch"
# Liger imports packaging and does not ask for it.
REQUIREMENTS = ("torch", "triton", "packaging", "liger-kernel")
DISTRIBUTION = "liger-kernel"
MODES = ("eager",)
IS_INTERPRETED = not torch.cuda.is_available()


def cross_entropy(asked: Asked) -> Offer | str | None:
    """LigerCrossEntropyLoss; its lse_square_scale is our z_loss."""
    if not asked.only("class_weight", "ignore_index", "label_smoothing", "softcap", "z_loss"):
        return None
    if not asked.has_indices:
        return "takes class indices only"
    if IS_INTERPRETED and {"class_weight", "softcap"} & set(asked.config):
        return "class weights and softcap do not run in Triton's interpreter"
    has_weights = "class_weight" in asked.config
    divides_by_weights = asked.reduction == "mean" and has_weights
    mixes_means = asked.reduction == "weighted_mean" and has_weights and "z_loss" in asked.config

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        loss = LigerCrossEntropyLoss(
            weight=shared.class_weight(asked, logits),
            ignore_index=asked.get("ignore_index", -100),
            lse_square_scale=asked.get("z_loss", 0.0),
            label_smoothing=asked.get("label_smoothing", 0.0),
            reduction="sum" if undo else asked.reduction.removeprefix("weighted_"),
            softcap=asked.get("softcap"),
        )
        # A copy: the kernel writes the gradient over its input.
        value = loss(shared.flat(asked, logits).clone(), target.reshape(-1))
        if undo:
            weights = shared.class_weight(asked, logits)
            kept = torch.as_tensor(asked.kept).reshape(-1)
            count = weights[target.reshape(-1)[kept]].sum() if mixes_means and weights is not None else asked.kept_rows
            return value / count
        return value.reshape(asked.row_shape) if asked.reduction == "none" else value

    return offered(
        call,
        "mean divides by the sum of the weights of the labels" if divides_by_weights else None,
        "the mean of the z-loss divides by the rows" if mixes_means else None,
    )


def kl_divergence(asked: Asked) -> Offer | str | None:
    """LigerKLDIVLoss of the log-softmax; batchmean divides by the rows."""
    if not asked.only():
        return None
    if asked.reduction == "none":
        return "its none keeps the classes"
    if IS_INTERPRETED:
        return "does not run in Triton's interpreter"

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        rows = shared.flat(asked, shared.distribution(asked, logits, target)).contiguous()
        logs = shared.flat(asked, logits).log_softmax(1)
        return LigerKLDIVLoss(reduction="batchmean" if asked.reduction == "mean" else "sum")(logs, rows)

    return offered(call)


def weighted_mean(asked: Asked) -> bool:
    """The mean with class weights divides by those of the labels."""
    return asked.has_indices and asked.loss != "KLDivergence"


OFFERS = {
    "CategoricalCrossEntropy": cross_entropy,
    "KLDivergence": kl_divergence,
    "SparseCategoricalCrossEntropy": cross_entropy,
}
offer = answers(OFFERS, weighted_mean)
