"""torch, by its autograd; compiled: torch.compile with its default backend."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared_specs.conformance.evaluate import Found

DTYPES = ("float64", "float32", "bfloat16", "float16")
MODES = ("eager", "compiled")
DEVICES = ("cpu", "cuda")
VERSIONS = ("torch",)


def require(device: str) -> None:
    """Raise if the device is not there."""
    if not torch.cuda.is_available():
        raise ValueError(f"device must be 'cpu' where torch {torch.__version__} finds no GPU, got {device!r}")


def evaluate(call: Callable[..., Any], inputs: Mapping[str, NDArray[Any]], dtype: str, mode: str, device: str) -> Found:
    """Value and gradient of a call."""
    tensors = {name: tensor(array, dtype, device) for name, array in inputs.items()}
    logits, target = tensors.pop("logits"), tensors.pop("target")
    logits.requires_grad_(logits.is_floating_point())  # integers are for the loss to refuse
    if mode == "compiled":
        # Else the ninth case of one function runs eagerly without a word: so often is a function compiled anew.
        torch.compiler.reset()
        call = torch.compile(call, dynamic=False)
    value = call(logits, target, **tensors)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return Found(numpy(value), dtype_name(value), numpy(gradient), dtype_name(gradient))


def tensor(array: NDArray[Any], dtype: str, device: str) -> torch.Tensor:
    """A tensor; one of floats in `dtype`."""
    wanted = getattr(torch, dtype) if array.dtype.kind == "f" else None
    return torch.from_numpy(np.array(array)).to(device, wanted)


def numpy(value: torch.Tensor) -> NDArray[np.float64]:
    return value.detach().double().cpu().numpy()


def dtype_name(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
