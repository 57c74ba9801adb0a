"""What users pass, as tensors: their shapes, and which of their values can be read here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_xent.kernels import tensors
from lightning_xent.kernels.blocks import compute_dtype as compute_dtype
from lightning_xent.kernels.tensors import is_distributed as is_distributed
from lightning_xent.kernels.tensors import whole as whole
from shared_specs.common import guard

CORNER = 16
"""Number of entries read along each axis of the rows when values are checked: few, for a batch of any size."""
ACTIVATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "hard_sigmoid",
    "LogSoftmax": "log_softmax",
    "LogSigmoid": "log_sigmoid",
}
"""Activations by the names that autograd gives to their operations."""
SAME_VALUES = {"Alias", "Clone", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze", "T", "ToCopy", "Transpose"}
SAME_VALUES |= {"UnsafeView", "Unsqueeze", "View"}
"""Operations whose result has the values of their input."""


def checked_logits(logits: Any) -> Tensor:
    """Return logits that are floating point, as a plain tensor."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        is_tensor = isinstance(logits, Tensor)
        got = logits.dtype if is_tensor else type(logits).__name__
        hint = f": {guard.SWAPPED.format('logits, target')}" if is_tensor else guard.hint_at_logits(logits)
        raise TypeError(f"logits must be a floating-point tensor, got {got}{hint}")
    return rectangular("logits", tensors.plain(logits))


def are_finite(values: Tensor) -> bool:
    """Whether all values can be read without synchronisation, and are finite."""
    return is_readable(values, None) and bool(torch.isfinite(values.detach().sum()))


def read(tensor: Tensor, check: bool | None, axis: int | None = None) -> NDArray[Any] | None:
    """Return the first entries of `tensor` along each axis, and all along `axis`, which becomes the last, as an array.

    None if the tensor cannot be read: with `check` None, if that needs a synchronisation; with True, if there are no
    values.
    """
    if not is_readable(tensor, check):
        return None
    corner = tensor[tuple(slice(None if place == axis else CORNER) for place in range(tensor.ndim))]
    if tensors.is_traced(corner):  # under a transform of torch.func, even the slice of a constant is traced
        return None
    values = array(corner)
    return values if axis is None else np.moveaxis(values, axis, -1)


def array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array; floats of any dtype become float64."""
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def dtype_name(values: Any) -> str:
    """Return the name of the dtype of a tensor or array; float64 for numbers and lists."""
    return str(getattr(values, "dtype", "float64")).removeprefix("torch.")


def activation_of(logits: Tensor) -> str | None:
    """Return the activation that autograd recorded as the last operation; None if that was something else."""
    node = logits.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0]
        if name not in SAME_VALUES:
            return ACTIVATIONS.get(name)
        node = node.next_functions[0][0]
    return None


def lie_within(values: Tensor, lowest: int, highest: int, check_labels: bool | None) -> bool:
    """Whether all values can be read and lie within these limits."""
    if not is_readable(values, check_labels) or values.numel() == 0:
        return False
    least, greatest = torch.aminmax(values.detach())  # torch 2.6 has no forward derivative of it
    return bool(lowest <= least.item() and greatest.item() <= highest)


def are_binary(values: Tensor, check_labels: bool | None) -> bool:
    """Whether all values can be read, are 0 or 1, and have no gradient."""
    if values.requires_grad or not is_readable(values, check_labels):
        return False
    parts = torch.split(values.reshape(-1), 2**18)  # so much fits into a cache
    return all(torch.addcmul(part, part, part, value=-1).abs_().sum() == 0 for part in parts)


def now(function: Callable[[str], None], text: str) -> None:
    """Call a function right here, even while torch.compile traces."""
    tensors.now(function, text)


def is_unwatched(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether labels go unchecked, because a trace cannot read them."""
    return check_labels is not False and tensors.is_traced(tensor)


def is_readable(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether values can be read here: never under a trace; by default on the CPU only."""
    if type(tensor) is not Tensor or tensor.is_meta or tensors.is_traced(tensor):
        return False
    return tensor.device.type == "cpu" if check_labels is None else check_labels


def without_axis(shape: tuple[int, ...], place: int) -> tuple[int, ...]:
    """Return a shape without one of its axes."""
    return shape[:place] + shape[place + 1 :]


def as_tensor(name: str, value: Any, logits: Tensor) -> Tensor:
    """Return an argument as a plain tensor on the device of `logits`; lists of floats become float64, as in NumPy.

    Some devices have no float64: a float64 tensor is cast first if the loss computes in float32.
    """
    if isinstance(value, Tensor):
        tensor = tensors.plain(value)
        if tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    else:
        tensor = torch.as_tensor(np.asarray(value) if torch.compiler.is_compiling() else guard.as_array(name, value))
    tensor = rectangular(name, tensor)
    if tensor.device == logits.device:
        return tensor
    if tensor.is_meta:
        raise ValueError(
            f"{name} must hold values, on {logits.device} as the logits, got a tensor on the meta device: create it "
            "with values; only together with logits on the meta device may it be there"
        )
    is_wide = tensor.dtype == torch.float64 and compute_dtype(logits) != torch.float64
    return (tensor.float() if is_wide else tensor).to(logits.device)


def rectangular(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor that is neither nested nor sparse."""
    if tensor.is_nested:
        raise ValueError(f"{name} must have rows of one length, got a nested tensor; pad it, and pass a mask")
    if not tensors.is_dense(tensor):
        raise ValueError(
            f"{name} must be a dense tensor, got one of the layout {tensor.layout}: pass {name}.to_dense()"
        )
    return tensor


def differ_by_one_axis(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two shapes are equal except for one axis of size 1, the last or axis 1, that one of them lacks."""
    short, long = sorted((first, second), key=len)
    if len(long) != len(short) + 1:
        return False
    return any(long[place] == 1 and without_axis(long, place) == short for place in {len(long) - 1, 1 % len(long)})
