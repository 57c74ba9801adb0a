"""Class weights, sample weights and masks in the layout of the rows."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_xent import reading
from shared_specs.common import arguments, guard


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
    return values.to(reading.compute_dtype(logits)).to(logits.device)


def label_weights(name: str, values: Tensor, logits: Tensor, axis: int | None) -> Tensor:
    """Return weights of labels in a shape that broadcasts against `logits`: [], [L] along `axis`, or as in torch."""
    given, shape, rank = tuple(values.shape), tuple(logits.shape), logits.ndim
    axis = label_axis(rank, axis)
    values = values.to(reading.compute_dtype(logits)).to(logits.device)
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
    sample_weight = reading.as_tensor("sample_weight", sample_weight, logits).to(reading.compute_dtype(logits))
    return _along_rows("sample_weight", sample_weight, wanted)


def mask_per_row(mask: Any, wanted: tuple[int, ...], logits: Tensor) -> Tensor | None:
    """Return a mask in the shape `wanted` of the rows, True for rows that count; it may have a leading part of it."""
    return None if mask is None else _along_rows("mask", reading.as_tensor("mask", mask, logits).bool(), wanted)


def scalar(name: str, value: Any, like: Tensor, check: bool | None) -> Tensor:
    """Return a number, or a tensor of one, as a scalar tensor beside `like`.

    Outside [0, inf) a number raises. So does a tensor that can be read, as labels are with `check`; others become NaN.
    """
    if not isinstance(value, Tensor):
        return like.new_full((), arguments.number(name, value, "[0, inf)"))
    value = reading.whole(value)
    if value.is_nested:
        raise ValueError(f"{name} must be a number or a scalar tensor, got a nested tensor: pass one number")
    tensor = reading.as_tensor(name, value, like)
    if tensor.dtype == torch.bool:
        raise TypeError(f"{name} must be a number, got {tensor.dtype}: pass {name}.sum() to count rows")
    if tensor.numel() != 1:
        raise ValueError(f"{name} must be a number or a scalar tensor, got shape {tuple(tensor.shape)}")
    tensor = tensor.reshape(()).to(like.dtype)
    is_valid = (tensor >= 0) & (tensor < math.inf)
    if not reading.is_readable(is_valid, check):
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
        logits = torch.where(align(counts, logits), logits, torch.full_like(logits, 0.5))
    if ranked and has_weight is not None:
        logits = torch.where(align(has_weight, logits), logits, logits.detach())
    return logits


def _along_rows(name: str, values: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """Return values in the shape `wanted` of the rows; they may have a leading part of it, also with a 1 at its end."""
    given = tuple(values.shape)
    is_column = given[-1:] == (1,) and given[:-1] == wanted[: len(given) - 1] and (len(given) > 1 or name != "mask")
    if given == wanted[: len(given)]:
        lead = given
    elif reading.differ_by_one_axis(given, wanted):
        lead = wanted
    elif is_column:
        lead = given[:-1]
    else:
        raise ValueError(f"{name} must have the shape of the rows, {wanted}, or a leading part, got shape {given}")
    return values.reshape(lead + (1,) * (len(wanted) - len(lead))).expand(wanted)  # [...]


def align(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` with the rank of `like`, by axes of size 1 at the end."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))
