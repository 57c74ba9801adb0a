"""The recipe of docs/training_loops.md for TensorFlow: a batch of `fit` is one step."""

from typing import Any

import keras
import tensorflow as tf

import keras_xent
from shared_specs.conformance.trainers.step import MICRO_BATCHES

loss = keras_xent.SparseCategoricalCrossEntropy(ignore_index=-100)


class Accumulating(keras.Model):
    """Splits each batch into micro-batches, and divides by the rows of all replicas."""

    def train_step(self, data: Any) -> Any:
        """Take the step."""
        inputs, labels = data
        replica = tf.distribute.get_replica_context()
        rows = replica.all_reduce("SUM", tf.math.count_nonzero(labels != loss.ignore_index))
        total, gradients = 0.0, list[Any]()
        for part in range(MICRO_BATCHES):
            with tf.GradientTape() as tape:
                outputs = self(inputs[part::MICRO_BATCHES], training=True)
                value = loss(labels[part::MICRO_BATCHES], outputs, denominator=rows)
            found = tape.gradient(value, self.trainable_variables)
            gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else found
            total += value
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"step_loss": total * replica.num_replicas_in_sync}
