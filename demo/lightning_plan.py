"""The Lightning side of an experiment: all its trainings, by a Trainer and lightning_xent.module.XentModule.

python -m demo.lightning_plan demo/output/noise/plan.json lightning.json
"""

import sys
import warnings
from functools import partial

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

import lightning_xent
from demo import data
from demo.lightning_parts import FRAMEWORK, Perceptron, logits_of, quiet
from demo.plan import Job, Outcome, OutcomeRecorder, Plan, train_all
from lightning_xent.callbacks import ClassWeighting
from lightning_xent.module import XentModule

OPTIMIZERS = {"torch.optim.SGD": torch.optim.SGD, "torch.optim.AdamW": torch.optim.AdamW}


class Recorder(OutcomeRecorder, Callback):
    """Record the test score after each epoch, and the training loss after the first and the last one."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.append_score(logits_of(pl_module, self.split.test_inputs).numpy())
        if trainer.current_epoch in self.epochs_of_losses:
            logits = logits_of(pl_module, self.split.train_inputs)
            self.outcome.losses.append(pl_module.loss(logits, torch.from_numpy(self.split.train_target)).item())


def train(plan: Plan, job: Job) -> Outcome:
    """Do one training of `plan`."""
    split, settings = plan.split(job), plan.settings
    network = Perceptron(settings.sizes, job.seed, job.cosine)
    optimizer = partial(OPTIMIZERS[settings.optimizer], **settings.optimizer_arguments)
    module = XentModule(network, lightning_xent.get(job.spec), optimizer)
    recorder = Recorder(plan, split)
    callbacks: list[Callback] = [recorder]
    if job.weighting is not None:
        target = torch.from_numpy(split.train_target)
        callbacks.append(ClassWeighting(target, classes=settings.sizes[-1], **job.weighting))
    trainer = Trainer(
        max_epochs=settings.max_epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=callbacks,
    )
    trainer.fit(module, batches(split, settings.batch_size))
    return recorder.outcome


def batches(split: data.Split, batch_size: int) -> DataLoader:
    """Return the training rows in their order; a batch is one index of the tensors, not a row at a time."""
    rows = TensorDataset(torch.from_numpy(split.train_inputs), torch.from_numpy(split.train_target))
    sampler = BatchSampler(SequentialSampler(rows), batch_size, drop_last=False)
    return DataLoader(rows, sampler=sampler, batch_size=None)


if __name__ == "__main__":
    quiet()
    # The scores are not those of a validation loop: they are the recorder's.
    warnings.filterwarnings("ignore", message=".*but have no `val_dataloader`")
    train_all(sys.argv[1:], FRAMEWORK, train)
