"""Specs of the losses that equal those of torch and of Keras, from their class names and arguments."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from shared_specs.common import arguments
from shared_specs.common.spec import LossSpec

Targets = Literal["indices", "probabilities"]
Build = Callable[..., LossSpec]
REDUCTIONS = ("mean", "sum", "none")
IGNORED_KEYS = ("name", "dtype")


class Native(NamedTuple):
    """A loss of another library: its keywords with their defaults, and what makes our spec of their values."""

    defaults: Mapping[str, Any]
    build: Build


def of_torch(name: str, given: Mapping[str, Any], targets: Targets = "indices") -> LossSpec:
    """Return the spec of the loss that equals one of torch.nn, given its keywords.

    Raises:
        TypeError: A keyword that the loss of torch does not have.
        ValueError: A loss, or a value of a keyword, that has no equal.
    """
    arguments.choice("targets", targets, ("indices", "probabilities"))
    native, values = _native("torch.nn", name, given, TORCH, NOT_OF_TORCH)
    return native.build(**values, **({"targets": targets} if name == "CrossEntropyLoss" else {}))


def of_keras(name: str, given: Mapping[str, Any], classes: int | None = None) -> LossSpec:
    """Return the spec of the loss that equals one of keras.losses, given its keywords.

    Raises:
        TypeError: A keyword that the loss of Keras does not have.
        ValueError: A loss, or a value of a keyword, that has no equal.
    """
    given = {key: value for key, value in given.items() if key not in IGNORED_KEYS}
    native, values = _native("keras.losses", name, given, KERAS, NOT_OF_KERAS)
    values["reduction"] = arguments.REDUCTION_SYNONYMS.get(values["reduction"], values["reduction"])
    return native.build(**values, **({"classes": classes} if name == "CategoricalFocalCrossentropy" else {}))


def named(config: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the class name and the keywords in a config: Keras' `serialize`, or a class_path with init_args."""
    for name, inner in (("class_name", "config"), ("class_path", "init_args")):
        if isinstance(config, Mapping) and isinstance(config.get(name), str):
            values = config.get(inner) or {}
            if not isinstance(values, Mapping):
                raise ValueError(f"config must have a mapping as its {inner!r}, got {values!r}")
            return config[name].rsplit(".", 1)[-1], values
    raise ValueError(
        'config must be a mapping with "class_name" and "config", as keras.losses.serialize gives it, or with '
        f'"class_path" and "init_args", as in a YAML config, got {config!r}'
    )


def refused(name: str, why: str) -> ValueError:
    """Return the error for a loss, or a value of a keyword, that has no equal."""
    return ValueError(f"{name} has no equal here: {why}")


def _native(
    library: str, name: str, given: Mapping[str, Any], known: Mapping[str, Native], others: Mapping[str, str]
) -> tuple[Native, dict[str, Any]]:
    """Return what is known of a loss, and the values of all its keywords, as plain Python objects."""
    if name not in known:
        close = difflib.get_close_matches(name, [*known, *others], 1, 0.8)
        ours = f"it is no cross-entropy; those of {library} are {', '.join(known)}"
        raise refused(name, others.get(name, f"did you mean {close[0]!r}?" if close else ours))
    native = known[name]
    unknown = [keyword for keyword in given if keyword not in native.defaults]
    if unknown:
        raise arguments.unknown_keyword(f"{library}.{name}", unknown[0], list(native.defaults))
    values = {keyword: given.get(keyword, default) for keyword, default in native.defaults.items()}
    return native, {keyword: arguments.as_python(value) for keyword, value in values.items()}


def _spec(loss: str, **config: Any) -> LossSpec:
    return {"loss": loss, "config": {keyword: value for keyword, value in config.items() if value is not None}}


def _reduction(value: Any) -> str:
    return str(arguments.choice("reduction", value, REDUCTIONS))


def _cross_entropy_of_torch(
    weight: Any, ignore_index: int, reduction: str, label_smoothing: float, targets: Targets
) -> LossSpec:
    """The mean of torch divides by the sum of the weights of the labels; of probabilities, by the number of rows."""
    has_labels = targets == "indices"
    divides_by_weights = has_labels and weight is not None and reduction == "mean"
    return _spec(
        "CategoricalCrossEntropy",
        axis=1,
        class_weight=weight,
        ignore_index=ignore_index if has_labels else None,
        label_smoothing=label_smoothing,
        reduction="weighted_mean" if divides_by_weights else _reduction(reduction),
    )


