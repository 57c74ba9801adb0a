"""What only JAX can tell of an array."""

from typing import Any

import jax


def is_traced(array: Any) -> bool:
    """Whether an array stands for values of a later run."""
    return isinstance(array, jax.core.Tracer)
