"""The last linear layer with its loss on TensorFlow and JAX: chunks of the logits, and never all of them.

The gradients of hidden states, kernel and bias are computed in the forward pass, from logits that are there: three
products. Where the slopes of the rows are not known by then, the logits are computed again: four. The files of the
backends have the loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.kernels.passes import compute_dtype
from keras_xent.kernels.statistics import Reads

SHARE = 4
"""A chunk, with the copies that its loss needs, has 1 / SHARE of the logits, within these bounds in bytes."""
LEAST, MOST = 1 << 23, 1 << 28
ROWS = 128
"""A chunk of fewer rows may be as large as the kernel: each chunk reads all of the kernel and of its gradient."""
MOST_ROWS = 1024
"""Rows of a chunk that does not have all classes."""
LEAST_FEATURES = 64
"""A piece of the features, see `pieces`, has at least so many."""


class Head(NamedTuple):
    """The last layer of a network and its input: the logits are hidden @ kernel + bias."""

    hidden: Tensor
    """[N, D]"""
    kernel: Tensor
    """[D, C]"""
    bias: Tensor | None = None
    """[C]"""


def head(hidden: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Any:
    """Return the layer."""
    return Head(hidden, kernel, bias)


def all_logits(head: Any) -> Tensor:
    """Return the logits [N, C], in the dtype of the hidden states."""
    logits = ops.matmul(head.hidden, head.kernel)
    return logits if head.bias is None else logits + head.bias


def fuses(head: Any, target: Tensor) -> bool:
    """Whether chunks can be computed: not of symbolic tensors, nor of no rows."""
    count = head.hidden.shape[0]
    has_values = not any(isinstance(tensor, Tensor) for tensor in (*head, target))
    return has_values and count != 0 and (count is None or isinstance(count, int))


@dataclass(frozen=True, eq=False)
class ByLabel:
    """A loss that is a function of the statistics of a label."""

    losses_of: Callable[..., Tensor]
    """Returns the losses [n], given `Found` and the same rows of the data of the work."""
    reads: Reads
    class_weight: Tensor | None
    """[C]: weights of the other classes; None: 1."""
    place: int
    """Of the labels among the data."""


@dataclass(frozen=True, eq=False)
class Work:
    """Computes the losses of any rows of a head."""

    losses_of: Callable[..., Tensor]
    """Returns the losses [n], given logits [n, C] and the same rows of `data`."""
    data: tuple[Tensor, ...]
    """What the loss needs of each row, [N] or [N, ...]; the first says whether a row counts: it may hold any logits."""
    copies: int
    """How many tensors of the size of a chunk its loss needs."""
    by_label: ByLabel | None = None
    """How the loss reads blocks of classes; None if it needs all classes of a row."""

    def plain(self, logits: Tensor) -> Tensor:
        """Return the losses [N] of all logits [N, C] at once."""
        return self.losses_of(logits, *self.data)


def rows_of_chunk(count: Any, head: Head, copies: int, least: Any = max, most: Any = min) -> Any:
    """Return how many rows a chunk has, given the `count` of all rows, a number or a tensor.

    `least` and `most` are max and min of such numbers.
    """
    features, classes = head.kernel.shape
    bytes_of_row = classes * copies * (8 if compute_dtype(head.hidden) == "float64" else 4)
    share = -(-count // (SHARE * copies))
    limit = max(1, MOST // bytes_of_row, min(ROWS, (features or 1) // copies))
    rows = most(least(least(share, LEAST // bytes_of_row), 1), limit)
    chunks = least(-(-count // rows), 1)  # of even size
    return least(-(-count // chunks), 1)


def classes_of_chunk(count: int | None, head: Head, copies: int) -> int | None:
    """Return how many classes a chunk has, if few rows of all classes are as large as a chunk may be; else None.

    Its rows are those of `count`, None if unknown, and at most MOST_ROWS.
    """
    classes = head.kernel.shape[1]
    bytes_of_class = copies * (8 if compute_dtype(head.hidden) == "float64" else 4)
    if MOST // (classes * bytes_of_class) >= min(ROWS // 2, count or ROWS):
        return None
    rows = min(MOST_ROWS, count or MOST_ROWS)
    chunks = -(-classes // max(1, MOST // (rows * bytes_of_class)))
    return -(-classes // chunks)


def pieces(rows: int, features: int) -> int:
    """Return how many equal pieces the features have in the product of a chunk with the slopes of its logits.

    One if the product, as large as the kernel, is no larger than the logits of the chunk.
    """
    most = 1 if features <= rows else max(1, features // LEAST_FEATURES)
    return max(count for count in range(1, most + 1) if features % count == 0)


def without(head: Head, data: tuple[Tensor, ...], slopes: Tensor) -> tuple[Head, tuple[Tensor, ...]]:
    """Return a layer and its data without the rows whose slope is 0: they get hidden states of 0, and do not count."""
    counts = slopes != 0
    hidden = ops.where(ops.expand_dims(counts, 1), head.hidden, ops.zeros_like(head.hidden))
    return head._replace(hidden=hidden), (ops.logical_and(data[0], counts), *data[1:])
