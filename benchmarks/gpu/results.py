"""What a run found: rows for each step, printed as tables and kept as JSON, and what is wrong, missed or not run."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

SHOWN = 20
"""Entries of a list that are printed; results.json has all."""


class Clock:
    """Counts down the seconds of a step or of the whole run."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


class Results:
    """The rows of all steps; `write` keeps what there is, so that a run that is cut off leaves its results."""

    def __init__(self, folder: Path, machine: dict[str, Any]) -> None:
        self.path, self.machine = folder / "results.json", machine
        self.steps: dict[str, list[dict[str, Any]]] = {}
        self.wrong: list[str] = []
        self.missed: list[str] = []
        self.not_run: list[str] = []

    def start(self, step: str) -> None:
        self.rows = self.steps.setdefault(step, [])

    def add(self, what: str, **columns: Any) -> None:
        """Add a row to the step that runs."""
        self.rows.append({"what": what, **columns})

    def count(self, what: str, run: int, of: int, **columns: Any) -> None:
        """Add a row of checks, and say it if time was up before the last."""
        self.add(what, run=run, of=of, **columns)
        self.not_run += [f"{what}: {of - run} of {of}, time was up"] if run < of else []

    def each(self, clock: Clock, what: str, plan: Sequence[Any]) -> Iterator[Any]:
        """Give the entries of a plan as long as there is time, and say how many are left."""
        for place, entry in enumerate(plan):
            if clock.left < 0:
                self.not_run.append(f"{what}: {len(plan) - place} of {len(plan)}, time was up")
                return
            yield entry

    def wants(self, what: str, value: float | None, limit: float | None, *, at_most: bool = False) -> None:
        """Compare a number with its target, where there are both: a dry run measures nothing."""
        if value is not None and limit is not None and (value > limit if at_most else value < limit):
            self.missed.append(f"{what}: {value:.3g}, wanted {'at most' if at_most else 'at least'} {limit:g}")

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        verdict = {"wrong": self.wrong, "missed": self.missed, "not_run": self.not_run}
        text = json.dumps({"machine": self.machine, **verdict, "steps": self.steps}, indent=1)
        self.path.write_text(text + "\n", encoding="utf-8")

    def print_step(self, step: str, seconds: float) -> None:
        print(f"\n## {step}, {seconds:.0f} s")
        for columns, rows in groupby(self.steps[step], tuple):
            lines = [columns, *([shown(value) for value in row.values()] for row in rows)]
            widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
            for line in lines:
                print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        sys.stdout.flush()

    def print_verdict(self) -> None:
        for title, entries in (("wrong", self.wrong), ("targets missed", self.missed), ("not run", self.not_run)):
            print("\n- ".join([f"\n{title}: {len(entries) or 'none'}", *entries[:SHOWN]]))
        print(f"\nAll numbers are in {self.path}.", flush=True)


def shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
