"""Values that other projects print in their documentation and tests, and the same with 60 digits.

Printed digits may be truncated (Keras does) or carry the float32 noise of what printed them; the 60-digit values
bind. Per-row values are written as such; natural logarithms unless a factor says otherwise.
"""

import math
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import pytest

from shared_specs.load import EPSILON, TOLERANCE
from sides import side

DTYPE = "float64" if "float64" in side.dtypes else "float32"


@dataclass(frozen=True)
class Row:
    """One printed result. `printed` is its text, None where the source gives full precision or is wrong."""

    source: str
    loss: str
    config: dict
    logits: list
    target: list
    exact: float | list[float]
    printed: str | None = None
    factor: float = field(default=1.0, kw_only=True)  # to the convention of the source
    noise: float = field(default=0.0, kw_only=True)  # of what printed it, relative


BINARY, CATEGORICAL, SPARSE = "BinaryCrossEntropy", "CategoricalCrossEntropy", "SparseCategoricalCrossEntropy"
BINARY_FOCAL, FOCAL = "BinaryFocalCrossEntropy", "CategoricalFocalCrossEntropy"
POLY, DIVERGENCE, BI_TEMPERED = "CategoricalPolyCrossEntropy", "KLDivergence", "BiTemperedLogistic"
NONE = {"reduction": "none"}
PROBABILITIES = {"from_logits": False}
FLOAT32_NOISE = 2 * EPSILON["float32"]  # TensorFlow and Keras print float32 results to 8 digits
FLOAT64_NOISE = 2 * EPSILON["float64"]  # SciPy prints all digits of float64

KERAS_BINARY = [-18.6, 0.51, 2.94, -12.8]
KERAS_CATEGORICAL = [[0.05, 0.95, 0], [0.1, 0.8, 0.1]]
KERAS_TEST = [[8, 1, 1], [0, 9, 1], [2, 3, 5]]
THREE = [[1, -0.5, 0.25]]
KERAS_HINGE = [[0.6, 0.4], [0.4, 0.6]]
OPTAX_POLY = [[0.14, 1.456, 2.356, -0.124, -2.47]], [[0.1, 0.15, 0.2, 0.25, 0.3]]

