"""What a library offers for a case, and the adapters that say so.

An adapter is a module with a function `offer(case)` and some of these names:

    FRAMEWORK     "torch" (the default), "tensorflow", "jax", "keras" or "numpy": makes the tensors and the gradients
    DISTRIBUTION  the distribution whose version a run records, such as "timm"
    REQUIREMENTS  what an environment for this target alone installs
    MODES         the modes that the target runs in; by default those of its framework
    ARGUMENTS     what the library calls the arguments that its errors name, where the names differ from ours, such as
                  {"target": "y_true"}. Only a module that has it, perhaps empty, is asked for error cases.

`offer(case)` returns an Offer, or None, or a sentence that says why the library does not offer the case.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shared_specs.load import Case

ADAPTERS = Path(__file__).parent / "adapters"
FRAMEWORKS = ("torch", "tensorflow", "jax", "keras", "numpy")


@dataclass(frozen=True)
class Offer:
    """A library's nearest call for one case.

    Args:
        call: `call(logits, target, **others)`, on tensors of the framework; `others` are the other inputs of the case.
            Returns the loss. In the framework "numpy" it may return the pair of loss and gradient.
        convention: How the call is known to differ, such as "mean divides by the sum of the target weights".
        undone: The same call with the convention undone, so that value and gradient must be equal.
    """

    call: Callable[..., Any]
    convention: str | None = None
    undone: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if (self.convention is None) != (self.undone is None):
            raise ValueError("convention and undone must both be given, or neither")


@dataclass(frozen=True)
class Adapter:
    """A target of a run."""

    name: str
    offer: Callable[[Case], Offer | str | None]
    framework: str = "torch"
    distribution: str | None = None
    modes: tuple[str, ...] | None = None
    arguments: Mapping[str, str] | None = None


def targets() -> list[str]:
    """The names of all targets. None of them is imported."""
    return sorted(_name(path.stem) for path in ADAPTERS.glob("[!_]*.py"))


def of_target(name: str) -> Adapter:
    """The adapter of a target, whose library is imported."""
    if name not in targets():
        near = difflib.get_close_matches(name, targets(), 1)
        hint = f"did you mean {near[0]!r}?" if near else "for a loss of your own, use adapter=module:function"
        raise ValueError(f"target must be one of {', '.join(targets())}, got {name!r}; {hint}")
    try:
        module = importlib.import_module(f"{__package__}.adapters.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise ValueError(f"target {name!r} needs the module {error.name!r}, which is not installed here") from error
    return _adapter(name, module, "offer")


def of_user(place: str) -> Adapter:
    """The adapter `module:function`; modules are also looked up in the working directory."""
    module_name, colon, function = place.partition(":")
    if not (module_name and colon and function):
        raise ValueError(f"adapter must be module:function, such as my_losses:offer, got {place!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"adapter: no module {error.name!r} in {os.getcwd()} or on the path of Python") from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f"adapter: {module_name} has no function {function!r}")
    return _adapter(place, module, function)


def keras_on(backend: str) -> Any:
    """Keras on this backend; raises if it was imported on another one before."""
    os.environ["KERAS_BACKEND"] = backend
    keras: Any = importlib.import_module("keras")
    if keras.backend.backend() != backend:
        raise RuntimeError(f"Keras already runs on {keras.backend.backend()}, wanted {backend}: use another process")
    return keras


def _name(stem: str) -> str:
    """The target of a module: keras_xent_jax is keras_xent-jax."""
    return stem.replace("_", "-").replace("-xent", "_xent")


def _adapter(name: str, module: ModuleType, function: str) -> Adapter:
    framework = getattr(module, "FRAMEWORK", "torch")
    if framework not in FRAMEWORKS:
        raise ValueError(f"FRAMEWORK of {module.__name__} must be one of {', '.join(FRAMEWORKS)}, got {framework!r}")
    return Adapter(
        name,
        getattr(module, function),
        framework,
        getattr(module, "DISTRIBUTION", None),
        getattr(module, "MODES", None),
        getattr(module, "ARGUMENTS", None),
    )
