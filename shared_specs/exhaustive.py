"""Measures a curve and its slope at all 2^32 float32 log-odds, on either side, and writes docs/accuracy.md.

Every result is compared with a float64 evaluation of the textbook formula and of its derivative. The worst points and
some at random are checked against the oracle, which works with 150 digits. Only the framework of the side is loaded.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Floats = NDArray[np.float64]
Evaluation = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]
"""Results at log-odds, by name."""

PATTERNS = 1 << 32
BLOCK = 1 << 16
"""Points at a time: intermediate results stay in the cache."""
TASK = 1 << 20
"""Points for one process between two steps of the progress bar."""
RESULTS = ("value", "slope", "own value", "own slope")
"""What an evaluation returns, the last two only of losses with a `with_slope`."""
KEPT = 3
"""Number of the worst points of a curve that the oracle confirms."""
SMALLEST = 2.0**-126
"""The smallest normal float32: below it digits are lost, and TensorFlow and JAX round to 0."""
FLUSHED = 64.0
"""If they do, a result below this many times `SMALLEST` may lack a part or a factor below `SMALLEST`."""
NEAR_ZERO = 2.0**-30
"""Up to here a curve and its slope are lines through their values at 0: the rest is below 2^-60 of them."""
FAR = [2.0**exponent for exponent in range(10, 21)]
"""Beyond one of these a curve is a line too, because its exponentials are 0: the first that is far enough is used."""
EXPONENT = 0x7F800000
"""The bits of the exponent of a float32."""
PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"


@dataclass(frozen=True)
class Curve:
    """A curve: its loss, and where it crosses 0 away from its tail. Around that crossing errors are absolute."""

    loss: str
    reference: Callable[..., tuple[Floats, Floats]]
    config: dict[str, Any] = field(default_factory=dict)
    method: str = "curve"
    crossing: Callable[..., float] | None = None
    bound: float = 8.0
    on_tensorflow: float | None = None
    """The bound on TensorFlow, if it differs."""

    def bound_on(self, side: str) -> float:
        """The bound on a side, in ulp."""
        if self.on_tensorflow is None or not side.startswith("keras-tensorflow"):
            return self.bound
        return self.on_tensorflow

    def level(self) -> tuple[float, float]:
        """The largest value and slope within 2 of the crossing; 0 without a crossing."""
        if self.crossing is None:
            return 0.0, 0.0
        m = self.crossing(**self.config) + np.linspace(-2, 2, 4001)
        value, slope = self.reference(Odds.of(m), **self.config)
        return float(np.max(np.abs(value))), float(np.max(np.abs(slope)))


class Odds(NamedTuple):
    """Log-odds m with p = sigmoid(m), u = 1 - p, and minus their logarithms, for the formulas."""

    m: Floats
    p: Floats
    u: Floats
    log_p: Floats
    log_u: Floats

    @classmethod
    def of(cls, m: Floats) -> "Odds":
        distance = np.abs(m)
        power = np.exp(-distance)
        small, rest = power / (1 + power), np.log1p(power)
        large, is_negative = 1 / (1 + power), m < 0
        p, u = np.where(is_negative, small, large), np.where(is_negative, large, small)
        return cls(m, p, u, rest + np.where(is_negative, distance, 0), rest + np.where(is_negative, 0, distance))


# ---- Values and slopes in float64. The slopes are derived by hand.


def cross_entropy(odds: Odds) -> tuple[Floats, Floats]:
    return odds.log_p, -odds.u


def focal(odds: Odds, *, gamma: Any = 2.0) -> tuple[Floats, Floats]:
    if gamma == "flsd53":
        low, high = focal(odds, gamma=5), focal(odds, gamma=3)
        is_low = odds.m < np.log(0.25)
        return np.where(is_low, low[0], high[0]), np.where(is_low, low[1], high[1])
    factor = raised(odds.u, odds.log_u, gamma)
    return factor * odds.log_p, -factor * (gamma * odds.p * odds.log_p + odds.u)


def raised(base: Floats, logarithm: Floats, exponent: float) -> Floats:
    """base ** exponent, given -log(base)."""
    if not float(exponent).is_integer() or exponent > 8:
        return np.exp(-exponent * logarithm)
    power = base
    for _ in range(int(exponent) - 1):
        power = power * base
    return power if exponent > 0 else np.ones_like(base)


def poly(odds: Odds, *, epsilon: float = 1.0) -> tuple[Floats, Floats]:
    u = odds.u
    left = np.where(u < 1e-3, u * u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5 + u / 6)))), odds.log_p - u)
    return (1 + epsilon) * u + left, -u * ((1 + epsilon) - epsilon * u)


def generalized(odds: Odds, *, q: float = 0.7) -> tuple[Floats, Floats]:
    z = q * odds.log_p
    return -np.expm1(-z) / q, -np.exp(-z) * odds.u


def symmetric(odds: Odds, *, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> tuple[Floats, Floats]:
    factor = -beta * log_zero
    return alpha * odds.log_p + factor * odds.u, -odds.u * (alpha + factor * odds.p)


def taylor(odds: Odds, *, order: int = 2) -> tuple[Floats, Floats]:
    value = np.zeros_like(odds.u)
    for power in range(order, 0, -1):
        value = odds.u * (1 / power + value)
    return value, odds.u * np.expm1(-order * odds.log_u)


def label_relaxation(odds: Odds, *, alpha: float = 0.1) -> tuple[Floats, Floats]:
    share = 1 - alpha
    value = share * (np.log(share) + odds.log_p) + alpha * (np.log(alpha) + odds.log_u)
    is_credible = odds.m >= relaxed_from(alpha=alpha)
    return np.where(is_credible, 0, value), np.where(is_credible, 0, odds.p - share)


def relaxed_from(*, alpha: float = 0.1) -> float:
    return float(np.log1p(-alpha) - np.log(alpha))


def jensen_shannon(odds: Odds) -> tuple[Floats, Floats]:
    p, u = odds.p, odds.u
    surprise = p * odds.log_p
    value = (u * np.log(2) - surprise + (1 + p) * np.log1p(u / (1 + p))) / 2
    return value, -(u * (surprise + p * np.log1p(p))) / 2


def mean_absolute_error(odds: Odds) -> tuple[Floats, Floats]:
    return 2 * odds.u, -2 * odds.p * odds.u


def squared_error(odds: Odds) -> tuple[Floats, Floats]:
    return odds.u**2, -2 * odds.p * odds.u**2


def hinge(odds: Odds) -> tuple[Floats, Floats]:
    return np.maximum(0, 1 - odds.m), np.where(odds.m < 1, -1.0, 0.0)


def asymmetric_positive(odds: Odds, *, gamma_pos: float = 0.0) -> tuple[Floats, Floats]:
    return focal(odds, gamma=gamma_pos)


def asymmetric_negative(odds: Odds, *, gamma_neg: float = 4.0, margin: float = 0.05) -> tuple[Floats, Floats]:
    """The curve of label 0, of its own log-odds: u is the probability of label 1."""
    q = np.maximum(odds.u - margin, 0)
    surprise = np.where(q < 0.5, -np.log1p(-q), -np.log(odds.p + margin))
    factor = q**gamma_neg
    steep = gamma_neg * q ** (gamma_neg - 1) * surprise + factor / (odds.p + margin)
    return factor * surprise, -odds.p * odds.u * steep


def easy_from(*, margin: float = 0.05, **_: float) -> float:
    return float(np.log1p(-margin) - np.log(margin))


CURVES = {
    "cross_entropy": Curve("BinaryCrossEntropy", cross_entropy, bound=4.0, on_tensorflow=5.0),
    "focal": Curve("BinaryFocalCrossEntropy", focal, on_tensorflow=10.0),
    "focal_half": Curve("BinaryFocalCrossEntropy", focal, {"gamma": 0.5}),
    "focal_decimal": Curve("BinaryFocalCrossEntropy", focal, {"gamma": 1.7}),
    "focal_flsd53": Curve("BinaryFocalCrossEntropy", focal, {"gamma": "flsd53"}, bound=9.0),
    "poly": Curve("BinaryPolyCrossEntropy", poly),
    "poly_minus_one": Curve("BinaryPolyCrossEntropy", poly, {"epsilon": -1.0}, bound=12.0),
    "generalized": Curve("BinaryGeneralizedCrossEntropy", generalized),
    "generalized_small": Curve("BinaryGeneralizedCrossEntropy", generalized, {"q": 0.05}),
    "generalized_one": Curve("BinaryGeneralizedCrossEntropy", generalized, {"q": 1.0}),
    "symmetric": Curve("BinarySymmetricCrossEntropy", symmetric),
    "taylor": Curve("BinaryTaylorCrossEntropy", taylor),
    "taylor_ten": Curve("BinaryTaylorCrossEntropy", taylor, {"order": 10}, bound=16.0),
    "label_relaxation": Curve("BinaryLabelRelaxation", label_relaxation, crossing=relaxed_from),
    "jensen_shannon": Curve("BinaryJensenShannon", jensen_shannon, on_tensorflow=10.0),
    "mean_absolute_error": Curve("BinaryMeanAbsoluteError", mean_absolute_error),
    "squared_error": Curve("BinarySquaredError", squared_error),
    "hinge": Curve("BinaryHinge", hinge),
    "asymmetric_positive": Curve("AsymmetricLoss", asymmetric_positive, {"gamma_pos": 2.0}, on_tensorflow=10.0),
    "asymmetric_negative": Curve(
        "AsymmetricLoss", asymmetric_negative, {}, "negative_curve", crossing=easy_from, bound=20.0
    ),
}
"""Each curve is the same in the binary and the categorical loss of its name."""


class Reference:
    """A curve's value and slope in float64, by its formula, or by a line that equals the formula to 2^-40.

    Most float32 numbers are tiny or huge, and there the lines save exponentials and logarithms. Each line is compared
    with the formula first. If it is not exact enough, the formula is used.
    """

    def __init__(self, curve: Curve) -> None:
        self.curve = curve
        self.sections: list[tuple[int, Callable[[Floats], tuple[Floats, Floats]]]] = []
        """(bit pattern of the first number, evaluation), in ascending order."""
        largest = float(np.finfo(np.float32).max)
        for sign in (1.0, -1.0):
            near = self.line(sign * 0.0, sign * NEAR_ZERO)
            lines = ((limit, self.line(sign * limit, sign * largest)) for limit in FAR)
            far = [next(((limit, line) for limit, line in lines if line is not None), (FAR[-1], self.formula))]
            for limit, evaluation in [(0.0, near or self.formula), (NEAR_ZERO, self.formula), *far]:
                self.sections.append((int(np.float32(np.copysign(limit, sign)).view(np.uint32)), evaluation))

    def __call__(self, points: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Value and slope at numbers in the order of their bit patterns."""
        starts = np.array([first for first, _ in self.sections], np.uint32)
        bounds = [*np.searchsorted(points.view(np.uint32), starts).tolist(), points.size]
        m = points.astype(np.float64)
        parts = [
            evaluation(m[first:last])
            for (_, evaluation), first, last in zip(self.sections, bounds[:-1], bounds[1:], strict=True)
            if first < last
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([value for value, _ in parts]), np.concatenate([slope for _, slope in parts])

    def formula(self, m: Floats) -> tuple[Floats, Floats]:
        return self.curve.reference(Odds.of(m), **self.curve.config)

    def line(self, first: float, last: float) -> Callable[[Floats], tuple[Floats, Floats]] | None:
        """The lines through value and slope at two log-odds; None if the formula leaves the lines between them."""
        with np.errstate(all="ignore"):
            ends = self.formula(np.array([first, last]))
            factors = [(float(end[0]), float((end[1] - end[0]) / (last - first))) for end in ends]

            def evaluation(m: Floats) -> tuple[Floats, Floats]:
                distance = m - first if first else m
                (value, steep), (slope, bend) = factors
                return value + steep * distance, slope + bend * distance

            lowest = abs(first) if first else SMALLEST * 2.0**-23
            m = np.copysign(np.geomspace(lowest, abs(last), 2001), first if first else last)
            for found, want in zip(evaluation(m), self.formula(m), strict=True):
                if not (np.abs(found - want) <= 2.0**-40 * np.maximum(np.abs(want), SMALLEST)).all():
                    return None
        return evaluation


# ---- The sides.


def evaluation(side: str, mode: str, curve: Curve) -> Evaluation:
    """The results of a side, by the names in `RESULTS`; "slope" is by automatic differentiation."""
    if side == "keras":
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    package = import_module(f"{side}_xent")
    loss = package.get({"loss": curve.loss, "config": curve.config})
    function = getattr(loss, curve.method)
    backend = "torch" if side == "lightning" else import_module("keras").backend.backend()

    def own(m: Any) -> tuple[Any, ...]:
        value, slope = loss.with_slope(-m)
        return value, -slope

    if curve.method != "curve" or not loss.has_slope:
        own = nothing
    return {"torch": of_torch, "tensorflow": of_tensorflow, "jax": of_jax}[backend](function, own, mode == "compiled")


def nothing(m: Any) -> tuple[Any, ...]:
    """Stands for the `with_slope` of a loss without one."""
    return ()


def flushes_to_zero(side: str) -> bool:
    """Whether the side rounds numbers below `SMALLEST` to 0."""
    return side == "keras" and os.environ.get("KERAS_BACKEND", "tensorflow") != "torch"


def of_torch(function: Any, own: Any, is_compiled: bool) -> Evaluation:
    torch = import_module("torch")
    torch.set_num_threads(1)
    if is_compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)

    def evaluate(points: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        m = torch.from_numpy(points).requires_grad_()
        value = function(m)
        (slope,) = torch.autograd.grad(value, m, torch.ones_like(value))
        with torch.no_grad():
            found = [value.detach(), slope, *own(m.detach())]
        return dict(zip(RESULTS, (result.numpy() for result in found), strict=False))

    return evaluate


def of_tensorflow(function: Any, own: Any, is_compiled: bool) -> Evaluation:
    tensorflow = import_module("tensorflow")
    for kind in ("inter", "intra"):
        with suppress(RuntimeError):  # a process that has used TensorFlow keeps its threads
            getattr(tensorflow.config.threading, f"set_{kind}_op_parallelism_threads")(1)

    def step(m: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(m)
            value = function(m)
        return value, tape.gradient(value, m), *own(m)

    if is_compiled:
        chosen = tensorflow.function(step, jit_compile=True, reduce_retracing=True)
    else:
        chosen = without_overhead(step)

    def evaluate(points: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(RESULTS, (result.numpy() for result in chosen(tensorflow.constant(points))), strict=False))

    return evaluate


def without_overhead(step: Any) -> Any:
    """A TensorFlow function as a graph with the operations of eager mode, none rewritten.

    The graph computes whole blocks, if its results over all of float32 equal those of eager mode bit by bit. If they do
    not, it is not used.
    """
    tensorflow = import_module("tensorflow")
    graph = tensorflow.function(step, autograph=False)
    sample = tensorflow.constant(next(patterns(0, BLOCK, PATTERNS // BLOCK), np.empty(0, np.float32)))
    whole = tensorflow.constant(np.resize(sample.numpy(), BLOCK))
    with not_rewritten(tensorflow):
        pairs = zip(step(whole), graph(whole), strict=True)
        is_same = all(np.array_equal(a.numpy().view(np.int32), b.numpy().view(np.int32)) for a, b in pairs)

    def chosen(m: Any) -> Any:
        if not is_same or m.shape[0] != BLOCK:
            return step(m)
        with not_rewritten(tensorflow):
            return graph(m)

    return chosen


@contextmanager
def not_rewritten(tensorflow: Any) -> Iterator[None]:
    """Run graphs without Grappler, which would simplify and fuse operations."""
    optimizer, option = tensorflow.config.optimizer, "disable_meta_optimizer"
    before = optimizer.get_experimental_options().get(option, False)
    optimizer.set_experimental_options({option: True})
    try:
        yield
    finally:
        optimizer.set_experimental_options({option: before})


def of_jax(function: Any, own: Any, is_compiled: bool) -> Evaluation:
    jax = import_module("jax")

    def step(m: Any) -> Any:
        value, pull = jax.vjp(function, m)
        return value, pull(jax.numpy.ones_like(value))[0], *own(m)

    step = jax.jit(step) if is_compiled else step

    def evaluate(points: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(RESULTS, map(np.asarray, step(jax.numpy.asarray(points))), strict=False))

    return evaluate


# ---- Errors.


@dataclass
class Worst:
    """The worst points of one result: [(error in ulp, log-odds)], worst first, and how many are not finite."""

    points: list[tuple[float, float]] = field(default_factory=list)
    not_finite: int = 0

    def add(self, other: "Worst") -> None:
        self.points = sorted({*self.points, *other.points}, reverse=True)[:KEPT]
        self.not_finite += other.not_finite


def errors(got: NDArray[np.float32], want: Floats, level: float = 0.0, flushes: bool = False) -> Floats:
    """Errors in ulp of float32: in spacings of `want`, or in 2^-23 of the `level` if that is larger.

    A number below `SMALLEST` may be 0. If the side `flushes`, its parts and factors may be 0 too.
    """
    bits = want.astype(np.float32).view(np.int32)
    bits &= EXPONENT
    np.maximum(bits, np.float32(SMALLEST).view(np.int32), out=bits)
    spacing = bits.view(np.float32).astype(np.float64)  # 2^23 spacings, at least `SMALLEST`
    smallest = float(spacing.min(initial=np.inf))
    if level > 0:
        np.maximum(spacing, level, out=spacing)
    found: Floats = np.subtract(got, want, dtype=np.float64)
    np.abs(found, out=found)
    if smallest > FLUSHED * SMALLEST:
        found /= spacing
        found *= 2.0**23
        return found
    size = np.maximum(np.abs(want), SMALLEST)
    is_right = (got == 0) & (size <= SMALLEST)
    if flushes:
        is_right |= (size < FLUSHED * SMALLEST) & (found < SMALLEST * np.where(got == 0, FLUSHED, 4))
    found /= spacing
    found *= 2.0**23
    found[is_right] = 0
    return found


def patterns(first: int, last: int, every: int) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of the finite float32 numbers with the bit patterns every * i, i from `first` to `last` - 1."""
    for start in range(first, last, BLOCK):
        bits = np.arange(start, min(start + BLOCK, last), dtype=np.uint64) * np.uint64(every)
        points = bits.astype(np.uint32).view(np.float32)
        is_finite = np.isfinite(points)
        yield points if is_finite.all() else points[is_finite]


def measure(
    curve: Curve, evaluate: Evaluation, blocks: Iterator[NDArray[np.float32]], flushes: bool = False
) -> dict[str, Worst]:
    """The worst points of every result over some blocks of log-odds."""
    worst: dict[str, Worst] = {}
    reference = Reference(curve)
    level_of_value, level_of_slope = curve.level()
    for points in blocks:
        if not points.size:
            continue
        with np.errstate(all="ignore"):
            value, slope = reference(points)
            for name, got in evaluate(points).items():
                want, level = (value, level_of_value) if name.endswith("value") else (slope, level_of_slope)
                found = errors(got, want, level, flushes)
                place, lost = int(found.argmax()), 0
                if not np.isfinite(found[place]):  # NaN counts as the largest
                    is_finite = np.isfinite(got)
                    lost = int(np.sum(~is_finite))
                    found[~is_finite] = 0
                    place = int(found.argmax())
                of_block = Worst([(float(found[place]), float(points[place]))], lost)
                worst.setdefault("value" if name.endswith("value") else name, Worst()).add(of_block)
    return worst


def exact(curve: Curve, m: float) -> tuple[float, float]:
    """The oracle's value and slope at m, with 150 digits and by a central difference."""
    from mpmath import mp, mpf

    from shared_specs.oracle import DIGITS, STEP, Rule

    rule = Rule(curve.loss, curve.config)
    is_negative = curve.method == "negative_curve"  # of label 0, whose log-odds are minus the logit
    with mp.workdps(DIGITS):
        target = [mpf(is_negative), mpf(not is_negative)]

        def loss(x: Any) -> Any:
            logits = [-x if is_negative else x]
            return rule.loss_of_row(logits, target, [mpf(1), mpf(1)], logits)

        step = mpf(STEP)
        return float(loss(mpf(m))), float((loss(m + step) - loss(m - step)) / (2 * step))


def confirm(curve: Curve, points: Sequence[float]) -> None:
    """Fail if the float64 evaluation differs from the oracle by more than a hundredth of an ulp."""
    for m in points:
        with np.errstate(all="ignore"):
            found = curve.reference(Odds.of(np.array([m])), **curve.config)
        for name, got, want, level in zip(("value", "slope"), found, exact(curve, m), curve.level(), strict=True):
            size = max(abs(want), level, SMALLEST)
            if not abs(float(got[0]) - want) <= 0.01 * 2.0**-24 * size:
                raise AssertionError(
                    f"the {name} of {curve.loss} at {m!r} is {want!r}, the float64 evaluation {got[0]!r}"
                )


# ---- The program.

_evaluate: list[Evaluation] = []


def start(side: str, mode: str, curve: Curve) -> None:
    """Prepare a process: load the side once."""
    _evaluate[:] = [evaluation(side, mode, curve)]


def task(bounds: tuple[int, int], curve: Curve, every: int, flushes: bool) -> tuple[int, dict[str, Worst]]:
    """Measure one part of the points."""
    return bounds[1] - bounds[0], measure(curve, _evaluate[0], patterns(*bounds, every), flushes)


def run(
    side: str, curve: Curve, *, every: int = 1, jobs: int = 1, mode: str = "eager", quiet: bool = False
) -> dict[str, Worst]:
    """Measure a curve at every N-th float32 number. The oracle confirms the worst points and some random ones."""
    count = -(-PATTERNS // every)
    parts = [(first, min(first + TASK, count)) for first in range(0, count, TASK)]
    work, worst = partial(task, curve=curve, every=every, flushes=flushes_to_zero(side)), dict[str, Worst]()
    with tqdm(total=count, unit="points", unit_scale=True, desc=curve.loss, disable=quiet) as bar:
        if jobs == 1:
            start(side, mode, curve)
            results: Any = map(work, parts)
            pool = None
        else:
            pool = multiprocessing.get_context("spawn").Pool(jobs, start, (side, mode, curve))
            results = pool.imap_unordered(work, parts)
        for size, found in results:
            for name, part in found.items():
                worst.setdefault(name, Worst()).add(part)
            bar.update(size)
        if pool is not None:
            pool.close()
            pool.join()
    scatter = np.random.default_rng(0).uniform(-110, 110, 20).astype(np.float32).tolist()
    confirm(curve, [m for part in worst.values() for _, m in part.points] + scatter)
    return worst


HEAD = """\
# Accuracy of the curves

Written by `python -m shared_specs.exhaustive --side lightning|keras --curve NAME [--every N]`; do not edit.

Each row is one curve on one side, at every N-th of the 2^32 float32 numbers: all of them if N is 1. The mode is eager
unless the row names another. The error is the largest in ulp, the spacing of float32 numbers at the right value; the
number after @ is the log-odds where it occurs. "slope" comes from automatic differentiation, "with_slope()"
from the method with which binary losses avoid it, whose value counts as "value" too. The right values come from a
float64 evaluation, which the oracle confirms with 150 digits at the worst points.

- On TensorFlow whole blocks run as a graph of the same operations as in eager mode, with Grappler off. Each run first
  checks that both give the same bits.
- The bounds are 4 ulp for cross-entropy, 8 for the others, and no NaN or infinity at a finite log-odds.
- Below 2^-126, the smallest normal number, an ulp is 2^-149, and 0 counts as right. TensorFlow and JAX round numbers
  below it to 0. So a result there of up to 64 times 2^-126 may lack a part or a factor.
- `label_relaxation` and `asymmetric_negative` cross 0 away from their tail. There an ulp is at least 2^-23 of the
  largest value (slope) within 2 of the crossing.
- On TensorFlow cross-entropy has up to 5 ulp, because `log1p` alone has up to 4. `focal`, and `asymmetric_positive`,
  which is the same curve, have up to 10 there: the errors of `exp` count twice in a square, and that of `log1p` is
  added. `jensen_shannon`, a sum of logarithms, has up to 10 too. An inverse tanh has half the error of `log1p`; it is
  not used, because XLA computes it from two `log1p`.
- Four curves have more than 8 ulp. `poly` at epsilon = -1 is the difference of two terms that nearly cancel. It is
  computed as a series, whose slope comes from automatic differentiation: up to 12. `taylor_ten` and
  `asymmetric_negative` raise a probability near 1/2 to a power, so its rounding error counts order / 2 and
  gamma_neg + 1 times: up to 16 and 20. `focal_flsd53` has powers of 3 and 5: the slope by automatic differentiation has
  8.10 at one point on torch, its `with_slope()` 7.21 at most. Its bound is 9.
- Other parameters are within the same bounds, but the error of `taylor` grows with its order.

"""
COLUMNS = ("side", "curve", "N", "value", "slope", "with_slope()", "not finite", "seconds", "versions")


def row(side: str, name: str, every: int, worst: dict[str, Worst], seconds: float) -> list[str]:
    """The cells of a curve in the table."""

    def cell(key: str) -> str:
        return f"{worst[key].points[0][0]:.2f} @ {worst[key].points[0][1]:.9g}" if key in worst else ""

    lost = sum(part.not_finite for part in worst.values())
    cells = [side, name, str(every), cell("value"), cell("slope"), cell("own slope"), str(lost)]
    return [*cells, f"{seconds:.0f}", f"{versions(side)}, {platform.machine()}"]


def versions(side: str) -> str:
    """The versions of the packages that the side computes with."""
    backend = "torch" if side.startswith("lightning") else side.split()[0].removeprefix("keras-")
    packages = [] if side.startswith("lightning") else ["keras"]
    packages += ["tensorflow-cpu" if backend == "tensorflow" else backend]
    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)


def rows_of(page: Path) -> dict[tuple[str, str], list[str]]:
    """The rows of a page, by side and curve."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {(cells[0], cells[1]): cells for cells in rows if cells[0] != COLUMNS[0]}


def write(page: Path, new: dict[tuple[str, str], list[str]]) -> None:
    """Write rows into a page; they replace those of the same side and curve."""
    rows = rows_of(page) | new
    order = {name: place for place, name in enumerate(CURVES)}
    keys = sorted(rows, key=lambda key: (key[0], order.get(key[1], len(order)), key[1]))
    lines = [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *(rows[key] for key in keys))]
    lines[1] = lines[1].replace(" ", "")
    page.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 1 if a curve exceeds its bound or is not finite."""
    parser = argparse.ArgumentParser(prog="python -m shared_specs.exhaustive", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--side", choices=("lightning", "keras"), help="keras: on the backend KERAS_BACKEND, or TensorFlow"
    )
    parser.add_argument("--curve", nargs="+", default=[], metavar="NAME", help=f"all, or of {', '.join(CURVES)}")
    parser.add_argument("--config", type=json.loads, help="JSON: keywords of the loss, in place of those of the curve")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every N-th number (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--mode", choices=("eager", "compiled"), default="eager")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write (default: docs/accuracy.md)")
    parser.add_argument(
        "--merge", type=Path, metavar="PAGE", help="take over the rows of another page, and measure nothing"
    )
    options = parser.parse_args(arguments)
    if options.merge:
        write(options.output, rows_of(options.merge))
        return 0
    names = list(CURVES) if options.curve == ["all"] else options.curve
    if not options.side or not names or not set(names) <= set(CURVES) or options.every < 1:
        parser.error(f"--side, --curve (all, or of {', '.join(CURVES)}) and --every >= 1 are needed")
    failed = False
    for name in names:
        curve = CURVES[name]
        label = name
        if options.config is not None:
            curve = replace(curve, config=options.config)
            label = f"{name} `{json.dumps(options.config)}`"
        begin = time.monotonic()
        worst = run(options.side, curve, every=options.every, jobs=options.jobs, mode=options.mode)
        side = options.side if options.side == "lightning" else f"keras-{os.environ.get('KERAS_BACKEND', 'tensorflow')}"
        side = side if options.mode == "eager" else f"{side} compiled"
        cells = row(side, label, options.every, worst, time.monotonic() - begin)
        write(options.output, {(side, label): cells})
        print(" | ".join(cells), flush=True)
        failed |= any(part.not_finite or part.points[0][0] > curve.bound_on(side) for part in worst.values())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