def _binary_of_torch(from_logits: bool, name: str) -> Build:
    def build(weight: Any, reduction: str, pos_weight: Any = None) -> LossSpec:
        if weight is not None:
            raise refused(f"{name}(weight=...)", "a weight of each element is the sample_weight of the call")
        return _spec(
            "BinaryCrossEntropy", from_logits=from_logits, pos_weight=pos_weight, reduction=_reduction(reduction)
        )

    return build


def _multi_label_of_torch(weight: Any, reduction: str) -> LossSpec:
    if weight is not None:
        why = "it weights both labels of a class; sample_weight of the call in the shape of the logits does that"
        raise refused("MultiLabelSoftMarginLoss(weight=...)", why)
    if reduction != "mean":
        why = "it has the mean over the classes of each row; BinaryCrossEntropy has the sum"
        raise refused(f"MultiLabelSoftMarginLoss(reduction={reduction!r})", why)
    return _spec("BinaryCrossEntropy", reduction="mean")


def _cross_entropy_of_keras(loss: str) -> Build:
    def build(
        from_logits: bool, axis: int, reduction: str, label_smoothing: float = 0.0, ignore_class: int | None = None
    ) -> LossSpec:
        _smooths_the_last_axis("CategoricalCrossentropy", label_smoothing, axis)
        common = {"from_logits": from_logits, "axis": axis, "label_smoothing": label_smoothing, "reduction": reduction}
        return _spec(loss, **common, ignore_index=ignore_class)

    return build


def _smooths_the_last_axis(name: str, label_smoothing: float, axis: int) -> None:
    if label_smoothing and axis != -1:
        why = "Keras divides by the size of the last axis, whatever the class axis is"
        raise refused(f"{name}(label_smoothing={label_smoothing}, axis={axis})", why)


def _mean_over_labels(name: str, reduction: str) -> None:
    if reduction not in ("mean", "weighted_mean"):
        why = "Keras computes the mean over the last axis first; with a reduction to a mean both are equal"
        raise refused(f"{name}(reduction={reduction!r})", why)


def _no_weight_in_the_mean(name: str, weight: Any, reduction: str) -> None:
    if weight is not None and reduction == "weighted_mean":
        why = "Keras divides by the sum of the sample weights alone, weighted_mean by that of the class weights too"
        raise refused(f"{name}(alpha=..., reduction='mean_with_sample_weight')", why)


def _binary_of_keras(from_logits: bool, label_smoothing: float, axis: int, reduction: str) -> LossSpec:
    _mean_over_labels("BinaryCrossentropy", reduction)
    config = {"from_logits": from_logits, "label_smoothing": label_smoothing, "reduction": reduction}
    return _spec("BinaryCrossEntropy", **config)


def _binary_focal_of_keras(
    apply_class_balancing: bool,
    alpha: float,
    gamma: float,
    from_logits: bool,
    label_smoothing: float,
    axis: int,
    reduction: str,
) -> LossSpec:
    _mean_over_labels("BinaryFocalCrossentropy", reduction)
    if label_smoothing:
        why = "Keras has the mixture of both labels in the modulator; here the loss is linear in the target"
        raise refused(f"BinaryFocalCrossentropy(label_smoothing={label_smoothing})", why)
    balance = alpha if apply_class_balancing else None
    _no_weight_in_the_mean("BinaryFocalCrossentropy", balance, reduction)
    config = {"gamma": gamma, "alpha": balance, "from_logits": from_logits, "reduction": reduction}
    return _spec("BinaryFocalCrossEntropy", **config)


def _categorical_focal_of_keras(
    alpha: Any, gamma: float, from_logits: bool, label_smoothing: float, axis: int, reduction: str, classes: int | None
) -> LossSpec:
    name = "CategoricalFocalCrossentropy"
    _smooths_the_last_axis(name, label_smoothing, axis)
    is_number = not isinstance(alpha, list)
    if is_number and alpha != 1 and classes is None:
        why = f"alpha is a factor of all classes: pass classes=K, which makes it class_weight=[{alpha}] * K"
        raise refused(f"{name}(alpha={alpha})", why)
    weight = None if is_number and alpha == 1 else [alpha] * (classes or 0) if is_number else alpha
    _no_weight_in_the_mean(name, weight, reduction)
    config = {"gamma": gamma, "class_weight": weight, "label_smoothing": label_smoothing}
    return _spec("CategoricalFocalCrossEntropy", **config, from_logits=from_logits, axis=axis, reduction=reduction)


