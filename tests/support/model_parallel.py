"""Train with classes sharded over two processes: `python model_parallel.py FILE` writes weights and what was logged."""

import json
import os
import sys
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.utils.data import DataLoader, TensorDataset

from lightning_xent import CategoricalCrossEntropy, LinearLoss
from lightning_xent.module import XentModule

CLASSES = 7


class ShardedLogits(XentModule):
    """A network whose last layer, `classes`, returns a DTensor."""

    def configure_model(self):
        plan = {"classes": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)}
        parallelize_module(self.network, self.device_mesh["tensor_parallel"], plan)


class ShardedLinear(XentModule):
    """A network that returns hidden states, for a `LinearLoss` whose weight is a DTensor."""

    def configure_model(self):
        def shard(name, layer, mesh):
            for key, parameter in list(layer.named_parameters(recurse=False)):
                setattr(layer, key, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))

        def replicate(layer, inputs, mesh):
            return DTensor.from_local(inputs[0], mesh, [Replicate()]), *inputs[1:]

        distribute_module(self.head, self.device_mesh["tensor_parallel"], shard, replicate)


def train(devices, kind):
    """Train a network that returns "logits", or one for a "linear" loss; return its weights and what was logged."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    loss = CategoricalCrossEntropy(ignore_index=3, label_smoothing=0.1, class_weight=[1.0, 2.0] * 3 + [1.0])
    layer = nn.Linear(6, CLASSES)
    if kind == "linear":
        head = LinearLoss(6, CLASSES, loss)
        head.load_state_dict(layer.state_dict(), strict=False)
        loss = head
    else:
        network.add_module("classes", layer)
    kinds = {"logits": ShardedLogits, "linear": ShardedLinear}
    module = (kinds[kind] if devices > 1 else XentModule)(
        network, loss, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5)
    )
    data = DataLoader(TensorDataset(torch.randn(16, 5), torch.arange(16) % CLASSES), batch_size=4)
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=devices) if devices > 1 else "auto"
    quiet = {
        "use_distributed_sampler": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
    }
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_epochs=2, enable_model_summary=False, **quiet
    )
    trainer.fit(module, data, data)
    layer = module.network.classes if kind == "logits" else module.head
    assert devices == 1 or all(isinstance(each, DTensor) for each in layer.parameters())
    found = [*module.network[0].parameters(), *layer.parameters()]
    found = [each.full_tensor() if isinstance(each, DTensor) else each for each in found]
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return [each.tolist() for each in found], logged


if __name__ == "__main__":
    found = [train(2, kind) for kind in ("logits", "linear")]
    if os.environ.get("LOCAL_RANK", "0") == "0":  # Lightning runs this file in the second process too
        Path(sys.argv[1]).write_text(json.dumps(found), encoding="utf-8")
