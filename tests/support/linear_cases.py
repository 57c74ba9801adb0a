"""Losses of a last layer with their options, random layers, vectors as layers, and how two results compare."""

import numpy as np

from shared_specs import load
from sides import side

ROWS, FEATURES, CLASSES = (5, 3), 4, 11
LABEL, SOFT = "label", "soft"
LOSSES = {
    "plain": ("CategoricalCrossEntropy", {}, LABEL),
    "focal": ("CategoricalFocalCrossEntropy", {"gamma": 1.7, "temperature": 1.5}, LABEL),
    "ignored": ("CategoricalCrossEntropy", {"ignore_index": 3, "reduction": "weighted_mean", "weights": 1}, LABEL),
    "smoothed": ("CategoricalCrossEntropy", {"label_smoothing": 0.1, "weights": 1}, LABEL),
    "smoothed-0": ("CategoricalCrossEntropy", {"label_smoothing": 0.1, "smooth_over": "others", "weights": 0}, LABEL),
    "everything": (
        "CategoricalPolyCrossEntropy",
        {"z_loss": 0.01, "entropy_penalty": 0.1, "softcap": 2.0, "temperature": 0.5, "ignore_index": 3, "weights": 1},
        LABEL,
    ),
    "everything-smoothed": (
        "CategoricalCrossEntropy",
        {"z_loss": 0.01, "entropy_penalty": -0.1, "softcap": 2.0, "label_smoothing": 0.2, "weights": 1},
        LABEL,
    ),
    "none": ("CategoricalGeneralizedCrossEntropy", {"reduction": "none"}, LABEL),
    "sum": ("CategoricalCrossEntropy", {"reduction": "sum"}, LABEL),
    "hardest": ("CategoricalCrossEntropy", {"hard_fraction": 0.4, "ignore_index": 3}, LABEL),
    "hardest-soft": ("CategoricalCrossEntropy", {"hard_fraction": 0.4}, SOFT),
    "focal-smoothed": ("CategoricalFocalCrossEntropy", {"label_smoothing": 0.1, "z_loss": 0.01}, LABEL),
    "margin": ("ArcFaceCrossEntropy", {"scale": 2.0}, LABEL),
    "adjusted": ("LogitAdjustedCrossEntropy", {"class_counts": [3 + c for c in range(CLASSES)]}, LABEL),
    "bi-tempered": ("BiTemperedLogistic", {}, LABEL),
    "soft": ("CategoricalCrossEntropy", {}, SOFT),
    "soft-weighted": ("CategoricalFocalCrossEntropy", {"reduction": "weighted_mean", "weights": 1}, SOFT),
    "divergence": ("KLDivergence", {"label_smoothing": 0.1}, SOFT),
}
INPUTS = {"random": (1.0, 0.0), "shifted": (1.0, 50.0), "confident": (30.0, 0.0)}


def built(name):
    loss, config, kind = LOSSES[name]
    config = dict(config)
    if "weights" in config:
        least = 0.1 * config.pop("weights")
        config["class_weight"] = [least + 0.3 * (c % 4) for c in range(CLASSES)]
    return side.package.get({"loss": loss, "config": config}), kind


def random_layer(kind, scale=1.0, shift=0.0, rows=ROWS):
    rng = np.random.default_rng(3)
    hidden, weight = rng.normal(size=(*rows, FEATURES)), rng.normal(size=(CLASSES, FEATURES)) * scale / 2
    bias = rng.normal(size=CLASSES) + shift * rng.choice([-1, 1], size=CLASSES)
    target = rng.integers(0, CLASSES, rows) if kind == LABEL else rng.dirichlet(np.ones(CLASSES), rows)
    return [side.tensor(each, side.layer_dtype) for each in (hidden, weight, bias)], target


def compare(fused, whole, tolerance):
    for name, got, want in zip(("value", "hidden", "weight", "bias"), fused, whole, strict=True):
        assert got.shape == want.shape, name
        np.testing.assert_allclose(
            got, want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max(initial=0.0)), err_msg=name
        )


CATEGORICAL = [case for case in load.cases() if case.expected and hasattr(getattr(side.package, case.loss), "linear")]


def is_reached(case):
    """Whether a layer can give these logits: a product of infinity and 0 is NaN, so only ignored rows may have it."""
    loss = side.package.get({"loss": case.loss, "config": case.config})
    if not (loss.reads_one_logits and loss.from_logits):
        return False
    rows = np.isfinite(np.moveaxis(case.inputs["logits"], side.class_axis(loss, case.inputs["logits"]), -1)).all(-1)
    target, mask, weight = (case.inputs.get(name) for name in ("target", "mask", "sample_weight"))
    if loss.ignore_index is not None and target.size == rows.size:
        rows = rows | (target.reshape(rows.shape) == loss.ignore_index)
    for counts in (mask, None if weight is None else weight != 0):
        if counts is not None:
            counts = np.asarray(counts, bool)
            rows = rows | ~counts.reshape(counts.shape + (1,) * (rows.ndim - counts.ndim))
    return bool(rows.all())


REACHED = [case for case in CATEGORICAL if is_reached(case)]


def identity_of(case, dtype):
    """The loss of a vector, the class axis of its logits, and its inputs; the classes of logits and target are last."""
    loss = side.package.get({"loss": case.loss, "config": case.config})
    axis = side.class_axis(loss, case.inputs["logits"])
    is_distribution = case.inputs["target"].ndim == case.inputs["logits"].ndim
    inputs = {
        name: np.moveaxis(array, axis, -1) if name == "logits" or (name == "target" and is_distribution) else array
        for name, array in case.inputs.items()
    }
    tensors = {name: side.tensor(array, dtype if array.dtype.kind == "f" else None) for name, array in inputs.items()}
    return loss, axis, tensors
