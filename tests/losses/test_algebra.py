"""The algebra of the family: what the losses say of each other, row by row, in value and gradient.

A relation is two expressions of the same call. Either may call several losses and do arithmetic with their rows; what
no loss can say (a count, an entropy of the target) enters as a number of NumPy's or of mpmath's.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from mpmath import MPContext

from shared_specs.load import EPSILON, TOLERANCE
from sides import is_keras, name, side

DTYPE = side.dtypes[0]  # float64 where it binds
ROWS, CLASSES = 24, 4

mp = MPContext()  # the module's own has one precision for all that import it
mp.dps = 50
mpf = mp.mpf

# softmax, sum, cumsum, cos and arccos have one name and one order of arguments.
ops = importlib.import_module("keras").ops if is_keras else importlib.import_module("torch")


def tensor(array):
    array = np.asarray(array)
    return side.tensor(array, DTYPE if array.dtype.kind == "f" else None)


@dataclass(frozen=True)
class Batch:
    """The inputs of one call; `weights` is the keyword for the weights of the classes."""

    name: str
    logits: np.ndarray
    target: np.ndarray
    weights: dict[str, Any] = field(default_factory=dict)
    sample_weight: np.ndarray = field(default_factory=lambda: np.ones(ROWS))

    @property
    def row_scale(self):
        """What a gradient is relative to, as in the shared vectors: the weight of its row, where that is above 1."""
        weight = np.maximum(1, self.sample_weight * max(self.weights.get("class_weight", [1.0])))
        weight = np.maximum(weight, self.sample_weight * self.weights.get("pos_weight", 1.0))
        return weight.reshape(weight.shape + (1,) * (self.logits.ndim - 1))

    @property
    def one_hot(self):
        """Labels as rows [N, K]."""
        return np.eye(CLASSES)[self.target]

    @property
    def peak(self):
        return self.logits.max(-1, keepdims=True)

    @cached_property
    def label_probability(self):
        """p of the label of each row."""
        return np.array([float(p[y]) for p, y in zip(map(softmax, self.logits), self.target, strict=True)])

    def modulator(self, label, gamma):
        """(1 - p)^gamma of a binary label, elementwise."""
        sign = 1 if label else -1
        return np.array([float((1 / (1 + mp.exp(sign * mpf(x)))) ** gamma) for x in self.logits])

    def negative_entropy(self):
        """sum_c w_c t_c log t_c of each row, 0 of a label."""
        if self.target.ndim == 1:
            return np.zeros(ROWS)
        weights = self.weights.get("class_weight", [1.0] * CLASSES)
        rows = ([w * t * mp.log(t) for w, t in zip(weights, row, strict=True) if t] for row in self.target.tolist())
        return np.array([float(mp.fsum(row)) for row in rows])


def softmax(row):
    powers = [mp.exp(mpf(x)) for x in row]
    return [power / mp.fsum(powers) for power in powers]


@dataclass(frozen=True)
class Call:
    """One side of a relation calls losses through this; what it does not name is that of the batch."""

    batch: Batch
    x: Any
    """The logits, as a tensor of the framework."""

    def __call__(self, loss, *, logits=None, target=None, share=None, is_weighted=True, **config):
        config = {"reduction": "none"} | self.batch.weights | config
        spec = {"loss": loss, "config": {keyword: value for keyword, value in config.items() if value is not None}}
        target = self.batch.target if target is None else np.asarray(target)
        share = np.ones(ROWS) if share is None else share
        weight = self.batch.sample_weight if is_weighted else np.ones(ROWS)
        weight = share * weight.reshape(weight.shape + (1,) * (share.ndim - 1))
        logits = self.x if logits is None else logits
        return side.call(side.package.get(spec), logits, tensor(target), sample_weight=tensor(weight))

    @property
    def p(self):
        return ops.softmax(self.x, -1)

    def plain(self, rows):
        """Rows that no loss made, NumPy's or a tensor's, times their sample weights."""
        rows = tensor(rows) if isinstance(rows, np.ndarray) else rows
        return tensor(self.batch.sample_weight) * rows

    def constant(self, rows):
        """Rows with gradient 0."""
        return self.plain(rows) + 0.0 * ops.sum(self.x, -1)


Side = Callable[[Call], Any]


def of(loss, factor=1.0, **config) -> Side:
    return lambda call: factor * call(loss, **config)


# ---- Inputs. All numbers are dyadic; a label has little or much of p; log-odds reach +-60, offsets 4096.

CLASS_WEIGHT = [0.5, 2.0, 0.25, 1.0]
COUNTS = [5000, 500, 50, 3]


def categorical(random):
    small = random.integers(-256, 257, (ROWS, CLASSES)) / 64
    size = random.choice([0.125, 1.0, 1.0, 16.0], (ROWS, 1))
    logits = np.clip(small * size, -30, 30) + random.choice([0.0, 0.0, 1000.0, -4096.0], (ROWS, 1))
    return weighted(logits, CLASSES, {"class_weight": CLASS_WEIGHT}, random)


def small(random):
    return weighted(random.integers(-256, 257, (ROWS, CLASSES)) / 64, CLASSES, {"class_weight": CLASS_WEIGHT}, random)


def cosines(random):
    # .875 is 2.64 radians, so that adding .5 stays below pi.
    return weighted(random.integers(-56, 57, (ROWS, CLASSES)) / 64, CLASSES, {"class_weight": CLASS_WEIGHT}, random)


def two_classes(random):
    logits = random.integers(-256, 257, (ROWS, 2)) / 64 * random.choice([1.0, 8.0], (ROWS, 1))
    return weighted(logits, 2, {"class_weight": [1.0, 2.5]}, random)


def far_apart(random):
    """Two classes, one with a probability that is subnormal (float32: from 88 on, float64: from 709 on) or 0."""
    gaps = np.array([44.0, 48, 60, 86, 88, 90, 95, 100, 104, 700, 708, 720, 740, 744, 746, 1000])
    logits = np.zeros((ROWS, 2))
    logits[: len(gaps), 0] = gaps * random.choice([-1.0, 1.0], len(gaps))
    return [replace(batch, sample_weight=np.ones(ROWS)) for batch in weighted(logits, 2, {}, random)[:1]]


def ordinal_of_two(random):
    logits = random.integers(-256, 257, (ROWS, 1)) / 64 * random.choice([1.0, 8.0], (ROWS, 1))
    return weighted(logits, 2, {"class_weight": [1.0, 2.5]}, random)[:2]


def ordinal(random):
    """One class more than logits."""
    logits = random.integers(-256, 257, (ROWS, CLASSES)) / 64 * random.choice([1.0, 8.0], (ROWS, 1))
    return weighted(logits, CLASSES + 1, {}, random)[:2]


def two_views(random):
    """Of two classes, one view after the other."""
    logits = random.integers(-256, 257, (ROWS, 4)) / 64
    return weighted(logits, 2, {"class_weight": [1.0, 2.5]}, random)


def likely(random):
    """Labels with m >= -log 3, those of the largest logits."""
    return [replace(batch, target=batch.logits.argmax(-1)) for batch in small(random)[:2]]


def labels(random):
    return categorical(random)[:2]


def unweighted(random):
    return [replace(batch, weights={}) for batch in categorical(random)]


def binary(random):
    logits = random.integers(-256, 257, ROWS) / 64 * random.choice([0.125, 1.0, 1.0, 16.0], ROWS)
    batches = weighted(logits, 2, {"pos_weight": 2.5}, random)
    return [replace(batch, target=batch.target if batch.target.ndim == 1 else batch.target[:, 1]) for batch in batches]


def binary_labels(random):
    return binary(random)[:2]


def binary_small(random):
    return [replace(batch, logits=np.mod(batch.logits, 2) - 1) for batch in binary(random)]


def distributions(random):
    p, q = (random.multinomial(61, [1 / CLASSES] * CLASSES, ROWS) for _ in range(2))
    p[::3, 0], p[::3, 1] = 0, p[::3, 0] + p[::3, 1]
    return [Batch("distributions", (p + 1.0 * (p > 0)) / 64, (q + 1.0) / 64)]


def weighted(logits, classes, weights, random):
    """A batch of labels, one with weights, and one of soft targets, some one-hot, with weights."""
    votes = random.integers(0, classes, (ROWS, 8))
    votes[::4] = votes[::4, :1]
    soft = np.eye(classes)[votes].mean(1)
    label = random.integers(0, classes, ROWS)
    sample_weight = random.integers(0, 9, ROWS) / 4
    return [
        Batch("labels", logits, label),
        Batch("weighted labels", logits, label, weights, sample_weight),
        Batch("weighted soft targets", logits, soft, weights, sample_weight),
    ]


# ---- Sides of more than one call.


def modulated(gamma):
    """Cross-entropy of both labels, times numbers that have no gradient: the modulators where the logits are."""

    def rows(call):
        batch = call.batch
        one, zero = batch.target * batch.modulator(1, gamma), (1 - batch.target) * batch.modulator(0, gamma)
        ones, zeros = np.ones(ROWS), np.zeros(ROWS)
        return call("BinaryCrossEntropy", target=ones, share=one) + call("BinaryCrossEntropy", target=zeros, share=zero)

    return rows


def entropy_of_p(call):
    """H(softmax), by the option of cross-entropy, whose class weights leave it alone."""
    return call("CategoricalCrossEntropy", entropy_penalty=-1.0) - call("CategoricalCrossEntropy")


def over_labels(loss, **config):
    """The sum over all classes, each as the label."""
    return lambda call: sum(call(loss, target=np.full(ROWS, label), **config) for label in range(CLASSES))


def normalized(call):
    every = (np.full(ROWS, label) for label in range(CLASSES))
    return call(CE) / sum(call(CE, target=label, class_weight=None, is_weighted=False) for label in every)


def absolute_square(call):
    difference = call.p - tensor(call.batch.one_hot)
    return call.plain(ops.sum(difference * difference, -1))


def squared_earth_mover(call):
    difference = ops.cumsum(call.p, -1) - tensor(np.cumsum(call.batch.one_hot, -1))
    return call.plain(ops.sum(difference * difference, -1))


def jensen_shannon(call):
    label = tensor(call.batch.one_hot)
    middle = (label + call.p) / 2
    kl_divergence = side.package.kl_divergence
    return call.plain((kl_divergence(label, middle) + kl_divergence(call.p, middle)) / 2)


def views_apart(weight):
    """Cross-entropy of the first view plus the divergences of both from their mean."""

    def rows(call):
        views = [ops.softmax(call.x[:, :2], -1), ops.softmax(call.x[:, 2:], -1)]
        mean = (views[0] + views[1]) / 2
        divergence = sum(side.package.kl_divergence(view, mean) for view in views) / 2
        return first_view(call) + weight * call.plain(divergence)

    return rows


def first_view(call):
    return call(CE, logits=call.x[:, :2])


def in_steps(call):
    """The conditional labels y > k of the rows with y >= k, for each logit k."""
    steps, label = np.arange(CLASSES), call.batch.target[:, None]
    target, share = 1.0 * (label > steps), 1.0 * (label >= steps)
    return ops.sum(call("BinaryCrossEntropy", target=target, share=share), -1)


def of_two(loss, factor=1.0):
    """A binary loss of the difference of two logits."""

    def rows(call):
        target = call.batch.target if call.batch.target.ndim == 1 else call.batch.target[:, 1]
        pos_weight = call.batch.weights.get("class_weight", [1.0, 1.0])[1]
        x = call.x[:, 1] - call.x[:, 0] if call.x.shape[-1] == 2 else call.x[:, 0]
        return factor * call(loss, logits=x, target=1.0 * target, class_weight=None, pos_weight=pos_weight)

    return rows


def adjusted(counts):
    """-log(n_y exp(x_y) / sum_j n_j exp(x_j)): the balanced softmax."""
    return lambda call: call(CE, logits=call.x - tensor(call.batch.peak) + tensor(np.log(counts)))


def less_margin(margins, scale):
    """Cross-entropy of logits of which the true one lacks a margin."""
    return lambda call: call(CE, logits=call.x - tensor(call.batch.one_hot * margins), temperature=1 / scale)


def with_angle(margin, scale):
    """Near angle + margin = pi the sum rounds by 2 eps, and a gradient by that times scale / sin(angle)."""

    def rows(call):
        label = tensor(call.batch.one_hot)
        logits = (1 - label) * call.x + label * ops.cos(ops.arccos(call.x) + margin)
        return call(CE, logits=logits, temperature=1 / scale)

    return rows


def bootstrapped_hard(beta):
    def rows(call):
        own = call(CE, target=call.batch.logits.argmax(-1), class_weight=None)
        return beta * call(CE) + (1 - beta) * own

    return rows


def stepwise_focal(call):
    unlikely = call.batch.label_probability < 0.2
    loss = "CategoricalFocalCrossEntropy"
    return call(loss, gamma=5.0, share=1.0 * unlikely) + call(loss, gamma=3.0, share=1.0 * ~unlikely)


def less_target_entropy(call):
    return call(CE) + call.constant(call.batch.negative_entropy())


def from_one_hot_teacher(call):
    batch = call.batch
    one_hot = batch.one_hot if batch.target.ndim == 1 else batch.target
    with np.errstate(divide="ignore"):
        return call("Distillation", target=np.log(one_hot))


TEACHER = np.random.default_rng(7).integers(-256, 257, (ROWS, CLASSES)) / 64
TEACHER_P = (np.random.default_rng(7).multinomial(60, [1 / CLASSES] * CLASSES, ROWS) + 1) / 64


def taught(alpha, temperature):
    def rows(call):
        target = np.concatenate([TEACHER, call.batch.target[:, None]], -1) if alpha < 1 else TEACHER
        return call("Distillation", target=target, alpha=alpha, temperature=temperature)

    return rows


def taught_in_parts(alpha, temperature):
    def rows(call):
        teacher = np.array([[float(p) for p in softmax(row)] for row in TEACHER / temperature])
        soft = call("KLDivergence", target=teacher, temperature=temperature)
        return alpha * temperature**2 * soft + (1 - alpha) * call(CE)

    return rows


# ---- The table.

CE, KL = "CategoricalCrossEntropy", "KLDivergence"
TINY = 1e-20  # 0 to every rounding: the limits err by it times at most 60^2
FAMILIES = {"Categorical": (categorical, likely), "Binary": (binary, binary_small)}
SMOOTHED = {
    "CategoricalCrossEntropy": {},
    "CategoricalFocalCrossEntropy": {"gamma": 1.5},
    "CategoricalPolyCrossEntropy": {"epsilon": 2.0},
    "CategoricalSymmetricCrossEntropy": {},
    "CategoricalJensenShannon": {},
    "CategoricalSquaredError": {},
    "NormalizedCrossEntropy": {"beta": 0.5},
    "SquaredEarthMoverDistance": {},
    "KLDivergence": {},
    "Bootstrapping": {},
}


@dataclass(frozen=True)
class Relation:
    name: str
    left: Side
    right: Side
    inputs: Callable[[np.random.Generator], list[Batch]]
    apart: float = field(default=0.0, kw_only=True)  # how far theory keeps the sides apart
    has_gradient: bool = field(default=True, kw_only=True)


RELATIONS = [
    *(
        relation
        for family, (inputs, probable) in FAMILIES.items()
        for cross_entropy, error in [(of(f"{family}CrossEntropy"), f"{family}MeanAbsoluteError")]
        for relation in (
            Relation(
                f"{family} symmetric is poly",
                of(f"{family}SymmetricCrossEntropy", alpha=0.25, beta=1.5, log_zero=-4.0),
                of(f"{family}PolyCrossEntropy", 0.25, epsilon=1.5 * 4 / 0.25),
                inputs,
            ),
            Relation(
                f"{family} symmetric, alpha 0, is absolute error",
                of(f"{family}SymmetricCrossEntropy", alpha=0.0, beta=1.5, log_zero=-4.0),
                of(error, 1.5 * 4 / 2),
                inputs,
            ),
            Relation(f"{family} focal, gamma 0", of(f"{family}FocalCrossEntropy", gamma=0.0), cross_entropy, inputs),
            Relation(f"{family} poly, epsilon 0", of(f"{family}PolyCrossEntropy", epsilon=0.0), cross_entropy, inputs),
            Relation(
                f"{family} poly is cross-entropy and absolute error",
                of(f"{family}PolyCrossEntropy", epsilon=3.0),
                lambda call, cross_entropy=cross_entropy, error=error: cross_entropy(call) + 1.5 * call(error),
                inputs,
            ),
            Relation(
                f"{family} generalized, q to 0",
                of(f"{family}GeneralizedCrossEntropy", q=TINY),
                cross_entropy,
                inputs,
            ),
            Relation(
                f"{family} generalized, q 1", of(f"{family}GeneralizedCrossEntropy", q=1.0), of(error, 0.5), inputs
            ),
            Relation(f"{family} Taylor, order 1", of(f"{family}TaylorCrossEntropy", order=1), of(error, 0.5), inputs),
            Relation(
                # The rest of the series at 1 - p = .75 is .75^201 / 201 * 4, below 1e-26.
                f"{family} Taylor, order 200",
                of(f"{family}TaylorCrossEntropy", order=200),
                cross_entropy,
                probable,
            ),
            Relation(
                f"{family} relaxation, alpha to 0",
                of(f"{family}LabelRelaxation", alpha=TINY),
                cross_entropy,
                inputs,
            ),
        )
    ),
    *(
        Relation(
            f"{loss}, smoothing over others",
            of(loss, label_smoothing=0.25 * (CLASSES - 1) / CLASSES, smooth_over="others", **config),
            of(loss, label_smoothing=0.25, **config),
            categorical,
        )
        for loss, config in SMOOTHED.items()
    ),
    # Labels that change.
    Relation("focal flsd53", of("CategoricalFocalCrossEntropy", gamma="flsd53"), stepwise_focal, labels),
    Relation("bootstrapping, beta 1, soft", of("Bootstrapping", beta=1.0), of(CE), categorical),
    Relation("bootstrapping, beta 1, hard", of("Bootstrapping", beta=1.0, mode="hard"), of(CE), categorical),
    Relation(
        "bootstrapping, soft",
        of("Bootstrapping", beta=0.75),
        lambda call: 0.75 * call(CE) + 0.25 * entropy_of_p(call),
        categorical,
    ),
    Relation(
        "bootstrapping, soft, by the entropy of the softmax",
        of("Bootstrapping", beta=0.75),
        lambda call: 0.75 * call(CE) + 0.25 * call.plain(side.package.entropy(call.p)),
        small,
    ),
    Relation("bootstrapping, hard", of("Bootstrapping", beta=0.75, mode="hard"), bootstrapped_hard(0.75), categorical),
    # Binary losses that are no curves.
    Relation("asymmetric, all 0", of("AsymmetricLoss", gamma_neg=0.0, margin=0.0), of("BinaryCrossEntropy"), binary),
    Relation(
        "asymmetric, equal gammas",
        of("AsymmetricLoss", gamma_pos=1.5, gamma_neg=1.5, margin=0.0),
        of("BinaryFocalCrossEntropy", gamma=1.5),
        binary,
    ),
    Relation(
        "asymmetric, detached modulator",
        of("AsymmetricLoss", gamma_pos=2.0, gamma_neg=2.0, margin=0.0, detach_modulator=True),
        modulated(2),
        binary,
    ),
    Relation(
        "asymmetric, detached modulator and margin: the value",
        of("AsymmetricLoss", gamma_pos=1.0, detach_modulator=True),
        of("AsymmetricLoss", gamma_pos=1.0),
        binary,
        has_gradient=False,
    ),
    Relation("quality focal, beta 0", of("QualityFocalLoss", beta=0.0), of("BinaryCrossEntropy"), binary),
    Relation(
        "quality focal of labels",
        of("QualityFocalLoss", beta=1.5),
        of("BinaryFocalCrossEntropy", gamma=1.5),
        binary_labels,
    ),
    Relation(
        "varifocal of the background",
        lambda call: call("VarifocalLoss", alpha=1.0, gamma=1.5, target=np.zeros(ROWS)),
        lambda call: call("BinaryFocalCrossEntropy", gamma=1.5, target=np.zeros(ROWS)),
        binary,
    ),
    Relation(
        "varifocal of qualities",
        lambda call: call("VarifocalLoss", target=np.maximum(call.batch.target, 0.125)),
        lambda call: call(
            "BinaryCrossEntropy",
            target=np.maximum(call.batch.target, 0.125),
            share=np.maximum(call.batch.target, 0.125),
        ),
        binary,
    ),
    # Divergences.
    Relation("bi-tempered, t1 = t2 = 1", of("BiTemperedLogistic", t1=1.0, t2=1.0), of(KL), categorical),
    Relation(
        # |log p| < 9.4 here: log_1 and exp_2 are off by 1e-9 / 2 * 9.4^2 each, times a weight of at most 4.
        "bi-tempered, near t1 = t2 = 1",
        of("BiTemperedLogistic", t1=1 - 1e-9, t2=1 + 1e-9),
        of(KL),
        small,
        apart=4e-7,
    ),
    Relation("bi-tempered, t1 to 1", of("BiTemperedLogistic", t1=1 - 1e-9, t2=1.0), of(KL), small, apart=4e-7),
    Relation("bi-tempered, t2 to 1", of("BiTemperedLogistic", t1=1.0, t2=1 - 1e-9), of(KL), small, apart=4e-7),
    Relation("divergence of labels", of(KL), of(CE), labels),
    Relation("divergence is cross-entropy less entropy", of(KL), less_target_entropy, categorical),
    Relation(
        "divergence of the softmax",
        lambda call: call(KL, target=TEACHER_P, class_weight=None),
        lambda call: call.plain(side.package.kl_divergence(tensor(TEACHER_P), call.p)),
        small,
    ),
    Relation(
        "H(p, q) = H(p) + KL(p || q) in p",
        lambda call: side.package.cross_entropy(call.x, tensor(call.batch.target)),
        lambda call: side.package.entropy(call.x) + side.package.kl_divergence(call.x, tensor(call.batch.target)),
        distributions,
    ),
    Relation(
        "H(p, q) = H(p) + KL(p || q) in q",
        lambda call: side.package.cross_entropy(tensor(call.batch.target), call.x + 2**-8),
        lambda call: (
            side.package.entropy(tensor(call.batch.target))
            + side.package.kl_divergence(tensor(call.batch.target), call.x + 2**-8)
        ),
        distributions,
    ),
    Relation("distillation from a one-hot teacher", from_one_hot_teacher, of(CE), labels),
    Relation("distillation from a teacher with a distribution", from_one_hot_teacher, of(KL), categorical),
    Relation("distillation, alpha 0", taught(0.0, 2.0), of(CE), labels),
    Relation("distillation, alpha 1", taught(1.0, 1.5), taught_in_parts(1.0, 1.5), labels),
    Relation("distillation, in parts", taught(0.25, 1.5), taught_in_parts(0.25, 1.5), labels),
    # Distances.
    Relation("squared error of a label", of("CategoricalSquaredError"), absolute_square, lambda r: unweighted(r)[:2]),
    Relation(
        "squared error of two classes", of("CategoricalSquaredError"), of_two("BinarySquaredError", 2), two_classes
    ),
    Relation(
        "squared earth mover's distance of a label",
        of("SquaredEarthMoverDistance"),
        squared_earth_mover,
        lambda r: unweighted(r)[:2],
    ),
    Relation(
        "squared earth mover's distance of two classes",
        of("SquaredEarthMoverDistance"),
        of_two("BinarySquaredError"),
        two_classes,
    ),
    Relation("Jensen-Shannon", of("CategoricalJensenShannon"), jensen_shannon, lambda r: small(r)[:1]),
    Relation(
        "consistency, weight 0",
        of("JensenShannonConsistency", views=2, weight=0.0),
        first_view,
        two_views,
    ),
    Relation(
        "consistency of equal views",
        lambda call: call("JensenShannonConsistency", logits=ops.concatenate([call.x, call.x], -1), views=2),
        of(CE),
        two_classes,
    ),
    Relation(
        "consistency of equal views, in the tail",
        lambda call: call("JensenShannonConsistency", logits=ops.concatenate([call.x, call.x], -1), views=2),
        of(CE),
        far_apart,
    ),
    Relation(
        "consistency of two views",
        of("JensenShannonConsistency", views=2, weight=1.5),
        views_apart(1.5),
        two_views,
    ),
    # Sums over the labels.
    Relation("normalized", of("NormalizedCrossEntropy"), normalized, categorical),
    Relation(
        "normalized, over all labels",
        over_labels("NormalizedCrossEntropy"),
        lambda call: call.constant(np.ones(ROWS)),
        unweighted,
    ),
    Relation(
        "active-passive, over all labels",
        over_labels("NormalizedCrossEntropy", alpha=0.5, beta=0.25, log_zero=-4.0),
        lambda call: call.constant(np.full(ROWS, 0.5 + 0.25 * 4 * (CLASSES - 1))),
        unweighted,
    ),
    Relation(
        "absolute error, over all labels",
        over_labels("CategoricalMeanAbsoluteError"),
        lambda call: call.constant(np.full(ROWS, 2.0 * (CLASSES - 1))),
        unweighted,
    ),
    # Ordered classes.
    Relation("ordinal of two classes", of("OrdinalCrossEntropy"), of_two("BinaryCrossEntropy"), ordinal_of_two),
    Relation("ordinal, step by step", of("OrdinalCrossEntropy"), in_steps, ordinal),
    # Frequencies and margins.
    Relation("balanced softmax", of("LogitAdjustedCrossEntropy", class_counts=COUNTS), adjusted(COUNTS), categorical),
    Relation(
        "logit adjustment, tau 0", of("LogitAdjustedCrossEntropy", class_counts=COUNTS, tau=0.0), of(CE), categorical
    ),
    Relation(
        "logit adjustment by equal counts",
        of("LogitAdjustedCrossEntropy", class_counts=[7] * CLASSES, tau=1.5),
        of(CE),
        categorical,
    ),
    Relation(
        "LDAM, no margin",
        of("LDAMCrossEntropy", class_counts=COUNTS, max_margin=0.0, scale=8.0),
        of(CE, temperature=0.125),
        cosines,
    ),
    Relation(
        "CosFace, no margin", of("CosFaceCrossEntropy", margin=0.0, scale=8.0), of(CE, temperature=0.125), cosines
    ),
    Relation(
        "ArcFace, no margin", of("ArcFaceCrossEntropy", margin=0.0, scale=8.0), of(CE, temperature=0.125), cosines
    ),
    Relation(
        "LDAM, equal counts",
        of("LDAMCrossEntropy", class_counts=[9] * CLASSES, max_margin=0.375, scale=8.0),
        of("CosFaceCrossEntropy", margin=0.375, scale=8.0),
        cosines,
    ),
    Relation(
        "LDAM",
        of("LDAMCrossEntropy", class_counts=COUNTS, max_margin=0.5, scale=8.0),
        less_margin([0.5 * (3 / count) ** 0.25 for count in COUNTS], 8.0),
        lambda r: cosines(r)[:2],
    ),
    Relation(
        "CosFace",
        of("CosFaceCrossEntropy", margin=0.375, scale=8.0),
        less_margin(0.375, 8.0),
        lambda r: cosines(r)[:2],
    ),
    Relation(
        "ArcFace", of("ArcFaceCrossEntropy", margin=0.5, scale=1.0), with_angle(0.5, 1.0), lambda r: cosines(r)[:2]
    ),
    Relation("softcap, large", of(CE, softcap=2.0**40), of(CE), small),
]


def evaluate(expression, batch):
    """The rows of one side of a relation, and the gradient of their sum."""
    value, gradient = side.value_and_gradient(
        lambda logits: expression(Call(batch, logits)), tensor(batch.logits), "eager"
    )
    return side.numpy(value), side.numpy(gradient)


def errors(got, want, scale=1.0, apart=0.0):
    """In eps, relative to the larger of the scale and the number."""
    assert got.shape == want.shape
    assert np.isfinite(want).all()
    return np.maximum(np.abs(got - want) - apart, 0.0) / (EPSILON[DTYPE] * np.maximum(scale, np.abs(want)))


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_relation(relation):
    batches = relation.inputs(np.random.default_rng(len(relation.name)))
    if name == "keras-jax":  # outside jit it takes a millisecond for each operation; those without weights are least
        batches = batches[-2:]
    for batch in batches:
        got, want = evaluate(relation.left, batch), evaluate(relation.right, batch)
        for what, one, two, scale in zip(("value", "gradient"), got, want, (1.0, batch.row_scale), strict=True):
            if what == "gradient" and not relation.has_gradient:
                continue
            error = errors(one, two, scale, relation.apart)
            print(f"{relation.name}, {batch.name}: {what} {error.max():.2g} eps of {DTYPE}")
            where = np.unravel_index(error.argmax(), error.shape)
            message = f"{batch.name}, {what} at {where}: {one[where]} and {two[where]}, {error[where]:.3g} eps"
            assert (error <= TOLERANCE).all(), message


def test_names_are_different():
    assert len({relation.name for relation in RELATIONS}) == len(RELATIONS)


def test_a_detached_modulator_changes_the_gradient():
    """The gradient of label 1 is w (p - 1) with the modulator w, and less steep than that of all factors."""
    x = np.arange(-ROWS // 2, ROWS // 2) / 4
    target = tensor(np.ones(ROWS))
    p = [1 / (1 + mp.exp(-mpf(value))) for value in x]
    want = {
        True: [-((1 - q) ** 3) for q in p],
        False: [-((1 - q) ** 3) + 2 * (1 - q) ** 2 * q * mp.log(q) for q in p],
    }
    for detached, exact in want.items():
        spec = {
            "loss": "AsymmetricLoss",
            "config": {"gamma_pos": 2.0, "detach_modulator": detached, "reduction": "sum"},
        }
        loss = side.package.get(spec)
        _, got = side.value_and_gradient(lambda x, loss=loss: side.call(loss, x, target), tensor(x), "eager")
        assert (errors(side.numpy(got), np.array(exact, float)) <= TOLERANCE).all()


@pytest.mark.parametrize("margin", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_arcface_falls_with_the_cosine(margin):
    """Also from angle + margin = pi on. Two cosines differ by far more than rounding; at 1 the slope is infinite, and
    left out."""
    cosines = np.linspace(-1, 1, ROWS)
    rivals = np.broadcast_to([0.0, 0.25, -0.5], (ROWS, CLASSES - 1))
    logits = np.concatenate([cosines[:, None], rivals], -1)
    loss = side.package.ArcFaceCrossEntropy(margin=margin, scale=2.0, reduction="none")
    label = tensor(np.zeros(ROWS, int))
    value, gradient = side.value_and_gradient(lambda x: side.call(loss, x, label), tensor(logits), "eager")
    assert (np.diff(side.numpy(value)) < 0).all()
    assert (side.numpy(gradient)[:-1, 0] < 0).all()
