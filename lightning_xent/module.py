"""The LightningModule: a network trained on one of the losses."""

import math
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

    The gradient of a step is that of its loss over all rows that the step sees, whatever `accumulate_grad_batches` and
    the number of devices are: each micro-batch gives its sum, and `on_before_optimizer_step` divides by the denominator
    of all, after fp16's unscaling and before clipping. A Trainer alone averages means, which is another number where
    rows are ignored or weighted, and where the last accumulation of an epoch is short. Callbacks see gradients
    before that division; a module that overrides the hook calls it by `super()`.

    Batches are `(inputs, target)` or `(inputs, target, sample_weight)`. `train_loss`, `val_loss` and `test_loss`
    are logged for the whole epoch: the loss of all its rows, whatever the batches, NaN included.

    Args:
        network: Maps inputs to what the loss takes, logits by default.
        loss: A loss, or its spec `{"loss": CLASS, "config": {...}}`; its reduction is not "none".
        optimizer: Builds the optimizer from the parameters. None: torch.optim.AdamW with its defaults, which
            another optimizer named in a config must not inherit.

    Raises:
        ValueError: A loss that does not reduce, or a spec that `lightning_xent.get` refuses.
            At the first step, a strategy of the Trainer that accumulates gradients by itself, as DeepSpeed's does.
    """

    def __init__(self, network: nn.Module, loss: Loss | LossSpec, optimizer: OptimizerCallable | None = None) -> None:
        super().__init__()
        self.network = network
        self.loss = get(loss)
        if self.loss.reduction == "none":
            raise ValueError('loss must have the reduction "mean", "weighted_mean" or "sum", got "none"')
        self.optimizer = optimizer
        self._unit: float | None = None
        self._denominator: Tensor | None = None
        self.train_loss, self.val_loss, self.test_loss = (EpochLoss(self.loss.reduction == "sum") for _ in range(3))

    def forward(self, inputs: Any) -> Tensor:
        return self.network(inputs)

    def on_train_epoch_start(self) -> None:
        """Forget the rows of an accumulation that was interrupted, as Lightning forgets its gradients."""
        self._denominator = None

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        total, denominator = self._parts("train_loss", self.train_loss, batch)
        self._denominator = denominator if self._denominator is None else self._denominator + denominator
        return total / self._unit_of(denominator)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradient that of the loss over all rows of the step: see the class."""
        factor = self._factor()
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                parameter.grad.mul_(factor)

    def validation_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._step("val_loss", self.val_loss, batch)

    def test_step(self, batch: Any, batch_index: int) -> Tensor:
        return self._step("test_loss", self.test_loss, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        build = torch.optim.AdamW if self.optimizer is None else self.optimizer
        return build(self.parameters())

    def _step(self, name: str, epoch_loss: EpochLoss, batch: Any) -> Tensor:
        return quotient(*self._parts(name, epoch_loss, batch))

    def _parts(self, name: str, epoch_loss: EpochLoss, batch: Any) -> tuple[Tensor, Tensor]:
        inputs, target, *weights = batch
        total, denominator = self.loss.parts(self(inputs), target, *weights)
        epoch_loss.update(total, denominator)
        self.log(name, epoch_loss, on_step=False, on_epoch=True, prog_bar=True)
        return total, denominator

    def _unit_of(self, denominator: Tensor) -> float:
        """Return a power of 2, the same on all devices, that makes sums about as large as means: float16 needs it."""
        if self._unit is None:
            strategy = self.trainer.strategy
            if strategy.handles_gradient_accumulation:
                name = type(strategy).__name__
                raise ValueError(f"strategy must leave the accumulation of gradients to the Trainer, got {name}")
            self._unit = strategy.broadcast(2.0 ** round(math.log2(max(1.0, denominator.item()))))
        return self._unit

    def _factor(self) -> Tensor:
        """Return what the gradients lack: Lightning has averaged them over micro-batches and devices."""
        assert self._unit is not None and self._denominator is not None
        denominator, self._denominator = self._denominator, None
        averaged = torch.full_like(
            denominator, self._unit * self.trainer.accumulate_grad_batches * self.trainer.world_size
        )
        if self.loss.reduction == "sum":
            return averaged
        return quotient(averaged, self.trainer.strategy.reduce(denominator, reduce_op="sum"))
