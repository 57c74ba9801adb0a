"""A loop of Fabric, as its guide to gradient accumulation writes it, and with the rows of the step."""

import logging
from typing import Any

import torch
from lightning import Fabric
from torch import nn

import lightning_xent
from shared_specs.conformance.trainers import step, torch_step


def launched() -> Any:
    """Fabric, for all processes, and the network and its optimizer."""
    fabric = Fabric(
        accelerator="cpu", devices=torch_step.PROCESSES, strategy="ddp" if torch_step.PROCESSES > 1 else "auto"
    )
    fabric.launch()
    linear = torch_step.network()
    return fabric, *fabric.setup(linear, torch.optim.SGD(linear.parameters(), lr=1.0))


def native(scenario: str) -> Any:
    """Add up the gradients of the means."""
    loss = nn.CrossEntropyLoss(ignore_index=-100)
    batches, (fabric, network, optimizer) = torch_step.batches(scenario), launched()
    for index, (inputs, labels) in enumerate(batches):
        is_accumulating = index + 1 < len(batches)
        with fabric.no_backward_sync(network, enabled=is_accumulating):
            fabric.backward(loss(network(inputs), labels))
    optimizer.step()
    return torch_step.gradient(network)


def ours(scenario: str) -> Any:
    """Divide by the mean number of rows of a device, because devices average their gradients."""
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    batches, (fabric, network, optimizer) = torch_step.batches(scenario), launched()
    rows = sum((labels != loss.ignore_index).sum() for _, labels in batches)
    rows = fabric.all_reduce(rows.double(), reduce_op="mean")
    for index, (inputs, labels) in enumerate(batches):
        is_accumulating = index + 1 < len(batches)
        with fabric.no_backward_sync(network, enabled=is_accumulating):
            fabric.backward(loss(network(inputs), labels, denominator=rows))
    optimizer.step()
    return torch_step.gradient(network)


def main() -> None:
    """Print the rows of this trainer."""
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    step.report("Fabric", "`CrossEntropyLoss`", native, ours, ["lightning", "torch"])
    torch_step.leave_group()
