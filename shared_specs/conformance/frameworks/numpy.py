"""NumPy, for libraries without gradients or with their own: a call returns the loss, or the loss and its gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_specs.conformance.evaluate import Found

DTYPES = ("float64", "float32", "float16")
MODES = ("eager",)
DEVICES = ("cpu",)
VERSIONS: tuple[str, ...] = ()


def evaluate(call: Callable[..., Any], inputs: Mapping[str, NDArray[Any]], dtype: str, mode: str, device: str) -> Found:
    """Value of a call, and its gradient if it returns one."""
    arrays = {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in inputs.items()}
    returned = call(arrays.pop("logits"), arrays.pop("target"), **arrays)
    value, gradient = returned if isinstance(returned, tuple) else (returned, None)
    value = np.asarray(value)
    if gradient is None:
        return Found(value.astype("float64"), value.dtype.name, None, "")
    gradient = np.asarray(gradient)
    return Found(value.astype("float64"), value.dtype.name, gradient.astype("float64"), gradient.dtype.name)
