"""torchvision.ops.sigmoid_focal_loss."""

from functools import partial

from torch import Tensor

from shared_specs.conformance.adapters import _torch as shared
from shared_specs.conformance.asked import Asked, answers, offered
from shared_specs.conformance.offers import Offer

shared.make_torchvision_importable()

from torchvision.ops import sigmoid_focal_loss  # noqa: E402

FRAMEWORK = "torch"
REQUIREMENTS = ("torch", "torchvision")
DISTRIBUTION = "torchvision"


def binary_focal(asked: Asked) -> Offer | None:
    """Its alpha is -1 where there is none."""
    if not asked.only("gamma", "alpha"):
        return None

    def call(logits: Tensor, target: Tensor, *, undo: bool) -> Tensor:
        target = shared.binary(asked, logits, target)
        loss = partial(sigmoid_focal_loss, logits, alpha=asked.get("alpha", -1), gamma=asked.get("gamma", 2.0))
        if undo:
            return shared.reduced(asked, shared.mixed_labels(asked, target, loss))
        return loss(target, reduction=asked.reduction)

    return offered(call, None if asked.is_hard else "soft labels are mixed inside the modulator")


offer = answers({"BinaryFocalCrossEntropy": binary_focal})
