"""Finds logits where probabilities are wanted, and the reverse, by the activation or by the values."""

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PROBABILITIES = {"softmax", "sigmoid", "hard_sigmoid", "softmax or sigmoid"}
LOGARITHMS = {"log_softmax", "log_sigmoid"}
SIGMOIDS = {"sigmoid", "hard_sigmoid"}
ROWS = 8
"""With fewer rows, logits may sum to 1 by chance."""
EPSILONS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
SWAPPED = "call the loss as loss({}), and give it class indices as the target"
UNWATCHED = (
    "cannot look at labels under a trace: a loss of NaN means a label out of range, or an input that is not finite; "
    "check_model on a batch finds which; check_labels=False turns this warning off"
)
FRAMES = {"keras_xent", "lightning_xent", "shared_specs", "jax", "keras", "lightning", "lightning_fabric"}
FRAMES |= {"pytorch_lightning", "tensorflow", "torch"}
"""Packages whose frames are not the user's code."""


class Kind(NamedTuple):
    """What a loss takes."""

    name: str
    from_logits: bool
    takes_cosines: bool
    temperature: float
    axis: int | None = None
    """The class axis of the logits; None if the loss is binary."""
    classes: int | None = None
    views: int = 1
    """How many softmaxes lie along the class axis."""

    @property
    def form(self) -> dict[str, bool]:
        """Whether there are classes, and whether the loss takes logits: keywords of the functions here."""
        return {"has_classes": self.axis is not None, "from_logits": self.from_logits}


def of_activation(activation: str | None, *, has_classes: bool, from_logits: bool) -> str | None:
    """Say what is wrong with a network that ends in `activation`; None if nothing is.

    Log-probabilities are valid logits for a softmax, but not for a sigmoid.
    """
    if from_logits and activation in (PROBABILITIES if has_classes else PROBABILITIES | LOGARITHMS):
        kind = "logarithms of probabilities" if activation in LOGARITHMS else "probabilities"
        cure = "" if activation in LOGARITHMS else ", or set from_logits=False if the loss accepts it"
        return (
            f"takes logits (from_logits=True) but gets {kind}, those of a {activation}: remove the {activation}{cure}"
        )
    if not from_logits and has_classes and activation in SIGMOIDS:
        return (
            f"takes probabilities that sum to 1 over the classes (from_logits=False) but gets those of a {activation}, "
            "each class by itself: end the network in a softmax, or use a Binary loss"
        )
    if not from_logits and activation in LOGARITHMS | {"linear"}:
        last = "softmax" if has_classes else "sigmoid"
        return (
            f"takes probabilities (from_logits=False) but gets logits, those of a {activation} layer: "
            f"set from_logits=True, or end the network in a {last}"
        )
    return None


def of_values(
    values: NDArray[Any], counts: NDArray[Any] | None, dtype: str, views: int, *, has_classes: bool, from_logits: bool
) -> str | None:
    """Say what is wrong with inputs of these values; None if nothing is.

    Binary probabilities cannot be told from logits, which may also lie in [0, 1].

    Args:
        values: [..., C], or binary ones of any shape.
        counts: [...], False for rows that may hold anything. None: all rows count.
        dtype: Name of the dtype in which the values were computed.
        views: Number of softmaxes that lie along the C values.
    """
    tolerance = max(1e-4, 4 * EPSILONS.get(dtype, 0.0))
    if not from_logits:
        is_outside = values < -tolerance
        if not has_classes:
            is_outside |= values > 1 + tolerance
        position = first(is_outside & np.isfinite(values), counts)
        if position is None:
            return None
        last = "softmax" if has_classes else "sigmoid"
        return (
            f"takes probabilities (from_logits=False) but gets {values[position]:.6g} {place(position, has_classes)}, "
            f"as if these were logits: set from_logits=True, or end the network in a {last}"
        )
    if not has_classes:
        return None
    rows = values.reshape(-1, values.shape[-1]) if counts is None else values[counts]
    if len(rows) < ROWS or rows.shape[1] < 2 * views or not ((rows >= 0) & (rows <= 1)).all():
        return None
    deviation = np.abs(rows.sum(-1) - views).max()
    # Logits near 1 / C may sum to about 1, but then their sums deviate by about as much as the rows differ.
    difference = np.sqrt(rows.var(0).sum())
    if deviation > tolerance * views or difference < max(8 * deviation, 1e-6):
        return None
    return (
        f"takes logits (from_logits=True) but gets what look like probabilities, {len(rows)} rows in [0, 1] "
        f"that sum to {views}: remove the softmax at the end of the network, or set from_logits=False if the "
        "loss accepts it"
    )


