"""Prints how the test vectors differ from an older state: what the notes of a release carry.

The last line names the version that docs/numerics_policy.md asks for. Needs numpy, and git for a ref.
"""

import argparse
import json
import math
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_specs.load import CASES, EPSILON, EXCEPTIONS, TOLERANCE, Case, Want, cases, compare

LEVELS = ("patch", "minor", "major")


@dataclass(frozen=True)
class Change:
    """One difference, and the part of a version number that it moves."""

    case: str
    loss: str
    what: str
    level: str


def changes(old: Path, new: Path = CASES) -> list[Change]:
    """All differences between the case files of two folders, in the order of the ids."""
    before = {case.id: case for case in cases(folder=old)}
    after = {case.id: case for case in cases(folder=new)}
    asked_before, asked_after = _questions(old), _questions(new)
    losses = {case.loss for case in before.values()}
    found = []
    for name in sorted(before | after):
        if name not in before:
            loss = after[name].loss
            found.append(Change(name, loss, "added", "patch" if loss in losses else "minor"))
        elif name not in after:
            found.append(Change(name, before[name].loss, "removed", "major"))
        else:
            parts = [key for key in asked_before[name] if asked_before[name][key] != asked_after[name][key]]
            differences = [(f"another {' and '.join(parts)} under the same id", "major")] if parts else []
            differences += _differences(before[name], after[name])
            found += [Change(name, after[name].loss, what, level) for what, level in differences]
    return found


def report(found: Sequence[Change], total: int) -> str:
    """The differences as Markdown."""
    changed = [change for change in found if change.what not in ("added", "removed")]
    added = Counter(change.loss for change in found if change.what == "added")
    removed = [change for change in found if change.what == "removed"]
    counts = f"{added.total()} added, {len(removed)} removed, {len({change.case for change in changed})} changed"
    lines = [f"Test vectors: {total} cases; {counts}.", ""]
    lines += [f"- changed: `{change.case}` ({change.loss}): {change.what}" for change in changed]
    lines += [f"- removed: `{change.case}` ({change.loss})" for change in removed]
    lines += [f"- added: {count} of {loss}" for loss, count in sorted(added.items())]
    level = max((change.level for change in found), key=LEVELS.index, default="patch")
    return "\n".join([*lines, *[""] * (len(lines) > 2), f"Smallest version for these vectors: {level}."])


def how_far(old: NDArray[np.float64], new: NDArray[np.float64]) -> str:
    """The largest difference of two arrays of one shape: in ulp of float64 if it is below 1000, else relative."""
    with np.errstate(invalid="ignore", over="ignore"):
        same = (old == new) | (np.isnan(old) & np.isnan(new))
        broken = ~same & ~(np.isfinite(old) & np.isfinite(new))
        distance = np.where(same, 0.0, np.abs(new - old))
        largest = np.maximum(np.abs(old), np.abs(new))
        ulp = np.where(same | broken, 0.0, distance / np.spacing(largest))
        relative = np.where(same | broken, 0.0, distance / largest)
    if broken.any():
        return f"{old[broken][0]} -> {new[broken][0]}"
    if ulp.max() < 1000:
        return f"{ulp.max():.0f} ulp"
    worst = np.unravel_index(int(relative.argmax()), relative.shape)
    return f"{old[worst]:.6g} -> {new[worst]:.6g} ({relative[worst]:.2g} relative)"


def _differences(old: Case, new: Case) -> Iterator[tuple[str, str]]:
    """What is expected now and was not before, each with its level."""
    if lost := [dtype for dtype in old.dtypes if dtype not in new.dtypes]:
        yield f"no longer in {', '.join(lost)}", "major"
    if "tail" in old.flags and "tail" not in new.flags:
        yield "no longer judged by relative error", "major"
    if old.error and new.error:
        if old.error != new.error:
            same = EXCEPTIONS[old.error.kind] == EXCEPTIONS[new.error.kind] and old.error.argument == new.error.argument
            yield f"another error: {old.error.kind} of {new.error.argument}", "patch" if same else "major"
    elif old.error:
        yield "an error before, a value now", "minor"
    elif new.error:
        yield f"a value before, {new.error.exception} now", "major"
    elif old.expected and new.expected:
        tail = "tail" in old.flags
        yield from _of_tensor("loss", old.expected.loss, new.expected.loss, tail)
        yield from _of_tensor("gradient", old.expected.grad_logits, new.expected.grad_logits, tail)
        yield from _of_denominator(old.expected.denominator, new.expected.denominator)


def _of_tensor(name: str, old: Want, new: Want, tail: bool) -> Iterator[tuple[str, str]]:
    if old.data.shape != new.data.shape:
        yield f"{name} of shape {old.data.shape} -> {new.data.shape}", "major"
    elif not np.array_equal(old.data, new.data, equal_nan=True):
        within = compare(old, new.data, "float64", "float64", tail).ok
        yield f"{name} {how_far(old.data, new.data)}", "patch" if within else "major"
    elif not np.array_equal(old.compared, new.compared) or old.nonfinite != new.nonfinite:
        yield f"{name}: other entries are compared", "major"


def _of_denominator(old: float | None, new: float | None) -> Iterator[tuple[str, str]]:
    if old != new:
        close = old is not None and new is not None and math.isclose(old, new, rel_tol=TOLERANCE * EPSILON["float64"])
        yield f"denominator {old} -> {new}", "patch" if close else "major"


def _questions(folder: Path) -> dict[str, dict[str, Any]]:
    """Config and inputs of every case, as they stand in the files, where NaN is a string and equals itself."""
    files = (json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json"))
    return {
        case["id"]: {"config": case["config"], "inputs": case.get("inputs")} for file in files for case in file["cases"]
    }


def unpack(ref: str, folder: Path) -> Path:
    """Write the case files of a git ref of this checkout into a folder, and return where they are."""
    root = CASES.parents[1]
    command = ["git", "archive", "--format=tar", ref, CASES.relative_to(root).as_posix()]
    run = subprocess.run(command, cwd=root, capture_output=True)
    if run.returncode:
        reason = run.stderr.decode(errors="replace").strip()
        raise ValueError(f"{ref!r} is neither a folder with case files nor a git ref of {root}: {reason}")
    with tarfile.open(fileobj=BytesIO(run.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / CASES.relative_to(root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m shared_specs.changes", description=__doc__.split("\n")[0])
    parser.add_argument("old", help="a folder of case files, or in a checkout a git ref, such as v0.1.0")
    parser.add_argument("new", nargs="?", default=str(CASES), help="the same (default: the vectors of this package)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        states = []
        for number, state in enumerate((options.old, options.new)):
            try:
                found = any(Path(state).glob("*.json"))
                states.append(Path(state) if found else unpack(state, Path(folder, str(number))))
            except ValueError as error:
                parser.error(str(error))
        print(report(changes(*states), len(cases(folder=states[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
