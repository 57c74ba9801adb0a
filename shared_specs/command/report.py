"""What `xent check` found, and the batch that it looks at."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

PARTS = ("inputs", "target", "sample_weight", "mask")


@dataclass
class Report:
    """What was checked, what could not be, and the problems."""

    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report, a line an entry, and the number of problems."""
        titles = {"checked": self.checked, "not checked": self.unchecked, "problem": self.problems}
        count = len(self.problems)
        end = f"{count} problem{'s' * (count > 1)}" if count else "no problem was found"
        end = end if count or self.checked else "nothing could be checked"
        return [f"{title}: {entry}" for title, entries in titles.items() for entry in entries] + [end]


def see_working_directory() -> None:
    """Let modules of the working directory be imported, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def named_object(option: str, place: str) -> Any:
    """Return the object MODULE:NAME; modules are also looked up in the working directory."""
    module, colon, name = place.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{option} must be MODULE:NAME, such as train:Data, got {place!r}")
    see_working_directory()
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"{option}: there is no module {error.name!r} here or on the path of Python") from None
    if not hasattr(found, name):
        raise ValueError(f"{option}: the module {module} has no {name!r}")
    return getattr(found, name)


def arrays_of(path: Path) -> Mapping[str, Any]:
    """Return the arrays of an NPZ file by their names, which are some of `PARTS`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    if not {"inputs", "target"} <= arrays.keys() <= set(PARTS):
        raise ValueError(
            f"{path} must hold the arrays inputs, target and perhaps sample_weight and mask, got {', '.join(arrays)}"
        )
    return arrays
