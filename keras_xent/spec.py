"""Builds a loss from its spec, which JSON or YAML can hold."""

import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NotRequired, TypedDict

from keras_xent import arguments
from keras_xent.base import Loss


class LossSpec(TypedDict):
    """A loss as data: the name of a public class and its keywords."""

    loss: str
    config: NotRequired[dict[str, Any]]


def get(spec: LossSpec | str | Loss) -> Loss:
    """Return the loss that `spec` describes.

    Args:
        spec: `{"loss": CLASS, "config": {...}}`, with the name of a public class and its keywords, as
            `get_config()` returns them; the name alone; or a loss, which is returned unchanged. Numbers may be text,
            because PyYAML reads 1e-4 as text.

    Raises:
        ValueError: An unknown class or key, or a value that the loss does not accept.
        TypeError: A keyword that the loss does not have.
    """
    if isinstance(spec, Loss):
        return spec
    if isinstance(spec, str):
        spec = {"loss": spec}
    if not isinstance(spec, Mapping) or "loss" not in spec or not spec.keys() <= {"loss", "config"}:
        raise ValueError(f'spec must be a mapping with the keys "loss" and "config", got {spec!r}')
    classes = _classes()
    name, config = spec["loss"], spec.get("config") or {}
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"loss must be one of {', '.join(classes)}, got {name!r}")
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be a mapping of keywords of {name}, got {config!r}")
    keywords = [field.name for field in fields(classes[name])]
    unknown = [keyword for keyword in config if keyword not in keywords]
    if unknown:
        listed = ", ".join(keywords)
        meant = arguments.meant_by(unknown[0], keywords)
        hint = meant and f": {meant}"
        raise TypeError(f"{name} got an unexpected keyword argument {unknown[0]!r}{hint}; its keywords are {listed}")
    values = {keyword: value if keyword == "name" else arguments.parsed(value) for keyword, value in config.items()}
    return classes[name](**values)


def spec_of(loss: Loss) -> LossSpec | None:
    """Return the spec from which `get` builds this loss; None for a class of another package."""
    name = type(loss).__name__
    return {"loss": name, "config": loss.get_config()} if _classes().get(name) is type(loss) else None


def _classes() -> dict[str, type[Loss]]:
    package = importlib.import_module(__package__)
    return {name: vars(package)[name] for name in package.__all__ if isinstance(vars(package)[name], type)}
