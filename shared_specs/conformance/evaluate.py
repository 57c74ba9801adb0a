"""Value and gradient of a call, in any of the frameworks."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Found:
    """The loss and the gradient of its sum on the logits, as float64, with the names of the dtypes that they had.

    The gradient is None where the call gives a value only.
    """

    value: NDArray[np.float64]
    value_dtype: str
    gradient: NDArray[np.float64] | None
    gradient_dtype: str


@dataclass(frozen=True)
class Setting:
    """How calls are evaluated: the framework's module, dtype, mode and device."""

    module: ModuleType
    dtype: str
    mode: str
    device: str

    def evaluate(self, call: Callable[..., Any], inputs: Mapping[str, NDArray[Any]]) -> Found:
        """Value and gradient of `call(logits, target, **others)`."""
        return self.module.evaluate(call, inputs, self.dtype, self.mode, self.device)


def setting(framework: str, dtype: str, mode: str | None, device: str, modes: tuple[str, ...] | None = None) -> Setting:
    """The setting of a run; imports the framework.

    Args:
        mode: None is the first of `modes`.
        modes: Those of the target; None: those of the framework.
    """
    module = importlib.import_module(f"shared_specs.conformance.frameworks.{framework}")
    modes = modes or module.MODES
    mode = mode or modes[0]
    for name, value, choices in (
        ("dtype", dtype, module.DTYPES),
        ("mode", mode, modes),
        ("device", device, module.DEVICES),
    ):
        if value not in choices:
            wanted = " or ".join(repr(choice) for choice in choices)
            raise ValueError(f"{name} must be {wanted} for this target, which computes with {framework}, got {value!r}")
    if device != "cpu":
        module.require(device)
    return Setting(module, dtype, mode, device)
