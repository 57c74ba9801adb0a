"""Figures that papers and textbooks print, and the same with 50 digits from their own formulas.

A figure is a number of ours: a loss, its gradient, a quotient of two, a margin, an effective number, an entropy. Digits
are those of the source, rounded or cut off there; what it calls "about" is a bound in its row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from mpmath import MPContext

from shared_specs.load import EPSILON, TOLERANCE
from sides import side

DTYPE = side.dtypes[0]  # float64 where it binds
# JAX compiles each operation anew for each shape, and all of them at once in a third of the time.
MODE = "jax.jit" if "jax.jit" in side.modes else "eager"
mp = MPContext()  # the module's own has one precision for all that import it
mp.dps = 50
mpf = mp.mpf

CE, FOCAL = "CategoricalCrossEntropy", "CategoricalFocalCrossEntropy"
package = side.package


@dataclass(frozen=True)
class Figure:
    """`printed` is the text of the numbers, None where the source states a formula or a bound."""

    source: str
    ours: Callable[[], Any]
    exact: Callable[[], list]
    printed: str | None = None
    noise: float = field(default=0.0, kw_only=True)  # how far the formula is from ours in theory, absolute
    scale: float = field(default=1.0, kw_only=True)  # of what ours is computed from, where that is larger than it


def evaluated(loss, logits, target, **config):
    """The rows of a loss, and the gradient of their sum."""
    logits, target = np.array(logits, float), np.asarray(target)
    loss = package.get({"loss": loss, "config": {"reduction": "none"} | config})
    target = side.tensor(target, DTYPE if target.dtype.kind == "f" else None)
    value, gradient = side.value_and_gradient(
        lambda logits: side.call(loss, logits, target), side.tensor(logits, DTYPE), MODE
    )
    return side.numpy(value), side.numpy(gradient)


def value(*inputs, **config):
    return evaluated(*inputs, **config)[0]


def gradient(*inputs, **config):
    return evaluated(*inputs, **config)[1]


def two_classes(p):
    """Logits (x, 0) with the probability p of class 0."""
    return [[float(mp.log(mpf(p) / (1 - mpf(p)))), 0.0]]


def reduction_by_focal(p, gamma=2.0):
    """How many times smaller the focal loss is than cross-entropy."""
    return value(CE, two_classes(p), [0]) / value(FOCAL, two_classes(p), [0], gamma=gamma)


def gamma_of_equal_gradients(p):
    """The solution of a^gamma - gamma b a^(gamma - 1) = 1, a = 1 - p, b = p log p."""
    a, b = 1 - mpf(p), mpf(p) * mp.log(mpf(p))
    return a / b + mp.lambertw(-(a ** (1 - a / b)) / b * mp.log(a), -1) / mp.log(a)


def gradient_norms(p):
    """The norm of the focal gradient over that of cross-entropy."""
    gamma = float(gamma_of_equal_gradients(p))
    focal, plain = gradient(FOCAL, two_classes(p), [0], gamma=gamma), gradient(CE, two_classes(p), [0])
    return [np.linalg.norm(focal) / np.linalg.norm(plain)]


def bits(function, *distributions):
    return side.numpy(function(*(side.tensor(np.array(p, float), DTYPE) for p in distributions), unit="bits"))


def exact_bits(p, q=None):
    """H(p), or KL(p || q)."""
    q = p if q is None else q
    crossed = mp.fsum(-mpf(a) * mp.log(mpf(b), 2) for a, b in zip(p, q, strict=True) if a)
    return [crossed if p is q else crossed - exact_bits(p)[0]]


def over_labels(loss, logits, **config):
    classes = len(logits)
    return [float(value(loss, [logits] * classes, list(range(classes)), **config).sum())]


def gap_of_smoothed_optimum(classes, share):
    return mp.log((classes - 1) * (1 - mpf(share)) / mpf(share))


def newton_step_of_gap(classes, share):
    """The gap less what Newton's step from it to a gradient of 0 is: p - (1 - share), over its slope p (1 - p)."""
    gap = float(gap_of_smoothed_optimum(classes, share))
    logits = [[gap, *[0.0] * (classes - 1)]]
    slope = gradient(CE, logits, [0], label_smoothing=share, smooth_over="others")[0, 0]
    return gap - slope / (share * (1 - share))


