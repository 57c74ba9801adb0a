"""Brings targets, masks and weights into the layout of the rows: shapes, label ranges, ignored rows, smoothing."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_xent.kernels import tensors
from shared_specs.common import arguments, guard

CORNER = 16
"""Number of entries read along each axis of the rows when values are checked: few, for a batch of any size."""
ACTIVATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "hard_sigmoid",
    "LogSoftmax": "log_softmax",
    "LogSigmoid": "log_sigmoid",
}
"""Activations by the names that autograd gives to their operations."""
SAME_VALUES = {"Alias", "Clone", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze", "T", "ToCopy", "Transpose"}
SAME_VALUES |= {"UnsafeView", "Unsqueeze", "View"}


def whole(value: Any) -> Any:
    """Return a torch DTensor as one tensor, the same on every rank; the gradient has the placements of the DTensor."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def checked_logits(logits: Any) -> Tensor:
    """Return logits that are floating point, as a plain tensor."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"logits must be a floating-point tensor, got {got}")
    return _rectangular("logits", tensors.plain(logits))


def compute_dtype(logits: Tensor) -> torch.dtype:
    """Return float64 for float64 logits, float32 for all others."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


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
    target = _tensor("target", target, logits)
    before, after = tuple(logits.shape)[:axis], tuple(logits.shape)[axis + 1 :]
    rows, columns, shape = (*before, *after), (*before, 1, *after), (*before, classes, *after)
    if target.shape == shape and not labels_only:
        if not target.is_floating_point():
            target = target.to(compute_dtype(logits) if target.dtype == torch.bool else torch.long)
        return class_axis_last(target, axis), False  # [..., C]
    if target.shape not in (rows, columns):
        wanted = f"class indices of shape {rows}" + ("" if labels_only else f" or a distribution of shape {shape}")
        fits = [place for place in range(1, logits.ndim) if target.shape == _without(tuple(logits.shape), place)]
        hint = f"; it fits classes on axis {fits[0]}: set axis={fits[0]}" if fits else ""
        raise ValueError(f"target must be {wanted}, got shape {tuple(target.shape)}{hint}")
    if target.is_floating_point() or target.dtype == torch.bool:
        raise TypeError(f"target must hold class indices of an integer dtype, got {target.dtype}")
    return target.reshape(rows).long(), True  # [...]


