"""The recipe of docs/training_loops.md for JAX: a batch of `fit` is one step."""

from typing import Any

import jax
import keras

import keras_xent
from shared_specs.conformance.trainers.step import MICRO_BATCHES

loss = keras_xent.SparseCategoricalCrossEntropy(ignore_index=-100)


class Accumulating(keras.Model):
    """Splits each batch into micro-batches, and divides by the rows of all."""

    def loss_of_part(self, trainable: Any, others: Any, inputs: Any, labels: Any, rows: Any) -> Any:
        """Return the share of a micro-batch, and the other variables after it."""
        outputs, others = self.stateless_call(trainable, others, inputs, training=True)
        return loss(labels, outputs, denominator=rows), others

    def train_step(self, state: Any, data: Any) -> Any:
        """Take the step."""
        trainable, others, optimizer, metrics = state
        inputs, labels = data
        rows = (labels != loss.ignore_index).sum()
        total, gradients = 0.0, None
        for part in range(MICRO_BATCHES):
            arguments = inputs[part::MICRO_BATCHES], labels[part::MICRO_BATCHES], rows
            step = jax.value_and_grad(self.loss_of_part, has_aux=True)
            (value, others), found = step(trainable, others, *arguments)
            gradients = found if gradients is None else jax.tree.map(jax.numpy.add, gradients, found)
            total += value
        trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        return {"step_loss": total}, (trainable, others, optimizer, metrics)