STUDENT, TAUGHT = [1.5, -0.25, -2.0, 0.75], [0.5, -1.25, 0.25, 0.5]  # both sum to 0
TEMPERATURE = 2.0**10
UNIFORM = [0.0] * 10
HORSES = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64, 1 / 64, 1 / 64, 1 / 64]
FAIR, BENT = [0.5, 0.5], [0.75, 0.25]
KULLBACK = [mpf(9) / 25, mpf(12) / 25, mpf(4) / 25]
THIRDS = [mpf(1) / 3] * 3

FIGURES = (
    # Lin et al., 2017, Focal Loss for Dense Object Detection, section 3.2.
    Figure("Lin 2017: at .9 and gamma 2 100 times less", lambda: reduction_by_focal("0.9"), lambda: [100], "100"),
    Figure(
        # 1000 exactly at 1 - 10^-1.5 = .96838.
        "Lin 2017: at about .968 1000 times less",
        lambda: reduction_by_focal(1 - mpf(10) ** -1.5),
        lambda: [1000],
        "1000",
    ),
    Figure("Lin 2017: the .968 itself", lambda: reduction_by_focal("0.968"), lambda: [mpf("0.032") ** -2]),
    Figure("Lin 2017: at .5 and gamma 2 4 times less", lambda: reduction_by_focal("0.5"), lambda: [4], "4"),
    # Mukhoti et al., 2020, Calibrating Deep Neural Networks using Focal Loss, section 4 and appendix.
    *(
        Figure(f"Mukhoti 2020: equal gradients at {p}", lambda p=p: gradient_norms(p), lambda: [1], "1")
        for p in ("0.2", "0.25")
    ),
    # Cui et al., 2019, Class-Balanced Loss Based on Effective Number of Samples, equation 2.
    Figure(
        "Cui 2019: effective numbers, beta .999",
        lambda: package.effective_numbers([10, 100, 500, 5000], 0.999),
        lambda: [(1 - mpf(0.999) ** n) / (1 - mpf(0.999)) for n in (10, 100, 500, 5000)],
        "9.95511979 95.20785289 393.6210551 993.278888",
    ),
    # Cao et al., 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss, section 3.3.
    Figure(
        "Cao 2019: margins of 5000, 500 and 50 rows",
        lambda: package.LDAMCrossEntropy(class_counts=[5000, 500, 50], max_margin=0.5).margins,
        lambda: [mpf(50 / mpf(count)) ** 0.25 / 2 for count in (5000, 500, 50)],
        "0.158113883 0.2811706626 0.5",
    ),
    # Wang et al., 2019, Symmetric Cross Entropy for Robust Learning with Noisy Labels: its code clips at 1e-4.
    Figure(
        "Wang 2019: reverse cross-entropy at p = 0",
        lambda: value("CategoricalSymmetricCrossEntropy", [[-500, 0]], [0], alpha=0.0, log_zero=math.log(1e-4)),
        lambda: [-mp.log(mpf("1e-4"))],
        "9.21",
    ),
    # Ghosh et al., 2017, Robust Loss Functions under Label Noise for Deep Neural Networks: the sum is constant.
    Figure(
        "Ghosh 2017: absolute error over 10 labels",
        lambda: over_labels("CategoricalMeanAbsoluteError", [*range(10)]),
        lambda: [18],
        "18",
    ),
    # Zhang and Sabuncu, 2018, Generalized Cross Entropy Loss, lemma 1: (K - K^(1-q)) / q <= sum <= (K - 1) / q.
    Figure(
        "Zhang 2018: sum over the labels, least",
        lambda: over_labels("CategoricalGeneralizedCrossEntropy", UNIFORM, q=0.7),
        lambda: [(10 - mpf(10) ** mpf("0.3")) / mpf("0.7")],
    ),
    Figure(
        "Zhang 2018: sum over the labels, most",
        lambda: over_labels("CategoricalGeneralizedCrossEntropy", [500.0, *UNIFORM[1:]], q=0.7),
        lambda: [9 / mpf("0.7")],
    ),
    # He et al., 2019, Bag of Tricks for Image Classification, section 5.2: the optimal logit leads by 9.1.
    Figure(
        "He 2019: gap of the optimum of smoothing .1, 1000 classes",
        lambda: [newton_step_of_gap(1000, 0.1)],
        lambda: [gap_of_smoothed_optimum(1000, 0.1)],
        "9.1",
    ),
    # Goyal et al., 2017, and everyone who starts a training: log K.
    Figure("an untrained network of 10 classes", lambda: value(CE, [UNIFORM], [3]), lambda: [mp.log(10)], "2.303"),
    Figure(
        # Hinton et al., 2015, Distilling the Knowledge, equation 4: (z_i - v_i) / N of zero-mean logits; with T^2.
        "Hinton 2015: distillation at a high temperature",
        lambda: gradient("Distillation", [STUDENT], [TAUGHT], temperature=TEMPERATURE)[0],
        lambda: [(mpf(z) - mpf(v)) / 4 for z, v in zip(STUDENT, TAUGHT, strict=True)],
        noise=2 / TEMPERATURE,  # the next terms: (z^2 - v^2) / 2NT and means of them, z at most 2
        scale=TEMPERATURE,  # T times the difference of two probabilities
    ),
    # Brier, 1950, Verification of Forecasts: 0 to 2 for two classes, .5 for a forecast of one half.
    Figure("Brier 1950: one half", lambda: value("CategoricalSquaredError", [[0, 0]], [0]), lambda: [0.5], "0.5"),
    Figure("Brier 1950: the worst", lambda: value("CategoricalSquaredError", [[-500, 0]], [0]), lambda: [2], "2"),
    # Lin, 1991, Divergence Measures Based on the Shannon Entropy: at most 1 bit.
    Figure(
        "Lin 1991: the largest divergence, in bits",
        lambda: value("CategoricalJensenShannon", [[-500, 0]], [0]) / math.log(2),
        lambda: [1],
        "1",
    ),
    # MacKay, 2003, Information Theory, Inference, and Learning Algorithms, sections 1.1 and 9.6.
    Figure("MacKay 2003: H(.1)", lambda: bits(package.entropy, [0.1, 0.9]), lambda: exact_bits(["0.1", "0.9"]), "0.47"),
    Figure(
        "MacKay 2003: H(.15)", lambda: bits(package.entropy, [0.15, 0.85]), lambda: exact_bits(["0.15", "0.85"]), "0.61"
    ),
    # Cover and Thomas, 2006, Elements of Information Theory, examples 1.1.2 and 2.3.1.
    Figure("Cover 2006: eight horses", lambda: bits(package.entropy, HORSES), lambda: exact_bits(HORSES), "2"),
    Figure(
        "Cover 2006: D(p || q)",
        lambda: bits(package.kl_divergence, FAIR, BENT),
        lambda: [1 - mp.log(3, 2) / 2],
        "0.2075",
    ),
    Figure(
        "Cover 2006: D(q || p)",
        lambda: bits(package.kl_divergence, BENT, FAIR),
        lambda: [mpf(3) / 4 * mp.log(3, 2) - 1],
        "0.1887",
    ),
    # Kullback, 1959, Information Theory and Statistics, table 2.1, in nats.
    Figure(
        "Kullback 1959: from the uniform distribution",
        lambda: bits(package.kl_divergence, KULLBACK, THIRDS) * math.log(2),
        lambda: [exact_bits(KULLBACK, THIRDS)[0] * mp.log(2)],
        "0.0852996",
    ),
    Figure(
        "Kullback 1959: of the uniform distribution",
        lambda: bits(package.kl_divergence, THIRDS, KULLBACK) * math.log(2),
        lambda: [exact_bits(THIRDS, KULLBACK)[0] * mp.log(2)],
        "0.097455",
    ),
)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.source)
def test_figure(figure):
    got = np.ravel(np.array(figure.ours(), float))
    want = np.array([float(number) for number in figure.exact()])
    assert got.shape == want.shape
    error = np.maximum(np.abs(got - want) - figure.noise, 0.0)
    error /= EPSILON[DTYPE] * np.maximum(figure.scale, np.abs(want))
    print(f"{figure.source}: {error.max():.2g} eps of {DTYPE}")
    assert (error <= TOLERANCE).all(), f"{got} for {want}: {error} eps"
    if figure.printed:
        texts = figure.printed.split()
        units = np.array([float(Decimal(1).scaleb(Decimal(text).as_tuple().exponent)) for text in texts])
        assert (np.abs(want - np.array([float(text) for text in texts])) <= units).all(), f"{want} for {figure.printed}"


# Mukhoti et al., 2020: what the schedule "flsd53" rounds to 5 and 3.
@pytest.mark.parametrize(("p", "printed"), [("0.2", "4.85055444551"), ("0.25", "3.07022710151")])
def test_gamma_of_equal_gradients(p, printed):
    """The formula with the Lambert W function gives the printed gamma and solves the equation."""
    gamma = gamma_of_equal_gradients(p)
    assert mp.nstr(gamma, 12) == printed
    a, b = 1 - mpf(p), mpf(p) * mp.log(mpf(p))
    assert abs(a**gamma - gamma * b * a ** (gamma - 1) - 1) < mpf(10) ** -45