ROWS = (
    Row("textbook, p_y = .9", CATEGORICAL, PROBABILITIES, [[0.9, 0.1]], [0], 0.10536051565782630, ".105"),
    Row("textbook, p_y = .1", CATEGORICAL, PROBABILITIES, [[0.9, 0.1]], [1], 2.3025850929940457, "2.303"),
    # Printed as .51 on many pages: a known misprint.
    Row("textbook, binary, mean", BINARY, PROBABILITIES, [0.8, 0.3, 0.7, 0.2], [1, 0, 1, 0], 0.28990924762647107),
    Row(
        "optax, softmax_cross_entropy",
        CATEGORICAL,
        NONE,
        [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]],
        [[1, 0, 0], [0, 1, 0]],
        [0.27612970554553754, 2.9517987958544252],
        "0.2761 2.9518",
    ),
    Row(
        "optax, softmax_cross_entropy_with_integer_labels",
        SPARSE,
        NONE,
        [[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]],
        [0, 1],
        [0.27612970554553754, 2.9517987958544252],
        "0.2761 2.9518",
    ),
    Row(
        "TensorFlow, tf.nn.softmax_cross_entropy_with_logits",
        CATEGORICAL,
        NONE,
        [[4, 2, 1], [0, 5, 1]],
        [[1, 0, 0], [0, 0.8, 0.2]],
        [0.16984601955628565, 0.82474489013882265],
        "0.16984604 0.82474494",
        noise=FLOAT32_NOISE,
    ),
    Row(
        "TensorFlow, tf.nn.sparse_softmax_cross_entropy_with_logits",
        SPARSE,
        NONE,
        [[2, -5, 0.5, -0.1], [0, 0, 1.9, 1.4], [-100, 100, -100, -100]],
        [0, 3, 1],
        [0.29750749726216223, 1.1448325498394578, 4.1516895802102126e-87],
        "0.29750752 1.1448325 0.",
        noise=FLOAT32_NOISE,
    ),
    Row(
        "TensorFlow, tf.nn.sigmoid_cross_entropy_with_logits",
        BINARY,
        NONE,
        [1, -1, 0],
        [0, 0, 0],
        [1.3132616875182228, 0.31326168751822283, 0.69314718055994531],
        "1.3132617 0.3132617 0.6931472",
    ),
    Row("Keras, BinaryCrossentropy, (4,)", BINARY, {}, KERAS_BINARY, [0, 1, 0, 0], 0.86545794978109727, ".8654"),
    Row(
        # The sum of the means over two labels is half the sum over all elements.
        "Keras, BinaryCrossentropy, sum",
        BINARY,
        {"reduction": "sum"},
        [KERAS_BINARY[:2], KERAS_BINARY[2:]],
        [[0, 1], [0, 0]],
        1.7309158995621945,
        "1.730",
        factor=0.5,
    ),
    Row(
        "Keras, BinaryFocalCrossentropy, gamma 2",
        BINARY_FOCAL,
        {"gamma": 2},
        KERAS_BINARY,
        [0, 1, 0, 0],
        0.69121207583206632,
        ".691",
    ),
    Row(
        "Keras, BinaryFocalCrossentropy, gamma 3",
        BINARY_FOCAL,
        {"gamma": 3},
        KERAS_BINARY,
        [0, 1, 0, 0],
        0.64699501188669605,
        ".647",
    ),
    Row(
        "Keras, BinaryFocalCrossentropy, gamma 2, apply_class_balancing",
        BINARY_FOCAL,
        {"gamma": 2, "alpha": 0.25},
        KERAS_BINARY,
        [0, 1, 0, 0],
        0.5101332954752427,
        ".51",
    ),
    Row(
        "Keras, BinaryFocalCrossentropy, gamma 3, apply_class_balancing",
        BINARY_FOCAL,
        {"gamma": 3, "alpha": 0.25},
        KERAS_BINARY,
        [0, 1, 0, 0],
        0.48214124681934554,
        ".482",
    ),
    Row(
        "Keras, CategoricalCrossentropy, none",
        CATEGORICAL,
        PROBABILITIES | NONE,
        KERAS_CATEGORICAL,
        [[0, 1, 0], [0, 0, 1]],
        [0.051293294387550533, 2.3025850929940457],
        ".0513 2.303",
    ),
    Row(
        "Keras, CategoricalCrossentropy, mean",
        CATEGORICAL,
        PROBABILITIES,
        KERAS_CATEGORICAL,
        [[0, 1, 0], [0, 0, 1]],
        1.1769391936907981,
        "1.177",
    ),
    Row(
        "Keras, CategoricalCrossentropy, sum",
        CATEGORICAL,
        PROBABILITIES | {"reduction": "sum"},
        KERAS_CATEGORICAL,
        [[0, 1, 0], [0, 0, 1]],
        2.3538783873815962,
        "2.354",
    ),
    Row(
        "Keras, SparseCategoricalCrossentropy, mean",
        SPARSE,
        PROBABILITIES,
        KERAS_CATEGORICAL,
        [1, 2],
        1.1769391936907981,
        "1.177",
    ),
    Row(
        # Keras' categorical alpha is one factor for all classes: class weights of .25 under "none".
        "Keras, CategoricalFocalCrossentropy, none",
        FOCAL,
        PROBABILITIES | NONE | {"class_weight": [0.25, 0.25, 0.25]},
        KERAS_CATEGORICAL,
        [[0, 1, 0], [0, 0, 1]],
        [3.205830899221908e-05, 0.46627348133129426],
        "3.2058331e-05 4.6627346e-01",
        noise=8 * EPSILON["float32"],  # 1 - p = .05 by subtraction in float32, squared
    ),
    Row(
        "Keras, losses_test, categorical logits, none",
        CATEGORICAL,
        NONE,
        KERAS_TEST,
        [0, 1, 2],
        [0.0018221028929252085, 0.00045876718223101564, 0.16984601955628565],
        "0.001822 0.000459 0.169846",
    ),
    Row(
        "Keras, losses_test, categorical logits, mean",
        CATEGORICAL,
        {},
        KERAS_TEST,
        [0, 1, 2],
        0.0573756298771473,
        ".0573",
    ),
    Row("Keras, losses_test, sparse logits, mean", SPARSE, {}, KERAS_TEST, [0, 1, 2], 0.0573756298771473, ".0573"),
    # Printed as 400 * 0.1 / 3.
    Row(
        "Keras, losses_test, label smoothing",
        CATEGORICAL,
        {"label_smoothing": 0.1},
        [[100, -100, -100]],
        [[1, 0, 0]],
        13.333333333333333,
    ),
    Row(
        "scikit-learn, log_loss",
        CATEGORICAL,
        PROBABILITIES,
        [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]],
        [1, 0, 0, 1],
        0.21616187468057915,
        ".21616",
    ),
    Row(
        "SciPy, stats.entropy, cross-entropy in bits",
        CATEGORICAL,
        PROBABILITIES,
        [[0.9, 0.1]],
        [[0.5, 0.5]],
        1.7369655941662062,
        "1.736965594166206",
        factor=1 / math.log(2),
    ),
    Row(
        # The cross-entropy of a distribution with itself.
        "SciPy, stats.entropy, entropy in bits",
        CATEGORICAL,
        PROBABILITIES,
        [[0.9, 0.1]],
        [[0.9, 0.1]],
        0.46899559358928122,
        "0.46899559358928117",
        factor=1 / math.log(2),
        noise=FLOAT64_NOISE,
    ),
    Row(
        "SciPy, stats.entropy, divergence in bits",
        DIVERGENCE,
        PROBABILITIES,
        [[0.9, 0.1]],
        [[0.5, 0.5]],
        0.73696559416620617,
        "0.7369655941662062",
        factor=1 / math.log(2),
        noise=FLOAT64_NOISE,
    ),
    Row(
        "Kullback, 1959: a binomial distribution from the uniform one",
        DIVERGENCE,
        {},
        [[0, 0, 0]],
        [[0.36, 0.48, 0.16]],
        0.085299601318370568,
        ".0852996",
    ),
    Row(
        "TorchMetrics, KLDivergence",
        DIVERGENCE,
        PROBABILITIES,
        [[1 / 3, 1 / 3, 1 / 3]],
        [[0.36, 0.48, 0.16]],
        0.085299601318370568,
        "0.0853",
    ),
    Row(
        "Keras, KLDivergence",
        DIVERGENCE,
        PROBABILITIES,
        KERAS_HINGE,
        [[0, 1], [0, 0]],
        0.45814536593707753,
        "0.458",
    ),
    Row(
        "scikit-learn, brier_score_loss",
        "BinarySquaredError",
        PROBABILITIES,
        [0.1, 0.9, 0.8, 0.3],
        [0, 1, 1, 0],
        0.0375,
        ".0375",
    ),
    Row(
        # It takes probabilities for scores.
        "TorchMetrics, BinaryHingeLoss",
        "BinaryHinge",
        {},
        [0.25, 0.25, 0.55, 0.75, 0.75],
        [0, 0, 1, 1, 1],
        0.69,
        ".69",
    ),
    Row(
        "TorchMetrics, MulticlassHingeLoss",
        "CategoricalHinge",
        {},
        [[0.25, 0.2, 0.55], [0.55, 0.05, 0.4], [0.1, 0.3, 0.6], [0.9, 0.05, 0.05]],
        [0, 1, 2, 0],
        0.9125,
        "0.9125",
    ),
    Row("Keras, Hinge", "BinaryHinge", {}, KERAS_HINGE, [[0, 1], [0, 0]], 1.3, "1.3"),
    Row(
        "TensorFlow Addons, SigmoidFocalCrossEntropy",
        BINARY_FOCAL,
        PROBABILITIES | NONE | {"alpha": 0.25},
        [0.97, 0.91, 0.03],
        [1, 1, 0],
        [6.8533216840594228e-06, 0.00019097912592926369, 2.0559965052178268e-05],
        "6.8532745e-06 1.9097870e-04 2.0559824e-05",
        noise=64 * EPSILON["float32"],  # 1 - p = .03 by subtraction in float32, squared: 2 eps / 2 / .03
    ),
    Row("PyTorch, BCEWithLogitsLoss", BINARY, {}, [1.5], [1.0], 0.20141327798275241, ".20"),
    Row(
        "optax, poly_loss test, epsilon 0, as cross-entropy", CATEGORICAL, {}, *OPTAX_POLY, 2.8990029311938639, "2.8990"
    ),
    Row("optax, poly_loss test, epsilon 2", POLY, {"epsilon": 2}, *OPTAX_POLY, 4.5316572856791472, "4.5317"),
    Row("optax, poly_loss test, epsilon 0", POLY, {"epsilon": 0}, *OPTAX_POLY, 2.8990029311938639, "2.8990"),
    Row("optax, poly_loss test, epsilon -1", POLY, {"epsilon": -1}, *OPTAX_POLY, 2.0826757539512223, "2.0827"),
    Row(
        "Google, bi-tempered test, t1 .5, t2 1.5",
        BI_TEMPERED,
        NONE | {"t1": 0.5, "t2": 1.5},
        [[-0.5, 0.1, 2], [0.1, 1.5, -5], [4, -3, -6]],
        [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.2, 0.8, 0]],
        [0.02301914207573469, 0.18972909123631869, 0.93874922373806792],
        "0.02301914 0.18972909 0.93874922",
    ),
    Row(
        "Keras, losses_test, binary focal, row 0",
        BINARY_FOCAL,
        PROBABILITIES,
        [0.9, 0.8],
        [1, 0],
        0.51554693455720125,
        ".515547",
    ),
    Row(
        "Keras, losses_test, binary focal, row 1",
        BINARY_FOCAL,
        PROBABILITIES,
        [0.7, 0.2],
        [1, 0],
        0.020513243503527152,
        ".020513",
    ),
    Row(
        "Keras, losses_test, binary focal, mean",
        BINARY_FOCAL,
        PROBABILITIES,
        [[0.9, 0.8], [0.7, 0.2]],
        [[1, 0], [1, 0]],
        0.2680300890303642,
        ".268",
    ),
    # Where names are shared and definitions are not, ours; the other values must not come out.
    Row("kornia, binary focal, soft target", BINARY_FOCAL, {}, [0.5], [0.7], 0.16052492362007548),
    Row("mmdetection, quality focal", "QualityFocalLoss", {}, [0.5], [0.7], 0.0037522973898636159),
    Row("Keras, MONAI, kornia: softmax focal, soft target", FOCAL, {}, THREE, [[0.7, 0.2, 0.1]], 0.43456193567260881),
    Row(
        "torch, Keras, optax: smoothing over all",
        CATEGORICAL,
        {"label_smoothing": 0.1},
        THREE,
        [0],
        0.60297574385530979,
    ),
    Row(
        "smoothing over the others",
        CATEGORICAL,
        {"label_smoothing": 0.1, "smooth_over": "others"},
        THREE,
        [0],
        0.64047574385530979,
    ),
    Row(
        "smoothing over the others with .1*(K-1)/K",
        CATEGORICAL,
        {"label_smoothing": 0.1 * 2 / 3, "smooth_over": "others"},
        THREE,
        [0],
        0.60297574385530979,
    ),
    Row(
        "class weight outside the modulator",
        FOCAL,
        {"class_weight": [2.5, 1, 1]},
        THREE,
        [0],
        0.22210085919017755,
    ),
)


