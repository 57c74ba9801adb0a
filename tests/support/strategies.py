"""Random calls of a loss, for the laws: config, logits, target, weights and mask; and their evaluation on this side."""

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from shared_specs import load
from shared_specs.common.spec import public_classes
from sides import is_keras, name, side

DTYPE = side.dtypes[0]  # float64 where it binds
EPSILON = load.EPSILON[DTYPE]

BinaryLoss, CategoricalLoss = side.package.binary.BinaryLoss, side.package.categorical.CategoricalLoss
PUBLIC = public_classes(side.package)
TAUGHT = PUBLIC["Distillation"]  # its target is a teacher, not one of KINDS: test_algebra.py holds it to others
BINARY = [loss for loss in PUBLIC.values() if issubclass(loss, BinaryLoss)]
CATEGORICAL = [loss for loss in PUBLIC.values() if issubclass(loss, CategoricalLoss) and loss is not TAUGHT]

if name == "keras-jax":  # It compiles every operation for every shape: 10 seconds for an entry of these pools.
    BATCHES: tuple[tuple[int, ...], ...] = ((3,),)
    SHAPES = BATCHES
    CLASS_COUNTS: tuple[int, ...] = (3,)
else:
    BATCHES = ((3,), (1,), (4,), (5,), (2, 3), (3, 1, 2))
    SHAPES = (*BATCHES, (), (0,))
    CLASS_COUNTS = (3, 5, 2, 4, 3, 5, 1)  # one class has no rivals, and so hides most mistakes

KINDS = ("labels", "one-hot", "normalised", "soft")
"""Targets: integers; floats that are 0 or 1; that sum to 1; that sum to anything. All are multiples of 1/8."""

COMMON = {
    "from_logits": (True, True, False),
    "label_smoothing": (0.0, 0.1, 0.9, 1.0),
    "smooth_over": ("all", "others"),
    "temperature": (0.625, 1.5, 2.0),
    "z_loss": (0.001, 0.5),
    "softcap": (2.0, 50.0),
    "entropy_penalty": (0.3, -0.25),
    "hard_fraction": (0.25, 0.5, 0.75),
    "check_labels": (True, False),
    "reduction": ("none", "sum", "mean", "weighted_mean"),
}
DISTINCT_WEIGHTS = (0.25, 3.0, 0.7, 0.0, 1.0)
WEIGHTS = st.sampled_from(DISTINCT_WEIGHTS)
COUNTS = (60.0, 5.0, 20.0, 1.0, 300.0)

# Multiples of 1/64, so that float32 adds 4096 to them without rounding; ties at whole numbers; |log-odds| up to 60.
LOGITS = st.one_of(
    st.integers(-256, 256).map(lambda number: number / 64),
    st.integers(-3, 3).map(float),
    st.sampled_from((-30.0, 30.0)),
)
OFFSETS = st.sampled_from((0.0, 0.0, 1000.0, -4096.0))
# 0 is clipped, and no number >= 1/8 comes near the clip, where the slope jumps.
PROBABILITIES = st.integers(1, 16).map(lambda number: number / 16 if number > 1 else 0.0)
STEEPEST_LOG = 8.0  # the slope of log at 1/8


@dataclass(frozen=True)
class Batch:
    """The inputs of one call. The class axis is the last one here; `evaluate` puts it where the config wants it."""

    logits: NDArray[Any]  # [..., C], binary [...]
    target: NDArray[Any]  # labels [...] or a distribution [..., C], binary [...]
    sample_weight: NDArray[Any] | None = None  # a leading part of [...]
    mask: NDArray[Any] | None = None  # [...]
    column: bool = False  # whether labels get an axis of size 1
    classes: int = 2

    def take(self, rows: Any) -> "Batch":
        """The batch of these rows, along the first axis."""
        weight, mask = self.sample_weight, self.mask
        return replace(
            self,
            logits=self.logits[rows],
            target=self.target[rows],
            sample_weight=weight if weight is None or weight.ndim == 0 else weight[rows],
            mask=None if mask is None else mask[rows],
        )

    def distribution(self) -> NDArray[Any]:
        """The target [..., C], with labels as one-hot rows."""
        if self.target.ndim == self.logits.ndim:
            return self.target
        return (self.target[..., None] == np.arange(self.classes)).astype(float)


def is_binary(loss_class: type) -> bool:
    return issubclass(loss_class, BinaryLoss)


def width(loss_class: type, classes: int) -> int:
    """The size of the class axis of the logits."""
    if issubclass(loss_class, PUBLIC["OrdinalCrossEntropy"]):
        return classes - 1
    return 3 * classes if issubclass(loss_class, PUBLIC["JensenShannonConsistency"]) else classes


def has_counts(loss_class: type) -> bool:
    return any(field.name == "class_counts" for field in fields(loss_class))


