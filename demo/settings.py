"""The settings of a run, read from the YAML config of the Lightning side: one file describes both sides."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parent / "configs"
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Settings:
    """What the Keras side needs to train as the Lightning side does; the names are those of the config."""

    name: str
    batch_size: int
    seed: int
    sizes: list[int]
    max_epochs: int
    optimizer: str
    optimizer_arguments: dict[str, Any]


def config_path(data: str, optimizer: str) -> Path:
    """Return the config of a data set and an optimizer."""
    return CONFIGS / f"{data}_{optimizer}.yaml"


def read(path: Path, **instead: Any) -> Settings:
    """Return the settings that a LightningCLI config of this demo holds; `instead` replaces some, if not None."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    settings = Settings(
        **data,
        sizes=model["network"]["init_args"]["sizes"],
        max_epochs=config["trainer"]["max_epochs"],
        optimizer=model["optimizer"]["class_path"],
        optimizer_arguments=model["optimizer"]["init_args"],
    )
    return replace(settings, **{name: value for name, value in instead.items() if value is not None})
