"""A loop of Accelerate, with `accelerator.accumulate` and with the rows of the step."""

from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

import lightning_xent
from shared_specs.conformance.trainers import step, torch_step


def prepared(accelerator: Accelerator) -> Any:
    """The network and its optimizer, for all processes."""
    linear = torch_step.network()
    return accelerator.prepare(linear, torch.optim.SGD(linear.parameters(), lr=1.0))


def native(scenario: str) -> Any:
    """Let Accelerate divide each mean by the number of micro-batches."""
    loss = nn.CrossEntropyLoss(ignore_index=-100)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=step.MICRO_BATCHES)
    network, optimizer = prepared(accelerator)
    for inputs, labels in torch_step.batches(scenario):
        with accelerator.accumulate(network):
            accelerator.backward(loss(network(inputs), labels))
            optimizer.step()
            optimizer.zero_grad()
    return torch_step.gradient(network)


def ours(scenario: str) -> Any:
    """Divide by the mean number of rows of a device, because devices average their gradients."""
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    batches, (network, optimizer) = torch_step.batches(scenario), prepared(accelerator)
    rows = sum((labels != loss.ignore_index).sum() for _, labels in batches)
    rows = accelerator.reduce(rows.double(), reduction="mean")
    for index, (inputs, labels) in enumerate(batches):
        is_last = index + 1 == len(batches)
        with nullcontext() if is_last else accelerator.no_sync(network):
            accelerator.backward(loss(network(inputs), labels, denominator=rows))
    optimizer.step()
    return torch_step.gradient(network)


def main() -> None:
    """Print the rows of this trainer."""
    step.report("Accelerate", "`CrossEntropyLoss`", native, ours, ["accelerate", "torch"])
    torch_step.leave_group()