@cache
def refused(loss_class: type) -> frozenset[str]:
    """Common keywords that a class has not, or of which it takes nothing but the default."""
    required = {"class_counts": [3.0, 1.0]} if has_counts(loss_class) else {}
    known = {field.name for field in fields(loss_class)}

    def takes(keyword: str, value: Any) -> bool:
        try:
            loss_class(**required, **{keyword: value})
        except ValueError:
            return False
        return True

    values = {"from_logits": False, "temperature": 2.0, "z_loss": 0.5, "softcap": 2.0}
    return frozenset(key for key, value in values.items() if key not in known or not takes(key, value))


def kinds_of(loss_class: type) -> tuple[str, ...]:
    return KINDS[:1] if getattr(loss_class, "labels_only", False) else KINDS


def has_labels(batch: Batch, loss_class: type) -> bool:
    """Whether ignore_index has an effect."""
    return is_binary(loss_class) or batch.target.ndim < batch.logits.ndim


@cache
def own_parameters(loss_class: type) -> list[dict[str, Any]]:
    """The parameters of a variant, in every combination that the shared vectors hold."""
    base = BinaryLoss if is_binary(loss_class) else CategoricalLoss
    own = {field.name for field in fields(loss_class)} - {field.name for field in fields(base)}
    found: list[dict[str, Any]] = [{}]
    for case in load.cases(loss_class.__name__):
        parameters = {name: value for name, value in case.config.items() if name in own}
        parameters.pop("class_counts", None)  # one for each class of the batch
        if case.expected and parameters not in found:
            found.append(parameters)
    return found


def different_weights(count: int) -> st.SearchStrategy[list[float]]:
    """Equal weights would hide which class has which."""
    return st.permutations(DISTINCT_WEIGHTS).map(lambda weights: weights[:count])


@st.composite
def configs(draw, loss_class: type, shape: tuple[int, ...], classes: int, without: tuple[str, ...]) -> dict[str, Any]:
    choices = {name: st.sampled_from(values) for name, values in COMMON.items() if name not in refused(loss_class)}
    if is_binary(loss_class):
        choices["ignore_index"] = st.sampled_from((-1, 0, 1, 0.5))
        choices["pos_weight"] = WEIGHTS
        if shape and shape[-1] > 1:
            choices["pos_weight"] |= different_weights(shape[-1])
    else:
        choices["ignore_index"] = st.sampled_from((-1, -100, 0, classes - 1))
        choices["axis"] = st.integers(-len(shape) - 1, len(shape))
        choices["class_weight"] = different_weights(classes)
    config = draw(st.fixed_dictionaries({}, optional=choices)) | draw(st.sampled_from(own_parameters(loss_class)))
    if has_counts(loss_class):
        config["class_counts"] = draw(st.permutations(COUNTS).map(lambda counts: counts[:classes]))
    if not config.get("from_logits", True):
        without += ("temperature", "z_loss", "softcap")
    return {keyword: value for keyword, value in config.items() if keyword not in without}


@st.composite
def targets(draw, loss_class: type, shape: tuple[int, ...], classes: int, kind: str) -> NDArray[Any]:
    """Labels [...] or distributions [..., C]; binary: either of them [...]."""
    if kind == "labels" or (is_binary(loss_class) and kind == "one-hot"):
        dtype = draw(st.sampled_from(("int64", "int32"))) if kind == "labels" else "float64"
        return draw(arrays(dtype, shape, elements=st.integers(0, 1 if is_binary(loss_class) else classes - 1)))
    if is_binary(loss_class) or kind == "soft":
        shape = shape if is_binary(loss_class) else (*shape, classes)
        return draw(arrays("float64", shape, elements=st.integers(0, 8).map(lambda number: number / 8), fill=NO_FILL))
    votes = 1 if kind == "one-hot" else 8
    counted = draw(arrays("int64", (*shape, votes), elements=st.integers(0, classes - 1), fill=NO_FILL))
    return (counted[..., None] == np.arange(classes)).sum(-2) / votes


NO_FILL = st.nothing()  # every entry is drawn by itself


