"""The recipe of docs/training_loops.md for torch: a batch of `fit` is one step."""

from typing import Any

import keras
import torch

import keras_xent
from shared_specs.conformance.trainers.step import MICRO_BATCHES

loss = keras_xent.SparseCategoricalCrossEntropy(ignore_index=-100)


class Accumulating(keras.Model):
    """Splits each batch into micro-batches, and divides by the rows of all."""

    def train_step(self, data: Any) -> Any:
        """Take the step."""
        inputs, labels = data
        rows = (labels != loss.ignore_index).sum()
        self.zero_grad()
        total: Any = 0.0
        for part in range(MICRO_BATCHES):
            outputs = self(inputs[part::MICRO_BATCHES], training=True)
            value = loss(labels[part::MICRO_BATCHES], outputs, denominator=rows)
            value.backward()
            total += value.detach()
        with torch.no_grad():
            gradients = [weight.value.grad for weight in self.trainable_weights]
            self.optimizer.apply(gradients, self.trainable_weights)
        return {"step_loss": total}
