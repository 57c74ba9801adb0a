"""The kernels in torch: for class indices, for distributions, and for any elementwise or rowwise function.

Nothing here calls a compiler: `torch.compile` is the user's to call.
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_xent.kernels.distribution import of_distribution
from lightning_xent.kernels.elementwise import elementwise, rowwise
from lightning_xent.kernels.labels import of_label, of_label_and_others

__all__ = ["applies", "elementwise", "of_distribution", "of_label", "of_label_and_others", "rowwise"]


def applies(logits: Tensor, *constants: Tensor) -> bool:
    """Whether the kernel accepts these logits, and constants, which get no gradient.

    It accepts none under traces, transforms and forward derivatives.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and type(logits) is Tensor
        and logits.device.type in ("cpu", "cuda")
        and not any(_has_tangent(tensor) for tensor in (logits, *constants))
        and not any(constant.requires_grad for constant in constants)
    )


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
