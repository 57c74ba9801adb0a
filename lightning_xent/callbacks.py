"""Callbacks: one weighs the classes by their row counts, one checks the model before training."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_xent import arguments, guard
from lightning_xent.base import Loss
from lightning_xent.batches import split
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.check import problems_of_model
from lightning_xent.weights import SCHEMES, class_counts, class_weights


class ClassWeighting(Callback):
    """Sets the class weights of the module's loss from the row counts of the classes, before the first step.

    The weights are those of `class_weights`, K numbers that sum to K. They stay when training ends, and in
    the loss's config. With `start_epoch` the loss keeps what weights it has until then: deferred re-weighting.

    Args:
        data: Targets, an array or tensor, or a finite iterable of batches as the module takes them, such as a
            DataLoader, which every `fit` reads once. None: the batches of an epoch of the trainer's own training
            data, which training then reads as if nobody had before, summed over all devices. Sample weights do not
            count.
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
        data: Any = None,
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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = self._loss(pl_module)
        axis = 1 if loss.axis is None else loss.axis
        count = partial(class_counts, "data", classes=self.classes, axis=axis, ignore_index=loss.ignore_index)
        if self.data is None:
            limit = trainer.num_training_batches
            with _unread(trainer.train_dataloader) as batches:
                counts = count(_targets(pl_module, islice(batches, None if math.isinf(limit) else int(limit))))
            if trainer.world_size > 1:
                total = torch.tensor(counts, dtype=torch.float64, device=pl_module.device)
                counts = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        else:
            counts = count(_targets(pl_module, self.data))
        self._weights = class_weights(arguments.counts("counts of data", counts), scheme=self.scheme, beta=self.beta)
        # A run that resumes within an epoch does not begin it.
        self._set_weights(trainer, loss)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set_weights(trainer, self._loss(pl_module))

    def _set_weights(self, trainer: Trainer, loss: CategoricalLoss) -> None:
        if self._weights is not None and trainer.current_epoch >= self.start_epoch:
            loss.set_class_weight(self._weights)
            self._weights = None

    @staticmethod
    def _loss(pl_module: LightningModule) -> CategoricalLoss:
        loss = getattr(pl_module, "loss", None)
        if not isinstance(loss, CategoricalLoss):
            raise TypeError(f"loss of the module must be one categorical loss of lightning_xent, got {loss!r}")
        return loss


class CheckModel(Callback):
    """Warns, once and before the first step, of what `check_model` finds in the module and its loss.

    Args:
        data: A batch as the module takes it, a tuple or a dictionary; or an iterable of batches such as a DataLoader,
            whose first batch is taken. None: the first batch of the trainer's own training data, which training then
            reads as if nobody had before.

    Raises:
        TypeError: When training begins, a module whose `loss` is none of this package.
        ValueError: When training begins, a batch of another form.
    """

    def __init__(self, data: Any = None) -> None:
        super().__init__()
        self.data = data
        self._has_checked = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_checked:
            return
        loss = getattr(pl_module, "loss", None)
        if not isinstance(loss, Loss):
            raise TypeError(f"loss of the module must be one of lightning_xent, got {loss!r}")
        self._has_checked = True
        with _unread(trainer.train_dataloader if self.data is None else self.data) as data:
            batch = data if isinstance(data, tuple | Mapping) else next(iter(data), None)
            batch = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))
            with trainer.precision_plugin.forward_context():
                doubts, others = problems_of_model(pl_module, loss, batch)
        # The loss may have said it in the sanity check of the trainer.
        for problem in others if loss._has_warned else doubts + others:
            guard.warn(problem)
        loss._has_looked = loss._has_looked or bool(doubts)


def _targets(module: LightningModule, data: Any) -> Any:
    """Return targets as they are, and batches as (None, target)."""
    if hasattr(data, "dtype") or not isinstance(data, Iterable):
        return data
    return ((None, split(module, batch).target) for batch in data)


@contextmanager
def _unread(loader: Any) -> Iterator[Any]:
    """Give a loader to be read, and leave it as if nobody had: its order is drawn from random generators."""
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(item, item.get_state()) for item in generators if isinstance(item, torch.Generator)]
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        # All iterators of such a loader are one, which the trainer holds already.
        loader = copy.copy(loader)
        loader._iterator = None
    with isolate_rng():
        yield loader
    for generator, state in states:
        generator.set_state(state)
