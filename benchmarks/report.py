"""The results as tables: on the terminal, and as RESULTS.md."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.measure import Row
from benchmarks.settings import DTYPES
from benchmarks.targets import TARGETS

HEADER = (
    "loss",
    "size",
    "dtype",
    "peer",
    "ours, ms",
    "peer, ms",
    "ratio",
    "ours, memory",
    "peer, memory",
    "note",
)
"""Memory as a multiple of the logits."""

WIDTH = 170
"""Of the widest table: a terminal may wrap its lines, but nothing is cut off."""

LEFT = ("loss", "size", "dtype", "peer", "note", "target", "met", "backend")


def read(path: Path) -> dict[str, Any]:
    """Read results.json.

    Raises:
        ValueError: No such file, or not one that the benchmark has written.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        for side in results["backends"].values():
            side["rows"] = [Row(**row) for row in side["rows"]]
        results["machine"], results["options"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a results.json of the benchmark: {error!r}") from error
    return results


def rows_of(results: dict[str, Any]) -> list[Row]:
    """Return the rows of all backends."""
    return [row for side in results["backends"].values() for row in side["rows"]]


def problems(results: dict[str, Any]) -> list[str]:
    """Return what makes the run fail: peers that do not agree with ours, and backends that broke off."""
    broken = [f"{name}: {side['problem']}" for name, side in results["backends"].items() if side.get("problem")]
    return broken + [
        f"{row.backend}, {row.mode}, {row.loss}, {row.size}, {row.dtype}: {row.peer}: {row.problem}"
        for row in rows_of(results)
        if row.problem
    ]


def show(results: dict[str, Any], console: Console | None = None) -> None:
    """Print the tables."""
    console = console or Console()
    console.width = max(console.width, WIDTH)
    for title, header, lines in _tables(results):
        table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
        for name in header:
            table.add_column(Text(name), justify="left" if name in LEFT else "right", no_wrap=name != "note")
        for line in lines:
            table.add_row(*map(Text, line))
        console.print(table)


def markdown(results: dict[str, Any]) -> str:
    """Return RESULTS.md."""
    options, machine = results["options"], results["machine"]
    blocks = [
        "# Results",
        "Written by `python -m benchmarks` from the numbers of its last run, `results.json`; README.md says how they "
        "were measured. Ratios are the time of the peer / ours: larger is better for ours.",
        "![ratios](ratios.png)",
        "\n".join(
            [
                f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
                f"Python {machine['python']}",
                *[f"- {name}: {_versions(side)}" for name, side in results["backends"].items()],
                f"- options: device {options['device']}, {options['repeat']} rounds of at least 20 ms, sizes "
                f"{', '.join(options['sizes'])}, {', '.join(options['dtypes'])}",
            ]
        ),
    ]
    for title, header, lines in _tables(results):
        blocks.append(f"## {title}")
        rule = ["---" if name in LEFT else "---:" for name in header]
        blocks.append("\n".join("| " + " | ".join(map(_escaped, cells)) + " |" for cells in (header, rule, *lines)))
        if title.startswith("Scaling"):
            blocks.append("![time per logit](scaling.png)")
    if wrong := problems(results):
        blocks += ["## Failures", "\n".join(f"- {problem}" for problem in wrong)]
    return "\n\n".join(blocks) + "\n"


def _tables(results: dict[str, Any]) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Return title, header and lines of each table."""
    rows = rows_of(results)
    tables = []
    if lines := list(_target_lines(rows)):
        tables.append(
            ("Targets: the worst setting, beside the best peer", ("target", "wanted", "reached", "met"), lines)
        )
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not row.scaling:
            groups.setdefault((row.backend, row.mode), []).append(row)
    for (backend, mode), chosen in groups.items():
        with_bandwidth = any(row.bandwidth is not None for row in chosen)
        header = (*HEADER, "% of copy") if with_bandwidth else HEADER
        lines = [_cells(row) + ((_number(row.bandwidth, 100, 0),) if with_bandwidth else ()) for row in chosen]
        tables.append((f"{backend}, {mode}", header, lines))
    panels = list(dict.fromkeys((row.backend, row.mode) for row in rows))
    if scaling := sorted((row for row in rows if row.scaling), key=lambda row: panels.index((row.backend, row.mode))):
        header = ("backend", "peer", "classes", "rows", "ours, ns per logit", "peer, ns per logit", "ratio")
        tables.append(
            ("Scaling: cross-entropy, the same number of logits", header, [_scaling_cells(row) for row in scaling])
        )
    return tables


def _target_lines(rows: list[Row]) -> Iterable[tuple[str, ...]]:
    for target in TARGETS:
        number = target.worst(row for row in rows if row.dtype == next(iter(DTYPES)))
        if number is not None:
            sign = ">=" if target.at_least else "<="
            yield target.text, f"{sign} {target.wanted:.2f}", f"{number:.2f}", "yes" if target.met(number) else "no"


def _cells(row: Row) -> tuple[str, ...]:
    note = row.problem or row.note
    times = _number(row.ours_median, 1e3, 3), _number(row.peer_median, 1e3, 3)
    memory = _number(row.ours_memory, 1, 2), _number(row.peer_memory, 1, 2)
    return row.loss, row.size, row.dtype, row.peer, *times, _number(row.ratio, 1, 2), *memory, note


def _scaling_cells(row: Row) -> tuple[str, ...]:
    rows, classes = map(int, row.size.split("x"))
    times = (_number(median, 1e9 / (rows * classes), 3) for median in (row.ours_median, row.peer_median))
    return f"{row.backend}, {row.mode}", row.peer, str(classes), str(rows), *times, _number(row.ratio, 1, 2)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


def _versions(side: dict[str, Any]) -> str:
    text = ", ".join(f"{name} {version}" for name, version in side["versions"].items())
    return text + (f"; not installed: {', '.join(side['missing'])}" if side["missing"] else "")