def of_one_class(shape: tuple[int | None, ...], axis: int | None) -> str:
    """Say that logits of this shape have one class."""
    return (
        f"gets logits of one class (axis {axis} of shape {shape}): its loss is always 0; use a Binary loss or two "
        "outputs"
    )


def of_cosines(values: NDArray[Any], counts: NDArray[Any] | None, dtype: str, temperature: float) -> str | None:
    """Say that inputs [..., C] are not cosines; None if they may be, or are cosines divided by the temperature."""
    largest = max(1.0, temperature) * (1 + max(1e-3, 4 * EPSILONS.get(dtype, 0.0)))
    position = first((np.abs(values) > largest) & np.isfinite(values), counts)
    if position is None:
        return None
    return (
        f"takes cosines of features and class vectors, in [-1, 1], but gets {values[position]:.6g} "
        f"{place(position, True)}: normalise both before their product"
    )


def of_sums(sums: NDArray[Any], counts: NDArray[Any] | None, dtype: str) -> list[str]:
    """Say which distribution is the first that does not sum to 1, given the sums [...] of the rows."""
    position = first(~(np.abs(sums - 1) <= max(1e-4, 4 * EPSILONS.get(dtype, 0.0))), counts)
    if position is None:
        return []
    return [
        f"gets a target that sums to {sums[position]:.6g} in row {list(position)}, the first that does not sum to 1: "
        "divide rows by their sums; several labels at once are for a Binary loss"
    ]


def of_weights(
    keyword: str, labels: NDArray[Any], sample_weights: NDArray[Any], counts: NDArray[Any] | None
) -> list[str]:
    """Say that sample weights [...] are those of classes, which the loss weights too; nothing if they are not.

    They are if rows of one label have one weight, and rows of another label have another. Distributions show no labels.
    """
    if labels.size != sample_weights.size:
        return []
    is_counted = np.ones(sample_weights.shape, bool) if counts is None else counts
    pairs = np.stack([labels.reshape(sample_weights.shape)[is_counted], sample_weights[is_counted]])
    found, rows = np.unique(pairs, axis=1, return_counts=True)
    different, weights = np.unique(found[0]), np.unique(found[1])
    if len(different) != found.shape[1] or len(weights) < 2 or rows.min() < 2:
        return []
    seen = ", ".join(f"{weight:.6g} for label {label:g}" for label, weight in found.T[:4].tolist())
    return [f"has {keyword}, and the sample weights of the batch weight classes too ({seen}): leave one of the two out"]


def of_axes(shape: tuple[int, ...], axis: int, kind: str = "classes") -> list[str]:
    """Say that the default `axis` of the classes is ambiguous for this shape; nothing if it is not."""
    others = [other for other in (1, len(shape) - 1) if other != axis and shape[other] == shape[axis]]
    if len(shape) < 3 or not others:
        return []
    return [
        f"takes the {kind} from axis {axis} of logits of shape {shape}, as axis is None; axis {others[0]} is as long, "
        f"so shapes cannot tell which holds them: set axis={axis} or axis={others[0]}"
    ]


def of_infinities(
    values: NDArray[Any],
    counts: NDArray[Any] | None,
    losses: NDArray[Any] | None,
    *,
    has_classes: bool,
    from_logits: bool,
) -> list[str]:
    """Say where the first input [..., C] is not finite, or else the first loss [...]; nothing if all are finite.

    A logit of -inf is allowed: it rules out a class.
    """
    is_bad = ~np.isfinite(values)
    if has_classes and from_logits:
        is_bad &= values != -np.inf
    position = first(is_bad, counts)
    if position is not None:
        return [f"gets {values[position]} {place(position, has_classes)}, the first output that is not finite"]
    position = None if losses is None else first(~np.isfinite(losses), counts)
    if losses is None or position is None:
        return []
    return [f"is {losses[position]} in row {list(position)}, the first that is not finite"]


def of_label_weights(name: str, count: int, shape: tuple[int | None, ...], axis: int) -> str:
    """Say that a flat array of weights does not fit the labels along an axis of the logits."""
    if not shape:
        return f"{name} must be one number for logits without axes, got {count}"
    fits = [place for place in range(1, len(shape)) if shape[place] == count]
    ones = ", ".join(["1"] * (len(shape) - 1 - fits[0])) if fits else ""
    cure = f"; they fit axis {fits[0]}: set axis={fits[0]}, or give them the shape ({count}, {ones})" if fits else ""
    return f"{name} must have {shape[axis]} numbers, as axis {axis} of the logits {shape}, got {count}{cure}"


