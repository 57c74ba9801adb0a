"""What a LightningCLI config of the demo names: the network, the data, and the callback that records a run."""

from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from demo import curves, data
from demo.result import Result


class Perceptron(nn.Sequential):
    """Dense layers with tanh between them; the last one gives logits.

    Args:
        sizes: Sizes of the input, of each hidden layer and of the output.
        seed: Seed of the initial weights.
    """

    def __init__(self, sizes: list[int], seed: int = 0) -> None:
        super().__init__(*self._layers(sizes, seed))

    @staticmethod
    def _layers(sizes: list[int], seed: int) -> Iterator[nn.Module]:
        for position, (kernel, bias) in enumerate(data.initial_weights(sizes, seed)):
            if position > 0:
                yield nn.Tanh()
            layer = nn.Linear(*kernel.shape)
            layer.weight.data = torch.from_numpy(kernel.T.copy())
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
        self.split = data.load(name, seed)
        self.batch_size = batch_size

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
        self.result = Result(f"Lightning {pytorch_lightning.__version__} (torch {torch.__version__.split('+')[0]})")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._append_epoch_loss(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._append_epoch_loss(trainer, pl_module)
        self.result.logged_losses.append(trainer.callback_metrics["train_loss"].item())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is None:
            return
        logits = _logits(pl_module, trainer.datamodule.split.test_inputs)
        self.result.predictions = data.predictions(logits.numpy())
        self._draw(pl_module.loss, logits.shape[1])
        self.result.write(Path(self.path))

    def _append_epoch_loss(self, trainer: Trainer, module: LightningModule) -> None:
        split = trainer.datamodule.split
        loss = module.loss(_logits(module, split.train_inputs), torch.from_numpy(split.train_target))
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


@torch.no_grad()
def _logits(module: LightningModule, inputs: NDArray) -> Tensor:
    module.eval()
    logits = module(torch.from_numpy(inputs))
    module.train()
    return logits
