"""The results as tables: on the terminal, and between the marks of docs/scaling.md."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.layers.work import IN_CHUNKS, OURS, OWN, PRODUCTS, WHOLE

PAGE = Path(__file__).parents[2] / "docs/scaling.md"
Table = list[tuple[str, ...]]


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return the text of each block of the page."""
    about = results["machine"]
    versions: dict[str, str] = {}
    for row in results["layers"]:
        versions |= row.get("versions", {})
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    machine = (
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['system']}, Python {about['python']}; {listed}."
    )
    return {
        "machine": machine,
        "layers": markdown([line for row in results["layers"] for line in _layer(row)], LAYER_HEADER),
        "ranks": markdown([_rank(row) for row in results["ranks"]], RANK_HEADER),
        "scaling": markdown([_scale(row) for row in results["scaling"]], SCALE_HEADER),
    }


LAYER_HEADER = ("backend", "rows x features x classes", "call", "ms", "/ products", "memory / logits", "other cores")
RANK_HEADER = ("processes", "classes of each", "seconds", "memory of each, GB", "other cores")
SCALE_HEADER = ("classes", "backend", "call", "seconds", "memory, GB", "logits, GB", "other cores")


def renewed(text: str, results: dict[str, Any]) -> str:
    """Return the page with these results."""
    for name, block in tables(results).items():
        begin, end = f"<!-- {name}, by `python -m benchmarks.layers` -->", "<!-- end -->"
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text, count = re.subn(pattern, lambda _, whole=f"{begin}\n{block}\n{end}": whole, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE.name} must have one block {begin!r}, got {count}")
    return text


def as_text(results: dict[str, Any]) -> str:
    """Return the tables for a terminal."""
    return "\n\n".join(tables(results).values())


def markdown(lines: Iterable[tuple[str, ...]], header: tuple[str, ...]) -> str:
    """Return a table."""
    rule = tuple("---" if name in {"backend", "call", header[0]} else "---:" for name in header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _layer(row: dict[str, Any]) -> Table:
    backend = row["backend"] + (", memory reused" if row["reused"] else "")
    size = " x ".join(map(str, row["size"]))
    if row.get("problem"):
        return [(backend, size, row["problem"], "", "", "", "")]
    seconds, peaks = row["seconds"], row["memory"]
    first = [name for name in (PRODUCTS, IN_CHUNKS, *OWN.values(), WHOLE, OURS) if name in seconds]
    lines = []
    for name in [*first, *(name for name in seconds if name not in first)]:
        peak = peaks.get(name)
        lines.append(
            (
                backend,
                size,
                name,
                f"{1e3 * seconds[name]:.1f}",
                f"{seconds[name] / seconds[PRODUCTS]:.2f}",
                "" if peak is None else f"{peak:.3f}",
                f"{row['foreign']:.2f}",
            )
        )
    return lines


def _rank(row: dict[str, Any]) -> tuple[str, ...]:
    ranks, classes = str(row["ranks"]), f"{row['size'][2] // row['ranks']:,}"
    if row.get("problem"):
        return (ranks, classes, row["problem"], "", "")
    peak = "" if row["memory"] is None else f"{row['memory'] / 1e9:.2f}"
    return ranks, classes, f"{row['seconds']:.2f}", peak, f"{row['foreign']:.2f}"


def _scale(row: dict[str, Any]) -> tuple[str, ...]:
    rows, _, classes = row["size"]
    step = f"{classes:,}", row["backend"], OURS if row["fused"] else WHOLE
    if row.get("problem"):
        return (*step, row["problem"], "", "", "")
    peak = "" if row["memory"] is None else f"{row['memory'] / 1e9:.2f}"
    return (
        *step,
        f"{row['seconds']:.2f}",
        peak,
        f"{4 * rows * classes / 1e9:.2f}",
        f"{row['foreign']:.2f}",
    )
