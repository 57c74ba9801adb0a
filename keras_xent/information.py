"""Entropy and divergence of probability distributions."""

import math
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from shared_specs.common import arguments

UNITS = {"nats": 1.0, "bits": math.log(2)}
SERIES_LIMIT, SERIES_ORDER = 0.125, 8
"""The first term left out, s^2k / (2k + 1) of atanh(s) / s at s = 0.125 and k = 9, is below 1e-17."""
SMALLEST_DIVISOR = 1e-15
"""JAX squares the divisor for the slope of a quotient: in float32 the square of a number below 1e-19 underflows."""


def entropy(distribution: Any, *, axis: int = -1, unit: str = "nats") -> Tensor:
    """H(p) = -sum_c p_c log p_c.

    Args:
        distribution: p [..., C, ...], probabilities >= 0, a floating-point tensor. Its sum is not checked, and it is
            not normalised. A class with p_c = 0 adds 0, with gradient 0.
        axis: Class axis.
        unit: "nats" or "bits".

    Returns:
        H [..., ...], the shape without the class axis, in float64 for float64, otherwise in float32.

    Raises:
        ValueError: A class axis that does not exist, or another unit.
        TypeError: A distribution that is not floating point.

    Reference: Shannon, 1948, A Mathematical Theory of Communication, doi:10.1002/j.1538-7305.1948.tb01338.x.
    """
    p, _ = _pair(distribution, distribution, axis)
    return _in_unit(_crossed(p, p, axis), p, unit)


def cross_entropy(distribution: Any, other: Any, *, axis: int = -1, unit: str = "nats") -> Tensor:
    """H(p, q) = -sum_c p_c log q_c = H(p) + KL(p||q).

    Args:
        distribution: p [..., C, ...], probabilities >= 0, a floating-point tensor. Its sum is not checked, and it is
            not normalised. A class with p_c = 0 adds 0, with gradient 0, for any q_c >= 0.
        other: q, of the same shape and kind. A class with p_c > 0 and q_c = 0 makes the result +inf.
        axis: Class axis.
        unit: "nats" or "bits".

    Returns:
        H [..., ...], the shape without the class axis, in float64 if one of the two is float64, otherwise in float32.

    Raises:
        ValueError: Unequal shapes, a class axis that does not exist, or another unit.
        TypeError: A distribution that is not floating point.

    Reference: Shannon, 1948, A Mathematical Theory of Communication, doi:10.1002/j.1538-7305.1948.tb01338.x.
    """
    p, q = _pair(distribution, other, axis)
    return _in_unit(_crossed(p, q, axis), p, unit)


def kl_divergence(distribution: Any, other: Any, *, axis: int = -1, unit: str = "nats") -> Tensor:
    """KL(p||q) = sum_c p_c log(p_c / q_c) = H(p, q) - H(p), to full relative precision where p is close to q.

    Args:
        distribution: p [..., C, ...], probabilities >= 0, a floating-point tensor. Its sum is not checked, and it is
            not normalised. A class with p_c = 0 adds 0, with gradient 0, for any q_c >= 0.
        other: q, of the same shape and kind. A class with p_c > 0 and q_c = 0 makes the result +inf.
        axis: Class axis.
        unit: "nats" or "bits".

    Returns:
        KL [..., ...], the shape without the class axis, in float64 if one of the two is float64, otherwise in float32;
        >= 0 where p and q have the same sum, as rounded probabilities have to within eps.

    Raises:
        ValueError: Unequal shapes, a class axis that does not exist, or another unit.
        TypeError: A distribution that is not floating point.

    Reference: Kullback and Leibler, 1951, On Information and Sufficiency, doi:10.1214/aoms/1177729694.
    """
    p, q = _pair(distribution, other, axis)
    has_mass = p != 0
    p, q = ops.where(has_mass, p, 1.0), ops.where(has_mass, q, 1.0)  # 1 log(1/1) is 0
    difference = p - q
    # Near p = q the terms p log(p/q) are of first order and their sum is of second. So p - q, which is exact there, is
    # summed separately from the rest of each term.
    is_near = (ops.abs(difference) < SERIES_LIMIT * (p + q)) & (p + q > SMALLEST_DIVISOR)
    beyond = _beyond_difference(ops.where(is_near, p, 1.0), ops.where(is_near, q, 1.0))
    far = ops.where(is_near, 0.0, p) * _log_ratio(ops.where(is_near, 1.0, p), ops.where(is_near, 1.0, q))
    total = ops.sum(beyond + far, axis) + ops.sum(ops.where(is_near, difference, 0.0), axis)
    return _in_unit(total, p, unit)


def _crossed(p: Tensor, q: Tensor, axis: int) -> Tensor:
    """-sum_c p_c log q_c over the classes with mass."""
    has_mass = p != 0
    p, q = ops.where(has_mass, p, 0.0), ops.where(has_mass, q, 1.0)
    return ops.sum(-p * ops.log(q), axis)


def _beyond_difference(p: Tensor, q: Tensor) -> Tensor:
    """p log(p/q) - (p - q), elementwise, for p close to q: with s = (p - q)/(p + q), log(p/q) is 2 atanh(s)."""
    s = (p - q) / (p + q)
    square = s * s
    series = 0.0 * square
    for order in range(SERIES_ORDER, 0, -1):
        series = square * (series + 1 / (2 * order + 1))
    # The series is atanh(s) / s - 1, and p = (p + q)/2 (1 + s).
    return (p - q) * (series + s * (1 + series))


def _log_ratio(p: Tensor, q: Tensor) -> Tensor:
    """log(p / q), elementwise, even if the quotient is out of range."""
    in_range = (p > SMALLEST_DIVISOR) & (q > SMALLEST_DIVISOR)
    quotient = ops.where(in_range, p, 1.0) / ops.where(in_range, q, 1.0)
    return ops.log(ops.where(in_range, quotient, p)) - ops.log(ops.where(in_range, 1.0, q))


def _in_unit(nats: Tensor, like: Tensor, unit: str) -> Tensor:
    # With another floatx, Keras' torch backend promotes the result of an operation with a Python number.
    return ops.cast(nats / UNITS[arguments.choice("unit", unit, UNITS)], like.dtype)


def _pair(distribution: Any, other: Any, axis: int) -> tuple[Tensor, Tensor]:
    """Return both distributions in one compute dtype."""
    p, q = _floating("distribution", distribution), _floating("other", other)
    given, wanted = tuple(q.shape), tuple(p.shape)
    pairs = zip(given, wanted, strict=False)
    if len(given) != len(wanted) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(f"other must have the shape of the distribution, {wanted}, got {given}")
    rank = len(wanted)
    if not -rank <= arguments.integer("axis", axis) < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for a distribution of rank {rank}, got {axis}")
    dtype = "float64" if "float64" in (_dtype(p), _dtype(q)) else "float32"
    return ops.cast(p, dtype), ops.cast(q, dtype)


def _floating(name: str, value: Any) -> Tensor:
    tensor = ops.convert_to_tensor(value)
    if not keras.backend.is_float_dtype(_dtype(tensor)):
        raise TypeError(f"{name} must be a floating-point tensor, got {_dtype(tensor)}")
    return tensor


def _dtype(tensor: Tensor) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)
