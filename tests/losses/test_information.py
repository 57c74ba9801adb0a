"""Entropy, cross-entropy and divergence of distributions."""

import importlib
import math

import numpy as np
import pytest

from shared_specs.load import EPSILON
from sides import side

information = importlib.import_module(f"{side.package.__name__}.information")

COMPUTE = {"float64": "float64", "float32": "float32", "bfloat16": "float32", "float16": "float32"}

# p, q, H(p), H(p, q), KL(p||q), with 60 digits; the inputs are exact in every dtype that they are used with.
VALUES = {
    "dyadic": ([0.25, 0.25, 0.5], [0.5, 0.25, 0.25], 1.03972077083991796, 1.21300756597990429, 0.173286795139986327),
    "empty in p": (
        [0.0, 0.25, 0.75],
        [0.5, 0.25, 0.25],
        0.562335144618808350,
        1.38629436111989062,
        0.823959216501082269,
    ),
    "empty in both": (
        [0.25, 0.75, 0.0],
        [0.5, 0.5, 0.0],
        0.562335144618808350,
        0.693147180559945309,
        0.130812035941136959,
    ),
    "empty in q": ([0.25, 0.75, 0.0], [0.5, 0.0, 0.5], 0.562335144618808350, math.inf, math.inf),
    "not normalised": (
        [0.5, 0.25, 0.0],
        [0.25, 0.5, 1.0],
        0.693147180559945309,
        0.866433975699931637,
        0.173286795139986327,
    ),
}
# KL alone, relative to itself.
CLOSE = {
    "2^-12 apart": ([0.5, 0.5], [0.5 + 2**-12, 0.5 - 2**-12], 1.1920930376163822396e-7),
    "2^-8 apart": ([0.25, 0.25, 0.5], [0.25 + 2**-8, 0.25 - 2**-9, 0.5 - 2**-9], 0.000041697391833324226741),
    "2^-4 apart": ([0.5, 0.5], [0.5625, 0.4375], 0.0078741784840695843038),
    "2^-30 apart": ([0.5, 0.5], [0.5 + 2**-30, 0.5 - 2**-30], 1.7347234759768070974e-18),
    "far tail": ([2**-100, 0.5], [0.5, 0.5], -5.413287451848314676e-29),
    "quotient below float32": ([2**-100, 0.5], [2**60, 0.5], -8.7487473969265691733e-29),
    "quotient above float32": ([2.0**100, 0.5], [2**-100, 0.5], 1.7573368789666391472e32),
    "equal": ([0.1, 0.9], [0.1, 0.9], 0.0),
}


def values(function, *arrays, dtype=None, **options):
    return side.numpy(function(*(side.tensor(np.asarray(array), dtype) for array in arrays), **options))


def check(got, want, compute, dtype=None, *, scale=1.0):
    """Within 8 eps of the compute dtype, and the rounding of the result to its own."""
    got, want = np.asarray(got), np.asarray(want)
    finite = np.isfinite(want)
    assert (got[~finite] == want[~finite]).all(), (got, want)
    size = np.abs(want[finite])
    tolerance = 8 * EPSILON[compute] * np.maximum(scale, size) + EPSILON[dtype or compute] * size
    assert (np.abs(got[finite] - want[finite]) <= tolerance).all(), (got, want)


@pytest.mark.parametrize("dtype", side.dtypes)
def test_values(dtype):
    rows = list(VALUES.values())
    p, q = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    entropies, cross_entropies, divergences = np.array([row[2:] for row in rows]).T
    for unit, nats in (("nats", 1.0), ("bits", math.log(2))):
        for name, arrays, want in (
            ("entropy", (p,), entropies),
            ("cross_entropy", (p, q), cross_entropies),
            ("kl_divergence", (p, q), divergences),
        ):
            got = getattr(information, name)(*(side.tensor(array, dtype) for array in arrays), unit=unit)
            assert side.dtype_name(got) == COMPUTE[dtype]
            check(side.numpy(got), want / nats, COMPUTE[dtype])


CLOSE_RUNS = [
    pytest.param(p, q, want, dtype, id=f"{name}-{dtype}")
    for name, (p, q, want) in CLOSE.items()
    for dtype in side.dtypes
    if dtype == "float64" or (dtype == "float32" and (p == q or np.float32(q).tolist() == q))
]


@pytest.mark.parametrize(("p", "q", "want", "dtype"), CLOSE_RUNS)
def test_divergence_keeps_its_digits_where_distributions_are_close(p, q, want, dtype):
    got = values(information.kl_divergence, p, q, dtype=dtype)
    assert got == pytest.approx(want, rel=8 * EPSILON[dtype], abs=0)


def surprise(p):
    return np.log(np.where(p == 0, 1.0, p))


