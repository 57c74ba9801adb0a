"""JAX, by jax.grad; compiled: jax.jit."""

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from shared_specs.conformance.evaluate import Found

DTYPES = ("float64", "float32", "bfloat16", "float16")
MODES = ("eager", "compiled")
DEVICES = ("cpu",)
VERSIONS = ("jax", "jaxlib")
CALLS = itertools.count(1)
KEPT = 256
"""After so many calls, what JAX compiled is freed: it keeps each operation for each shape, 3 GB for all cases."""


def evaluate(call: Callable[..., Any], inputs: Mapping[str, NDArray[Any]], dtype: str, mode: str, device: str) -> Found:
    """Value and gradient of a call."""

    def total(logits: Any, target: Any, others: dict[str, Any]) -> tuple[Any, Any]:
        value = call(logits, target, **others)
        return value.sum(), value

    if next(CALLS) % KEPT == 0:
        jax.clear_caches()
    step = jax.grad(total, has_aux=True)
    with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
        tensors = {name: tensor(array, dtype) for name, array in inputs.items()}
        logits, target = tensors.pop("logits"), tensors.pop("target")
        if logits.dtype.kind in "iu":
            call(logits, target, **tensors)  # integers are for the loss to refuse, before jax.grad does
        gradient, value = (jax.jit(step) if mode == "compiled" else step)(logits, target, tensors)
        return Found(numpy(value), value.dtype.name, numpy(gradient), gradient.dtype.name)


def tensor(array: NDArray[Any], dtype: str) -> Any:
    """An array; one of floats in `dtype`, one of integers in what JAX gives them by default."""
    if array.dtype.kind == "f":
        return jnp.asarray(array, dtype)
    return jnp.asarray(array.astype("int32") if array.dtype == "int64" and dtype != "float64" else array)


def numpy(value: Any) -> NDArray[Any]:
    return np.asarray(value, "float64")
