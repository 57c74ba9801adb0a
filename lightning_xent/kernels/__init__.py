"""The kernels in torch: for class indices, for distributions, and for any elementwise or rowwise function.

Nothing here calls a compiler: `torch.compile` is the user's to call.
"""

from torch import Tensor

from lightning_xent.kernels import tensors
from lightning_xent.kernels.distribution import of_distribution
from lightning_xent.kernels.elementwise import elementwise, rowwise
from lightning_xent.kernels.labels import of_label, of_label_and_others

__all__ = ["applies", "elementwise", "of_distribution", "of_label", "of_label_and_others", "rowwise"]


def applies(logits: Tensor, *constants: Tensor | None) -> bool:
    """Whether the kernels accept these logits, and constants, which get no gradient.

    They accept none under traces, transforms and forward derivatives.
    """
    given = [logits, *(constant for constant in constants if constant is not None)]
    return (
        type(logits) is Tensor
        and logits.device.type in ("cpu", "cuda")
        and not any(tensors.is_traced(tensor) or tensors.has_tangent(tensor) for tensor in given)
        and not any(constant.requires_grad for constant in given[1:])
    )