POINT = np.array([[0.25, 0.25, 0.5], [0.0, 0.25, 0.75], [0.5, 0.5, 0.0]])
OTHER = np.array([[0.5, 0.25, 0.25], [0.5, 0.125, 0.375], [0.5 + 2**-6, 0.5 - 2**-6, 0.0]])
EMPTY = POINT == 0
SAFE_OTHER = np.where(OTHER == 0, 1.0, OTHER)
# d/dp of each, and d/dq; 0 where p is.
GRADIENTS = {
    "entropy": (lambda p: information.entropy(p), [POINT], -surprise(POINT) - 1),
    "cross_entropy": (lambda p, q: information.cross_entropy(p, q), [POINT, OTHER], -np.log(SAFE_OTHER)),
    "cross_entropy, other": (lambda q, p: information.cross_entropy(p, q), [OTHER, POINT], -POINT / SAFE_OTHER),
    "kl_divergence": (
        lambda p, q: information.kl_divergence(p, q),
        [POINT, OTHER],
        surprise(POINT) - np.log(SAFE_OTHER) + 1,
    ),
    "kl_divergence, other": (lambda q, p: information.kl_divergence(p, q), [OTHER, POINT], -POINT / SAFE_OTHER),
}


@pytest.mark.parametrize("mode", side.modes)
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name, mode):
    function, arrays, want = GRADIENTS[name]
    for dtype in side.dtypes if mode == side.modes[0] else ("float32",):
        first, *rest = (side.tensor(array, dtype) for array in arrays)
        value, gradient = side.value_and_gradient(function, first, mode, *rest)
        check(side.numpy(value), values(function, *arrays, dtype=dtype), COMPUTE[dtype])
        assert side.dtype_name(gradient) == dtype
        check(side.numpy(gradient), np.where(EMPTY, 0.0, want), COMPUTE[dtype], dtype)


# scipy.stats.entropy's documentation, and Kullback, 1959, Information Theory and Statistics.
PUBLISHED = {
    "entropy of a coin": ("entropy", [[0.9, 0.1]], "bits", 0.46899559358928117),
    "divergence of a coin": ("kl_divergence", [[0.5, 0.5], [0.9, 0.1]], "bits", 0.7369655941662062),
    "cross-entropy of a coin": ("cross_entropy", [[0.5, 0.5], [0.9, 0.1]], "bits", 1.736965594166206),
    "Kullback": ("kl_divergence", [np.array([9, 12, 4]) / 25, np.full(3, 1 / 3)], "nats", 0.085299601318370568),
}


@pytest.mark.parametrize(("name", "arrays", "unit", "want"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_values(name, arrays, unit, want):
    got = getattr(information, name)(*(side.tensor(np.array(array)) for array in arrays), unit=unit)
    check(side.numpy(got), want, side.dtype_name(got))


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_cross_entropy_is_entropy_and_divergence(axis):
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.full(6, 0.3), (2, 6)).astype("float32") for _ in range(2))
    p[:, 0] = 0.0
    q[0, 1] = p[0, 1]
    q = np.maximum(q, 1e-30)
    got = {name: values(getattr(information, name), p, q, axis=axis) for name in ("cross_entropy", "kl_divergence")}
    entropy = values(information.entropy, p, axis=axis)
    assert entropy.shape == tuple(np.delete(p.shape, axis))
    check(entropy + got["kl_divergence"], got["cross_entropy"], "float32")
    exact = np.where(p == 0, 0.0, p.astype(float) * (surprise(p.astype(float)) - np.log(q.astype(float)))).sum(axis)
    check(got["kl_divergence"], exact, "float32", scale=np.abs(got["cross_entropy"]).max())


def test_empty_batch():
    empty = np.zeros((0, 3), "float32")
    for function, arrays in (
        (information.entropy, [empty]),
        (information.cross_entropy, [empty, empty]),
        (information.kl_divergence, [empty, empty]),
    ):
        assert values(function, *arrays).shape == (0,)


def test_the_wider_dtype_wins():
    p = side.tensor(np.array([0.5, 0.5]), side.dtypes[0])
    q = side.tensor(np.array([0.25, 0.75]), "bfloat16")
    assert side.dtype_name(information.kl_divergence(q, p)) == side.dtypes[0]


def test_nan_reaches_the_result_only_where_it_counts():
    p = np.array([[math.nan, 0.5], [0.0, 1.0], [0.5, 0.5]], "float32")
    q = np.array([[0.5, 0.5], [math.nan, 1.0], [math.nan, 0.5]], "float32")
    for function in (information.cross_entropy, information.kl_divergence):
        got = values(function, p, q)
        assert np.isnan(got).tolist() == [True, False, True]
        assert got[1] == 0.0


COIN = np.array([0.5, 0.5], "float32")
ERRORS = {
    "unit": ((COIN, COIN), {"unit": "bans"}, ValueError, "unit must be one of 'nats', 'bits', got 'bans'"),
    "axis": ((COIN, COIN), {"axis": 1}, ValueError, r"axis must lie in \[-1, 0\] .* got 1"),
    "axis is no number": ((COIN, COIN), {"axis": None}, ValueError, "axis must be an integer"),
    "scalar": ((COIN[0], COIN[0]), {}, ValueError, "axis must lie in"),
    "shape": ((COIN, COIN[:1]), {}, ValueError, r"other must have the shape of the distribution, \(2,\), got \(1,\)"),
    "integers": ((np.array([1, 0]), COIN), {}, TypeError, "distribution must be a floating-point tensor, got"),
    "integers in the other": ((COIN, np.array([1, 0])), {}, TypeError, "other must be a floating-point tensor, got"),
}


@pytest.mark.parametrize(("arrays", "options", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_argument(arrays, options, error, message):
    for function in (information.cross_entropy, information.kl_divergence):
        with pytest.raises(error, match=message):
            function(*(side.tensor(np.asarray(array)) for array in arrays), **options)
