"""Builds a loss from its spec, which JSON or YAML can hold."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NotRequired, TypedDict, TypeVar

from shared_specs.common import arguments

T = TypeVar("T")


class LossSpec(TypedDict):
    """A loss as data: the name of a public class and its keywords."""

    loss: str
    config: NotRequired[dict[str, Any]]


def build(spec: Any, classes: Mapping[str, type[T]]) -> T:
    """Return the loss that a spec, or the name of a class, describes, given the public classes by their names."""
    if isinstance(spec, str):
        spec = {"loss": spec}
    if not isinstance(spec, Mapping) or "loss" not in spec or not spec.keys() <= {"loss", "config"}:
        raise ValueError(f'spec must be a mapping with the keys "loss" and "config", got {spec!r}')
    name, config = spec["loss"], spec.get("config") or {}
    if not isinstance(name, str) or name not in classes:
        raise ValueError(f"loss must be one of {', '.join(classes)}, got {name!r}")
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be a mapping of keywords of {name}, got {config!r}")
    keywords = [field.name for field in fields(classes[name])]  # type: ignore[arg-type]
    unknown = [keyword for keyword in config if keyword not in keywords]
    if unknown:
        listed = ", ".join(keywords)
        meant = arguments.meant_by(unknown[0], keywords)
        hint = meant and f": {meant}"
        raise TypeError(f"{name} got an unexpected keyword argument {unknown[0]!r}{hint}; its keywords are {listed}")
    values = {keyword: value if keyword == "name" else arguments.parsed(value) for keyword, value in config.items()}
    return classes[name](**values)


def public_classes(package: Any) -> dict[str, Any]:
    """Return the public losses of a package, by their names."""
    public = {name: getattr(package, name) for name in package.__all__}
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, package.base.Loss)
    }
