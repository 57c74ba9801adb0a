"""The LightningModule: a network trained on one of the losses."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_xent.base import Loss
from lightning_xent.reduction import quotient
from lightning_xent.spec import LossSpec, get


class EpochLoss(Metric):
    """The loss of all rows of an epoch, on all devices, from the `parts` of its batches.

    Args:
        is_sum: Whether the loss is a sum, whose denominator is 1 for the whole epoch.
    """

    full_state_update = False
    total: Tensor
    denominator: Tensor

    def __init__(self, is_sum: bool) -> None:
        super().__init__()
        self.is_sum = is_sum
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("denominator", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, total: Tensor, denominator: Tensor) -> None:
        self.total = self.total + total.detach()
        self.denominator = self.denominator + denominator.detach()

    def compute(self) -> Tensor:
        return self.total if self.is_sum else quotient(self.total, self.denominator)


class XentModule(LightningModule):
    """A network, its loss and its optimizer, for a Trainer or a LightningCLI config.

    Batches are `(inputs, target)` or `(inputs, target, sample_weight)`. `train_loss`, `val_loss` and `test_loss`
    are logged for the whole epoch: the loss of all its rows, whatever the batches, NaN included.

    Args:
        network: Maps inputs to what the loss takes, logits by default.
        loss: A loss, or its spec `{"loss": CLASS, "config": {...}}`; its reduction is not "none".
        optimizer: Builds the optimizer from the parameters. None: torch.optim.AdamW with its defaults, which
            another optimizer named in a config must not inherit.

    Raises:
        ValueError: A loss that does not reduce, or a spec that `lightning_xent.get` refuses.
    """

    def __init__(self, network: nn.Module, loss: Loss | LossSpec, optimizer: OptimizerCallable | None = None) -> None:
        super().__init__()
        self.network = network
        self.loss = get(loss)
        if self.loss.reduction == "none":
            raise ValueError('loss must have the reduction "mean", "weighted_mean" or "sum", got "none"')
        self.optimizer = optimizer
        self.train_loss, self.val_loss, self.test_loss = (EpochLoss(self.loss.reduction == "sum") for _ in range(3))

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._step("train_loss", self.train_loss, batch)

    def validation_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._step("val_loss", self.val_loss, batch)

    def test_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._step("test_loss", self.test_loss, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        build = torch.optim.AdamW if self.optimizer is None else self.optimizer
        return build(self.parameters())

    def _step(self, name: str, epoch_loss: EpochLoss, batch: Any) -> Tensor:
        inputs, target, *weights = batch
        total, denominator = self.loss.parts(self(inputs), target, *weights)
        epoch_loss.update(total, denominator)
        self.log(name, epoch_loss, on_step=False, on_epoch=True, prog_bar=True)
        return quotient(total, denominator)
