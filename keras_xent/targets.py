"""Targets in the layout of the rows: class axis, label ranges, smoothing."""

import math
from typing import Any

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import reading
from keras_xent.shapes import are_known, class_count, is_at_least
from shared_specs.common import guard

_BACKEND = keras.backend.backend()
if _BACKEND == "tensorflow":
    from keras_xent.kernels import tensorflow_graph

UNIT = "labels in [0, 1] (clip labels that rounding put outside)"
CURE = "if one of them marks positions to skip, pass it as ignore_index"


def class_axis(logits: Tensor, axis: int | None) -> int:
    """Return the class axis as a number >= 0; None is Keras': the last."""
    rank = len(logits.shape)
    if rank == 0:
        raise ValueError("y_pred must have a class axis, got a scalar")
    if axis is None:
        axis = rank - 1
    if not -rank <= axis < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for y_pred of rank {rank}, got {axis}")
    if logits.shape[axis] == 0:
        raise ValueError(f"y_pred must have at least one class on axis {axis}, got shape {tuple(logits.shape)}")
    return axis % rank


def class_axis_last(tensor: Tensor, axis: int) -> Tensor:
    """Return `tensor` with its class axis moved to the end."""
    return tensor if axis == len(tensor.shape) - 1 else ops.moveaxis(tensor, axis, -1)  # [..., C]


def rows_of(logits: Tensor, axis: int) -> Tensor:
    """Return a tensor [...] that has the shape of the rows, in the compute dtype."""
    return ops.cast(class_axis_last(logits, axis)[..., 0], reading.compute_dtype(logits))


def labels_or_distribution(
    target: Any,
    rows: Tensor,
    logits_shape: tuple[int | None, ...],
    axis: int,
    classes: int | None,
    *,
    labels_only: bool,
) -> tuple[Tensor, bool]:
    """Return (labels [...], True) or (distribution [..., C], False), by the shape of the target.

    A distribution may be of integers. `rows` is any tensor [...] in the compute dtype.
    """
    target = reading.as_tensor("y_true", target, rows)
    given, before, after = tuple(target.shape), logits_shape[:axis], logits_shape[axis + 1 :]
    of_rows, columns, shape = (*before, *after), (*before, 1, *after), (*before, classes, *after)
    # Size 1 beside an unknown number of classes means a label: with one class the loss would always be 0.
    is_column = reading.fits(given, columns) and given[axis] == 1 and not are_known(shape[axis])
    if reading.fits(given, shape) and not labels_only and not is_column:
        is_known = given[axis] is not None and (are_known(given[axis]) or given[axis] == shape[axis])
        if not is_known and not reading.is_floating(target):
            one_hot = "their number" if classes is None else classes
            raise ValueError(
                f"y_true must have a static size on axis {axis}, that of the classes: 1 for labels, {one_hot} for "
                "one-hot; tf.ensure_shape sets it"
            )
        is_checked = not reading.is_floating(target) and reading.dtype_of(target) != "bool"
        target = _wide(target) if is_checked else ops.cast(target, rows.dtype)
        return class_axis_last(target, axis), False  # [..., C]
    if not reading.fits(given, of_rows) and not reading.fits(given, columns):
        wanted = f"class indices of shape {of_rows}" + ("" if labels_only else f" or a distribution of shape {shape}")
        fits = [
            place
            for place in range(1, len(logits_shape))
            if reading.fits(given, reading.without_axis(logits_shape, place))
        ]
        hint = f"; it fits classes on axis {fits[0]}: set axis={fits[0]}" if fits else ""
        raise ValueError(f"y_true must be {wanted}, got shape {given}{hint}")
    if reading.dtype_of(target) == "bool":
        raise TypeError("y_true must hold class indices of an integer dtype, got bool")
    dtype = reading.dtype_of(target)
    largest = reading.LARGEST_LABELS.get(dtype)
    if largest is not None and is_at_least(classes, largest + 2):
        raise TypeError(
            f"y_true must have an integer dtype, got {dtype}, which has rounded labels above {largest} of {classes} "
            "classes: pass int32. Under mixed precision, a model casts float inputs but not integers"
        )
    if len(given) > len(of_rows) and given[axis] == 1:
        target = ops.squeeze(target, axis)
    elif len(given) > len(of_rows):
        target = ops.reshape(target, reading.without_axis(reading.sizes(target), axis))  # fails where it is not 1
    return reading.fitted("y_true", _wide(target), rows), True  # [...]


