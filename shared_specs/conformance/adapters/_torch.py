"""What the adapters of torch libraries share: layouts, weights and means."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shared_specs.conformance.asked import CLIP, Asked

UNNORMALISED = "probabilities are taken as they are, not divided by their sum"
UNCLIPPED = "probabilities have no clip at 1e-7"


def of_probabilities(asked: Asked) -> str | None:
    """How calls with probabilities differ, where they neither normalise nor clip."""
    if asked.has_logits:
        return None
    return f"{UNNORMALISED}; {UNCLIPPED}" if asked.is_clipped else UNNORMALISED


def second(asked: Asked, tensor: Tensor) -> Tensor:
    """Logits, or a distribution, with the classes on axis 1, where torch has them."""
    return tensor.movedim(asked.axis, 1) if tensor.ndim > 1 else tensor


def flat(asked: Asked, tensor: Tensor) -> Tensor:
    """Logits, or a distribution, as [rows, classes]."""
    return tensor.movedim(asked.axis, -1).reshape(-1, asked.classes)


def labels(asked: Asked, target: Tensor) -> Tensor:
    """Class indices, or binary targets, in the shape of the rows."""
    return target.reshape(asked.row_shape)


def distribution(asked: Asked, logits: Tensor, target: Tensor) -> Tensor:
    """The target as probabilities, in the shape of the logits."""
    if not asked.has_indices:
        return target.to(logits.dtype)
    one_hot = functional.one_hot(target.reshape(asked.row_shape), asked.classes)
    return one_hot.movedim(-1, asked.axis).to(logits.dtype)


def binary(asked: Asked, logits: Tensor, target: Tensor) -> Tensor:
    """Binary targets in the shape and the dtype of the logits."""
    return target.reshape(asked.shape).to(logits.dtype)


def against_rows(asked: Asked, weights: Tensor) -> Tensor:
    """Sample weights, or a mask, so that they broadcast against the rows."""
    return weights.reshape(asked.against_rows(weights.shape))


def class_weight(asked: Asked, logits: Tensor) -> Tensor | None:
    """The class weights as a tensor, or None."""
    weights = asked.get("class_weight")
    return None if weights is None else logits.new_tensor(weights)


def probabilities(asked: Asked, logits: Tensor, normalise: bool = True) -> Tensor:
    """The probabilities of the classes: the softmax of logits, or the input over its sum, or the input itself."""
    if asked.has_logits:
        return logits.softmax(asked.axis)
    return logits / logits.sum(asked.axis, keepdim=True) if normalise else logits


def clipped(p: Tensor) -> Tensor:
    """Probabilities within the log-odds of 1e-7, without a gradient beyond; in float64, which holds 1 - 1e-7."""
    return p.double().clamp(CLIP, 1 - CLIP)


def reduced(asked: Asked, values: Tensor) -> Tensor:
    """Rows, or their mean over those that are kept, or their sum."""
    if asked.reduction == "none":
        return values.reshape(asked.row_shape)
    return values.sum() if asked.reduction == "sum" else values.sum() / asked.kept_rows


def mixed_labels(asked: Asked, target: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
    """A binary loss of each label, of `rows(labels)`, mixed by the target; ignored elements are left alone."""
    ones = torch.ones_like(target)
    if asked.kept.all():
        return target * rows(ones) + (1 - target) * rows(1 - ones)
    kept = torch.as_tensor(asked.kept, device=target.device).reshape(target.shape)
    share = torch.where(kept, target, 0.0)
    mixture = share * rows(torch.where(kept, ones, target)) + (1 - share) * rows(torch.where(kept, 1 - ones, target))
    return torch.where(kept, mixture, 0.0)


def mixed_classes(shares: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
    """A loss of each class, of `rows(class indices)`, mixed by shares [rows, classes]."""
    count, classes = shares.shape
    labels = torch.arange(classes, device=shares.device)
    return sum((shares[:, index] * rows(labels[index].expand(count)) for index in range(classes)), shares.new_zeros(()))


def smoothed(asked: Asked, shares: Tensor) -> Tensor:
    """Shares [rows, classes] after the label smoothing of the case, over all classes."""
    amount: Any = asked.get("label_smoothing", 0.0)
    return shares * (1 - amount) + amount / shares.shape[1]


def make_torchvision_importable() -> None:
    """Import torchvision, beside a CPU build of torch too.

    The torchvision of the package index is linked against CUDA. Without it its compiled operators do not load, and
    then its import fails, for it describes two of them to the compiler. The losses need none: naming both is enough.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library: Any = _TORCHVISION
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_FRAGMENT: Any = torch.library.Library
_TORCHVISION = _FRAGMENT("torchvision", "FRAGMENT")
