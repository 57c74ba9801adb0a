"""What the kernels share: blocks of rows, and the memory of saved tensors.

A block of rows stays in the cache until it is done. What the gradient needs is kept in the memory of that gradient, as
a saved tensor, which checkpoints and offloading see.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_xent.kernels import tensors

BLOCK = 1 << 18
"""Elements of one block: 1 MiB in float32, which fits into a second-level cache."""


def keeps(logits: Tensor) -> bool:
    """Whether a gradient may be wanted, which needs more than the value."""
    return logits.requires_grad and torch.is_grad_enabled()


def taken(ctx: Any, kept: Tensor | None) -> Tensor | None:
    """Return the memory of a saved tensor for the gradient, once; None if there is none or it was already used.

    Autograd counts changes of saved tensors, and would refuse a second gradient of the same graph. That gradient
    computes what is lost again, so the change is hidden: `data` has its own count.
    """
    if kept is None or ctx.is_spent:
        return None
    ctx.is_spent = True
    return kept.data


def needs_plain_operations(gradients: Sequence[Tensor]) -> bool:
    """Whether a second derivative is wanted, or the gradients are batched by vmap, and each needs its own memory."""
    return torch.is_grad_enabled() or not all(tensors.has_memory(gradient) for gradient in gradients)


def is_one_block(x: Tensor) -> bool:
    """Whether x is one block. It always is on CUDA, where few large kernels start faster than many small ones."""
    return x.numel() <= BLOCK or x.is_cuda


def split(x: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield indices of parts of x [N, C, ...] with about BLOCK elements, and all classes of their rows."""
    count, classes, *inner = x.shape
    width = math.prod(inner)
    step = max(1, BLOCK // (classes * width))
    columns = max(1, BLOCK // classes) if step == 1 and inner else width
    for first in range(0, count, step):
        for column in range(0, width, columns):
            rest = (slice(None), slice(column, column + columns)) if inner else ()
            yield (slice(first, first + step), *rest)


def parts(x: Tensor, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield parts of the tensors [..., C] and [...] for whole rows of x [..., C], about BLOCK / 2 elements at a time.

    Half, because intermediate results need room in the cache too.
    """
    flat = [tensor.reshape((-1, tensor.shape[-1]) if tensor.ndim == x.ndim else -1) for tensor in tensors]
    rows = max(1, BLOCK // 2 // x.shape[-1])
    yield from map(list, zip(*(torch.split(tensor, rows) for tensor in flat), strict=True))


def product_sums(values: Tensor, factors: Tensor, *, skips_zeros: bool = False) -> Tensor:
    """Return the sums [n, 1] of values [n, v] times factors, [n, v] or [v].

    Not by a matrix product, whose digits autocast and TF32 cut. With `skips_zeros`, infinity times 0 is 0.
    """

    def of_rows(some: Tensor, others: Tensor) -> Tensor:
        products = torch.where(others == 0, 0.0, some * others) if skips_zeros else some * others
        return products.sum(1, keepdim=True)

    rows = max(1, (BLOCK << 6 if values.is_cuda else BLOCK) // max(1, values.shape[1]))
    if tensors.is_compiling() or values.shape[0] <= rows:
        return of_rows(values, factors)
    parts = torch.split(values, rows)
    others = torch.split(factors, rows) if factors.ndim == 2 else [factors] * len(parts)
    return torch.cat([of_rows(*pair) for pair in zip(parts, others, strict=True)])


def lies_with_class_axis_second(logits: Tensor) -> bool:
    """Whether logits [..., C] lie in memory as [N, C, ...]. Saved tensors need not keep that: ask for it only once."""
    return logits.ndim > 2 and not logits.is_contiguous() and logits.movedim(-1, 1).is_contiguous()


def class_axis_second(tensor: Tensor, is_second: bool) -> Tensor:
    """Return a tensor [..., C] as [N, C]; or as [N, C, M] if the logits lie in memory that way (`is_second`)."""
    if is_second:
        return tensor.movedim(-1, 1).flatten(2)
    return tensor if tensor.ndim == 2 else tensor.reshape(-1, tensor.shape[-1])


def in_shape_of(gradient: Tensor, logits: Tensor, is_second: bool) -> Tensor:
    """Return the inverse of `class_axis_second`, for the gradient of `logits`."""
    if is_second:
        return gradient.reshape(*gradient.shape[:2], *logits.shape[1:-1]).movedim(1, -1)
    return gradient if logits.ndim == 2 else gradient.reshape(logits.shape)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return float64 for float64 logits, float32 for all others."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
