"""The network and the micro-batches of the step as torch has them."""

import gc
from typing import Any

import torch
from torch import nn

from shared_specs.conformance.trainers import step

PROCESSES = step.DEVICES


def network() -> nn.Linear:
    """The linear network before the step, in float64."""
    linear = nn.Linear(step.FEATURES, step.CLASSES, bias=False, dtype=torch.float64)
    linear.weight.data.copy_(torch.from_numpy(step.kernel().T))
    return linear


def batches(scenario: str) -> Any:
    """The micro-batches of this process."""
    of_device = step.batches(scenario, step.RANK, PROCESSES)
    return [(torch.from_numpy(inputs), torch.from_numpy(labels)) for inputs, labels in of_device]


def gradient(linear: nn.Module) -> step.Floats:
    """The gradient [FEATURES, CLASSES] by which SGD(lr=1) has moved the network."""
    (weight,) = linear.parameters()
    return step.kernel() - weight.detach().numpy().T


def leave_group() -> None:
    """Leave the process group, if there is one.

    A module of DistributedDataParallel must be gone by then: it would wait for the group's threads and hold the lock of
    Python, which they may need.
    """
    if PROCESSES > 1:
        gc.collect()
        torch.distributed.destroy_process_group()
