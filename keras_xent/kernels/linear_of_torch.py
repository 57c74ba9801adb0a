"""The last linear layer with its loss on torch: that of lightning_xent, whose weight is the transposed kernel."""

from typing import Any

from keras import KerasTensor

from keras_xent.kernels import linear
from lightning_xent.kernels import takes_chunks
from lightning_xent.kernels.linear import Head
from lightning_xent.kernels.linear_gradients import losses, total
from lightning_xent.kernels.work import work_of

__all__ = ["all_logits", "fuses", "head", "losses", "total", "work_of"]


def head(hidden: Any, kernel: Any, bias: Any = None) -> Any:
    """Return the layer."""
    if any(isinstance(each, KerasTensor) for each in (hidden, kernel, bias)):
        return linear.head(hidden, kernel, bias)
    return Head(hidden, kernel.T, bias)


def all_logits(head: Any) -> Any:
    """Return the logits [N, C]."""
    if not isinstance(head, Head):
        return linear.all_logits(head)
    logits = head.hidden @ head.weight.T
    return logits if head.bias is None else logits + head.bias


def fuses(head: Any, target: Any) -> bool:
    """Whether chunks can be computed."""
    if not isinstance(head, Head) or isinstance(target, KerasTensor):
        return False
    return takes_chunks(*(tensor for tensor in head if tensor is not None)) and not target.requires_grad
