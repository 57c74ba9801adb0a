"""Metrics of Keras: uneven batches, weights and ignored rows, held to formulas over all rows at once in NumPy."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_xent
from keras_xent.metrics import (
    F1,
    Accuracy,
    BinaryNegativeLogLikelihood,
    CategoricalNegativeLogLikelihood,
    ExpectedCalibrationError,
    MeanLoss,
    Perplexity,
    Precision,
    Recall,
)
from sides import name as side_name

RNG = np.random.default_rng(0)
ROWS, BATCH = 33, 8
LOGITS = (2 * RNG.normal(size=(ROWS, 3))).astype("float32")
LABELS = np.where(np.arange(ROWS) % 5 < 2, -1, RNG.integers(0, 3, ROWS))
LABELS[:BATCH] = -1  # a batch without a row
LABELS[-1] = 2  # a batch of one
WEIGHTS = (np.arange(ROWS) % 4 / 2).astype("float32")
LOGITS[3], LOGITS[12] = np.nan, np.inf  # an ignored row, and one of weight 0
CLASS_WEIGHT = np.array([1.0, 2.0, 4.0])

FINITE = np.where(np.isfinite(LOGITS), LOGITS, 0.0).astype("float64")
P = np.exp(FINITE) / np.exp(FINITE).sum(-1, keepdims=True)
OWN = P[np.arange(ROWS), LABELS]
NLL, FOCAL = -np.log(OWN), -((1 - OWN) ** 2) * np.log(OWN)
U = CLASS_WEIGHT[LABELS]


def calibration_error(probability, hits, weights, bins):
    confidence, total = probability.max(-1), 0.0
    for place in range(bins):
        inside = (place / bins < confidence) & (confidence <= (place + 1) / bins)
        total += abs((weights * (hits - confidence))[inside].sum())
    return total / weights.sum()


def focal(reduction):
    config = {"gamma": 2.0, "class_weight": [1, 2, 4], "ignore_index": -1, "reduction": reduction}
    return MeanLoss(keras_xent.CategoricalFocalCrossEntropy(**config), name=reduction)


def metrics():
    return [
        focal("mean"),
        focal("weighted_mean"),
        focal("sum"),
        CategoricalNegativeLogLikelihood(ignore_index=-1),
        Perplexity(ignore_index=-1),
        ExpectedCalibrationError(ignore_index=-1),
        ExpectedCalibrationError(4, ignore_index=-1, name="four_bins"),
    ]


def expected(weights, mask=True):
    kept = (LABELS >= 0) & mask
    s, hits = weights * kept, P.argmax(-1) == LABELS
    return {
        "mean": (s * U * FOCAL).sum() / kept.sum(),
        "weighted_mean": (s * U * FOCAL).sum() / (s * U).sum(),
        "sum": (s * U * FOCAL).sum(),
        "categorical_negative_log_likelihood": (s * NLL).sum() / s.sum(),
        "perplexity": np.exp((s * NLL).sum() / s.sum()),
        "expected_calibration_error": calibration_error(P, hits, s, 15),
        "four_bins": calibration_error(P, hits, s, 4),
    }


def number(tensor):
    return float(keras.ops.convert_to_numpy(tensor))


def update(metric, target, predicted, **options):
    """One batch; JAX takes a second to compile all operations one by one."""
    if side_name != "keras-jax":
        metric.update_state(target, keras.ops.convert_to_tensor(predicted), **options)
        return
    import jax

    before = [variable.value for variable in metric.variables]
    after = jax.jit(metric.stateless_update_state)(before, target, predicted, **options)
    for variable, value in zip(metric.variables, after, strict=True):
        variable.assign(value)


def measured(metric, target, predicted, weights=None, batch=ROWS):
    for start in range(0, len(target), batch):
        part = slice(start, start + batch)
        update(metric, target[part], predicted[part], sample_weight=None if weights is None else weights[part])
    return number(metric.result())


@pytest.mark.skipif(side_name == "keras-jax", reason="evaluate compiles them together, not one by one")
def test_each_is_that_of_all_rows():
    want = expected(WEIGHTS)
    for metric in metrics():
        for _ in range(2):
            got = measured(metric, LABELS, LOGITS, WEIGHTS, batch=20)
            assert got == pytest.approx(want[metric.name], rel=2e-6), metric
            metric.reset_state()


MODES = {
    "keras-tensorflow": [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}],
    "keras-jax": [{"jit_compile": True}],
    "keras-torch": [{}],
}[side_name]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_evaluate_with_weights(mode):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    loss = keras_xent.CategoricalCrossEntropy(ignore_index=-1)
    model.compile(loss=loss, weighted_metrics=metrics(), **mode)
    got = model.evaluate(LOGITS, LABELS, sample_weight=WEIGHTS, batch_size=BATCH, verbose=0, return_dict=True)
    want = expected(WEIGHTS)
    assert {name: got[name] for name in want} == pytest.approx(want, rel=2e-6)


def test_fit_without_weights():
    """`metrics` get no sample weights; a callback knows that less is better."""
    logits = FINITE.astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="identity")])
    loss = keras_xent.CategoricalCrossEntropy(ignore_index=-1)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=loss, metrics=metrics())
    stop = keras.callbacks.EarlyStopping(monitor="val_perplexity")
    options = {"batch_size": BATCH, "validation_data": (logits, LABELS), "callbacks": [stop], "verbose": 0}
    history = model.fit(logits, LABELS, sample_weight=WEIGHTS, epochs=2, **options).history
    for name, want in expected(np.ones(ROWS)).items():
        assert history[name] == pytest.approx([want] * 2, rel=2e-6)
        assert history[f"val_{name}"] == pytest.approx([want] * 2, rel=2e-6)


def test_binary():
    """Every element is a row, weighted by its first axis."""
    logits, target = RNG.normal(size=(6, 2)), np.array([[0, 1], [1, -1], [-1, -1], [0.25, 1], [1, 0], [0, 0]])
    weights, kept = np.array([1.0, 2.0, 3.0, 0.5, 0.0, 1.5]), target >= 0
    probability = 1 / (1 + np.exp(-logits))
    losses = -(target * np.log(probability) + (1 - target) * np.log(1 - probability))
    s = weights[:, None] * kept
    want = (s * losses).sum() / s.sum()
    target = target.astype("float32")
    for from_logits, given in ((True, logits), (False, probability)):
        metric = BinaryNegativeLogLikelihood(ignore_index=-1, from_logits=from_logits)
        assert measured(metric, target, given.astype("float32"), weights) == pytest.approx(want, rel=2e-6)


def test_probabilities_distributions_and_axis():
    """Classes on axis 1 of [N, C, 2]; a hit of a distribution is its mass at the most probable class."""
    probability = RNG.dirichlet(np.ones(4), size=(6, 2))  # [N, 2, C]
    target = RNG.dirichlet(np.ones(4), size=(6, 2))
    hits = np.take_along_axis(target, probability.argmax(-1)[..., None], -1).reshape(-1)
    error = calibration_error(probability.reshape(-1, 4), hits, np.ones(12), 10)
    nll = -(target * np.log(probability)).sum(-1).mean()
    given = np.moveaxis(target, -1, 1).astype("float32")
    for from_logits, inputs in ((False, probability), (True, np.log(probability))):
        options = {"from_logits": from_logits, "axis": 1}
        inputs = np.moveaxis(inputs, -1, 1).astype("float32")
        assert measured(ExpectedCalibrationError(10, **options), given, inputs) == pytest.approx(error, rel=2e-6)
        assert measured(CategoricalNegativeLogLikelihood(**options), given, inputs) == pytest.approx(nll, rel=2e-6)
        assert measured(Perplexity(**options), given, inputs) == pytest.approx(np.exp(nll), rel=2e-6)


def test_bins_are_open_below_and_closed_above():
    """Of 2 classes a confidence of 1/2 belongs to the first of two bins, and 1 to the second."""
    probability = np.array([[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]], "float32")
    metric = ExpectedCalibrationError(2, from_logits=False)
    # Bin 1: |1 - 0.5|; bin 2: |(0 - 1) + (1 - 0.75)|. In one bin they would cancel to 0.25.
    assert measured(metric, np.array([0, 1, 0]), probability) == pytest.approx((0.5 + 0.75) / 3, rel=1e-6)


def test_padding_counts_nowhere():
    tokens = np.array([[1, 2, 0], [3, 0, 0], [2, 2, 2], [1, 0, 0]])
    labels = np.array([[1, 2, 3], [3, 3, 3], [0, 2, 1], [0, 0, 0]])
    table = RNG.normal(size=(4, 4)).astype("float32")
    model = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(4, 4, mask_zero=True)])
    model.set_weights([table])
    measures = [CategoricalNegativeLogLikelihood(name="nll"), ExpectedCalibrationError(name="error")]
    model.compile(optimizer="sgd", loss=keras_xent.CategoricalCrossEntropy(), metrics=measures)
    got = model.evaluate(tokens, labels, batch_size=3, verbose=0, return_dict=True)
    probability = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
    kept, probability = (tokens != 0).reshape(-1), probability[tokens.reshape(-1)]
    nll = -np.log(probability[np.arange(12), labels.reshape(-1)])
    hits = probability.argmax(-1) == labels.reshape(-1)
    assert got["nll"] == pytest.approx(nll[kept].mean(), rel=2e-6)
    assert got["error"] == pytest.approx(calibration_error(probability, hits, 1.0 * kept, 15), rel=2e-6)


def test_a_mask_is_that_of_the_loss():
    mask = np.arange(ROWS) % 3 > 0
    for metric in (focal("mean"), ExpectedCalibrationError(ignore_index=-1)):
        update(metric, LABELS, LOGITS, sample_weight=WEIGHTS, mask=mask)
        assert number(metric.result()) == pytest.approx(expected(WEIGHTS, mask)[metric.name], rel=2e-6), metric


def test_sums_go_on_beyond_the_whole_numbers_of_float32():
    """One row of weight 2^24 and loss 0, then 300 of weight 1: float32 holds 2^24, not 2^24 + 1."""
    logits, weights = np.zeros((301, 2), "float32"), np.ones(301, "float32")
    logits[0, 0], weights[0] = 1000, 2**24
    model = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    measures = [CategoricalNegativeLogLikelihood(name="nll")]
    model.compile(loss=keras_xent.CategoricalCrossEntropy(), weighted_metrics=measures)
    labels = np.zeros(301, "int32")
    got = model.evaluate(logits, labels, sample_weight=weights, batch_size=1, verbose=0, return_dict=True)
    assert got["nll"] == pytest.approx(300 * np.log(2) / (2**24 + 300), rel=1e-6)


@pytest.mark.parametrize("floatx", ["bfloat16", "float64"])
def test_floatx_loses_no_digits(floatx):
    keras.config.set_floatx(floatx)
    try:
        for metric in (Perplexity(ignore_index=-1), ExpectedCalibrationError(ignore_index=-1)):
            got = measured(metric, LABELS, LOGITS, WEIGHTS)
            assert got == pytest.approx(expected(WEIGHTS)[metric.name], rel=2e-6), metric
    finally:
        keras.config.set_floatx("float32")


def test_no_row_and_bad_rows():
    for metric in metrics():
        nothing = 1.0 if metric.name == "perplexity" else 0.0
        assert number(metric.result()) == nothing
        assert measured(metric, LABELS[:2], LOGITS[:2]) == nothing
        assert np.isnan(measured(metric, np.array([0, 1]), np.array([[np.nan, 0, 0], [0, 1, 0]], "float32"))), metric
    infinite = np.array([[-np.inf, 0], [0, 0], [0, 0]], "float32")
    assert measured(CategoricalNegativeLogLikelihood(), np.zeros(3, int), infinite, batch=1) == np.inf


@pytest.mark.skipif(side_name != "keras-torch", reason="gradients are recorded by torch")
def test_blocks_with_a_gradient():
    """What torch takes block by block, of outputs that have a gradient."""
    logits = RNG.normal(size=(200_000, 4)).astype("float32")
    labels = RNG.integers(0, 4, 200_000)
    tensor = keras.ops.convert_to_tensor(logits).requires_grad_()
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = calibration_error(probability, probability.argmax(-1) == labels, np.ones(200_000), 15)
    metric = ExpectedCalibrationError()
    metric.update_state(labels, tensor)
    assert number(metric.result()) == pytest.approx(want, rel=1e-4)
    assert not metric.sums.value.requires_grad


CONFIGURED = [
    *metrics(),
    CategoricalNegativeLogLikelihood(from_logits=False, axis=1, name="own"),
    BinaryNegativeLogLikelihood(from_logits=False, ignore_index=-1),
]


def test_configs():
    for metric in CONFIGURED:
        spec = json.loads(json.dumps(keras.saving.serialize_keras_object(metric)))
        again = keras.saving.deserialize_keras_object(spec)
        assert type(again) is type(metric)
        assert again.get_config() == metric.get_config()
        assert type(metric).from_config(metric.get_config()).get_config() == metric.get_config()
    assert CONFIGURED[-2].get_config() == {"from_logits": False, "ignore_index": None, "axis": 1, "name": "own"}
    assert ExpectedCalibrationError(7).get_config()["bins"] == 7


def test_a_saved_model_measures_the_same(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    loss = keras_xent.CategoricalCrossEntropy(ignore_index=-1)
    model.compile(loss=loss, weighted_metrics=metrics())
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", logits=LOGITS, labels=LABELS, weights=WEIGHTS)
    script = (
        "import json, sys, keras, keras_xent.metrics, numpy as np;"
        "model, data = keras.models.load_model(sys.argv[1]), np.load(sys.argv[2]);"
        "options = dict(sample_weight=data['weights'], batch_size=8, verbose=0, return_dict=True);"
        "print(json.dumps(model.evaluate(data['logits'], data['labels'], **options)))"
    )
    command = [sys.executable, "-c", script, tmp_path / "model.keras", tmp_path / "data.npz"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    got, want = json.loads(run.stdout), expected(WEIGHTS)
    assert {name: got[name] for name in want} == pytest.approx(want, rel=2e-6)


REFUSED = {
    "no mean": (lambda: MeanLoss(keras_xent.BinaryCrossEntropy(reduction="none")), ValueError, "reduction of the loss"),
    "another loss": (lambda: MeanLoss(keras.losses.MeanSquaredError()), TypeError, "loss must be a loss of keras_xent"),
    "bins": (lambda: ExpectedCalibrationError(0), ValueError, "bins must be an integer >= 1"),
    "from_logits": (lambda: Perplexity(from_logits="yes"), ValueError, "from_logits must be one of"),
    "axis": (lambda: ExpectedCalibrationError(axis=0.5), ValueError, "axis must be an integer"),
    "ignore_index": (
        lambda: BinaryNegativeLogLikelihood(ignore_index="a"),
        ValueError,
        "ignore_index must be a number",
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_the_constructor_checks_its_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()


Y = np.array([0, 1, 2, 2, -1, 1, 0])
SCORES = np.array([[2, 0, 0], [0, 1, 0], [0, 3, 1], [0, 0, 1], [np.nan] * 3, [2, 1, 0], [1, 0, 0]], "float32")
SAFE = np.nan_to_num(SCORES)
W = np.array([1, 2, 1, 0, 1, 1, 1], "float32")
ONE = {"ignore_index": -1}
CLASSES = keras_xent.CategoricalCrossEntropy(**ONE)
BINARY = keras_xent.BinaryCrossEntropy(**ONE)
SINGLE = np.array([1, -1, -1, 0]), np.array([0.25, 3.0, -3.0, 0.125], "float32")
SEVERAL = np.array([[1, 0], [1, -1], [0, 1]], "float32"), np.array([[1, -1], [-1, 2], [2, -2]], "float32")
# Predicted are 0 1 1 2 . 0 0 for 0 1 2 2 . 1 0: hits 2 1 1, predictions 3 2 1, rows 2 2 2.
RIGHT = {
    "accuracy": (Accuracy, CLASSES, {}, (Y, SCORES), None, 4 / 6),
    "accuracy, weighted rows": (Accuracy, CLASSES, {}, (Y, SCORES), W, 4 / 6),
    "accuracy of one-hot rows": (Accuracy, CLASSES, {}, (np.eye(3, dtype="float32")[Y], SAFE), None, 4 / 7),
    "precision, none": (Precision, CLASSES, {"average": "none"}, (Y, SCORES), None, [2 / 3, 1 / 2, 1]),
    "recall, none": (Recall, CLASSES, {"average": None}, (Y, SCORES), None, [1, 1 / 2, 1 / 2]),
    "F1, none": (F1, CLASSES, {"average": "none"}, (Y, SCORES), None, [4 / 5, 2 / 4, 2 / 3]),
    "F1, macro": (F1, CLASSES, {}, (Y, SCORES), None, (4 / 5 + 2 / 4 + 2 / 3) / 3),
    "F1, micro": (F1, CLASSES, {"average": "micro"}, (Y, SCORES), None, 4 / 6),
    "recall, weighted": (Recall, CLASSES, {"average": "weighted"}, (Y, SCORES), W, 4 / 6),
    "macro leaves classes out": (Recall, CLASSES, {}, (Y[:2], SCORES[:2]), None, 1.0),
    "accuracy, binary": (Accuracy, BINARY, {}, SINGLE, None, 1 / 2),
    "precision, binary": (Precision, BINARY, {}, SINGLE, None, 1 / 2),
    "recall, binary": (Recall, BINARY, {}, SINGLE, None, 1.0),
    "F1, binary": (F1, BINARY, {}, SINGLE, None, 2 / 3),
    "threshold": (Precision, BINARY, {"threshold": 0.55}, SINGLE, None, 1.0),  # 0.562 and 0.531
    "accuracy, multi-label": (Accuracy, BINARY, {}, SEVERAL, None, 2 / 5),
    "precision, multi-label": (Precision, BINARY, {"average": "none"}, SEVERAL, None, [1 / 2, 0]),
    "recall, multi-label": (Recall, BINARY, {}, SEVERAL, None, 1 / 4),
}


@pytest.mark.parametrize(("kind", "loss", "options", "batch", "weight", "want"), RIGHT.values(), ids=RIGHT)
def test_A10_predictions_as_the_loss_reads_them(kind, loss, options, batch, weight, want):
    """In two batches, by hand."""
    metric = kind(loss, **options)
    for part in (slice(2), slice(2, None)):
        values = (array[part] for array in batch)
        metric.update_state(*values, sample_weight=None if weight is None else weight[part])
    assert keras.ops.convert_to_numpy(metric.result()) == pytest.approx(np.array(want), rel=1e-6)
    metric.reset_state()
    assert not keras.ops.convert_to_numpy(metric.result()).any()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_A10_in_evaluate_and_a_keras_file(mode, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    measures = [Accuracy(CLASSES), Precision(CLASSES), Recall(CLASSES, average="micro", name="found"), F1(CLASSES)]
    model.compile(optimizer="sgd", loss=CLASSES, weighted_metrics=measures, **mode)
    # Weighted: hits 2 2 0, predictions 3 3 0, rows 2 3 1.
    want = {"accuracy": 4 / 6, "precision": (2 / 3 + 2 / 3) / 3, "found": 4 / 6, "f1": (4 / 5 + 4 / 6) / 3}
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        for _ in range(2):
            got = each.evaluate(SAFE, Y, sample_weight=W, batch_size=3, verbose=0, return_dict=True)
            assert {name: got[name] for name in want} == pytest.approx(want, rel=1e-6)
