"""The curves over all of float32: a sample of what `python -m shared_specs.exhaustive` measures, and its extremes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from mpmath import mp

from examples import CLASSES, build, inputs, is_binary
from shared_specs.exhaustive import (
    CURVES,
    PATTERNS,
    Curve,
    Odds,
    Reference,
    confirm,
    errors,
    exact,
    flushes_to_zero,
    patterns,
    run,
)
from sides import is_keras, name, side

ONLY_BINARY = {"AsymmetricLoss", "BinarySquaredError"}
"""The categorical squared error is not a curve."""
FAMILIES = [("Binary", curve) for curve in CURVES]
FAMILIES += [("Categorical", key) for key, curve in CURVES.items() if curve.loss not in ONLY_BINARY]
SIDE = "keras" if is_keras else "lightning"
EXTREMES = {
    "float32": [0.0, 1e-45, 1e-38, 1.0, 16.7, 88.8, 104.5, 1e4, 1e30, 1.8e38, 3e38, float(np.finfo("float32").max)],
    "float64": [0.0, 5e-324, 1e-300, 1.0, 37.5, 705.0, 746.0, 1e30, 3e38, 1e300, 1.7e308],
}


@pytest.mark.parametrize("curve", CURVES)
def test_A7_every_4099th_float32_is_within_the_bound(curve):
    worst = run(SIDE, CURVES[curve], every=4099, quiet=True)
    assert {result: part.not_finite for result, part in worst.items()} == dict.fromkeys(worst, 0)
    # The bounds are those of torch and TensorFlow, whose tables are in docs/accuracy.md.
    slack = 1.0 if name in ("lightning", "keras-tensorflow") else 1.5
    assert {
        result: part.points[0] for result, part in worst.items() if part.points[0][0] > slack * CURVES[curve].bound
    } == {}


@pytest.mark.parametrize("dtype", [dtype for dtype in side.dtypes if dtype in EXTREMES])
@pytest.mark.parametrize("family,curve", FAMILIES)
def test_A7_extreme_logits_have_the_right_loss_and_gradient(family, curve, dtype):
    curve = CURVES[curve]
    magnitude = np.array(EXTREMES[dtype], dtype)
    x = np.concatenate([magnitude, -magnitude])
    label = 0 if curve.method == "negative_curve" else 1
    m = x.astype("float64") if label else -x.astype("float64")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        value, slope = curve.reference(Odds.of(m), **curve.config)
    loss = curve.loss.replace("Binary", family)
    loss = side.package.get({"loss": loss, "config": {**curve.config, "reduction": "none"}})
    if family == "Binary":
        logits, target, gradient = x, np.full(len(x), float(label), dtype), slope if label else -slope
    else:  # the label is class 1
        logits, target = np.stack([np.zeros_like(x), x], -1), np.ones(len(x), "int64")
        gradient = np.stack([-slope, slope], -1)
    got, got_gradient = side.value_and_gradient(
        lambda logits, target: side.call(loss, logits, target), side.tensor(logits, dtype), "eager", side.tensor(target)
    )
    for found, want in ((side.numpy(got), value), (side.numpy(got_gradient), gradient)):
        assert np.isfinite(found).all()
        if dtype == "float32":
            level = max(curve.level())
            assert errors(found, want, level, flushes_to_zero(SIDE)).max() <= 2 * curve.bound
        else:
            scale = np.maximum(np.abs(want), max(*curve.level(), 1e-290))
            # The float64 evaluation takes exp of numbers as large as the logarithm of what it wants.
            steps = 64 + np.abs(np.log(scale))
            assert (np.abs(found - want) <= steps * 2.0**-52 * scale).all()


@pytest.mark.parametrize("config", [{}, {"beta": 10.0}, {"pos_weight": 4.0, "temperature": 4.0}], ids=str)
def test_A7_quality_focal_loss_of_extreme_logits(config):
    """Where p is 0 or 1 the distance to the target has the slope 0, and the loss that of cross-entropy."""
    x = np.array([1e4, 1e30, 1.8e38, 3e38, float(np.finfo("float32").max)], "float32")
    x, target = np.concatenate([x, -x]), np.repeat(np.array([0.0, 1.0], "float32"), 5)
    loss = side.package.get({"loss": "QualityFocalLoss", "config": {**config, "reduction": "none"}})
    value, gradient = side.value_and_gradient(
        lambda logits, target: side.call(loss, logits, target), side.tensor(x), "eager", side.tensor(target)
    )
    weight = np.where(target > 0, config.get("pos_weight", 1.0), 1.0) / config.get("temperature", 1.0)
    np.testing.assert_allclose(side.numpy(value), weight * np.abs(x.astype("float64")), rtol=1e-6)
    np.testing.assert_allclose(side.numpy(gradient), -np.sign(target - 0.5) * weight, rtol=1e-6)


OVERFLOWS = [
    {"temperature": 0.01},
    {"temperature": 1e-15, "entropy_penalty": 0.1},
    {"temperature": 0.01, "label_smoothing": 0.1, "smooth_over": "others"},
    {"z_loss": 4.0},
    {"temperature": 0.01, "z_loss": 0.1, "entropy_penalty": 0.1},
    {"scale": 1e30, "entropy_penalty": 0.1},
    {"temperature": 0.01, "softcap": 5.0},
    {"temperature": 0.01, "class_weight": [0.0, 1.0, 2.0]},
    {"temperature": 0.01, "mode": "hard"},
    {},
]
FINITE = {
    "float32": [0.0, 1.0, 1e20, -1e36, 1e36, 3e38, -3e38],
    "bfloat16": [0.0, 1.0, 1e36, 3e38, -3e38],
    "float16": [0.0, 1.0, 6e4, -6e4],
}
COMPILED = "jax.jit" if "jax.jit" in side.modes else "eager"
"""JAX compiles every operation for each shape where it has no jit."""
OWN_FORMULAS = {"ArcFaceCrossEntropy", "Bootstrapping", "JensenShannonConsistency", "OrdinalCrossEntropy"}


def overflowing(loss_name, dtype):
    """Losses whose temperature, scale or square is beyond float32 for some finite logits, each with its inputs."""
    entries = inputs(loss_name)[0].shape[1]
    rows = np.array(list(itertools.product(FINITE[dtype], repeat=min(entries, 3))))
    if entries > 3:  # several views
        rows = np.random.default_rng(0).choice(FINITE[dtype], (300, entries))
    labels = np.arange(len(rows)) % 3
    soft = np.where(labels[:, None] == 0, [[0.0, 1.0, 0.0]], [[0.25, 0.5, 0.25]]).astype("float32")
    targets = [labels, soft]
    if is_binary(loss_name):
        targets = [np.eye(3, dtype="float32")[labels], soft]
    elif loss_name == "Distillation":
        targets = [3 * soft]
    elif loss_name == "SparseCategoricalCrossEntropy":
        targets = [labels]
    for config in OVERFLOWS:
        if is_binary(loss_name):
            config = {
                "pos_weight" if keyword == "class_weight" else keyword: value for keyword, value in config.items()
            }
        try:
            loss = build(loss_name, reduction="none", **config)
        except (TypeError, ValueError):  # no such keyword, or a temperature where there can be none
            continue
        yield from ((loss, rows, target) for target in targets)


@pytest.mark.parametrize(
    ("loss_name", "dtype"),
    [
        pytest.param(
            each,
            dtype,
            marks=[] if COMPILED == "eager" or (each in OWN_FORMULAS and dtype == "float32") else pytest.mark.slow,
        )
        for each in CLASSES
        for dtype in side.dtypes
        if dtype in FINITE
    ],
)
def test_A7_finite_logits_never_give_nan(loss_name, dtype):
    """The loss may be infinite, where float32 does not hold it; a step of an optimizer survives that, but no NaN."""
    calls = list(overflowing(loss_name, dtype))
    functions = [lambda logits, target, loss=loss: side.call(loss, logits, target) for loss, *_ in calls]
    tensors = [(side.tensor(rows.astype("float32"), dtype), side.tensor(target)) for _, rows, target in calls]
    found = {}
    for (loss, rows, target), (value, gradient) in zip(
        calls, side.values_and_gradients(functions, tensors, COMPILED), strict=True
    ):
        value, gradient = side.numpy(value).reshape(len(rows), -1), side.numpy(gradient)
        is_nan = np.isnan(value).any(-1) | np.isnan(gradient).any(-1)
        if is_nan.any():
            found[repr(loss), target.dtype.name] = rows[is_nan][0].tolist()
    assert not found


SMALL = {"temperature": 0.01}
REPRESENTABLE = {  # (loss, config, logits, target, value, gradient), by hand: exp(-1e30) is 0
    "own entropy": ("Bootstrapping", SMALL, [0.0, 0.0, 3e38], 2, 0.0, [0.0, 0.0, 0.0]),
    "own entropy and label": ("Bootstrapping", SMALL, [0.0, 1e36, 0.0], 0, 0.95e38, [-95.0, 95.0, 0.0]),
    "own class": ("Bootstrapping", {**SMALL, "mode": "hard"}, [0.0, 1e36, 0.0], 0, 0.95e38, [-95.0, 95.0, 0.0]),
    "ordinal": ("OrdinalCrossEntropy", SMALL, [3e38, -3e38], 1, 0.0, [0.0, 0.0]),
    "ordinal, first": ("OrdinalCrossEntropy", SMALL, [-3e38, 1.0], 0, 0.0, [0.0, 0.0]),
    "ordinal, wrong": ("OrdinalCrossEntropy", SMALL, [1e36, -1e36], 2, 1e38, [0.0, -100.0]),
    "entropy of two": (
        "BinaryCrossEntropy",
        {**SMALL, "entropy_penalty": 0.5},
        [3e38, -3e38, 1e36],
        [1.0, 0.0, 0.0],
        1e38,
        [0.0, 0.0, 100.0],
    ),
    "scale": ("CosFaceCrossEntropy", {"entropy_penalty": 0.5}, [0.0, 1e38, 0.0], 1, 0.0, [0.0, 0.0, 0.0]),
    "scale and counts": ("LDAMCrossEntropy", {"entropy_penalty": 0.5}, [0.0, 3e38, 0.0], 1, 0.0, [0.0, 0.0, 0.0]),
    "no cosine": ("ArcFaceCrossEntropy", {}, [0.0, 3e38, 1.0], 1, 0.0, [0.0, 0.0, 0.0]),
    # Two views that do not agree: KL of both from their mean is log 2.
    "views": (
        "JensenShannonConsistency",
        {"views": 2},
        [3e38, 0.0, 0.0, 3e38],
        0,
        12 * np.log(2),
        [0.0, 0.0, 0.0, 0.0],
    ),
    "square": (
        "CategoricalCrossEntropy",
        {"z_loss": 0.25},
        [0.0, 1e19, 0.0],
        1,
        0.25e38,
        [0.0, 0.5e19, 0.0],
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", REPRESENTABLE.values(), ids=REPRESENTABLE)
def test_A7_what_float32_holds_is_right_whatever_overflows_on_the_way(case, dtype):
    loss_name, config, logits, target, value, gradient = case
    loss = build(loss_name, reduction="sum", **config)
    tensors = side.tensor(np.array([logits], "float32"), dtype), side.tensor(np.array([target]))
    got, slopes = side.value_and_gradient(
        lambda logits, target: side.call(loss, logits, target), tensors[0], COMPILED, tensors[1]
    )
    rtol = 1e-6 if dtype == "float32" else 2.0**-7
    assert side.numpy(got) == pytest.approx(value, rel=rtol, abs=1e-6)
    np.testing.assert_allclose(side.numpy(slopes), [gradient], rtol=rtol, atol=1e-6)


@pytest.mark.skipif(flushes_to_zero(SIDE), reason="this side rounds what is below 2^-126 to 0")
def test_A7_a_slope_of_a_small_gamma_keeps_numbers_below_the_normal_ones():
    """There 1 - p and -log p are exp(-m), so minus the slope is (1 + gamma) exp(-m)^(1 + gamma)."""
    m = np.array([88.5, 89.0, 90.0])
    _, got = side.package.BinaryFocalCrossEntropy(gamma=0.05).with_slope(side.tensor(-m, "float32"))
    np.testing.assert_allclose(side.numpy(got), 1.05 * np.exp(-1.05 * m), atol=8 * 2.0**-149)


@pytest.mark.parametrize("dtype", [dtype for dtype in ("float64", "float32") if dtype in side.dtypes])
def test_A7_gamma_changes_at_the_first_number_with_p_of_at_least_a_fifth(dtype):
    """The logarithm of 1/4 lies between two numbers of either dtype. In float32 the one below it rounds to the same."""
    limit, number = mp.log(mp.mpf(1) / 4), np.dtype(dtype).type
    near = number(np.log(0.25))
    m = np.array([np.nextafter(near, number(-2)), near, np.nextafter(near, number(0))], dtype)
    gammas = [5 if mp.mpf(float(each)) < limit else 3 for each in m]
    assert set(gammas) == {3, 5}
    p = 1 / (1 + np.exp(-m.astype("float64")))
    loss = side.package.BinaryFocalCrossEntropy(gamma="flsd53", reduction="none")
    got = side.numpy(side.call(loss, side.tensor(m, dtype), side.tensor(np.ones(3, "float32"))))
    np.testing.assert_allclose(got, -((1 - p) ** np.array(gammas)) * np.log(p), rtol=1e-6)


def test_A7_the_oracle_and_the_evaluation_are_those_of_the_formula():
    p = 1 / (1 + np.exp(-3.0))
    want = (1 - p) ** 2 * -np.log(p), -((1 - p) ** 2) * (2 * p * -np.log(p) + 1 - p)
    assert exact(CURVES["focal"], 3.0) == pytest.approx(want, rel=1e-12)
    with pytest.raises(AssertionError, match="BinaryFocalCrossEntropy at 3"):
        confirm(replace(CURVES["focal"], reference=lambda odds: (odds.log_p, -odds.u)), [3.0])


@pytest.mark.parametrize("curve", CURVES)
def test_A7_the_lines_of_a_reference_are_its_formula(curve):
    curve = CURVES[curve]
    reference = Reference(curve)
    assert [evaluation == reference.formula for _, evaluation in reference.sections] == [False, True, False] * 2
    for points in patterns(0, PATTERNS // 40099, 40099):
        with np.errstate(all="ignore"):
            want = curve.reference(Odds.of(points.astype(np.float64)), **curve.config)
            for found, right in zip(reference(points), want, strict=True):
                assert (np.abs(found - right) <= 2.0**-40 * np.maximum(np.abs(right), 2.0**-126)).all()


def test_A7_a_curve_without_lines_keeps_its_formula():
    curve = Curve("BinaryHinge", lambda odds: (np.sqrt(np.abs(odds.m)), np.cos(odds.m)))
    reference = Reference(curve)
    assert {evaluation for _, evaluation in reference.sections} == {reference.formula}


def test_A7_errors_are_in_spacings_of_the_right_value():
    want = np.array([1.0, 1.5, 3.0, -3.0, 2.0**-126, 2.0**-140, 1e-40, 0.0, np.nan])
    got = np.array([1.0, 1.5, 3.0, -3.0, 2.0**-126, 2.0**-140, 0.0, 2.0**-149, 1.0], np.float32)
    got[:6] += np.array([2.0**-23, 2.0**-22, 2.0**-21, -(2.0**-22), 2.0**-148, 2.0**-149], np.float32)
    assert errors(got, want).tolist()[:-1] == [1, 2, 2, 1, 2, 1, 0, 1]
    assert np.isnan(errors(got, want)[-1])
    assert errors(got[:3], want[:3], level=8.0).tolist() == [2.0**-3, 2.0**-2, 2.0**-1]
    assert errors(np.float32([0.0, 2.0**-121]), np.array([2.0**-121, 2.0**-120]), flushes=True).tolist() == [0, 2.0**22]
