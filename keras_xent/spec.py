"""Builds a loss from its spec, which JSON or YAML can hold."""

from importlib import import_module

from keras_xent.base import Loss
from shared_specs.common import spec as common
from shared_specs.common.spec import LossSpec


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
    return spec if isinstance(spec, Loss) else common.build(spec, _classes())


def spec_of(loss: Loss) -> LossSpec | None:
    """Return the spec from which `get` builds this loss; None for a class of another package."""
    name = type(loss).__name__
    return {"loss": name, "config": loss.get_config()} if _classes().get(name) is type(loss) else None


def _classes() -> dict[str, type[Loss]]:
    return common.public_classes(import_module("keras_xent"))
