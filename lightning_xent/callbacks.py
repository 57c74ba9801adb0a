"""Callbacks: one sets weights from the row counts of the data, one checks the model before training."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader

from lightning_xent.base import Loss
from lightning_xent.batches import split
from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.check import problems_of_model
from shared_specs.common import guard
from shared_specs.common.weighting import WeightingOptions, set_weights
from shared_specs.common.weights import limited


@dataclass(eq=False, repr=False)
class ClassWeighting(WeightingOptions, Callback):
    """Sets the weights of the module's loss from the row counts of the training data, before the first step.

    A categorical loss gets the `class_weight` of `class_weights`, K numbers that sum to K; a binary loss gets the
    `pos_weight` of `pos_weights`: negatives / positives. Both stay after training, and in the loss's config. With
    `start_epoch` the loss keeps its own weights until that epoch: deferred re-weighting.

    Args:
        data: Targets, an array or tensor, or a finite iterable of batches as the module takes them, such as a
            DataLoader, which every `fit` reads once. None: the batches of an epoch of the trainer's own training data,
            summed over all devices. Training then reads the same data from the start. Sample weights do not count.

    Raises:
        ValueError: An argument out of range; when training begins, data that may have no end, a class without rows, or
            a label out of range.
        TypeError: When training begins, a loss that is not one categorical or binary loss of this package, or class
            indices that are not whole numbers.

    Reference: Cao et al., 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
        arXiv:1906.07413.
    """

    data: Any = None

    _weights: list[float] | None = field(init=False, default=None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = self._loss(pl_module)
        if self.data is None:
            limits = [limit for limit in (trainer.num_training_batches, self.batches) if limit is not None]
            if math.isinf(min(limits)):
                raise ValueError(
                    "batches must be a number for training data of unknown length, got None: they may "
                    "have no end; pass batches=N to count the classes of at most N batches"
                )
            with _unread(trainer.train_dataloader) as batches:
                counts = self.counts(loss, _targets(pl_module, islice(batches, int(min(limits)))), 1)
            if trainer.world_size > 1:
                total = torch.tensor(counts, dtype=torch.float64, device=pl_module.device)
                counts = trainer.strategy.reduce(total, reduce_op="sum").tolist()
        else:
            counts = self.counts(loss, _targets(pl_module, limited("data", self.data, self.batches)), 1)
        self._weights = self.weights_of(counts)
        # A run that resumes within an epoch does not call on_train_epoch_start for it.
        self._set_weights(trainer, loss)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set_weights(trainer, self._loss(pl_module))

    def _set_weights(self, trainer: Trainer, loss: CategoricalLoss | BinaryLoss) -> None:
        if self._weights is not None and trainer.current_epoch >= self.start_epoch:
            set_weights(loss, self._weights)
            self._weights = None

    @staticmethod
    def _loss(pl_module: LightningModule) -> CategoricalLoss | BinaryLoss:
        loss = getattr(pl_module, "loss", None)
        if not isinstance(loss, CategoricalLoss | BinaryLoss):
            raise TypeError(
                f"loss of the module must be one categorical or binary loss of lightning_xent, got {loss!r}"
            )
        return loss


class CheckModel(Callback):
    """Warns once, before the first step, of the problems that `check_model` finds in the module and its loss.

    Args:
        data: A batch as the module takes it, a tuple or a dictionary; or an iterable of batches such as a DataLoader,
            whose first batch is used. None: the first batch of the trainer's own training data; training then reads it
            again from the start.

    Raises:
        TypeError: When training begins, a module whose `loss` is not a loss of this package.
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
        # The loss may have warned of it in the sanity check of the trainer.
        for problem in others if loss._watch.has_warned else doubts + others:
            guard.warn(problem)
        loss._watch.hear(doubts)


def _targets(module: LightningModule, data: Any) -> Any:
    """Return targets unchanged, and batches as (None, target, None, mask)."""
    if hasattr(data, "dtype") or not isinstance(data, Iterable):
        return data
    batches = (split(module, batch) for batch in data)
    return ((None, batch.target, None, batch.mask) for batch in batches)


@contextmanager
def _unread(loader: Any) -> Iterator[Any]:
    """Yield a loader to read, and restore the random generators that draw its order, as if nobody had read it."""
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(item, item.get_state()) for item in generators if isinstance(item, torch.Generator)]
    if isinstance(loader, DataLoader) and loader.persistent_workers:
        # Such a loader has one iterator, which the trainer already holds.
        loader = copy.copy(loader)
        loader._iterator = None
    with isolate_rng():
        yield loader
    for generator, state in states:
        generator.set_state(state)
