"""Targets in the layout of the rows: class axis, label ranges, smoothing."""

import math
from typing import Any

import torch
from torch import Tensor

from lightning_xent import reading
from shared_specs.common import guard


def class_axis(logits: Tensor, axis: int | None) -> int:
    """Return the class axis as a number >= 0; None is torch's: 1, and 0 for 1-D logits."""
    rank = logits.ndim
    if rank == 0:
        raise ValueError("logits must have a class axis, got a scalar")
    if axis is None:
        axis = min(1, rank - 1)
    if not -rank <= axis < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for logits of rank {rank}, got {axis}")
    if logits.shape[axis] == 0:
        raise ValueError(f"logits must have at least one class on axis {axis}, got shape {tuple(logits.shape)}")
    return axis % rank


def class_axis_last(tensor: Tensor, axis: int) -> Tensor:
    """Return `tensor` with its class axis moved to the end."""
    return tensor if axis == tensor.ndim - 1 else tensor.movedim(axis, -1)  # [..., C]


def labels_or_distribution(
    target: Any, logits: Tensor, axis: int, classes: int, *, labels_only: bool
) -> tuple[Tensor, bool]:
    """Return (labels [...], True) or (distribution [..., C], False), by the shape of the target.

    A distribution may be of integers.
    """
    target = reading.as_tensor("target", target, logits)
    before, after = tuple(logits.shape)[:axis], tuple(logits.shape)[axis + 1 :]
    rows, columns, shape = (*before, *after), (*before, 1, *after), (*before, classes, *after)
    if target.shape == shape and not labels_only:
        if not target.is_floating_point():
            target = target.to(reading.compute_dtype(logits) if target.dtype == torch.bool else torch.long)
        return class_axis_last(target, axis), False  # [..., C]
    if target.shape not in (rows, columns):
        wanted = f"class indices of shape {rows}" + ("" if labels_only else f" or a distribution of shape {shape}")
        fits = [
            place for place in range(1, logits.ndim) if target.shape == reading.without_axis(tuple(logits.shape), place)
        ]
        hint = f"; it fits classes on axis {fits[0]}: set axis={fits[0]}" if fits else ""
        raise ValueError(f"target must be {wanted}, got shape {tuple(target.shape)}{hint}")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target must hold class indices of an integer dtype, got {target.dtype}")
    return target.reshape(rows).long(), True  # [...]


