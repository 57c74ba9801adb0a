"""Train every run of trajectories.py in Lightning.

Run as `python lightning_trajectories.py FILE`, in the demo environment.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader

import lightning_xent
from demo.lightning_parts import Perceptron, quiet
from lightning_xent.module import XentModule
from shared_specs.common.spec import public_classes
from trajectories import OPTIMIZERS, SEED, write


class Recorder(Callback):
    """Records the loss of each batch before its step, without its part in it: XentModule logs epochs."""

    def __init__(self):
        self.losses = []

    @torch.no_grad()
    def on_train_batch_start(self, trainer, module, batch, batch_index):
        inputs, target, *weights = batch
        self.losses.append(module.loss(module(inputs), target, *weights).item())


def train(run):
    """Train by a Trainer."""
    network = Perceptron(run.sizes, SEED, run.setup.cosine).to(getattr(torch, run.dtype))
    optimizer = partial(getattr(torch.optim, run.optimizer), **OPTIMIZERS[run.optimizer])
    module = XentModule(network, run.spec, optimizer)
    recorder = Recorder()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[recorder],
    )
    batches = [tuple(map(torch.from_numpy, batch)) for batch in run.batches()]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    # A kernel of Keras is the transposed weight.
    return recorder.losses, [parameter.detach().numpy().T for parameter in network.parameters()]


if __name__ == "__main__":
    quiet()
    warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`")
    classes = list(public_classes(lightning_xent))
    write(Path(sys.argv[1]), train, classes)