def teacher_and_label(target: Any, logits: Any, axis: int | None, *, has_label: bool) -> tuple[Tensor, Tensor | None]:
    """Return the teacher's logits, in the shape of `logits`, and the class indices [...] that follow them or None."""
    target, axis = reading.as_tensor("y_true", target, logits), class_axis(logits, axis)
    shape, classes = tuple(logits.shape), logits.shape[axis]
    wanted = (*shape[:axis], None if classes is None else classes + int(has_label), *shape[axis + 1 :])
    if not reading.fits(tuple(target.shape), wanted):
        holds = "the teacher's logits" + (" and the class index" if has_label else "")
        raise ValueError(f"y_true must hold {holds} in shape {wanted}, got shape {tuple(target.shape)}")
    dtype = reading.dtype_of(target)
    if not reading.is_floating(target) or (
        has_label and is_at_least(classes, reading.LARGEST_LABELS.get(dtype, 2**24) + 1)
    ):
        raise TypeError(f"y_true must have a floating-point dtype that holds all {classes} labels, got {dtype}")
    if not has_label:
        return reading.fitted("y_true", ops.cast(target, logits.dtype), logits), None
    # ops.split does not trace under torch.compile(fullgraph).
    before = (slice(None),) * axis
    teacher, label = target[(*before, slice(-1))], target[(*before, -1)]
    return reading.fitted("y_true", ops.cast(teacher, logits.dtype), logits), label


def binary_target(target: Any, logits: Tensor) -> Tensor:
    """Return a binary target in the shape of the logits; one of the two may lack an axis of size 1."""
    target = reading.as_tensor("y_true", target, logits)
    given, wanted = tuple(target.shape), tuple(logits.shape)
    extra, missing = reading.axis_too_many(given, wanted), reading.axis_too_many(wanted, given)
    if missing is not None:
        target = ops.expand_dims(target, missing)
    elif extra is not None:
        target = ops.squeeze(target, extra)
    elif not reading.fits(given, wanted):
        raise ValueError(
            f"y_true must have the shape of y_pred, {wanted}, got shape {given}; only an axis of size 1, the last or "
            "axis 1, may be missing"
        )
    return reading.fitted("y_true", _wide(target), logits)


def differs(target: Tensor, value: float) -> Tensor:
    """Whether each target differs from `value`; integers are compared only with integers that their dtype holds."""
    if reading.is_floating(target):
        return target != value
    limits = np.iinfo(reading.dtype_of(target))
    is_possible = float(value).is_integer() and limits.min <= value <= limits.max
    return target != int(value) if is_possible else ops.ones_like(target, dtype="bool")


def checked_labels(
    labels: Tensor, classes: Any, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None]:
    """Return class indices [...] that are all in range, and a factor [...]: NaN for rows that were not, else 1.

    The factor is None if all are known to be in range. Rows that are not `active` may have any label.
    """
    valid = (labels >= 0) & (labels < ops.cast(classes, labels.dtype))
    if reading.is_floating(labels):
        whole = ops.equal(labels, ops.floor(labels))  # == of two KerasTensors is identity
        valid = valid & whole
        _checked(labels, whole, active, check_labels, classes, TypeError)
    labels, validity = _checked(labels, valid, active, check_labels, classes)
    return ops.cast(labels, "int32"), validity


def checked_distribution(
    target: Tensor,
    axis: int,
    active: Tensor | None,
    check_labels: bool | None,
    ignore_index: float | None,
    dtype: str,
) -> tuple[Tensor, Tensor | None]:
    """Return a distribution [..., C] in `dtype`, and a factor [...]: NaN for rows with integers other than 0 and 1.

    It is 1 for others, and None if all are known to be right. `axis` is the class axis in the user's layout. Rows that
    are not `active` may hold anything.
    """
    distribution = ops.cast(target, dtype)
    if reading.is_floating(target):
        return distribution, None
    is_wrong = ops.logical_or(target < 0, target > 1)  # [..., C]
    is_wrong = is_wrong if active is None else ops.logical_and(is_wrong, ops.expand_dims(active, -1))
    if not reading.is_readable(is_wrong, check_labels):
        if reading.is_asserted(is_wrong, check_labels):
            wanted = ["integers in the shape of y_pred that are 0 or 1"]
            distribution = tensorflow_graph.asserted(distribution, target, is_wrong, wanted, CURE)
        return distribution, ops.where(ops.any(is_wrong, -1), math.nan, 1.0)
    if not bool(ops.any(is_wrong)):
        return distribution, None
    first = np.argwhere(reading.array(is_wrong))[0].tolist()
    value, shape = reading.array(target)[tuple(first)].item(), list(target.shape)
    first.insert(axis, first.pop())
    shape.insert(axis, shape.pop())
    raise ValueError(guard.of_integers("y_true", value, first, tuple(shape), axis, ignore_index))


