"""What the LightningCLI config of an example names, its rows, and the callback that records a run."""

import copy
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer

from benchmarks import memory
from demo.data import Split
from demo.examples import EXAMPLES
from demo.examples.recording import FIRST_STEPS, IN_CHUNKS, WHOLE, Record, RecorderOfSide
from demo.lightning_parts import FRAMEWORK, DemoData, logits_of


class ExampleData(DemoData):
    """The rows of an example in batches, in the same order every epoch; images [N, 1, H, W].

    Args:
        name: Name of the example.
        batch_size: Rows a batch.
        seed: Seed of the split and of the order of the rows.
    """

    def __init__(self, name: str, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(name, batch_size, seed)
        self.name = name

    @staticmethod
    def load(name: str, seed: int) -> Split:
        return EXAMPLES[name].load(seed)

    def _batches(self, inputs: NDArray, target: NDArray) -> torch.utils.data.DataLoader:
        return super()._batches(channels_first(inputs), target)


class ExampleRecorder(RecorderOfSide, Callback):
    """Record the losses of each epoch, and what the example observes.

    Args:
        path: JSON file to write.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.record = Record(FRAMEWORK)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = trainer.datamodule
        self.module = pl_module
        self.example, self.split, self.batch_size = EXAMPLES[data.name], data.split, data.batch_size

    def logits(self, inputs: NDArray) -> NDArray:
        axis = self.module.loss.axis
        return np.moveaxis(logits_of(self.module, channels_first(inputs)).numpy(), 1 if axis is None else axis, -1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.head is not None:
            batches = list(islice(trainer.datamodule.train_dataloader(), FIRST_STEPS))
            self.record.memory = memory_of(pl_module, *batches[0])
            self.record.first_steps = {IN_CHUNKS: [], WHOLE: steps_of_all_logits(pl_module, batches)}
        batches = ((pl_module(inputs), target) for inputs, target in trainer.datamodule.val_dataloader())
        with torch.no_grad():
            total, denominator = np.sum([pl_module.loss.parts(*batch) for batch in batches], axis=0)
        self.record.test_losses.append(float(total / denominator))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        losses = self.record.first_steps.get(IN_CHUNKS)
        if losses is not None and len(losses) < len(self.record.first_steps[WHOLE]):
            losses.append(trainer.callback_metrics["train_loss_step"].item())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record.train_losses.append(trainer.callback_metrics["train_loss"].item())
        self.record.test_losses.append(trainer.callback_metrics["val_loss"].item())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.observe()
        self.record.write(Path(self.path))


def steps_of_all_logits(module: LightningModule, batches: list[list[torch.Tensor]]) -> list[float]:
    """Return the loss of each step, by the loss of all logits; `module` stays as it is."""
    module = copy.deepcopy(module)
    optimizer, losses = module.configure_optimizers(), []
    for inputs, target in batches:
        loss = module.loss(module(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def memory_of(module: LightningModule, inputs: torch.Tensor, target: torch.Tensor) -> dict[str, int | None]:
    """Return the most memory that loss and gradients of the last layer take, by torch's allocator."""
    layer = module.head
    with torch.no_grad():
        hidden = module.network(inputs)
    hidden.requires_grad_()
    wanted = [hidden, *layer.parameters()]
    steps = {
        IN_CHUNKS: lambda: torch.autograd.grad(layer(hidden, target), wanted),
        WHOLE: lambda: torch.autograd.grad(module.loss(layer.logits(hidden), target), wanted),
    }
    return {name: memory.torch_cpu(step) for name, step in steps.items()}


def channels_first(inputs: NDArray) -> NDArray:
    """Return images [N, H, W, C] as [N, C, H, W], and other inputs as they are."""
    return np.ascontiguousarray(np.moveaxis(inputs, -1, 1)) if inputs.ndim == 4 else inputs