def value(row):
    logits = side.tensor(np.array(row.logits, np.float64), DTYPE)
    target = np.array(row.target)
    target = side.tensor(target, DTYPE if target.dtype.kind == "f" else None)
    loss = side.package.get({"loss": row.loss, "config": row.config})
    return side.numpy(side.call(loss, logits, target)) * row.factor


def allowed_by_print(text, noise):
    """One unit of the last printed digit, since digits may be cut off, and the noise of what printed it."""
    number = Decimal(text)
    unit = Decimal(1).scaleb(number.as_tuple().exponent)
    return float(unit) + noise * abs(float(number))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.source)
def test_exact(row):
    """Within 8 eps of the compute dtype.

    Inputs such as .95 are rounded to that dtype first. That moves a loss by at most eps/2 * sum |x_i dl/dx_i|, for
    these inputs 1.2 eps (at p = (.9, .8)), which the 8 eps take in without a term of their own.
    """
    got, want = value(row), np.array(row.exact)
    assert got.shape == want.shape
    error = np.abs(got - want) / (EPSILON[DTYPE] * np.maximum(1, np.abs(want)))
    print(f"{row.source}: {error.max():.2g} eps of {DTYPE}")
    assert (error <= TOLERANCE).all(), f"{got} for {want}: {error} eps"


