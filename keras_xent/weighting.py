"""Class weights, sample weights and masks in the layout of the rows."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import reading
from keras_xent.shapes import are_known, class_count
from shared_specs.common import arguments, guard

_BACKEND = keras.backend.backend()
if _BACKEND == "torch":
    from keras_xent.kernels import tensors
if _BACKEND == "jax":
    from keras_xent.kernels import jax_trace


def constant(values: float | Sequence[Any]) -> Any:
    """Return weights in float64: they are rounded once, at the call. On torch on the CPU: some devices lack float64."""
    array = np.array(values, "float64")
    # Dynamo cannot trace how Keras converts an array; under a trace of TensorFlow or JAX a tensor would leak.
    return tensors.on_cpu(array) if _BACKEND == "torch" else array


def per_class(name: str, values: Any, logits: Tensor, classes: int | None = None) -> Tensor:
    """Return weights [C], or [] for one number, in the compute dtype. C is that of `logits` [..., C], or `classes`."""
    wanted = tuple(logits.shape)[-1:] if classes is None else (classes,)
    if len(values.shape) == 1 and not reading.fits(tuple(values.shape), wanted):
        raise ValueError(
            f"{name} must have {wanted[0] if wanted else 'no'} numbers for y_pred of this shape, got {values.shape[0]}"
        )
    values = ops.convert_to_tensor(ops.cast(values, reading.compute_dtype(logits)))
    if len(values.shape) == 1 and not are_known(*wanted) and not isinstance(logits, Tensor):
        values = reading.reshaped(values, (class_count(logits) if classes is None else classes,))
    return values


def label_weights(name: str, values: Any, logits: Tensor, axis: int | None) -> Tensor:
    """Return weights of labels in a shape that broadcasts against `logits`: [], [L] along `axis`, or as in torch."""
    given, shape, rank = tuple(values.shape), tuple(logits.shape), len(logits.shape)
    axis = label_axis(rank, axis)
    if len(given) == 0:
        return per_class(name, values, logits)
    if len(given) == 1:
        if rank == 0 or not reading.fits(given, (shape[axis],)):
            raise ValueError(guard.of_label_weights(name, given[0], shape, axis))
        is_last = axis == rank - 1
        values = per_class(name, values, logits) if is_last else ops.cast(values, reading.compute_dtype(logits))
        return ops.reshape(ops.convert_to_tensor(values), (1,) * axis + (-1,) + (1,) * (rank - 1 - axis))
    wanted = shape[1:] if len(given) < rank else (1, *shape[1:])
    if len(given) > rank or any(
        size != 1 and not reading.fits((size,), (other,))
        for size, other in zip(given, wanted[-len(given) :], strict=True)
    ):
        raise ValueError(f"{name} must broadcast against y_pred without its batch axis, {shape[1:]}, got shape {given}")
    values = ops.convert_to_tensor(ops.cast(values, reading.compute_dtype(logits)))
    return ops.reshape(values, (1,) * (rank - len(given)) + given)


def label_axis(rank: int, axis: int | None) -> int:
    """Return the axis of the labels as a number >= 0; None is the last."""
    if axis is None:
        return max(0, rank - 1)
    if not -rank <= axis < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for y_pred of rank {rank}, got {axis}")
    return axis % rank


def per_label(values: Tensor, label: Tensor) -> Tensor:
    """Return the entry [...] of `values` [C] at each class index [...]."""
    sharding = None if _BACKEND != "jax" or isinstance(label, Tensor) else jax_trace.explicit_sharding(label)
    return ops.take(values, label, axis=0) if sharding is None else values.at[label].get(out_sharding=sharding)


def sample_weight_per_row(sample_weight: Any, rows: Tensor) -> Tensor | None:
    """Return sample weights in the shape of the rows [...]; they may be a scalar, or have a leading part of it."""
    if sample_weight is None:
        return None
    sample_weight = ops.cast(reading.as_tensor("sample_weight", sample_weight, rows), rows.dtype)
    return _along_rows("sample_weight", sample_weight, rows) * ops.ones_like(rows)  # [...]


def mask_per_row(mask: Any, keras_mask: Any, rows: Tensor) -> Tensor | None:
    """Return which rows [...] count by the mask and by Keras' mask; each may have a leading part of their shape."""
    masks = {"mask": mask, "the Keras mask of y_pred": keras_mask}
    kept = None
    for name, given in masks.items():
        if given is not None:
            given = _along_rows(name, ops.cast(reading.as_tensor(name, given, rows), "bool"), rows)
            kept = both(kept, ops.logical_and(given, ops.ones_like(rows, dtype="bool")))
    return kept


