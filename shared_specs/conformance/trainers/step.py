"""The step that every trainer takes: its rows, its right gradient, and how far a gradient is from that.

A step has three micro-batches of eight rows. With two devices, each has half of the rows of every micro-batch.
"""

import importlib.metadata
import json
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Batches = list[tuple[Floats, NDArray[np.int64]]]
"""The inputs [rows, FEATURES] and labels [rows] of each micro-batch."""

RANK, DEVICES = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
"""The process, and the number of devices, as torchrun sets them. The devices of Keras share a process."""

MICRO_BATCHES, HALF = 3, 4
CLASSES, FEATURES, IGNORED = 4, 3, -100
SCENARIOS = {
    "even": ((4, 4), (4, 4), (4, 4)),
    "uneven": ((4, 3), (1, 1), (1, 2)),
    "gap": ((4, 3), (0, 0), (1, 2)),
}
"""Number of rows that count in each half of each micro-batch. The labels of the others are ignored."""


def batches(scenario: str, device: int = 0, devices: int = 1) -> Batches:
    """The micro-batches of one of one or two devices."""
    generator = np.random.default_rng(0)
    result = []
    for counts in SCENARIOS[scenario]:
        halves = []
        for count in counts:
            inputs = generator.normal(size=(HALF, FEATURES))
            labels = generator.integers(0, CLASSES, HALF)
            halves.append((inputs, np.where(np.arange(HALF) < count, labels, IGNORED)))
        inputs, labels = (np.concatenate(parts) for parts in zip(*halves, strict=True))
        rows = slice(device * 2 * HALF // devices, (device + 1) * 2 * HALF // devices)
        result.append((inputs[rows], labels[rows]))
    return result


def kernel() -> Floats:
    """The kernel [FEATURES, CLASSES] of the linear network before the step."""
    return np.random.default_rng(1).normal(size=(FEATURES, CLASSES))


def wanted(scenario: str) -> Floats:
    """The gradient [FEATURES, CLASSES] of the mean cross-entropy of all rows of the step that count."""
    inputs, labels = (np.concatenate(parts) for parts in zip(*batches(scenario), strict=True))
    inputs, labels = inputs[labels != IGNORED], labels[labels != IGNORED]
    power = np.exp(inputs @ kernel())
    return inputs.T @ (power / power.sum(-1, keepdims=True) - np.eye(CLASSES)[labels]) / len(labels)


def compared(gradient: Any, want: Any) -> dict[str, Any]:
    """The least-squares factor of a gradient over the right one, and the part of it that no factor explains.

    The deviation is the norm of the rest, relative to that of the gradient: the sine of the angle between both.
    """
    gradient, want = np.asarray(gradient, "float64").ravel(), np.asarray(want, "float64").ravel()
    factor = gradient @ want / (want @ want)
    deviation = np.linalg.norm(gradient - factor * want) / np.linalg.norm(gradient)
    return {"factor": number(factor), "deviation": number(deviation)}


def number(value: Any) -> Any:
    """A number with 9 digits, for JSON, which has no NaN."""
    return float(f"{value:.9g}") if np.isfinite(value) else "NaN"


def report(
    trainer: str,
    loss: str,
    native: Callable[[str], Any],
    ours: Callable[[str], Any],
    packages: Sequence[str],
    right: Callable[[str], Any] = wanted,
    micro_batches: int = MICRO_BATCHES,
) -> None:
    """Take the step with both losses in all scenarios; the first process prints a line of JSON.

    Args:
        trainer: What trains, as the table names it.
        loss: The native loss, as it is written.
        native: Takes the step with it in a scenario, and returns the gradient.
        ours: The same with ours. It may not raise.
        packages: The distributions whose versions count.
        right: The gradient of all rows at once.
        micro_batches: Number of batches that the native loss sees on each device.
    """
    row: dict[str, Any] = {"trainer": trainer, "devices": DEVICES}
    row |= {"micro_batches": micro_batches, "loss": loss, "native": {}, "ours": {}}
    for scenario in SCENARIOS:
        try:
            row["native"][scenario] = compared(native(scenario), right(scenario))
        except Exception as error:
            text = re.sub(r"\x1b\[\d*m", "", f"{type(error).__name__}: {error}")
            row["native"][scenario] = {"error": textwrap.shorten(text, 150, placeholder=" ...")}
        row["ours"][scenario] = compared(ours(scenario), right(scenario))
    row["versions"] = {name: importlib.metadata.version(name).split("+")[0] for name in packages}
    if RANK == 0:
        print(json.dumps(row), flush=True)