def teacher_and_label(
    target: Any, logits: Tensor, axis: int | None, *, has_label: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the teacher's logits, in the shape of `logits`, and the class indices [...] that follow them or None."""
    target, axis = reading.as_tensor("target", target, logits), class_axis(logits, axis)
    shape, classes = tuple(logits.shape), logits.shape[axis]
    wanted = (*shape[:axis], classes + int(has_label), *shape[axis + 1 :])
    if target.shape != wanted:
        holds = "the teacher's logits" + (" and the class index" if has_label else "")
        raise ValueError(f"target must hold {holds} in shape {wanted}, got shape {tuple(target.shape)}")
    if not target.is_floating_point() or (has_label and classes > 2 / torch.finfo(target.dtype).eps):
        raise TypeError(f"target must have a floating-point dtype that holds all {classes} labels, got {target.dtype}")
    if not has_label:
        return target.to(logits.dtype), None
    teacher, label = target.split((classes, 1), axis)
    # A number that is not whole becomes a label out of range, which is unlikely to be an ignore_index.
    is_whole = (label == label.floor()) & (label.abs() < 2.0**53)
    indices = torch.where(is_whole, torch.where(is_whole, label, 0.0).long(), -(2**63)).squeeze(axis)
    return teacher.to(logits.dtype), indices


def binary_target(target: Any, logits: Tensor) -> Tensor:
    """Return a binary target in the shape of the logits; one of the two may lack an axis of size 1."""
    target = reading.as_tensor("target", target, logits)
    given, wanted = tuple(target.shape), tuple(logits.shape)
    if given != wanted and not reading.differ_by_one_axis(given, wanted):
        raise ValueError(
            f"target must have the shape of the logits, {wanted}, got shape {given}; only an axis of size 1, "
            "the last or axis 1, may be missing"
        )
    target = target.reshape(wanted)
    return target if target.is_floating_point() else target.long()


def checked_labels(
    labels: Tensor, classes: int, kept: Tensor | None, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None]:
    """Return class indices [...] that are all in range, and a factor [...]: NaN for rows that were not, else 1.

    The factor is None if all are known to be in range. Rows that are not `kept` or not `active` may have any label.
    """
    counted = labels if kept is None else torch.where(kept, labels, 0)
    if reading.lie_within(counted, 0, classes - 1, check_labels):
        return counted, None
    return _checked(labels, (labels >= 0) & (labels < classes), active, check_labels, classes)


def checked_distribution(
    target: Tensor,
    axis: int,
    active: Tensor | None,
    check_labels: bool | None,
    ignore_index: float | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """Return a distribution [..., C] in `dtype`, and a factor [...]: NaN for rows with integers other than 0 and 1.

    It is 1 for others, and None if all are known to be right. `axis` is the class axis in the user's layout. Rows that
    are not `active` may hold anything.
    """
    distribution = target.to(dtype)
    if target.is_floating_point() or (active is None and reading.lie_within(target, 0, 1, check_labels)):
        return distribution, None
    is_wrong = (target < 0) | (target > 1)  # [..., C]
    is_wrong = is_wrong if active is None else is_wrong & active.unsqueeze(-1)
    if not reading.is_readable(is_wrong, check_labels):
        return distribution, torch.where(is_wrong.any(-1), math.nan, 1.0)
    if not is_wrong.any():
        return distribution, None
    first = is_wrong.nonzero()[0].tolist()
    value, shape = target[tuple(first)].item(), list(target.shape)
    first.insert(axis, first.pop())
    shape.insert(axis, shape.pop())
    raise ValueError(guard.of_integers("target", value, first, tuple(shape), axis, ignore_index))


def checked_probabilities(
    target: Tensor, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None, bool]:
    """Return binary targets [...] that are all in range, a factor [...] of their rows, and whether all are labels.

    The factor is NaN for rows that were out of range, else 1; None if none was. Labels are integers, and floats that
    can be read and are 0 or 1. Floats with a gradient are not labels: the loss is linear in them.
    """
    is_float = target.is_floating_point()
    if active is None and is_float and reading.are_binary(target, check_labels):  # and so in range
        return target, None, True
    validity = None
    if active is not None or not reading.lie_within(target, 0, 1, check_labels):
        target, validity = _checked(target, (target >= 0) & (target <= 1), active, check_labels, None)
    return target, validity, not is_float or reading.are_binary(target, check_labels)


def smoothed(distribution: Tensor, label_smoothing: float, smooth_over: str) -> Tensor:
    """Return a distribution [..., C] with the share `label_smoothing` spread over all classes, or over the others."""
    classes = distribution.shape[-1]
    if label_smoothing == 0.0 or (smooth_over == "others" and classes == 1):
        return distribution
    if smooth_over == "all":
        return (1 - label_smoothing) * distribution + label_smoothing / classes
    others = distribution.sum(-1, keepdim=True) - distribution
    return (1 - label_smoothing) * distribution + label_smoothing / (classes - 1) * others


def smoothed_shares(classes: int, label_smoothing: float, smooth_over: str) -> tuple[float, float]:
    """Return what `smoothed` makes of a one-hot target: the shares of the label and of each other class."""
    if smooth_over == "all":
        return 1 - label_smoothing + label_smoothing / classes, label_smoothing / classes
    return (1.0, 0.0) if classes == 1 else (1 - label_smoothing, label_smoothing / (classes - 1))


def smoothed_binary(target: Tensor, label_smoothing: float, smooth_over: str) -> Tensor:
    """`smoothed` for the two classes (1 - target, target)."""
    if label_smoothing == 0.0:
        return target
    share = 0.5 if smooth_over == "all" else 1 - target
    return (1 - label_smoothing) * target + label_smoothing * share


def _checked(
    target: Tensor, valid: Tensor, active: Tensor | None, check_labels: bool | None, classes: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return the target with 0 in invalid places, and a factor [...] of the rows: NaN for those, else 1.

    If the target can be read, an invalid one raises ValueError instead, and the factor is None.
    """
    safe = torch.where(valid, target, 0)
    invalid = ~valid if active is None else active & ~valid
    if not reading.is_readable(invalid, check_labels):
        return safe, torch.where(invalid, math.nan, 1.0)
    if not invalid.any():
        return safe, None
    positions = invalid.nonzero().tolist()
    label = target[tuple(positions[0])].item()
    wanted = (
        "labels in [0, 1] (clip labels that rounding put outside)"
        if classes is None
        else f"class indices, whole numbers in [0, {classes - 1}]"
    )
    raise ValueError(
        f"target must hold {wanted}, got {label} at {positions[0]}, one of {len(positions)} such labels; "
        f"{guard.hint_at_void(label)}"
    )
