"""What only JAX can tell of an array."""

from typing import Any

import jax


def is_traced(array: Any) -> bool:
    """Whether an array stands for values of a later run."""
    return isinstance(array, jax.core.Tracer)


def explicit_sharding(array: Any) -> Any:
    """Return how an array lies on a mesh whose axes are part of its type (AxisType.Explicit); None if it does not."""
    sharding = _sharding(array)
    return sharding if any(axis is not None for axis in getattr(sharding, "spec", ())) else None


def is_in_shard_map(array: Any) -> bool:
    """Whether an array is the part of one device inside jax.shard_map."""
    kinds = getattr(getattr(_sharding(array), "mesh", None), "axis_types", ())
    return any(kind == jax.sharding.AxisType.Manual for kind in kinds)


def _sharding(array: Any) -> Any:
    """Return the sharding in the type of an array; None before JAX 0.6, whose types have none."""
    return jax.typeof(array).sharding if hasattr(jax, "typeof") else None