@pytest.mark.parametrize("row", [row for row in ROWS if row.printed], ids=lambda row: row.source)
def test_printed(row):
    texts = row.printed.split()
    got, printed = np.ravel(value(row)), np.array([float(text) for text in texts])
    # A side without float64 adds its own rounding to that of the print.
    rounding = TOLERANCE * EPSILON[DTYPE] * np.maximum(1, np.abs(printed)) if DTYPE == "float32" else 0.0
    allowed = np.array([allowed_by_print(text, row.noise) for text in texts]) + rounding
    assert (np.abs(got - printed) <= allowed).all(), f"{got} for {row.printed}"


@pytest.mark.parametrize(
    ("row", "elsewhere"),
    [
        ("kornia, binary focal, soft target", 0.12694704009466031),  # torchvision, Keras, optax
        ("kornia, binary focal, soft target", 0.12646884510502894),  # MONAI
        ("kornia, binary focal, soft target", 0.13450279378941965),  # smp, catalyst: from exp(-BCE)
        ("kornia, binary focal, soft target", 0.0037522973898636159),  # quality focal
        ("mmdetection, quality focal", 0.16052492362007548),  # per target: kornia
        ("Keras, MONAI, kornia: softmax focal, soft target", 0.31928754002035589),  # exp(-CE)
        ("Keras, MONAI, kornia: softmax focal, soft target", 0.25648816535671876),  # p_t = sum t p
        ("class weight outside the modulator", 0.70889576851480209),  # weight inside: a common bug
        ("textbook, binary, mean", 0.51),  # the misprint
    ],
)
def test_other_conventions_differ(row, elsewhere):
    """Our value is none of those that other definitions of the same name give."""
    (row,) = (each for each in ROWS if each.source == row)
    assert abs(float(np.ravel(value(row))[0]) - elsewhere) > 1e-2
