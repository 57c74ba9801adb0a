"""Checks of constructor arguments: each returns the canonical value or raises one error that names the argument."""

import math
from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

REDUCTIONS = ("none", "sum", "mean", "weighted_mean")
REDUCTION_SYNONYMS = {"sum_over_batch_size": "mean", "mean_with_sample_weight": "weighted_mean", None: "none"}


def number(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Return `value` as a float that lies in `interval`, written as in "[0, 1)"; infinity and NaN lie in none."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    item = as_python(value)
    if isinstance(item, Real) and not isinstance(item, bool):
        result = _as_float(item)
        above = result > low or (result == low and interval[0] == "[")
        below = result < high or (result == high and interval[-1] == "]")
        if above and below and math.isfinite(result):
            return result
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}")


def weights(name: str, value: Any) -> tuple[float, ...]:
    """Return a list, tuple, array or tensor of weights >= 0 as a tuple of floats."""
    items = as_python(value)
    if not isinstance(items, Sequence) or isinstance(items, str | bytes) or not items:
        raise ValueError(f"{name} must be a non-empty flat sequence of numbers in [0, inf), got {value!r}")
    return tuple(number(f"{name}[{position}]", item, "[0, inf)") for position, item in enumerate(items))


def weight_or_weights(name: str, value: Any) -> float | tuple[float, ...]:
    """Return one weight >= 0 as a float, several as a tuple; a single one in a sequence is one."""
    value = as_python(value)
    if not isinstance(value, Sequence):
        return number(name, value, "[0, inf)")
    result = weights(name, value)
    return result if len(result) > 1 else result[0]


def counts(name: str, value: Any, class_weight: Sequence[float] | None = None) -> tuple[float, ...]:
    """Return the row counts of the classes, all > 0, as a tuple of floats, as many as there are class weights."""
    result = weights(name, value)
    if class_weight is not None and len(class_weight) != len(result):
        raise ValueError(f"{name} must have {len(class_weight)} numbers, as class_weight has, got {len(result)}")
    empty = [position for position, count in enumerate(result) if count == 0]
    if empty:
        raise ValueError(
            f"{name}[{empty[0]}] must be > 0, got 0: merge a class without rows into another, leave it out, "
            "or give it a pseudo-count such as 1"
        )
    return result


def number_or_name(name: str, value: Any, interval: str, names: Collection[str]) -> Any:
    """Return `value` if it is one of `names`, else as a number that lies in `interval`."""
    if isinstance(value, str) and value in names:
        return str(value)
    try:
        return number(name, value, interval)
    except ValueError:
        wanted = f"a number in {interval} or {' or '.join(map(repr, names))}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from None


def integer(name: str, value: Any, minimum: int = -(2**63)) -> int:
    """Return a whole number as an int; a bool is none. Config readers make -1 of an int or float a -1.0."""
    item = as_python(value)
    is_number = isinstance(item, Real) and not isinstance(item, bool)
    if not is_number or not _as_float(item).is_integer() or not minimum <= item < 2**63:
        wanted = "an integer of 64 bits" if minimum < 0 else f"an integer >= {minimum}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return int(item)


def choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value` if it is one of `choices`."""
    value = as_python(value)
    if not any(value is allowed or (type(value) is type(allowed) and value == allowed) for allowed in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def reduction(value: Any) -> str:
    """Return the canonical name of a reduction, given it or Keras' own spelling."""
    choice("reduction", value, (*REDUCTIONS, *REDUCTION_SYNONYMS))
    return str(REDUCTION_SYNONYMS.get(value, value))


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def as_python(value: Any) -> Any:
    """Return an array or tensor of any framework as a number or list; others as they are."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.numpy().tolist() if hasattr(value, "numpy") else value
