"""What only JAX can tell of an array."""

from typing import Any

import jax


def is_traced(array: Any) -> bool:
    """Whether an array stands for values of a later run."""
    return isinstance(array, jax.core.Tracer)


def explicit_sharding(array: Any) -> Any:
    """Return how an array lies on a mesh whose axes are part of its type (AxisType.Explicit); None if it does not."""
    sharding = jax.typeof(array).sharding if hasattr(jax, "typeof") else None  # from JAX 0.6 on
    return sharding if any(axis is not None for axis in getattr(sharding, "spec", ())) else None
