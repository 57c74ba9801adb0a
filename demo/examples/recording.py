"""What a side records of an example, and the JSON file in which it tells the driver."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demo.data import Split
from demo.examples.example import Example, Observed

FIRST_STEPS = 5
"""Steps that are done once more with all logits in memory."""

IN_CHUNKS, WHOLE = "in chunks", "all logits"
"""Names of the two ways to compute a last layer with its loss."""


@dataclass
class Record:
    """Losses and observations of one side.

    Args:
        framework: Name and version, for titles and tables.
        train_losses: Loss over each epoch, while the weights change.
        test_losses: Loss of the test rows, before the first epoch and after each.
        observed: What `Example.observe` returned after the last epoch.
        first_steps: Where the last layer has the loss: the losses of the first steps, as trained and by all logits.
        memory: The most bytes that loss and gradients of the last layer take in a step, likewise; None: not measured.
    """

    framework: str
    train_losses: list[float] = field(default_factory=list)
    test_losses: list[float] = field(default_factory=list)
    observed: Observed = field(default_factory=dict)
    first_steps: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int | None] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Record":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class RecorderOfSide(ABC):
    """Fills a record, epoch by epoch: what the callbacks of both sides share. They know how to call their network."""

    example: Example
    split: Split
    batch_size: int
    record: Record

    @abstractmethod
    def logits(self, inputs: NDArray) -> NDArray:
        """Return the logits of a batch, the class axis last."""

    def observe(self) -> None:
        """Record what the example wants to know of the trained network."""
        self.record.observed = self.example.observe(self._all_logits, self.split)

    def _all_logits(self, inputs: NDArray) -> NDArray:
        starts = range(0, len(inputs), self.batch_size)
        return np.concatenate([self.logits(inputs[start : start + self.batch_size]) for start in starts])
