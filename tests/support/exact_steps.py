"""Train on uneven micro-batches and devices; compare gradient and loss of each step with those of all its rows at once.

Run as `python exact_steps.py DEVICES`; prints the worst difference of each setting, relative to the largest entry of
the gradient or to the loss, as JSON.
"""

import json
import logging
import os
import sys
import warnings

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset

import lightning_xent
from groups import leave_group
from lightning_xent.metrics import Report, predictions
from lightning_xent.module import XentModule
from ports import free_port

CLASSES, FEATURES, IGNORED, CLIP = 4, 3, -1, 0.05
BATCHES = 7
"""With 3 micro-batches to a step the last step of an epoch has one."""

LOSSES = {
    "plain": ("CategoricalCrossEntropy", {}),
    "ignored": ("CategoricalCrossEntropy", {"ignore_index": IGNORED}),
    "weighted": (
        "CategoricalFocalCrossEntropy",
        {"ignore_index": IGNORED, "class_weight": [0.1, 1, 9, 3], "reduction": "weighted_mean"},
    ),
    "sum": ("CategoricalCrossEntropy", {"reduction": "sum", "ignore_index": IGNORED}),
    "all ignored": ("CategoricalCrossEntropy", {"ignore_index": IGNORED}),
}
SETTINGS = [
    *((loss, accumulate, "32-true", None, "ddp") for loss in LOSSES for accumulate in (1, 3)),
    ("weighted", 3, "32-true", CLIP, "ddp"),
    ("weighted", 3, "16-mixed", None, "ddp"),
    ("weighted", 3, "16-mixed", CLIP, "ddp"),
    ("weighted", 3, "bf16-mixed", None, "ddp"),
    *((loss, 3, "32-true", None, "fsdp2") for loss in ("weighted", "sum")),
]
"""Loss, micro-batches to a step, precision, clipping, and the strategy of several devices."""


class Recorder(XentModule):
    """Keeps the gradients that the optimizer takes, after clipping."""

    def __init__(self, *given, **keywords):
        super().__init__(*given, **keywords)
        self.gradients, self.step_losses = [], []

    def log(self, name, value, **options):
        super().log(name, value, **options)
        if name == "train_loss_step":
            self.step_losses.append(value)

    def configure_gradient_clipping(self, optimizer, **options):
        super().configure_gradient_clipping(optimizer, **options)
        gradients = [parameter.grad for parameter in self.network.parameters()]
        whole = [part.full_tensor() if isinstance(part, DTensor) else part for part in gradients]
        self.gradients.append(torch.cat([part.flatten() for part in whole]))


class ShardedRecorder(Recorder):
    """The same, with the parameters spread over the devices."""

    def configure_model(self):
        fully_shard(self.network, mesh=self.device_mesh["data_parallel"])


def batches(device, loss):
    """Return the micro-batches of one device: uneven, and one of device 1 ignored as a whole."""
    generator = torch.Generator().manual_seed(device)
    result = []
    for index in range(BATCHES):
        rows = 2 + (3 * index + 5 * device) % 7
        inputs = torch.randn(rows, FEATURES, generator=generator)
        target = torch.randint(0, CLASSES, (rows,), generator=generator)
        if loss != "plain":
            is_whole = loss == "all ignored" or (device, index) == (1, 2)
            target[torch.rand(rows, generator=generator) < (1.0 if is_whole else 0.4)] = IGNORED
        result.append((inputs, target))
    return result


def network():
    torch.manual_seed(0)
    return nn.Linear(FEATURES, CLASSES)


def wanted(loss, accumulate, clip, devices):
    """Return the gradient and the loss of each step of an epoch, from all of its rows at once."""
    name, config = LOSSES[loss]
    whole, own = getattr(lightning_xent, name)(**config), network()
    of_devices = [batches(device, loss) for device in range(devices)]
    gradients, losses = [], []
    for first in range(0, BATCHES, accumulate):
        parts = [batch for of_device in of_devices for batch in of_device[first : first + accumulate]]
        inputs, target = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        losses.append(whole(own(inputs), target))
        found = torch.autograd.grad(losses[-1], list(own.parameters()))
        gradient = torch.cat([part.flatten() for part in found])
        gradients.append(gradient if clip is None else gradient * min(1.0, clip / (gradient.norm().item() + 1e-6)))
    return gradients, losses


def strategy_of(name, devices):
    if devices == 1:
        return "auto"
    if name == "ddp":
        return "ddp"
    return ModelParallelStrategy(devices, tensor_parallel_size=1, process_group_backend="gloo")


def difference(device, devices, loss, accumulate, precision, clip, strategy):
    name, config = LOSSES[loss]
    recorder = ShardedRecorder if strategy == "fsdp2" and devices > 1 else Recorder
    module = recorder(network(), {"loss": name, "config": config}, lambda parameters: torch.optim.SGD(parameters, 0.0))
    if precision == "16-mixed":
        scaled = {"plugins": [MixedPrecision(precision, "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))]}
    else:
        scaled = {"precision": precision}
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy_of(strategy, devices),
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **scaled,
    )
    trainer.fit(module, DataLoader(batches(device, loss), batch_size=None))
    gradients, losses = wanted(loss, accumulate, clip, devices)
    pairs = [*zip(module.gradients, gradients, strict=True), *zip(module.step_losses, losses, strict=True)]
    return max(((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item() for got, want in pairs)


class Unsized(IterableDataset):
    """Batches whose number nobody knows beforehand."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def epoch_difference(device, devices):
    """Return how far loss and metrics of a validation are from those of all rows; the last device has no batch."""
    name, config = LOSSES["weighted"]
    module = XentModule(network(), {"loss": name, "config": config})
    of_devices = [batches(each, "weighted")[: 3 + 2 * each] for each in range(devices)]
    if devices > 1:
        of_devices[-1] = []
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy_of("ddp", devices),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (got,) = trainer.validate(module, DataLoader(Unsized(of_devices[device]), batch_size=None), verbose=False)
    rows = [batch for of_device in of_devices for batch in of_device]
    inputs, target = (torch.cat(tensors) for tensors in zip(*rows, strict=True))
    logits, report = module(inputs), Report(False, CLASSES)
    report.update(predictions(module.loss, logits, target))
    want = report.compute() | {"loss": module.loss(logits, target)}
    return max(abs(got[f"val_{key}"] - value.item()) for key, value in want.items() if value.ndim == 0)


def run(device, devices, port, results):
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if devices > 1:
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": devices, "NODE_RANK": 0}
        os.environ |= {
            name: str(value) for name, value in (environment | {"RANK": device, "LOCAL_RANK": device}).items()
        }
    for setting in SETTINGS:
        found = difference(device, devices, *setting)
        if device == 0:
            results[", ".join(map(str, setting))] = found
    found = epoch_difference(device, devices)
    if device == 0:
        results["epoch"] = found
    if devices > 1:
        leave_group()


def main(devices):
    if devices == 1:
        results = {}
        run(0, 1, None, results)
    else:
        with multiprocessing.Manager() as manager:
            shared = manager.dict()
            multiprocessing.spawn(run, (devices, free_port(), shared), nprocs=devices)
            results = dict(shared)
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]))