def teacher_and_label(
    target: Any, logits: Tensor, axis: int | None, *, has_label: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the teacher's logits, in the shape of `logits`, and the class indices [...] that follow them or None."""
    target, axis = _tensor("target", target, logits), class_axis(logits, axis)
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
    target = _tensor("target", target, logits)
    given, wanted = tuple(target.shape), tuple(logits.shape)
    if given != wanted and not _differ_by_one_axis(given, wanted):
        raise ValueError(
            f"target must have the shape of the logits, {wanted}, got shape {given}; only an axis of size 1, "
            "the last or axis 1, may be missing"
        )
    target = target.reshape(wanted)
    return target if target.is_floating_point() else target.long()


def constant(values: float | Sequence[Any]) -> Tensor:
    """Return weights on the CPU in float64: they are rounded once, at the call."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def per_class(name: str, values: Tensor, logits: Tensor, classes: int | None = None) -> Tensor:
    """Return weights [C], or [] for one number, in the compute dtype. C is that of `logits` [..., C], or `classes`."""
    wanted = tuple(logits.shape)[-1:] if classes is None else (classes,)
    if values.ndim == 1 and values.shape != wanted:
        raise ValueError(
            f"{name} must have {wanted[0] if wanted else 'no'} numbers for logits of this shape, got {len(values)}"
        )
    return values.to(compute_dtype(logits)).to(logits.device)


def of_labels(name: str, values: Tensor, logits: Tensor, axis: int | None) -> Tensor:
    """Return weights of labels in a shape that broadcasts against `logits`: [], [L] along `axis`, or as in torch."""
    given, shape, rank = tuple(values.shape), tuple(logits.shape), logits.ndim
    axis = label_axis(rank, axis)
    values = values.to(compute_dtype(logits)).to(logits.device)
    if len(given) == 0:
        return values
    if len(given) == 1:
        if rank == 0 or given[0] != shape[axis]:
            raise ValueError(guard.of_label_weights(name, given[0], shape, axis))
        return values.reshape((1,) * axis + given + (1,) * (rank - 1 - axis))
    wanted = shape[1:] if len(given) < rank else (1, *shape[1:])
    if len(given) > rank or any(
        size not in (1, other) for size, other in zip(given, wanted[-len(given) :], strict=True)
    ):
        raise ValueError(
            f"{name} must broadcast against logits without their batch axis, {shape[1:]}, got shape {given}"
        )
    return values.reshape((1,) * (rank - len(given)) + given)


def label_axis(rank: int, axis: int | None) -> int:
    """Return the axis of the labels as a number >= 0; None is the last."""
    if axis is None:
        return max(0, rank - 1)
    if not -rank <= axis < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for logits of rank {rank}, got {axis}")
    return axis % rank


def per_label(values: Tensor, label: Tensor) -> Tensor:
    """Return the entry [...] of `values` [C] at each class index [...]; a trace cannot index by a scalar tensor."""
    return values.expand(*label.shape, -1).gather(-1, label.unsqueeze(-1)).squeeze(-1)


def sample_weight_per_row(sample_weight: Any, wanted: tuple[int, ...], logits: Tensor) -> Tensor | None:
    """Return sample weights in the shape `wanted` of the rows; they may be a scalar, or have a leading part of it."""
    if sample_weight is None:
        return None
    sample_weight = _tensor("sample_weight", sample_weight, logits).to(compute_dtype(logits))
    return _along_rows("sample_weight", sample_weight, wanted)


def mask_per_row(mask: Any, wanted: tuple[int, ...], logits: Tensor) -> Tensor | None:
    """Return a mask in the shape `wanted` of the rows, True for rows that count; it may have a leading part of it."""
    return None if mask is None else _along_rows("mask", _tensor("mask", mask, logits).bool(), wanted)


def scalar(name: str, value: Any, like: Tensor, check: bool | None) -> Tensor:
    """Return a number, or a tensor of one, as a scalar tensor beside `like`.

    Outside [0, inf) a number raises. So does a tensor that can be read, as labels are with `check`; others become NaN.
    """
    if not isinstance(value, Tensor):
        return like.new_full((), arguments.number(name, value, "[0, inf)"))
    value = whole(value)
    if value.is_nested:
        raise ValueError(f"{name} must be a number or a scalar tensor, got a nested tensor: pass one number")
    tensor = _tensor(name, value, like)
    if tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be a number, got {tensor.dtype}: pass {name}.sum() to count rows")
    if tensor.numel() != 1:
        raise ValueError(f"{name} must be a number or a scalar tensor, got shape {tuple(tensor.shape)}")
    tensor = tensor.reshape(()).to(like.dtype)
    is_valid = (tensor >= 0) & (tensor < math.inf)
    if not _readable(is_valid, check):
        return torch.where(is_valid, tensor, math.nan)
    if not is_valid:
        raise ValueError(f"{name} must be a number in [0, inf), got a tensor of {tensor.item()}")
    return tensor


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return where both conditions hold; None stands for a condition that always holds."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def harmless_logits(logits: Tensor, kept: Tensor | None, sample_weight: Tensor | None, ranked: bool) -> Tensor:
    """Return logits in which ignored rows can affect neither the loss nor its gradient.

    Ignored rows and rows of weight 0 become 0.5, which is a valid logit and a valid probability. If rows are `ranked`
    by their loss, rows of weight 0 keep their logits, but lose their gradient, which may be NaN.
    """
    has_weight = None if sample_weight is None else sample_weight != 0
    counts = kept if ranked else both(kept, has_weight)
    if counts is not None:
        logits = torch.where(_align(counts, logits), logits, torch.full_like(logits, 0.5))
    if ranked and has_weight is not None:
        logits = torch.where(_align(has_weight, logits), logits, logits.detach())
    return logits


def checked_labels(
    labels: Tensor, classes: int, kept: Tensor | None, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None]:
    """Return class indices [...] that are all in range, and a factor [...]: NaN for rows that were not, else 1.

    The factor is None if all are known to be in range. Rows that are not `kept` or not `active` may have any label.
    """
    counted = labels if kept is None else torch.where(kept, labels, 0)
    if _lie_within(counted, 0, classes - 1, check_labels):
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
    if target.is_floating_point() or (active is None and _lie_within(target, 0, 1, check_labels)):
        return distribution, None
    is_wrong = (target < 0) | (target > 1)  # [..., C]
    is_wrong = is_wrong if active is None else is_wrong & active.unsqueeze(-1)
    if not _readable(is_wrong, check_labels):
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
    if active is None and is_float and _are_binary(target, check_labels):  # and so in range
        return target, None, True
    validity = None
    if active is not None or not _lie_within(target, 0, 1, check_labels):
        target, validity = _checked(target, (target >= 0) & (target <= 1), active, check_labels, None)
    return target, validity, not is_float or _are_binary(target, check_labels)


def are_finite(values: Tensor) -> bool:
    """Whether all values can be read without synchronisation, and are finite."""
    return _readable(values, None) and bool(torch.isfinite(values.detach().sum()))


def read(tensor: Tensor, check: bool | None, axis: int | None = None) -> NDArray[Any] | None:
    """Return the first entries of `tensor` along each axis, and all along `axis`, which becomes the last, as an array.

    None if the tensor cannot be read: with `check` None, if that needs a synchronisation; with True, if there are no
    values.
    """
    if not _readable(tensor, check):
        return None
    values = array(tensor[tuple(slice(None if place == axis else CORNER) for place in range(tensor.ndim))])
    return values if axis is None else np.moveaxis(values, axis, -1)


def array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array; floats of any dtype become float64."""
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def dtype_name(values: Any) -> str:
    """Return the name of the dtype of a tensor or array; float64 for numbers and lists."""
    return str(getattr(values, "dtype", "float64")).removeprefix("torch.")


def activation_of(logits: Tensor) -> str | None:
    """Return the activation that autograd recorded as the last operation; None if that was something else."""
    node = logits.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0]
        if name not in SAME_VALUES:
            return ACTIVATIONS.get(name)
        node = node.next_functions[0][0]
    return None


