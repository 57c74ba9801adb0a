"""What a case is about, in words that libraries and users share."""

import numpy as np

from shared_specs.load import Case

BINARY = {"AsymmetricLoss", "QualityFocalLoss", "VarifocalLoss"}
OF_CONFIG = {
    "ignore_index": "ignore_index",
    "label_smoothing": "label smoothing",
    "class_weight": "class weights",
    "class_counts": "class counts",
    "pos_weight": "pos_weight",
    "temperature": "temperature",
    "softcap": "softcap",
    "z_loss": "z-loss",
    "entropy_penalty": "entropy penalty",
    "hard_fraction": "hardest rows",
}
OF_INPUTS = {"sample_weight": "sample weights", "mask": "mask", "denominator": "denominator"}
OF_FLAGS = {
    "nothing-kept": "no row kept",
    "empty": "empty batch",
    "nonfinite": "logits not finite",
    "extreme": "extreme logits",
    "tail": "tails",
    "zero-weight": "weights of 0",
    "single-class": "one class",
    "large-label": "many classes",
}
FEATURES = (
    "class indices",
    "one-hot targets",
    "soft targets",
    "binary labels",
    "soft binary labels",
    "a teacher's logits",
    *OF_CONFIG.values(),
    "smoothing over the others",
    *OF_INPUTS.values(),
    "probabilities",
    "reduction mean",
    "reduction weighted_mean",
    "reduction sum",
    "reduction none",
    "beyond 2-D",
    *OF_FLAGS.values(),
    "half precision",
    "bad input",
)
"""All features, in the order of a table."""
REDUCTIONS = {"sum_over_batch_size": "mean", "mean_with_sample_weight": "weighted_mean"}


def is_binary(loss: str) -> bool:
    """Whether a loss has a label for each logit, not one for each row."""
    return loss.startswith("Binary") or loss in BINARY


def features(case: Case, dtype: str = "float32") -> list[str]:
    """The features of a case, in the order of `FEATURES`; its loss is not among them."""
    config = case.config
    reduction = config.get("reduction", "mean")
    found = {feature for name, feature in OF_CONFIG.items() if name in config}
    found |= {feature for name, feature in OF_INPUTS.items() if name in case.inputs}
    found |= {feature for name, feature in OF_FLAGS.items() if name in case.flags}
    if config.get("smooth_over") == "others":
        found.add("smoothing over the others")
    if config.get("from_logits") is False:
        found.add("probabilities")
    if dtype in ("bfloat16", "float16"):
        found.add("half precision")
    if case.error:
        found.add("bad input")
    else:
        found.add(f"reduction {REDUCTIONS.get(reduction, reduction)}")
    if "target" in case.inputs:
        found.add(_target(case))
        if case.inputs["logits"].ndim > 2:
            found.add("beyond 2-D")
    return [feature for feature in FEATURES if feature in found]


def _target(case: Case) -> str:
    """What the target of a case holds."""
    logits, target = case.inputs["logits"], case.inputs["target"]
    if case.loss == "Distillation":
        return "a teacher's logits"
    if is_binary(case.loss):
        labels = (0, 1, case.config.get("ignore_index", 0))
        return "binary labels" if np.isin(target, labels).all() else "soft binary labels"
    if target.shape != logits.shape or case.loss == "SparseCategoricalCrossEntropy":
        return "class indices"
    return "one-hot targets" if np.isin(target, (0, 1)).all() else "soft targets"
