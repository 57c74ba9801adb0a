"""Some rows of the last linear layer on TensorFlow, by a loop over blocks of their classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from keras_xent.kernels.linear import ByLabel, Head, all_logits
from keras_xent.kernels.passes import compute_dtype
from keras_xent.kernels.statistics import Statistics, merged, none, of_block


class _Block(NamedTuple):
    """The layer of some classes, and what their statistics need."""

    head: Head
    statistics: Callable[..., Statistics]
    """Returns those of logits [n, v], relative to their peak or to one that is given."""


@dataclass(frozen=True, eq=False)
class Classes:
    """All classes of some rows."""

    head: Head
    data: Any
    """Of the same rows; the first says whether a row counts."""
    by_label: ByLabel
    size: int
    """Classes of a block."""

    def statistics(self) -> Statistics:
        """Return what all classes add up to in each row."""

        def step(block: _Block, before: Any) -> tuple[Any, list[Any]]:
            return merged(before, block.statistics(all_logits(block.head)), self.by_label.reads.divisor), []

        hidden = self.head.hidden
        found: Statistics = self._over_blocks(step, none(tf.zeros_like(hidden[:, 0], compute_dtype(hidden))), [])[0]
        return found

    def gradients(self, peak: Any, of_statistics: Statistics) -> list[Any]:
        """Return the gradients of hidden states, kernel and bias, given `peak` and the gradients of the statistics."""
        hidden, has_bias = self.head.hidden, self.head.bias is not None
        wide = compute_dtype(hidden)

        def step(block: _Block, of_hidden: Any) -> tuple[Any, list[Any]]:
            logits = all_logits(block.head)
            with tf.GradientTape() as tape:
                tape.watch(logits)
                statistics = block.statistics(logits, peak)
            of_logits = tape.gradient(
                statistics[1:], logits, output_gradients=of_statistics[1:], unconnected_gradients="zero"
            )
            products = [tf.cast(tf.matmul(hidden, of_logits, transpose_a=True), wide)]
            products += [tf.reduce_sum(tf.cast(of_logits, wide), 0)] if has_bias else []
            return of_hidden + tf.cast(tf.matmul(of_logits, block.head.kernel, transpose_b=True), wide), products

        kinds = [(wide, hidden.shape[1:]), *([(wide, ())] if has_bias else [])]
        of_hidden, products = self._over_blocks(step, tf.zeros_like(hidden, wide), kinds)
        return [of_hidden, *products]

    def _over_blocks(
        self, step: Callable[[_Block, Any], Any], carry: Any, kinds: Sequence[Any]
    ) -> tuple[Any, list[Any]]:
        """Return what (carry, values) = step(block, carry) makes of all blocks, the values joined.

        `kinds` are the dtypes and the shapes, without the classes, of the values.
        """
        classes, size = self.head.kernel.shape[1], self.size
        if tf.executing_eagerly():
            parts = []
            for first in range(0, classes, size):
                carry, values = step(self._block(first, min(size, classes - first)), carry)
                parts.append(values)
            return carry, [tf.concat(each, -1) for each in zip(*parts, strict=True)]
        count, rest = divmod(classes, size)
        arrays = [tf.TensorArray(dtype, count, element_shape=[*shape, size]) for dtype, shape in kinds]

        def body(place: Any, carry: Any, arrays: Any) -> Any:
            carry, values = step(self._block(place * size, size), carry)
            return place + 1, carry, [array.write(place, each) for array, each in zip(arrays, values, strict=True)]

        _, carry, arrays = tf.while_loop(
            lambda place, *_: place < count, body, (tf.constant(0), carry, arrays), parallel_iterations=1
        )
        joined = [_joined(array.stack()) for array in arrays]
        if rest:
            carry, values = step(self._block(count * size, rest), carry)
            joined = [tf.concat(pair, -1) for pair in zip(joined, values, strict=True)]
        return carry, joined

    def _block(self, first: Any, size: int) -> _Block:
        given = self.head.kernel, self.head.bias, self.by_label.class_weight
        kernel, bias, weights = (None if each is None else _cut(each, first, size) for each in given)
        counts, label = self.data[0], tf.cast(self.data[self.by_label.place], tf.int32)

        def statistics(logits: Any, peak: Any = None) -> Statistics:
            return of_block(logits, label - first, counts, weights, self.by_label.reads, peak)

        return _Block(Head(self.head.hidden, kernel, bias), statistics)


def _cut(values: Any, first: Any, size: int) -> Any:
    """Return the classes from the first on of values [..., C]."""
    outer = tf.shape(values)[:-1]
    part = tf.slice(values, tf.concat([tf.zeros_like(outer), [first]], 0), tf.concat([outer, [size]], 0))
    return tf.ensure_shape(part, [*values.shape[:-1], size])


def _joined(blocks: Any) -> Any:
    """Return blocks [B, ..., v] as [..., B v]."""
    last = blocks.shape.rank - 1
    turned = tf.transpose(blocks, [*range(1, last), 0, last])
    return tf.reshape(turned, tf.concat([tf.shape(turned)[:-2], [-1]], 0))
