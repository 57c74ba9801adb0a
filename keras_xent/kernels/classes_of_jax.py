"""Some rows of the last linear layer on JAX, by a loop over blocks of their classes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from keras_xent.kernels.linear import ByLabel, Head, all_logits
from keras_xent.kernels.passes import compute_dtype
from keras_xent.kernels.statistics import Statistics, merged, none, of_block


class _Block(NamedTuple):
    """The layer of some classes, and what their statistics need."""

    head: Head
    first: Any
    """Number of the first class."""
    statistics: Callable[..., Statistics]
    """Returns those of logits [n, v], relative to their peak or to one that is given."""


@dataclass(frozen=True, eq=False)
class Classes:
    """All classes of some rows."""

    head: Head
    data: Any
    """Of the same rows; the first says whether a row counts."""
    by_label: ByLabel
    weights: Any
    """[C]: those of the classes; None: 1."""
    size: int
    """Classes of a block."""

    def statistics(self) -> Statistics:
        """Return what all classes add up to in each row."""

        def step(block: _Block, before: Statistics) -> Statistics:
            return merged(before, block.statistics(all_logits(block.head)), self.by_label.reads.divisor)

        hidden = self.head.hidden
        return self._over_blocks(step, none(jnp.zeros_like(hidden[:, 0], compute_dtype(hidden))))

    def gradients(self, peak: Any, of_statistics: Statistics, sums: Any) -> tuple[Any, Any]:
        """Return the gradient of the hidden states, and `sums` with those of kernel and bias.

        Args:
            peak: That of the statistics [n].
            of_statistics: The gradients of the statistics.
            sums: Gradients [D, C] of the kernel and [C] of the bias, to add to; None without a bias.
        """
        hidden = self.head.hidden
        wide = compute_dtype(hidden)

        def step(block: _Block, carry: Any) -> Any:
            of_hidden, *sums = carry
            logits = all_logits(block.head)
            _, pull = jax.vjp(lambda logits: block.statistics(logits, peak), logits)
            (of_logits,) = pull(of_statistics)
            of_hidden = of_hidden + jnp.matmul(of_logits, block.head.kernel.T, preferred_element_type=wide)
            parts = jnp.matmul(hidden.T, of_logits, preferred_element_type=wide), jnp.sum(of_logits, 0, dtype=wide)
            return of_hidden, *(_plus(each, part, block.first) for each, part in zip(sums, parts, strict=True))

        of_hidden, *found = self._over_blocks(step, (jnp.zeros_like(hidden, wide), *sums))
        return of_hidden, tuple(found)

    def _over_blocks(self, step: Callable[[_Block, Any], Any], carry: Any) -> Any:
        """Return what carry = step(block, carry) makes of all blocks."""
        count, rest = divmod(self.head.kernel.shape[1], self.size)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((self.head, self.data))):

            def body(place: Any, carry: Any) -> Any:
                return step(self._block(place * self.size, self.size), carry)

            carry = jax.lax.fori_loop(0, count, body, carry)
        else:  # a loop of JAX would be compiled again by each call, because its body is a new function
            for place in range(count):
                carry = step(self._block(place * self.size, self.size), carry)
        return step(self._block(count * self.size, rest), carry) if rest else carry

    def _block(self, first: Any, size: int) -> _Block:
        given = self.head.kernel, self.head.bias, self.weights
        kernel, bias, weights = (None if each is None else _cut(each, first, size) for each in given)
        counts, label = self.data[0], self.data[self.by_label.place].astype("int32")

        def statistics(logits: Any, peak: Any = None) -> Statistics:
            return of_block(logits, label - first, counts, weights, self.by_label.reads, peak)

        return _Block(Head(self.head.hidden, kernel, bias), first, statistics)


def _cut(values: Any, first: Any, size: int) -> Any:
    return jax.lax.dynamic_slice_in_dim(values, first, size, -1)


def _plus(values: Any, part: Any, first: Any) -> Any:
    """Return values [..., C] with a part added to the classes from the first on; None for None."""
    if values is None:
        return None
    return jax.lax.dynamic_update_slice_in_dim(values, _cut(values, first, part.shape[-1]) + part, first, -1)
