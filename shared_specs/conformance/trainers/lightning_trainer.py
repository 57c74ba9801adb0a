"""Lightning's Trainer, with a module as its tutorials write it and with `XentModule`."""

import logging
import warnings
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_xent
from lightning_xent.lightning import XentModule
from shared_specs.conformance.trainers import step, torch_step


class Module(LightningModule):
    """Returns the mean of each micro-batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = nn.CrossEntropyLoss(ignore_index=-100)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Return the mean, which the Trainer divides by the number of micro-batches."""
        inputs, labels = batch
        value: Tensor = self.loss(self.network(inputs), labels)
        return value

    def configure_optimizers(self) -> Any:
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trained(module: Any, scenario: str) -> Any:
    """Train for one step."""
    trainer = Trainer(
        accelerator="cpu",
        devices=torch_step.PROCESSES,
        strategy="ddp" if torch_step.PROCESSES > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=step.MICRO_BATCHES,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(torch_step.batches(scenario), batch_size=None))
    return torch_step.gradient(module.network)


def native(scenario: str) -> Any:
    """Train the module above."""
    return trained(Module(torch_step.network()), scenario)


def ours(scenario: str) -> Any:
    """Train `XentModule`."""
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=1.0)  # noqa: E731
    return trained(XentModule(torch_step.network(), loss, sgd), scenario)


def main() -> None:
    """Print the rows of this trainer."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    step.report("Lightning's Trainer", "`CrossEntropyLoss`", native, ours, ["lightning", "torch"])
    torch_step.leave_group()