def checked_probabilities(
    target: Tensor, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None, bool]:
    """Return binary targets [...] that are all in range, a factor [...] of their rows, and whether all are labels.

    The factor is NaN for rows that were out of range, else 1; None if none was. Labels are integers, and floats that
    can be read and are 0 or 1. Floats that may have a gradient are not labels: the loss is linear in them.
    """
    is_float = reading.is_floating(target)
    if active is None and is_float and reading.are_binary(target, check_labels):  # and so in range
        return target, None, True
    target, validity = _checked(target, (target >= 0) & (target <= 1), active, check_labels, None)
    return target, validity, not is_float or reading.are_binary(target, check_labels)


def smoothed(distribution: Tensor, label_smoothing: float, smooth_over: str) -> Tensor:
    """Return a distribution [..., C] with the share `label_smoothing` spread over all classes, or over the others."""
    if label_smoothing == 0.0 or (smooth_over == "others" and distribution.shape[-1] == 1):
        return distribution
    classes = class_count(distribution)
    classes = classes if isinstance(classes, int) else ops.cast(classes, distribution.dtype)
    if smooth_over == "all":
        return (1 - label_smoothing) * distribution + label_smoothing / classes
    others = ops.sum(distribution, -1, keepdims=True) - distribution
    if isinstance(classes, int):
        return (1 - label_smoothing) * distribution + label_smoothing / (classes - 1) * others
    share = ops.where(ops.equal(classes, 1), 0.0, label_smoothing)  # run time may find one class
    return (1 - share) * distribution + share / ops.maximum(classes - 1, 1) * others


def smoothed_shares(classes: Any, label_smoothing: float, smooth_over: str) -> tuple[Any, Any]:
    """Return what `smoothed` makes of a one-hot target: the shares of the label and of each other class."""
    if smooth_over == "all":
        return 1 - label_smoothing + label_smoothing / classes, label_smoothing / classes
    if isinstance(classes, int):
        return (1.0, 0.0) if classes == 1 else (1 - label_smoothing, label_smoothing / (classes - 1))
    share = ops.where(ops.equal(classes, 1), 0.0, label_smoothing)
    return 1 - share, share / ops.maximum(classes - 1, 1)


def smoothed_binary(target: Tensor, label_smoothing: float, smooth_over: str) -> Tensor:
    """`smoothed` for the two classes (1 - target, target)."""
    if label_smoothing == 0.0:
        return target
    share = 0.5 if smooth_over == "all" else 1 - target
    return (1 - label_smoothing) * target + label_smoothing * share


def _checked(
    target: Tensor,
    valid: Tensor,
    active: Tensor | None,
    check_labels: bool | None,
    classes: int | None,
    error: type[Exception] = ValueError,
) -> tuple[Tensor, Tensor | None]:
    """Return the target with 0 in invalid places, and a factor [...] of the rows: NaN for those, else 1.

    If the target can be read, an invalid one raises `error` instead, and the factor is None.
    """
    safe = ops.where(valid, target, ops.zeros_like(target))
    invalid = ops.logical_not(valid) if active is None else active & ops.logical_not(valid)
    if not reading.is_readable(invalid, check_labels):
        if reading.is_asserted(invalid, check_labels):
            range_of = ["class indices, whole numbers from 0 to", "" if classes is None else classes - 1]
            range_of = [UNIT] if classes is None else range_of
            safe = tensorflow_graph.asserted(safe, target, invalid, range_of, CURE)
        return safe, ops.where(invalid, math.nan, 1.0)
    if not bool(ops.any(invalid)):
        return safe, None
    positions = np.argwhere(ops.convert_to_numpy(invalid)).tolist()
    label = ops.convert_to_numpy(target)[tuple(positions[0])].item()
    wanted = UNIT if classes is None else f"class indices, whole numbers in [0, {classes - 1}]"
    raise error(
        f"y_true must hold {wanted}, got {label} at {positions[0]}, one of {len(positions)} such labels; "
        f"{guard.hint_at_void(label)}"
    )


def _wide(target: Tensor) -> Tensor:
    """Return integers in a signed dtype that can hold any ignore_index; JAX has no int64 by default."""
    if reading.is_floating(target) or reading.dtype_of(target) in ("int32", "int64"):
        return target
    return ops.cast(target, "int32" if _BACKEND == "jax" else "int64")