def take_any_loss(*weights: float) -> bool:
    """Whether all weights stay positive in float32, so that weight * inf is never 0 * inf; 1e-30 leaves a margin."""
    return all(weight >= 1e-30 for weight in weights)


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
    if not _readable(invalid, check_labels):
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
        "pass ignore_index=... to skip the rows of one label"
    )


def _lie_within(values: Tensor, lowest: int, highest: int, check_labels: bool | None) -> bool:
    """Whether all values can be read and lie within these limits."""
    if values.numel() == 0 or not _readable(values, check_labels):
        return False
    least, greatest = torch.aminmax(values)
    return bool(lowest <= least.item() and greatest.item() <= highest)


def _are_binary(values: Tensor, check_labels: bool | None) -> bool:
    """Whether all values can be read, are 0 or 1, and have no gradient."""
    if values.requires_grad or not _readable(values, check_labels):
        return False
    parts = torch.split(values.reshape(-1), 2**18)  # so much fits into a cache
    return all((part * part).sub_(part).abs_().sum() == 0 for part in parts)


def now(function: Callable[[str], None], text: str) -> None:
    """Call a function right here, even while torch.compile traces."""
    tensors.now(function, text)


def is_unwatched(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether labels go unchecked, because a trace cannot read them."""
    return check_labels is not False and tensors.is_traced(tensor)


def _readable(tensor: Tensor, check_labels: bool | None) -> bool:
    if type(tensor) is not Tensor or tensor.is_meta or tensors.is_traced(tensor):
        return False
    return tensor.device.type == "cpu" if check_labels is None else check_labels


def _differ_by_one_axis(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two shapes are equal except for one axis of size 1, the last or axis 1, that one of them lacks."""
    short, long = sorted((first, second), key=len)
    if len(long) != len(short) + 1:
        return False
    return any(long[place] == 1 and _without(long, place) == short for place in {len(long) - 1, 1 % len(long)})


def _along_rows(name: str, values: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Return values in the shape `wanted` of the rows; they may have a leading part of it, also with a 1 at its end."""
    given = tuple(values.shape)
    is_column = given[-1:] == (1,) and given[:-1] == wanted[: len(given) - 1] and (len(given) > 1 or name != "mask")
    if given == wanted[: len(given)]:
        lead = given
    elif _differ_by_one_axis(given, wanted):
        lead = wanted
    elif is_column:
        lead = given[:-1]
    else:
        raise ValueError(f"{name} must have the shape of the rows, {wanted}, or a leading part, got shape {given}")
    return values.reshape(lead + (1,) * (len(wanted) - len(lead))).expand(wanted)  # [...]


def _without(shape: tuple[int, ...], place: int) -> tuple[int, ...]:
    return shape[:place] + shape[place + 1 :]


def _align(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` with the rank of `like`, by axes of size 1 at the end."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def _tensor(name: str, value: Any, logits: Tensor) -> Tensor:
    """Return an argument as a plain tensor on the device of `logits`; lists of floats become float64, as in NumPy.

    Some devices have no float64: a float64 tensor is cast first if the loss computes in float32.
    """
    if isinstance(value, Tensor):
        tensor = tensors.plain(value)
        if tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    else:
        tensor = torch.as_tensor(np.asarray(value) if torch.compiler.is_compiling() else guard.as_array(name, value))
    tensor = _rectangular(name, tensor)
    if tensor.device == logits.device:
        return tensor
    if tensor.is_meta:
        raise ValueError(
            f"{name} must hold values, on {logits.device} as the logits, got a tensor on the meta device: create it "
            "with values; only together with logits on the meta device may it be there"
        )
    is_wide = tensor.dtype == torch.float64 and compute_dtype(logits) != torch.float64
    return (tensor.float() if is_wide else tensor).to(logits.device)


def _rectangular(name: str, tensor: Tensor) -> Tensor:
    if tensor.is_nested:
        raise ValueError(f"{name} must have rows of one length, got a nested tensor; pad it, and pass a mask")
    if not tensors.is_dense(tensor):
        raise ValueError(
            f"{name} must be a dense tensor, got one of the layout {tensor.layout}: pass {name}.to_dense()"
        )
    return tensor
