"""Callbacks: one weighs the classes by their row counts, one checks the model before training."""

from typing import Any

import keras

from keras_xent import arguments, guard
from keras_xent.base import Loss
from keras_xent.categorical import CategoricalLoss
from keras_xent.check import problems_of_model
from keras_xent.weights import SCHEMES, class_counts, class_weights


class ClassWeighting(keras.callbacks.Callback):
    """Sets the class weights of the model's loss from the row counts of the classes, before the first step.

    The weights are those of `class_weights`, K numbers that sum to K. They stay when training ends, and in
    the loss's config. With `start_epoch` the loss keeps what weights it has until then: deferred re-weighting.

    Args:
        data: Targets, an array or tensor, or a finite iterable of batches (inputs, target[, sample_weight]) such as a
            tf.data.Dataset, keras.utils.PyDataset or torch DataLoader, which every `fit` reads once. Keras shows a
            callback no data of its own. Sample weights do not count.
        scheme: "balanced", "inverse" or "effective", see `class_weights`.
        beta: Overlap of the rows for "effective", in [0, 1).
        classes: Number K of classes, >= 1, where targets are class indices; those equal to the loss's ignore_index
            do not count. None: targets are distributions or one-hot, with classes on the loss's axis, whose
            sums are the counts.
        start_epoch: First epoch with the weights, >= 0, counted from 0.

    Raises:
        ValueError: An argument out of range; when training begins, a class without rows or a label out of range.
        TypeError: When training begins, a loss that is not one categorical loss, or class indices of no integer dtype.

    Reference: Cao et al., 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss.
    """

    def __init__(
        self,
        data: Any,
        *,
        scheme: str = "balanced",
        beta: float = 0.999,
        classes: int | None = None,
        start_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.data = data
        self.scheme = arguments.choice("scheme", scheme, SCHEMES)
        self.beta = arguments.number("beta", beta, "[0, 1)")
        self.classes = None if classes is None else arguments.integer("classes", classes, 1)
        self.start_epoch = arguments.integer("start_epoch", start_epoch, 0)
        self._weights: list[float] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        loss = self._loss()
        axis = -1 if loss.axis is None else loss.axis
        counts = class_counts("data", self.data, classes=self.classes, axis=axis, ignore_index=loss.ignore_index)
        self._weights = class_weights(arguments.counts("counts of data", counts), scheme=self.scheme, beta=self.beta)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._weights is not None and epoch >= self.start_epoch:
            self._loss().set_class_weight(self._weights)
            self._weights = None
            # A compiled function holds the weights that it was traced with.
            self.model.make_train_function(force=True)
            if self.model.test_function is not None:
                self.model.make_test_function(force=True)

    def _loss(self) -> CategoricalLoss:
        loss = self.model.loss
        if not isinstance(loss, CategoricalLoss):
            raise TypeError(f"loss of the model must be one categorical loss of keras_xent, got {loss!r}")
        return loss


class CheckModel(keras.callbacks.Callback):
    """Warns, once and before the first step, of what `check_model` finds in the model and its compiled losses.

    Args:
        data: A batch (inputs, target[, sample_weight]), a tuple; or an iterable of batches such as a tf.data.Dataset,
            keras.utils.PyDataset or torch DataLoader, of which the first is taken. Keras shows a callback no data of
            its own. None: only the activation at the end of the network is looked at, which a subclassed model does
            not show.

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
            # A loss may have said it when Keras built the model.
            for problem in others if loss._has_warned else doubts + others:
                guard.warn(problem)
            loss._has_looked = loss._has_looked or bool(doubts)

    def _batch(self) -> Any:
        if self.data is None or isinstance(self.data, tuple):
            return self.data
        return self.data[0] if isinstance(self.data, keras.utils.PyDataset) else next(iter(self.data), None)
