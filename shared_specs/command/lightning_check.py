"""`xent check CONFIG.yaml`: what `check_model` finds in the module and the data of a LightningCLI config."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lightning_xent
from lightning_xent.base import Loss
from lightning_xent.check import ACTIVATIONS, problems_of_model
from shared_specs.command import report, sources
from shared_specs.command.report import Report
from shared_specs.common import guard, porting

SECTIONS = ("seed_everything", "trainer", "model", "data", "optimizer", "lr_scheduler")
OF_LIGHTNING = re.compile(r"\blightning\.pytorch\b|\blightning_xent\.lightning\b")
"""Classes of the distribution `lightning`, which has a LightningCLI of its own."""


def check(path: Path, data: str | None) -> Report:
    """Return what was found.

    Args:
        path: The config.
        data: The MODULE:NAME of a LightningDataModule class that the config does not name, of a batch, of a DataLoader
            or of a function that returns one of them; or an NPZ file.
    """
    text, found = path.read_text(encoding="utf-8"), Report()
    given = None if data is None or data.endswith(".npz") else report.named_object("--data", data)
    is_class = inspect.isclass(given)
    report.see_working_directory()
    module, datamodule, callbacks = _built(text, path, given if is_class else None)
    loss = _loss_of(module)
    if data is not None and not is_class:
        batch, where = _given_batch(data, given), data
    else:
        batch, where = _first_batch(module, datamodule, loss, found)
    keyword = loss._weight_of_classes()
    for callback in callbacks if keyword is not None else ():
        if type(callback).__name__ == "ClassWeighting" and callback.start_epoch == 0:
            found.problems.append(
                f"{type(loss).__name__} has {keyword}, and the callback ClassWeighting replaces it: leave one of the "
                "two out"
            )
    if batch is None:
        _without_batch(module, loss, found)
    else:
        doubts, others = problems_of_model(module, loss, batch)
        found.problems += doubts + others
        found.checked.append(f"{loss!r} of {type(module).__name__}: {where}")
    return found


def _built(text: str, path: Path, data_class: Any) -> tuple[Any, Any, list[Any]]:
    """Return the module, the datamodule and the callbacks of a config. No Trainer is built."""
    content = sources.yaml().safe_load(text)
    if isinstance(content, Mapping) and isinstance(content.get("fit"), Mapping):
        content = content["fit"]
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ValueError(f"{path} must be a config of LightningCLI, with a mapping as its model")
    if OF_LIGHTNING.search(text):
        from lightning.pytorch.cli import LightningCLI

        from lightning_xent.lightning import XentModule
    else:
        from pytorch_lightning.cli import LightningCLI  # type: ignore[assignment]

        from lightning_xent.module import XentModule  # type: ignore[assignment]

    class Parts(LightningCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            self.config = parser.parse_object(args)

        def instantiate_trainer(self, **_: Any) -> Any:
            return None

    model, data = content["model"], content.get("data")
    if isinstance(data, Mapping) and "class_path" not in data and data_class is None:
        raise ValueError(f"data of {path} has no class_path: name its class by --data MODULE:CLASS")
    torch.manual_seed(0)
    given = {section: content[section] for section in SECTIONS if section in content}
    program = Parts(
        model_class=None if "class_path" in model else XentModule,
        datamodule_class=None if isinstance(data, Mapping) and "class_path" in data else data_class,
        save_config_callback=None,
        seed_everything_default=False,
        parser_kwargs={"exit_on_error": False},
        run=False,
        args=given,
    )
    callbacks = program.config_init.trainer.callbacks or []
    return program.model, program.datamodule, callbacks if isinstance(callbacks, list) else [callbacks]


def _loss_of(module: nn.Module) -> Loss:
    """Return the loss of a module: that of XentModule, or its only attribute that is a loss of ours or of torch."""
    loss = getattr(module, "loss", None)
    if isinstance(loss, Loss):
        return loss
    kinds = tuple(getattr(nn, name) for name in (*porting.TORCH, *porting.NOT_OF_TORCH) if hasattr(nn, name))
    found = {name: child for name, child in module.named_children() if isinstance(child, (Loss, *kinds))}
    if len(found) != 1:
        raise ValueError(
            f"{type(module).__name__} must have one loss of lightning_xent or torch.nn as an attribute, got "
            f"{', '.join(found) or 'none'}"
        )
    (loss,) = found.values()
    return loss if isinstance(loss, Loss) else lightning_xent.from_torch(loss)  # type: ignore[return-value]


def _first_batch(module: Any, datamodule: Any, loss: Loss, found: Report) -> tuple[Any, str]:
    """Return the first training batch and where it is from; None if there is no data."""
    owner = module if datamodule is None else datamodule
    base: Any = next(kind for kind in type(module).__mro__ if kind.__name__ == "LightningModule")
    if datamodule is None and type(module).train_dataloader is base.train_dataloader:
        found.unchecked.append(
            "labels, weights and values: the config names no data; name the class by --data MODULE:CLASS"
        )
        return None, ""
    if datamodule is not None:
        datamodule.prepare_data()
        datamodule.setup("fit")
    loader = owner.train_dataloader()
    sampler = getattr(loader, "sampler", None)
    if loss._weight_of_classes() is not None and isinstance(sampler, torch.utils.data.WeightedRandomSampler):
        found.problems.append(
            f"{type(loss).__name__} has {loss._weight_of_classes()}, and a WeightedRandomSampler draws the rows: where "
            "its weights are those of the classes too, leave one of the two out"
        )
    return next(iter(loader)), f"the first batch of {type(owner).__name__}.train_dataloader()"


def _given_batch(data: str, given: Any) -> Any:
    """Return a batch, or the first of the data."""
    if data.endswith(".npz"):
        arrays = report.arrays_of(Path(data))
        tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
        if tensors["inputs"].is_floating_point():
            tensors["inputs"] = tensors["inputs"].to(torch.get_default_dtype())
        names = report.PARTS[: max(map(report.PARTS.index, tensors)) + 1]
        return tuple(tensors.get(name) for name in names)
    given = given() if callable(given) else given
    return given if isinstance(given, tuple | Mapping) else next(iter(given))


def _without_batch(module: Any, loss: Loss, found: Report) -> None:
    """Check the last layer of a network that is an nn.Sequential."""
    last = getattr(module, "network", module)
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    activation = ACTIVATIONS.get(type(last))
    if activation is None:
        found.unchecked.append("the activation at the end of the network: only a batch, or an nn.Sequential, shows it")
        return
    has_classes = isinstance(loss, lightning_xent.categorical.CategoricalLoss)
    doubt = guard.of_activation(activation, has_classes=has_classes, from_logits=loss.from_logits)
    found.checked.append(f"{loss!r} of {type(module).__name__}: the last layer of its network")
    found.problems += [f"{type(loss).__name__} {doubt}"] if doubt else []