def of_integers(
    name: str,
    value: float,
    position: list[int],
    shape: tuple[int | None, ...],
    axis: int,
    ignore_index: float | None,
) -> str:
    """Say that integers in the shape of the logits are not one-hot rows, given the first other than 0 and 1."""
    rows = shape[:axis] + shape[axis + 1 :]
    is_ignored = value == ignore_index
    cure = (
        f"ignore_index={ignore_index} has no effect there: leave rows out by mask"
        if is_ignored
        else ("for soft targets pass floats; leave rows out by mask")
    )
    return (
        f"{name} must hold only 0 and 1, got {value} at {position}: integers in the shape of the logits, {shape}, are "
        f"read as one-hot or multi-hot rows, with the classes on axis {axis}. For class indices use the shape {rows}, "
        f"or set axis; {cure}"
    )


def hint_at_void(label: Any) -> str:
    """Return what to do if a label that is out of range is no mistake."""
    cure = f"pass ignore_index={label}" if math.isfinite(label) else "leave them out by mask"
    return f"if {label} marks positions to skip, {cure}"


def hint_at_logits(value: Any) -> str:
    """Return where the numbers are in the output of a model, or in a TopK; an empty string if it is neither."""
    if isinstance(value, Mapping):
        key = next((key for key in ("logits", "out") if key in value), None)
        return "" if key is None else f": pass its entry {key!r}"
    if hasattr(value, "logits"):
        return ": pass its .logits"
    if hasattr(value, "dense"):
        return ": linear() accepts it; elsewhere pass its .dense(classes, dtype)"
    return ": pass the tensor of logits in it" if isinstance(value, tuple | list) else ""


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return an array of the numbers in `value`; if it holds anything else, raise an error that names the argument."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} must be a plain array, got a masked one: pass {name}.data, and mask=~{name}.mask")
    try:
        array = np.asarray(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an array of numbers whose rows have one length, got a {type(value).__name__} that NumPy "
            "cannot read; pad shorter rows, and leave the padding out by mask"
        ) from error
    if array.dtype.kind == "O":
        array = _as_numbers(name, array)
    if array.dtype.kind in "biuf" or (array.dtype.kind == "V" and array.dtype.names is None):  # V: bfloat16
        # torch refuses other byte orders and negative strides, and warns of read-only memory, which pandas gives.
        return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])
    if array.dtype.kind in "SU":
        cure = "; number the classes from 0, and pass these numbers" if name in ("target", "y_true") else ""
        raise TypeError(f"{name} must hold numbers, got strings such as {str(next(iter(array.flat), ''))!r}{cure}")
    raise TypeError(f"{name} must hold real numbers, got {array.dtype}")


def _as_numbers(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of objects that are all numbers, as columns of pandas may be, as an array of these numbers."""
    items = list(array.flat)
    other = next((item for item in items if not isinstance(item, Real | np.bool_)), 0)
    if not isinstance(other, Real):
        hint, text = hint_at_logits(other), " ".join(str(other).split())
        got = "None" if other is None else f"objects, such as {type(other).__name__} {'' if hint else text:.40}".strip()
        raise TypeError(f"{name} must hold numbers, in rows of one length, got {got}{hint}")
    numbers = np.asarray([item if isinstance(item, Integral | np.bool_) else float(item) for item in items])
    if numbers.dtype.kind == "O":
        raise TypeError(f"{name} must hold numbers of at most 64 bits, got {max(items, key=abs)}")
    return numbers.reshape(array.shape)


def parts_of(batch: Any) -> tuple[Any, Any, Any]:
    """Return (inputs, target, sample_weight); the last is None if the batch has none."""
    if not isinstance(batch, Sequence) or len(batch) not in (2, 3):
        raise ValueError(f"batch must be (inputs, target[, sample_weight]), got {type(batch).__name__}")
    return batch[0], batch[1], (batch[2] if len(batch) == 3 else None)


def first(condition: NDArray[Any], counts: NDArray[Any] | None) -> tuple[int, ...] | None:
    """Return the first position [...] or [..., C] where a condition holds and the row counts; None if there is none."""
    if counts is not None:
        condition = condition & counts.reshape(counts.shape + (1,) * (condition.ndim - counts.ndim))
    return tuple(np.argwhere(condition)[0].tolist()) if condition.any() else None


def place(position: tuple[int, ...], has_classes: bool) -> str:
    """Name a position of logits, with the class axis last."""
    return f"in row {list(position[:-1])}, class {position[-1]}" if has_classes else f"at {list(position)}"


def warn(message: str) -> None:
    """Give a warning that points at the first caller outside this package and the frameworks."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in FRAMES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
