"""What a side hands to the driver: one JSON file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Result:
    """Losses, predictions and curves of one side.

    Args:
        framework: Name and version, for titles and tables.
        epoch_losses: Loss of the whole training set in one call, before the first epoch and after each.
        logged_losses: Loss of each epoch as the framework's own progress bar ends with it.
        predictions: Class of each test row.
        curves: Row loss over `curves.LOG_ODDS`, by name of the line.
        slopes: Its derivative, by name of the line; only on the side that differentiates it.
    """

    framework: str
    epoch_losses: list[float] = field(default_factory=list)
    logged_losses: list[float] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)
    curves: dict[str, list[float]] = field(default_factory=dict)
    slopes: dict[str, list[float]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Result":
        return cls(**json.loads(path.read_text(encoding="utf-8")))
