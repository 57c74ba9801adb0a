"""The file of a run: JSON lines with a header, a line for each case, and a footer, without which it is refused.

    {"format": 1, "kind": "header", "target", "version", "framework", "versions": {}, "python", "machine": {},
     "dtype", "mode", "device", "cases", "date"}
    {"kind": "case", "id", "loss", "features": [], "outcome", "config": {}, and perhaps
     "convention", "worst", "message", "got", "wanted", "inputs"}
    {"kind": "footer", "equal", "differs", "wrong", "not offered", "seconds"}

Numbers that are not finite are the strings "NaN", "Infinity" and "-Infinity".
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

FORMAT = 1
OUTCOMES = ("equal", "differs", "wrong", "not offered")


@dataclass(frozen=True)
class Results:
    """A run: its header, its cases and its footer."""

    header: dict[str, Any]
    cases: list[dict[str, Any]]
    footer: dict[str, Any]


def footer(cases: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The footer of a run."""
    counts = Counter(case["outcome"] for case in cases)
    return {"kind": "footer", **{outcome: counts[outcome] for outcome in OUTCOMES}, "seconds": round(seconds, 3)}


def write_line(file: TextIO | None, line: dict[str, Any]) -> None:
    """Write a line at once, so that an unfinished run leaves its cases but no footer."""
    if file is not None:
        print(json.dumps(line, allow_nan=False), file=file, flush=True)


def read(path: str | Path) -> Results:
    """The results in a file. Raises ValueError if the run did not end, or the file holds something else."""
    try:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        kinds = [line["kind"] for line in lines]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must hold the lines of a conformance run, got something else: {error}") from error
    if kinds[:1] != ["header"] or lines[0].get("format") != FORMAT:
        raise ValueError(f"{path} must begin with a header of format {FORMAT}, got {str(lines[:1])[:80]}; run it again")
    if kinds[-1] != "footer":
        raise ValueError(f"{path} has no footer, so its run did not end; run it again")
    header, *cases, end = lines
    if set(kinds[1:-1]) - {"case"}:
        raise ValueError(f"{path} must hold cases between its header and its footer, got {sorted(set(kinds[1:-1]))}")
    if {**footer(cases, 0.0), "seconds": end["seconds"]} != end:
        raise ValueError(f"{path} must hold the cases that its footer counts, {end}, got {footer(cases, 0.0)}")
    return Results(header, cases, end)


def plain(value: Any) -> Any:
    """A value for JSON: numbers that are not finite become strings, at any depth."""
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