def _divergence_of_keras(reduction: str) -> LossSpec:
    return _spec("KLDivergence", from_logits=False, axis=-1, reduction=reduction)


def _generalized_of_keras(q: float, reduction: str) -> LossSpec:
    return _spec("CategoricalGeneralizedCrossEntropy", q=q, from_logits=False, axis=-1, reduction=reduction)


def _hinge_of_keras(reduction: str) -> LossSpec:
    _mean_over_labels("Hinge", reduction)
    return _spec("BinaryHinge", reduction=reduction)


_LABELS = {"weight": None, "ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}
TORCH = {
    "CrossEntropyLoss": Native(_LABELS, _cross_entropy_of_torch),
    "BCEWithLogitsLoss": Native(
        {"weight": None, "reduction": "mean", "pos_weight": None}, _binary_of_torch(True, "BCEWithLogitsLoss")
    ),
    "BCELoss": Native({"weight": None, "reduction": "mean"}, _binary_of_torch(False, "BCELoss")),
    "MultiLabelSoftMarginLoss": Native({"weight": None, "reduction": "mean"}, _multi_label_of_torch),
}
_TAKES_LOGARITHMS = "it takes log-probabilities: leave the log_softmax of the network out, and use {}"
NOT_OF_TORCH = {
    "NLLLoss": _TAKES_LOGARITHMS.format("CategoricalCrossEntropy, which takes logits"),
    "NLLLoss2d": _TAKES_LOGARITHMS.format("CategoricalCrossEntropy, which takes logits"),
    "KLDivLoss": _TAKES_LOGARITHMS.format('KLDivergence, which takes logits; its "mean" is the "batchmean" of torch'),
    "SoftMarginLoss": "its labels are -1 and 1: use BinaryCrossEntropy with (label + 1) / 2",
    "MultiMarginLoss": "it sums over all rivals, and CategoricalHinge takes the strongest",
    "MultiLabelMarginLoss": "it compares every label with every other class",
    "AdaptiveLogSoftmaxWithLoss": "it groups the classes; LinearLoss has many classes without an approximation",
    "LinearCrossEntropyLoss": "it is a layer: lightning_xent.from_torch makes a LinearLoss of it",
}

_CROSS_ENTROPY = {"from_logits": False, "axis": -1, "reduction": "sum_over_batch_size"}
KERAS = {
    "CategoricalCrossentropy": Native(
        {**_CROSS_ENTROPY, "label_smoothing": 0.0}, _cross_entropy_of_keras("CategoricalCrossEntropy")
    ),
    "SparseCategoricalCrossentropy": Native(
        {**_CROSS_ENTROPY, "ignore_class": None}, _cross_entropy_of_keras("SparseCategoricalCrossEntropy")
    ),
    "BinaryCrossentropy": Native({**_CROSS_ENTROPY, "label_smoothing": 0.0}, _binary_of_keras),
    "BinaryFocalCrossentropy": Native(
        {**_CROSS_ENTROPY, "apply_class_balancing": False, "alpha": 0.25, "gamma": 2.0, "label_smoothing": 0.0},
        _binary_focal_of_keras,
    ),
    "CategoricalFocalCrossentropy": Native(
        {**_CROSS_ENTROPY, "alpha": 0.25, "gamma": 2.0, "label_smoothing": 0.0}, _categorical_focal_of_keras
    ),
    "KLDivergence": Native({"reduction": "sum_over_batch_size"}, _divergence_of_keras),
    "CategoricalGeneralizedCrossEntropy": Native({"q": 0.5, "reduction": "sum_over_batch_size"}, _generalized_of_keras),
    "Hinge": Native({"reduction": "sum_over_batch_size"}, _hinge_of_keras),
}
NOT_OF_KERAS = {
    "CategoricalHinge": "its strongest rival is 0 where all other logits are negative",
    "SquaredHinge": "BinaryHinge is not squared",
}
