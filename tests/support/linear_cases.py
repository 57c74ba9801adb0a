"""Losses of a last layer with their options, random layers for them, and how two results compare."""

import numpy as np

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
