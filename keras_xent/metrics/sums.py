"""The base of the metrics: sums over an epoch."""

from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops


class SumMetric(keras.metrics.Metric):
    """Base of the metrics: sums over all rows, from which a metric computes its result.

    Args:
        shape: Shape of the sums. None: `build_sums` makes them later.
        name: Name of the metric in Keras.
    """

    def __init__(self, shape: tuple[int, ...] | None, name: str) -> None:
        # float32 for any floatx: half precision would stop counting at 256 or 2048 rows.
        super().__init__(name=name, dtype="float32")
        self.sums: Any = None
        self.excess: Any = None
        self._direction = "down"  # for callbacks that monitor it
        if shape is not None:
            self.build_sums(shape)

    def build_sums(self, shape: tuple[int, ...]) -> None:
        """Create the sums, once."""
        if self.sums is None:
            self.sums = self.add_variable(shape=shape, initializer="zeros", dtype=self.dtype, name="sums")
            self.excess = self.add_variable(shape=shape, initializer="zeros", dtype=self.dtype, name="excess")

    def add(self, values: Tensor) -> None:
        """Add the sums of a batch; float32 sums without `excess` would stop at 2^24 rows (Kahan, 1965)."""
        # Tensors, because Keras' symbolic build on torch mixes devices in operations on variables.
        before, excess = ops.convert_to_tensor(self.sums), ops.convert_to_tensor(self.excess)
        values = ops.cast(values, self.dtype) - excess
        after = before + values
        self.excess.assign(ops.where(ops.isfinite(after), (after - before) - values, 0.0))
        self.sums.assign(after)
