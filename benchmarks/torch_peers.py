"""The peers in torch, each with what must be set for it to give the value and the gradient of ours."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

import lightning_xent

GAMMA, POLY_EPSILON, SMOOTHING, IGNORED = 2.0, 1.0, 0.1, -100


@dataclass(frozen=True)
class Inputs:
    """Logits [N, C], or [B, T, C], which require their gradient, and what the losses need beside them."""

    logits: Tensor
    target: Tensor
    class_weight: list[float]


@dataclass(frozen=True)
class Peer:
    """A function logits -> loss, as `measure.Contender` describes it."""

    name: str
    function: Callable[[Tensor], Tensor]
    note: str = ""
    same: bool = True


def of(loss: str, inputs: Inputs) -> tuple[list[Peer], list[str]]:
    """Return the peers of a loss, and the names of those that are not installed."""
    peers, missing = [], []
    for factory in PEERS[loss] + (CUDA_PEERS.get(loss, []) if inputs.logits.is_cuda else []):
        try:
            peers += factory(inputs)
        except ImportError as error:
            missing.append((error.name or str(error)).partition(".")[0])
    return peers, missing


def ours(loss: str, rank: int) -> tuple[str, torch.nn.Module | type[torch.nn.Module], dict[str, object]]:
    """Return class name, class and keywords of our loss."""
    name, keywords = OURS[loss]
    # torch has the classes on axis 1, which is the last one of [N, C] only.
    axis = {"axis": -1} if rank > 2 else {}
    return name, getattr(lightning_xent, name), keywords | axis


OURS = {
    "cross_entropy": ("CategoricalCrossEntropy", {}),
    "label_smoothing": ("CategoricalCrossEntropy", {"label_smoothing": SMOOTHING}),
    "weighted_ignored": ("CategoricalCrossEntropy", {"ignore_index": IGNORED, "reduction": "weighted_mean"}),
    "soft_target": ("CategoricalCrossEntropy", {}),
    "focal": ("CategoricalFocalCrossEntropy", {"gamma": GAMMA}),
    "poly": ("CategoricalPolyCrossEntropy", {"epsilon": POLY_EPSILON}),
    "generalized": ("CategoricalGeneralizedCrossEntropy", {"q": 0.7}),
    "binary_cross_entropy": ("BinaryCrossEntropy", {}),
    "binary_label_smoothing": ("BinaryCrossEntropy", {"label_smoothing": SMOOTHING}),
    "binary_focal": ("BinaryFocalCrossEntropy", {"gamma": GAMMA}),
}


def torch_cross_entropy(inputs: Inputs) -> list[Peer]:
    target = inputs.target
    if inputs.logits.dim() == 2:
        return [Peer("F.cross_entropy", lambda logits: functional.cross_entropy(logits, target))]
    flat = target.flatten()
    return [
        Peer("F.cross_entropy, transposed", lambda logits: functional.cross_entropy(logits.transpose(1, 2), target)),
        Peer("F.cross_entropy, flattened", lambda logits: functional.cross_entropy(logits.flatten(0, 1), flat)),
    ]


def torch_label_smoothing(inputs: Inputs) -> list[Peer]:
    smoothed = partial(functional.cross_entropy, target=inputs.target, label_smoothing=SMOOTHING)
    return [Peer("F.cross_entropy", smoothed)]


def torch_weighted_ignored(inputs: Inputs) -> list[Peer]:
    weight = torch.tensor(inputs.class_weight, dtype=inputs.logits.dtype, device=inputs.logits.device)
    weighted = partial(functional.cross_entropy, target=inputs.target, weight=weight, ignore_index=IGNORED)
    return [Peer("F.cross_entropy", weighted, "ours: weighted_mean")]


def torch_soft_target(inputs: Inputs) -> list[Peer]:
    return [Peer("F.cross_entropy", partial(functional.cross_entropy, target=inputs.target))]


def torch_binary_cross_entropy(inputs: Inputs) -> list[Peer]:
    return [
        Peer(
            "F.binary_cross_entropy_with_logits",
            partial(functional.binary_cross_entropy_with_logits, target=inputs.target),
        )
    ]


def torch_binary_label_smoothing(inputs: Inputs) -> list[Peer]:
    """torch has no smoothing of binary labels: each call smooths them, as ours does."""

    def loss(logits: Tensor) -> Tensor:
        smoothed = inputs.target * (1 - SMOOTHING) + SMOOTHING / 2
        return functional.binary_cross_entropy_with_logits(logits, smoothed)

    return [Peer("F.binary_cross_entropy_with_logits", loss, "labels smoothed in the call")]


def own_cross_entropy(inputs: Inputs) -> list[Peer]:
    loss = lightning_xent.CategoricalCrossEntropy()
    return [
        Peer(
            "our cross-entropy", lambda logits: loss(logits, inputs.target), "another loss: what the curve costs", False
        )
    ]


def timm_label_smoothing(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from timm.loss import LabelSmoothingCrossEntropy

    loss = LabelSmoothingCrossEntropy(SMOOTHING)
    return [Peer("timm LabelSmoothingCrossEntropy", lambda logits: loss(logits, inputs.target))]


def timm_soft_target(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from timm.loss import SoftTargetCrossEntropy

    loss = SoftTargetCrossEntropy()
    return [Peer("timm SoftTargetCrossEntropy", lambda logits: loss(logits, inputs.target))]


def timm_focal(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from timm.loss import AsymmetricLossSingleLabel

    loss = AsymmetricLossSingleLabel(gamma_pos=GAMMA, gamma_neg=0, eps=0.0)
    note = "gamma_neg=0, eps=0"
    return [Peer("timm AsymmetricLossSingleLabel", lambda logits: loss(logits, inputs.target), note)]


def timm_poly(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from timm.loss import PolyCrossEntropy

    loss = PolyCrossEntropy(epsilon=POLY_EPSILON)
    return [Peer("timm PolyCrossEntropy", lambda logits: loss(logits, inputs.target))]


def timm_binary_cross_entropy(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from timm.loss import BinaryCrossEntropy

    loss = BinaryCrossEntropy(smoothing=0.0)
    return [Peer("timm BinaryCrossEntropy", lambda logits: loss(logits, inputs.target))]


def timm_binary_focal(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from timm.loss import AsymmetricLossMultiLabel

    loss = AsymmetricLossMultiLabel(gamma_neg=GAMMA, gamma_pos=GAMMA, clip=None, reduction="mean")
    note = "equal gammas, clip=None"
    return [Peer("timm AsymmetricLossMultiLabel", lambda logits: loss(logits, inputs.target), note)]


def monai_focal(inputs: Inputs) -> list[Peer]:
    from monai.losses.focal_loss import FocalLoss

    loss = FocalLoss(gamma=GAMMA, use_softmax=True, to_onehot_y=True)
    classes, target = inputs.logits.shape[1], inputs.target[:, None]
    return [Peer("MONAI FocalLoss", lambda logits: classes * loss(logits, target), "x K: its mean is over N x K")]


def monai_binary_focal(inputs: Inputs) -> list[Peer]:
    from monai.losses.focal_loss import FocalLoss

    loss = FocalLoss(gamma=GAMMA)
    return [Peer("MONAI FocalLoss", lambda logits: loss(logits, inputs.target))]


def kornia_focal(inputs: Inputs) -> list[Peer]:
    from kornia.losses import focal_loss

    rows = inputs.target.numel()
    loss = partial(focal_loss, target=inputs.target, alpha=None, gamma=GAMMA, reduction="sum")
    return [
        Peer("kornia focal_loss", lambda logits: loss(logits) / rows, "alpha=None, sum / N: its mean is over N x K")
    ]


def kornia_binary_focal(inputs: Inputs) -> list[Peer]:
    from kornia.losses import binary_focal_loss_with_logits

    loss = partial(binary_focal_loss_with_logits, target=inputs.target, alpha=None, gamma=GAMMA, reduction="mean")
    return [Peer("kornia binary_focal_loss_with_logits", loss, "alpha=None")]


def torchvision_binary_focal(inputs: Inputs) -> list[Peer]:
    make_torchvision_importable()
    from torchvision.ops import sigmoid_focal_loss

    loss = partial(sigmoid_focal_loss, targets=inputs.target, alpha=-1, gamma=GAMMA, reduction="mean")
    return [Peer("torchvision sigmoid_focal_loss", loss, "alpha=-1: none")]


def compiled_cross_entropy(inputs: Inputs) -> list[Peer]:
    compiled = torch.compile(functional.cross_entropy, dynamic=False)
    target, name = inputs.target.flatten(), "F.cross_entropy, compiled"
    return [Peer(name, lambda logits: compiled(logits.flatten(0, -2), target))]


def liger_cross_entropy(inputs: Inputs) -> list[Peer]:
    from liger_kernel.transformers import LigerCrossEntropyLoss

    loss = LigerCrossEntropyLoss()
    target = inputs.target.flatten()
    return [Peer("Liger", lambda logits: loss(logits.flatten(0, -2), target), IN_PLACE)]


IN_PLACE = "writes its gradient over the logits: has a copy of its own, made once"

PEERS: dict[str, list[Callable[[Inputs], list[Peer]]]] = {
    "cross_entropy": [torch_cross_entropy],
    "label_smoothing": [torch_label_smoothing, timm_label_smoothing],
    "weighted_ignored": [torch_weighted_ignored],
    "soft_target": [torch_soft_target, timm_soft_target],
    "focal": [own_cross_entropy, monai_focal, kornia_focal, timm_focal],
    "poly": [own_cross_entropy, timm_poly],
    "generalized": [own_cross_entropy],
    "binary_cross_entropy": [torch_binary_cross_entropy, timm_binary_cross_entropy],
    "binary_label_smoothing": [torch_binary_label_smoothing],
    "binary_focal": [torchvision_binary_focal, monai_binary_focal, kornia_binary_focal, timm_binary_focal],
}
CUDA_PEERS = {"cross_entropy": [compiled_cross_entropy, liger_cross_entropy]}


def make_torchvision_importable() -> None:
    """Import torchvision, beside a CPU build of torch too.

    The torchvision of the package index is linked against CUDA. Without it its compiled operators do not load, and
    then its import fails, for it describes two of them to the compiler. The losses need none: naming both is enough.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            _TORCHVISION.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
