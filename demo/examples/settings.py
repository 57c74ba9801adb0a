"""The settings of an example, read from the YAML config of the Lightning side: one file describes both sides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LAST_LAYER = "demo.examples.torch_networks.LastLayer"


@dataclass(frozen=True)
class ExampleSettings:
    """What the Keras side needs to train as the Lightning side does. `loss` is a spec.

    `layer` has the size of the last layer, where that has the loss: in_features, classes and bias; else None.
    """

    name: str
    seed: int
    batch_size: int
    epochs: int
    network: str
    network_arguments: dict[str, Any]
    loss: dict[str, Any]
    optimizer: str
    optimizer_arguments: dict[str, Any]
    layer: dict[str, Any] | None = None


def read(path: Path, epochs: int | None = None, seed: int | None = None) -> ExampleSettings:
    """Return the settings in the config of an example; `epochs` and `seed` replace its own, if not None."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network, loss, optimizer = model["network"], model["loss"], model["optimizer"]
    layer = None
    if loss["class_path"] == LAST_LAYER:
        given, loss = loss["init_args"], loss["init_args"]["loss"]
        layer = {"in_features": given["in_features"], "classes": given["classes"], "bias": given["bias"]}
    seed = data["seed"] if seed is None else seed
    return ExampleSettings(
        data["name"],
        seed,
        data["batch_size"],
        config["trainer"]["max_epochs"] if epochs is None else epochs,
        network["class_path"],
        network["init_args"] | {"seed": seed},
        {"loss": loss["class_path"].removeprefix("lightning_xent."), "config": loss.get("init_args", {})},
        optimizer["class_path"],
        optimizer["init_args"],
        layer,
    )
