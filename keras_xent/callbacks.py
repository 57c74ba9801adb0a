"""Callbacks: one sets weights from the row counts of the data, one checks the model before training."""

from dataclasses import dataclass, field
from typing import Any

import keras

from keras_xent.base import Loss
from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from keras_xent.check import problems_of_model
from shared_specs.common import guard
from shared_specs.common.weighting import WeightingOptions, set_weights
from shared_specs.common.weights import limited


@dataclass(eq=False, repr=False)
class ClassWeighting(WeightingOptions, keras.callbacks.Callback):
    """Sets the weights of the model's loss from the row counts of the training data, before the first step.

    A categorical loss gets the `class_weight` of `class_weights`, K numbers that sum to K; a binary loss gets the
    `pos_weight` of `pos_weights`: negatives / positives. Both stay after training, and in the loss's config. With
    `start_epoch` the loss keeps its own weights until that epoch: deferred re-weighting.

    Args:
        data: Targets, an array or tensor, or a finite iterable of batches (inputs, target[, sample_weight]) such as a
            tf.data.Dataset, keras.utils.PyDataset or torch DataLoader, which every `fit` reads once. Keras callbacks
            cannot see the training data. Sample weights do not count. Do not pass `class_weight` to `fit` as well: it
            would multiply these weights.

    Raises:
        ValueError: An argument out of range; when training begins, data that may have no end, a class without rows, or
            a label out of range.
        TypeError: When training begins, a loss that is not one categorical or binary loss of this package, or class
            indices that are not whole numbers.

    Reference: Cao et al., 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
        arXiv:1906.07413.
    """

    data: Any

    _weights: list[float] | None = field(init=False, default=None)

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = self.weights_of(self.counts(self._loss(), limited("data", self.data, self.batches), -1))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._weights is not None and epoch >= self.start_epoch:
            set_weights(self._loss(), self._weights)
            self._weights = None
            # A compiled function keeps the weights that it was traced with.
            self.model.make_train_function(force=True)
            if self.model.test_function is not None:
                self.model.make_test_function(force=True)

    def _loss(self) -> CategoricalLoss | BinaryLoss:
        losses = keras.tree.flatten(self.model.loss)  # a list or dictionary for one output is allowed
        if len(losses) != 1 or not isinstance(losses[0], CategoricalLoss | BinaryLoss):
            cure = (
                ": for several outputs, give each loss its class_weight=class_weights(...)" if len(losses) > 1 else ""
            )
            raise TypeError(
                f"loss of the model must be one categorical or binary loss of keras_xent, got {self.model.loss!r}{cure}"
            )
        return losses[0]


class CheckModel(keras.callbacks.Callback):
    """Warns once, before the first step, of the problems that `check_model` finds in the model and its compiled losses.

    Args:
        data: A batch (inputs, target[, sample_weight]), a tuple; or an iterable of batches such as a tf.data.Dataset,
            keras.utils.PyDataset or torch DataLoader, whose first batch is used. Keras callbacks cannot see the
            training data. None: only the activation at the end of the network and the shape of its output are checked,
            which a subclassed model does not show.

    Raises:
        TypeError: When training begins, a model without a loss of this package.
        ValueError: When training begins, a batch of another form.
    """

    def __init__(self, data: Any = None) -> None:
        super().__init__()
        self.data = data
        self._has_checked = False

    def on_train_begin(self, logs: Any = None) -> None:
        if self._has_checked:
            return
        losses = keras.tree.flatten(self.model.loss)
        if not any(isinstance(loss, Loss) for loss in losses):
            raise TypeError(f"loss of the model must be one of keras_xent, got {self.model.loss!r}")
        self._has_checked = True
        for loss, doubts, others in problems_of_model(self.model, self.model.loss, self._batch()):
            # A loss may have warned of it when Keras built the model.
            for problem in others if loss._watch.has_warned else doubts + others:
                guard.warn(problem)
            loss._watch.hear(doubts)

    def _batch(self) -> Any:
        if self.data is None or isinstance(self.data, tuple):
            return self.data
        return self.data[0] if isinstance(self.data, keras.utils.PyDataset) else next(iter(self.data), None)