@st.composite
def calls(
    draw,
    loss_class: type,
    *,
    without: tuple[str, ...] = (),
    kinds: tuple[str, ...] = KINDS,
    batched: bool = False,
    class_counts: tuple[int, ...] = CLASS_COUNTS,
) -> tuple[dict[str, Any], Batch]:
    """A config without some keywords, and a batch for it; `batched`: with at least one row, along a first axis."""
    shapes = BATCHES if batched else SHAPES
    class_counts = tuple(count for count in class_counts if width(loss_class, count) > 0)
    shape, classes = draw(st.sampled_from(shapes)), draw(st.sampled_from(class_counts))
    config = draw(configs(loss_class, shape, classes, without))

    entries = () if is_binary(loss_class) else (width(loss_class, classes),)
    if config.get("from_logits", True):
        logits = draw(arrays("float64", shape + entries, elements=LOGITS, fill=NO_FILL))
        if entries and shifts(loss_class, config):
            logits = logits + draw(arrays("float64", (*shape, 1), elements=OFFSETS, fill=NO_FILL))
        elif entries:
            logits = logits / 8
    else:
        logits = draw(arrays("float64", shape + entries, elements=PROBABILITIES, fill=NO_FILL))
        if entries:
            logits[..., ::classes] += logits.reshape(*shape, entries[0] // classes, classes).sum(-1) == 0

    kind = draw(st.sampled_from([kind for kind in kinds_of(loss_class) if kind in kinds]))
    target = draw(targets(loss_class, shape, classes, kind))
    ignored = config.get("ignore_index")
    if (is_binary(loss_class) or kind == "labels") and ignored is not None and target.dtype.type(ignored) == ignored:
        target = np.where(draw(arrays(bool, shape)), target.dtype.type(ignored), target)

    weighted = draw(st.sampled_from((None, *range(len(shape) + 1))))
    weight = None if weighted is None else draw(arrays("float64", shape[:weighted], elements=WEIGHTS, fill=NO_FILL))
    mask = draw(st.none() | arrays(bool, shape, fill=NO_FILL))
    # With K = 1 such labels have the shape of the logits, which only a class without distributions reads as labels.
    may_be_column = len(shape) == 1 if is_binary(loss_class) else kinds_of(loss_class) == KINDS[:1] or classes > 1
    column = may_be_column and (is_binary(loss_class) or kind == "labels") and draw(st.booleans())
    return config, Batch(logits, target, weight, mask, column, 2 if is_binary(loss_class) else classes)


def shifts(loss_class: type, config: dict[str, Any]) -> bool:
    """Whether a constant that is added to the logits of a row changes nothing."""
    bounded = issubclass(loss_class, PUBLIC["ArcFaceCrossEntropy"] | PUBLIC["OrdinalCrossEntropy"])
    return not bounded and "softcap" not in config


def evaluate(
    loss: Any, batch: Batch, mode: str = "eager", call: Any = side.call
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The value of a loss and the gradient of its sum, as float64 with the class axis last."""
    logits, target, axis = batch.logits, batch.target, -1
    if not is_binary(type(loss)):
        native = logits.ndim - 1 if is_keras else min(1, logits.ndim - 1)
        axis = native if loss.axis is None else loss.axis
        logits = np.moveaxis(logits, -1, axis)
    if batch.column:
        target = np.expand_dims(target, axis)
    elif not is_binary(type(loss)) and target.ndim == logits.ndim:
        target = np.moveaxis(target, -1, axis)

    inputs = {"target": target, "sample_weight": batch.sample_weight, "mask": batch.mask}
    given = {name: tensor(array) for name, array in inputs.items() if array is not None}
    value, gradient = side.value_and_gradient(
        lambda logits, *rest: call(loss, logits, **dict(zip(given, rest, strict=True))),
        tensor(logits),
        mode,
        *given.values(),
    )
    gradient = side.numpy(gradient)
    return side.numpy(value), gradient if is_binary(type(loss)) else np.moveaxis(gradient, axis, -1)


def tensor(array: NDArray[Any]) -> Any:
    return side.tensor(array, DTYPE if array.dtype.kind == "f" else None)


def kept_rows(loss_class: type, config: dict[str, Any], batch: Batch) -> NDArray[np.bool_]:
    rows = batch.logits.shape if is_binary(loss_class) else batch.logits.shape[:-1]
    kept = np.ones(rows, bool) if batch.mask is None else batch.mask
    ignored = config.get("ignore_index")
    return kept if ignored is None or not has_labels(batch, loss_class) else kept & (batch.target != ignored)


def without_ties(loss_class: type, config: dict[str, Any], batch: Batch) -> dict[str, Any]:
    """`config`, without hard_fraction where two row losses are so near that their rounding decides which counts."""
    if "hard_fraction" not in config:
        return config
    plain = {keyword: value for keyword, value in config.items() if keyword != "hard_fraction"}
    losses, _ = evaluate(loss_class(**plain | {"reduction": "none"}), replace(batch, sample_weight=None))
    losses = np.sort(losses[kept_rows(loss_class, config, batch)])
    # Two evaluations of two rows: 4 times the tolerance.
    nearest = 4 * load.TOLERANCE * EPSILON * np.abs(losses).max(initial=1.0)
    return config if (np.diff(losses) > nearest).all() else plain


def scale_of_gradient(loss_class: type, config: dict[str, Any], batch: Batch) -> float:
    """An upper bound of max s_i u_i / denominator, times the slope of the log-odds."""
    loss = loss_class(**config)
    is_scaled_before = loss_class.__name__ == "OrdinalCrossEntropy"
    divisor = 1.0 if is_scaled_before else loss.temperature / getattr(loss, "scale", 1.0)
    slope = 1 / divisor if config.get("from_logits", True) else STEEPEST_LOG
    if config.get("reduction") == "weighted_mean":
        return max(1.0, slope)
    weight = 1.0 if batch.sample_weight is None else batch.sample_weight.max(initial=1.0)
    for keyword in ("class_weight", "pos_weight"):
        weight *= np.max(config.get(keyword, 1.0), initial=1.0)
    if not is_binary(loss_class):
        weight *= batch.distribution().sum(-1).max(initial=1.0)
    return max(1.0, slope * float(weight))
