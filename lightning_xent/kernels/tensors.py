"""Questions about a tensor of torch, whatever it is for; Keras asks them too on its torch backend."""

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

DTensor: Any = None
if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor of a subclass that only adds attributes, as in MONAI and fastai, as a plain tensor.

    Subclasses that compute differently, such as distributed and fake tensors, are returned unchanged.
    """
    kind = type(tensor)
    if torch.compiler.is_compiling() or kind is Tensor or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)


def is_distributed(value: Any) -> bool:
    """Whether a value is a DTensor; torch.compile shows that by the class alone, not by what it has."""
    return DTensor is not None and isinstance(value, DTensor)


def whole(value: Any) -> Any:
    """Return a DTensor as one tensor, the same on every rank; the gradient has the placements of the DTensor."""
    return value.full_tensor() if is_distributed(value) else value


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is not of a subclass, which may hold its values elsewhere."""
    return type(tensor) is Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor holds all of its entries, one after the other."""
    return tensor.layout == torch.strided


def on_cpu(values: Any) -> Tensor:
    """Return an array as a tensor on the CPU, for any device of the loss."""
    return torch.as_tensor(values, device="cpu")


def is_compiling() -> bool:
    """Whether torch.compile traces this code."""
    return torch.compiler.is_compiling()


def is_traced(tensor: Tensor) -> bool:
    """Whether a tensor stands for others: under torch.compile, jit.trace, make_fx, and transforms of torch.func."""
    is_tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_tracing or get_proxy_mode() is not None or (type(tensor) is Tensor and not has_memory(tensor))


class _OldStyle(torch.autograd.Function):
    """A function without `setup_context`, which torch.func refuses."""

    @staticmethod
    def forward(ctx: Any, value: None) -> None:
        """Do nothing."""


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_transformed() -> bool:
    """Whether a transform of torch.func is at work, also while torch.compile traces it."""
    try:
        _OldStyle.apply(None)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return True
    return False


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_hooks() -> bool:
    """Whether hooks see what autograd saves, while torch.compile traces: those of offloading, and of checkpoints.

    A checkpoint that is compiled too has its hooks later. Dynamo traces its body on its own, which the stack shows.
    """
    if any(frame.f_code.co_name.startswith("speculate_subgraph") for frame, _ in traceback.walk_stack(None)):
        return True
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks(""):
            return False
    except RuntimeError:
        return True


def applied(function: type[torch.autograd.Function], otherwise: Callable[..., Any], *given: Any) -> Any:
    """Return function.apply(*given); under a transform of torch.func whose inputs are others, otherwise(*given).

    Such a transform, vmap over a factor of the loss for example, shows in none of the tensors that are given.
    """
    if is_compiling():
        return function.apply(*given)  # type: ignore[no-untyped-call]
    try:
        return function.apply(*given)  # type: ignore[no-untyped-call]
    except RuntimeError:
        if not is_transformed():
            raise
        return otherwise(*given)


def has_tangent(tensor: Tensor) -> bool:
    """Whether a tensor has a forward derivative."""
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


def has_memory(tensor: Tensor) -> bool:
    """Whether a plain tensor has memory of its own; inside the transforms of torch.func, and of vmap, it has none."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def now(function: Callable[[str], None], text: str) -> None:
    """Call a function right here, while torch.compile traces."""
    function(text)