def scalar(name: str, value: Any, like: Tensor, check: bool | None) -> Tensor:
    """Return a number, or a tensor of one, as a scalar tensor beside `like`.

    Outside [0, inf) a number raises. So does a tensor that can be read, as labels are with `check`; others become NaN.
    """
    value = reading.whole(value)
    if not ops.is_tensor(value) and not isinstance(value, Tensor | keras.Variable):
        return ops.convert_to_tensor(arguments.number(name, value, "[0, inf)"), like.dtype)
    if getattr(value, "ragged_rank", None) or getattr(value, "is_nested", False):
        raise ValueError(f"{name} must be a number or a scalar tensor, got a ragged tensor: pass one number")
    tensor = reading.as_tensor(name, value, like)
    if reading.dtype_of(tensor) == "bool":
        raise TypeError(f"{name} must be a number, got bool: pass the sum of {name} to count rows")
    shape = tuple(tensor.shape)
    if any(size not in (1, None) for size in shape):
        raise ValueError(f"{name} must be a number or a scalar tensor, got shape {shape}")
    tensor = ops.reshape(ops.cast(tensor, like.dtype), ())
    is_valid = ops.logical_and(tensor >= 0, tensor < math.inf)
    if not reading.is_readable(is_valid, check):
        return ops.where(is_valid, tensor, math.nan)
    if not bool(is_valid):
        raise ValueError(f"{name} must be a number in [0, inf), got a tensor of {reading.array(tensor).item()}")
    return tensor


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return where both conditions hold; None stands for a condition that always holds."""
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(first, second)


def harmless_logits(logits: Tensor, kept: Tensor | None, sample_weight: Tensor | None, ranked: bool) -> Tensor:
    """Return logits in which ignored rows can affect neither the loss nor its gradient.

    Ignored rows and rows of weight 0 become 0.5, which is a valid logit and a valid probability. If rows are `ranked`
    by their loss, rows of weight 0 keep their logits, but lose their gradient, which may be NaN.
    """
    has_weight = None if sample_weight is None else sample_weight != 0
    counts = kept if ranked else both(kept, has_weight)
    if counts is not None:
        logits = ops.where(align(counts, logits), logits, ops.convert_to_tensor(0.5, logits.dtype))
    if ranked and has_weight is not None:
        logits = ops.where(align(has_weight, logits), logits, ops.stop_gradient(logits))
    return logits


def _along_rows(name: str, values: Tensor, rows: Tensor) -> Tensor:
    """Return values with the rank of the rows [...]; they may have a leading part of the shape, also with a 1 added."""
    given, wanted = tuple(values.shape), tuple(rows.shape)
    if reading.fits(given, wanted[: len(given)]):
        return _leading(name, values, rows)
    extra, missing = reading.axis_too_many(given, wanted), reading.axis_too_many(wanted, given)
    if missing is not None:
        return reading.fitted(name, ops.expand_dims(values, missing), rows)
    is_column = (
        given[-1:] == (1,) and reading.fits(given[:-1], wanted[: len(given) - 1]) and (len(given) > 1 or name != "mask")
    )
    if extra is None and is_column:
        extra = len(given) - 1
    if extra is None:
        raise ValueError(f"{name} must have the shape of the rows, {wanted}, or a leading part, got shape {given}")
    return _leading(name, ops.squeeze(values, extra), rows)


def _leading(name: str, values: Tensor, rows: Tensor) -> Tensor:
    """Return values with the rank of the rows [...]; they have a leading part of the rows' shape."""
    if not are_known(*values.shape, *rows.shape):
        like = rows
        for _ in range(len(rows.shape) - len(values.shape)):
            like = ops.sum(like, -1)  # an entry would not exist without rows
        values = reading.fitted(name, values, like)
    return align(values, rows)


def align(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` with the rank of `like`, by axes of size 1 at the end."""
    for _ in range(len(like.shape) - len(values.shape)):
        values = ops.expand_dims(values, -1)
    return values
