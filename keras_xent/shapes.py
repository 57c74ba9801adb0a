"""Sizes that a backend may know only at run time, and the layout [..., C] of the classes."""

from typing import Any

from keras import KerasTensor as Tensor
from keras import ops


def are_known(*sizes: Any) -> bool:
    """Whether all sizes are known before run time: None, JAX's symbols and tensors are not."""
    return all(isinstance(size, int) for size in sizes)


def along_classes(values: Tensor, like: Tensor) -> Tensor:
    """Return weights [C] with the rank of `like` [..., C]; weights of another shape, such as a number, unchanged."""
    rank = len(like.shape)
    if len(values.shape) != 1 or rank == 1:
        return values
    return ops.reshape(values, (1,) * (rank - 1) + (-1,))


def has_unknown_classes(logits: Tensor) -> bool:
    """Whether logits [..., C] are a KerasTensor whose C no operation gives."""
    return logits.shape[-1] is None and isinstance(logits, Tensor)


def class_numbers(logits: Tensor, dtype: Any) -> Tensor:
    """Return the class indices 0 to C - 1 of `logits` [..., C], with the same rank."""
    if has_unknown_classes(logits):
        return ops.cumsum(ops.ones_like(logits, dtype=dtype), -1) - 1
    return along_classes(ops.arange(ops.shape(logits)[-1], dtype=dtype), logits)


def class_count(logits: Tensor) -> Any:
    """Return the number of classes of `logits` [..., C]: an int, or a tensor if only run time knows it."""
    if has_unknown_classes(logits):
        return ops.max(class_numbers(logits, "int32"), initial=-1) + 1
    return ops.shape(logits)[-1]


def with_classes(logits: Tensor, classes: Any) -> Tensor:
    """Return a tensor of the shape of `logits` [..., C], with `classes` in place of C."""
    if are_known(classes) and classes == logits.shape[-1]:
        return logits
    return ops.zeros_like(logits[..., :1]) * along_classes(ops.zeros((classes,), dtype=logits.dtype), logits)


def is_at_least(size: Any, number: int) -> bool:
    """Whether a size is known before run time, and is at least `number`."""
    return isinstance(size, int) and size >= number
