"""What a LightningCLI config of the demo names: the network, the data, and the callback that records a run."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from demo import curves, data
from demo.result import Result

FRAMEWORK = f"Lightning {pytorch_lightning.__version__} (torch {torch.__version__.split('+')[0]})"


class CosineLinear(nn.Linear):
    """A linear layer that gives the cosines of its input and each row of its weight, without a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(functional.normalize(inputs, dim=-1), functional.normalize(self.weight, dim=-1))


class Perceptron(nn.Sequential):
    """Dense layers with tanh between them; the last one gives logits.

    Args:
        sizes: Sizes of the input, of each hidden layer and of the output.
        seed: Seed of the initial weights.
        cosine: Whether the last layer gives cosines of features and class vectors, in place of logits.
    """

    def __init__(self, sizes: list[int], seed: int = 0, cosine: bool = False) -> None:
        super().__init__(*self._layers(sizes, seed, cosine))

    @staticmethod
    def _layers(sizes: list[int], seed: int, cosine: bool) -> Iterator[nn.Module]:
        for position, (kernel, bias) in enumerate(data.initial_weights(sizes, seed)):
            if position > 0:
                yield nn.Tanh()
            is_last = position == len(sizes) - 2
            layer = CosineLinear(*kernel.shape) if cosine and is_last else nn.Linear(*kernel.shape)
            layer.weight.data = torch.from_numpy(kernel.T.copy())
            if layer.bias is not None:
                layer.bias.data = torch.from_numpy(bias)
            yield layer


class DemoData(LightningDataModule):
    """A data set of the demo in batches, in the same order every epoch.

    Args:
        name: "digits" or "breast_cancer".
        batch_size: Rows a batch.
        seed: Seed of the split and of the order of the rows.
    """

    def __init__(self, name: str, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.split = self.load(name, seed)
        self.batch_size = batch_size

    @staticmethod
    def load(name: str, seed: int) -> data.Split:
        return data.load(name, seed)

    def train_dataloader(self) -> DataLoader:
        return self._batches(self.split.train_inputs, self.split.train_target)

    def val_dataloader(self) -> DataLoader:
        return self._batches(self.split.test_inputs, self.split.test_target)

    def _batches(self, inputs: NDArray, target: NDArray) -> DataLoader:
        rows = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(target))
        return DataLoader(rows, self.batch_size, shuffle=False)


class Recorder(Callback):
    """Record the loss of the whole training set before training and after each epoch; write all at the end.

    Args:
        path: JSON file to write, or None for none.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self.result = Result(FRAMEWORK)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None:
            self._append_epoch_loss(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is None:
            return
        self._append_epoch_loss(trainer, pl_module)
        self.result.logged_losses.append(trainer.callback_metrics["train_loss"].item())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is None:
            return
        logits = logits_of(pl_module, trainer.datamodule.split.test_inputs)
        self.result.predictions = data.predictions(logits.numpy())
        self._draw(pl_module.loss, logits.shape[1])
        self.result.write(Path(self.path))

    def _append_epoch_loss(self, trainer: Trainer, module: LightningModule) -> None:
        split = trainer.datamodule.split
        loss = module.loss(logits_of(module, split.train_inputs), torch.from_numpy(split.train_target))
        self.result.epoch_losses.append(loss.item())

    def _draw(self, loss: nn.Module, outputs: int) -> None:
        log_odds = torch.tensor(curves.LOG_ODDS, requires_grad=True)  # [M]
        self._append_curve(curves.CURVE, loss.curve(log_odds), log_odds)
        rows = curves.row_by_row(loss)
        for line in curves.lines(loss.get_config(), outputs):
            logits = torch.tensor(line.logits, requires_grad=True)
            self._append_curve(line.name, rows(logits, torch.from_numpy(line.target)), logits, line.column, line.sign)

    def _append_curve(self, name: str, losses: Tensor, inputs: Tensor, column: int = 0, sign: int = 1) -> None:
        losses.sum().backward()
        self.result.curves[name] = losses.detach().flatten().tolist()
        self.result.slopes[name] = (sign * inputs.grad.reshape(len(inputs), -1)[:, column]).tolist()


def quiet() -> None:
    """Leave out what Lightning says on every run of this demo."""
    # At INFO, Lightning tells which accelerators it looked for and which seed it set, and gives tips for its products.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Worker processes would only cost time: the data is a tensor in memory.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Lightning 2.6 calls a name that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated")


@torch.no_grad()
def logits_of(module: LightningModule, inputs: NDArray) -> Tensor:
    module.eval()
    logits = module(torch.from_numpy(inputs))
    module.train()
    return logits
