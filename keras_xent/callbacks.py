"""Callbacks: one sets weights from the row counts of the data, one checks the model before training."""

from typing import Any

import keras

from keras_xent.base import Loss
from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from keras_xent.check import problems_of_model
from shared_specs.common import arguments, guard
from shared_specs.common.weights import (
    SCHEMES,
    binary_counts,
    class_counts,
    limited,
    ratios_of_counts,
    weights_of_counts,
)


class ClassWeighting(keras.callbacks.Callback):
    """Sets the weights of the model's loss from the row counts of the training data, before the first step.

    A categorical loss gets the `class_weight` of `class_weights`, K numbers that sum to K; a binary loss gets the
    `pos_weight` of `pos_weights`: negatives / positives. Both stay after training, and in the loss's config. With
    `start_epoch` the loss keeps its own weights until that epoch: deferred re-weighting.

    Args:
        data: Targets, an array or tensor, or a finite iterable of batches (inputs, target[, sample_weight]) such as a
            tf.data.Dataset, keras.utils.PyDataset or torch DataLoader, which every `fit` reads once. Keras callbacks
            cannot see the training data. Sample weights do not count. Do not pass `class_weight` to `fit` as well: it
            would multiply these weights.
        scheme: "balanced", "inverse" or "effective", see `class_weights`.
        beta: Overlap of the rows for "effective", in [0, 1).
        classes: Number K of classes, >= 1, if the targets of a categorical loss are class indices; labels equal to the
            loss's ignore_index do not count. None: the targets are distributions or one-hot, with the classes on the
            loss's axis, and their sums are the counts. A binary loss needs None.
        start_epoch: First epoch with the weights, >= 0, counted from 0.
        power: Exponent >= 0 of the weights, see `class_weights` and `pos_weights`.
        max_weight: Largest weight, > 0. None: no bound.
        pseudo_count: Number >= 0 that is added to each count.
        batches: Largest number of batches to read, >= 1. None: all, if their number is known. Data of unknown length,
            such as generators, iterators and datasets that repeat, need a number: they may have no end.
        per_label: Whether each label of a multi-label loss, along its axis (None: the last), gets its own pos_weight.
            None: one number for targets of rank 1, one for each label at rank 2; higher ranks need True or False.

    Raises:
        ValueError: An argument out of range; when training begins, data that may have no end, a class without rows, or
            a label out of range.
        TypeError: When training begins, a loss that is not one categorical or binary loss of this package, or class
            indices that are not whole numbers.

    Reference: Cao et al., 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
        arXiv:1906.07413.
    """

    def __init__(
        self,
        data: Any,
        *,
        scheme: str = "balanced",
        beta: float = 0.999,
        classes: int | None = None,
        start_epoch: int = 0,
        power: float = 1.0,
        max_weight: float | None = None,
        pseudo_count: float = 0.0,
        batches: int | None = None,
        per_label: bool | None = None,
    ) -> None:
        super().__init__()
        self.data = data
        self.scheme = arguments.choice("scheme", scheme, SCHEMES)
        self.beta = arguments.number("beta", beta, "[0, 1)")
        self.classes = None if classes is None else arguments.integer("classes", classes, 1)
        self.start_epoch = arguments.integer("start_epoch", start_epoch, 0)
        self.power = arguments.number("power", power, "[0, inf)")
        self.max_weight = None if max_weight is None else arguments.number("max_weight", max_weight, "(0, inf)")
        self.pseudo_count = arguments.number("pseudo_count", pseudo_count, "[0, inf)")
        self.batches = None if batches is None else arguments.integer("batches", batches, 1)
        self.per_label = arguments.choice("per_label", per_label, (None, True, False))
        self._weights: list[float] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = self._weights_of(self._counts(self._loss(), limited("data", self.data, self.batches)))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._weights is not None and epoch >= self.start_epoch:
            _set_weights(self._loss(), self._weights)
            self._weights = None
            # A compiled function keeps the weights that it was traced with.
            self.model.make_train_function(force=True)
            if self.model.test_function is not None:
                self.model.make_test_function(force=True)

    def _counts(self, loss: CategoricalLoss | BinaryLoss, data: Any) -> list[list[float]]:
        """Return the row counts of the K classes; or those of labels 0 and those of labels 1."""
        ignored = loss.ignore_index
        if isinstance(loss, CategoricalLoss):
            axis = -1 if loss.axis is None else loss.axis
            return [class_counts("data", data, classes=self.classes, axis=axis, ignore_index=ignored)]
        if self.classes is not None:
            raise ValueError(f"classes must be None for a binary loss, got {self.classes}: its labels are 0 and 1")
        own_axis = getattr(loss, "axis", None)
        axis = -1 if own_axis is None else own_axis
        return list(binary_counts("data", data, per_label=self.per_label, axis=axis, ignore_index=ignored))

    def _weights_of(self, counts: list[list[float]]) -> list[float]:
        options: dict[str, Any] = {
            "scheme": self.scheme,
            "beta": self.beta,
            "power": self.power,
            "max_weight": self.max_weight,
            "pseudo_count": self.pseudo_count,
        }
        if len(counts) == 1:
            return weights_of_counts("counts of data", *counts, **options)
        return ratios_of_counts("data", *counts, **options)

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


def _set_weights(loss: CategoricalLoss | BinaryLoss, weights: list[float]) -> None:
    if isinstance(loss, CategoricalLoss):
        loss.set_class_weight(weights)
    else:
        loss.pos_weight = weights


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
