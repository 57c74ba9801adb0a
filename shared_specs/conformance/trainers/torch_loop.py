"""A loop of plain torch; with several processes, in DistributedDataParallel."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import lightning_xent
from shared_specs.conformance.trainers import step, torch_step


def native(scenario: str) -> Any:
    """Divide the mean of each micro-batch by their number."""
    loss = nn.CrossEntropyLoss(ignore_index=-100)
    batches, network = torch_step.batches(scenario), prepared()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    for index, (inputs, labels) in enumerate(batches):
        with synchronised(network, index + 1 == len(batches)):
            (loss(network(inputs), labels) / len(batches)).backward()
    optimizer.step()
    return torch_step.gradient(network)


def ours(scenario: str) -> Any:
    """Divide the sum of each micro-batch by the rows of the step."""
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-100)
    batches, network = torch_step.batches(scenario), prepared()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    rows = sum((labels != loss.ignore_index).sum() for _, labels in batches)
    if torch_step.PROCESSES > 1:
        distributed.all_reduce(rows)
        rows = rows / torch_step.PROCESSES
    for index, (inputs, labels) in enumerate(batches):
        with synchronised(network, index + 1 == len(batches)):
            loss(network(inputs), labels, denominator=rows).backward()
    optimizer.step()
    return torch_step.gradient(network)


def prepared() -> nn.Module:
    """The network, for all processes."""
    network = torch_step.network()
    return DistributedDataParallel(network) if torch_step.PROCESSES > 1 else network


def synchronised(network: Any, is_last: bool) -> Any:
    """Let devices exchange gradients after the last micro-batch only."""
    return nullcontext() if is_last or torch_step.PROCESSES == 1 else network.no_sync()


def main() -> None:
    """Print the rows of this trainer."""
    name = "torch"
    if torch_step.PROCESSES > 1:
        distributed.init_process_group("gloo")
        name = "torch, DistributedDataParallel"
    step.report(name, "`CrossEntropyLoss` / 3", native, ours, ["torch"])
    torch_step.leave_group()
