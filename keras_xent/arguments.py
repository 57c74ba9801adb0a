"""Checks of constructor arguments: each returns the canonical value or raises one error that names the argument."""

import math
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

REDUCTIONS = ("none", "sum", "mean", "weighted_mean")
REDUCTION_SYNONYMS = {"sum_over_batch_size": "mean", "mean_with_sample_weight": "weighted_mean", None: "none"}


def number(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Return `value` as a float that lies in `interval`, written as in "[0, 1)"; infinity and NaN lie in none."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    result = _as_float(value)
    if result is None or not math.isfinite(result) or not low <= result <= high:
        inside = False
    else:
        inside = (result > low or interval[0] == "[") and (result < high or interval[-1] == "]")
    if result is None or not inside:
        raise ValueError(f"{name} must be a number in {interval}, got {value!r}")
    return result


def weights(name: str, value: Any) -> tuple[float, ...]:
    """Return a list, tuple, array or tensor of weights >= 0 as a tuple of floats."""
    wanted = f"{name} must be a non-empty flat sequence of numbers in [0, inf)"
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not isinstance(value, Iterable):
        raise ValueError(f"{wanted}, got {value!r}")
    items = value.tolist() if hasattr(value, "tolist") else list(value)
    if not isinstance(items, list) or not items:
        raise ValueError(f"{wanted}, got {value!r}")
    return tuple(number(f"{name}[{position}]", item, "[0, inf)") for position, item in enumerate(items))


def weight_or_weights(name: str, value: Any) -> float | tuple[float, ...]:
    """Return one weight >= 0 as a float, several as a tuple; a single one in a sequence is one."""
    if isinstance(value, Real) or getattr(value, "shape", None) == ():
        return number(name, value, "[0, inf)")
    result = weights(name, value)
    return result if len(result) > 1 else result[0]


def integer(name: str, value: Any) -> int:
    """Return `value` as an int; a bool is not one."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return int(value)


def choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value` if it is one of `choices`."""
    if not any(value is allowed or (type(value) is type(allowed) and value == allowed) for allowed in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def reduction(value: Any) -> str:
    """Return the canonical name of a reduction, given it or Keras' own spelling."""
    choice("reduction", value, (*REDUCTIONS, *REDUCTION_SYNONYMS))
    return str(REDUCTION_SYNONYMS.get(value, value))


def _as_float(value: Any) -> float | None:
    is_scalar_array = getattr(value, "shape", None) == () and not isinstance(value, Real)
    item = value.item() if is_scalar_array and hasattr(value, "item") else value
    return float(item) if isinstance(item, Real) and not isinstance(item, bool) else None
