"""The plots of a run, as PNG files."""

from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.measure import Row
from benchmarks.settings import LOSSES, REUSED
from benchmarks.targets import OWN

WIDTH, DOTS_PER_INCH = 8, 120
"""Inches: the width of a page, so that the letters are read without zooming."""

FRESH = "fresh pages"
FILLS = {FRESH: "full", REUSED: "none"}
STYLES = ("-", "--", ":")
OURS, PEER = "#0072B2", "#D55E00"
SIZE_COLORS = ("#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#0072B2", "#D55E00", "#000000")
"""Colours that the colour-blind tell apart, of Okabe and Ito."""

LABELS = {
    "cross_entropy": "cross-entropy",
    "label_smoothing": "label smoothing",
    "weighted_ignored": "weights, ignored rows",
    "soft_target": "soft targets",
    "focal": "focal",
    "poly": "poly",
    "generalized": "generalized",
    "binary_cross_entropy": "binary cross-entropy",
    "binary_label_smoothing": "binary, smoothed",
    "binary_focal": "binary focal",
}


def ratios(rows: list[Row], path: Path) -> None:
    """Draw for each loss and size how many times longer the best peer takes; one panel for each backend."""
    best = best_peers(rows)
    sizes = list(dict.fromkeys(_label(row, best) for row in best))
    colors = {size: SIZE_COLORS[position % len(SIZE_COLORS)] for position, size in enumerate(sizes)}
    panels = {backend: list(group) for backend, group in groupby(best, lambda row: row.backend)}
    lines = {backend: list(dict.fromkeys(map(_line, group))) for backend, group in panels.items()}
    heights = [len(names) + 1.5 for names in lines.values()]
    figure, places = plt.subplots(
        len(panels),
        1,
        squeeze=False,
        sharex=True,
        figsize=(WIDTH, 1.6 + 0.3 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
    )
    for axes, (backend, group) in zip(places[:, 0], panels.items(), strict=True):
        _dots(axes, group, lines[backend], colors, best)
        axes.set_title(backend, fontsize="medium", loc="left", weight="bold")
    places[-1, 0].set(xlabel="time of the fastest peer / ours: right of the line ours is faster")
    marks = [Line2D([], [], marker="o", linestyle="", color=color) for color in colors.values()]
    names = list(colors)
    if any(REUSED in row.mode for row in best):
        marks += [Line2D([], [], marker="o", linestyle="", color="black", fillstyle=style) for style in FILLS.values()]
        names += [f"torch, {condition}" for condition in FILLS]
    figure.suptitle("Loss + gradient beside the fastest peer", fontsize="large")
    figure.legend(marks, names, loc="outside lower center", ncols=5, fontsize="small")
    _save(figure, path)


def best_peers(rows: list[Row]) -> list[Row]:
    """Return the row of the fastest peer for each backend, mode, loss and size; our own cross-entropy where none is."""
    panels = list(dict.fromkeys((row.backend, row.mode) for row in rows))
    timed = [row for row in rows if row.ratio is not None and not row.scaling]
    timed.sort(key=lambda row: (panels.index((row.backend, row.mode)), LOSSES.index(row.loss)))
    chosen: dict[tuple[str, ...], Row] = {}
    for row in timed:
        place = row.backend, row.mode, row.loss, row.size, row.dtype
        if place not in chosen or (row.peer == OWN, row.ratio) < (chosen[place].peer == OWN, chosen[place].ratio):
            chosen[place] = row
    return list(chosen.values())


def scaling(rows: list[Row], path: Path) -> None:
    """Draw the time per logit against the number of classes: a level line is a cost linear in it."""
    chosen = [row for row in rows if row.scaling and row.ratio is not None]
    keys = dict.fromkeys((row.backend, row.mode) for row in chosen)
    panels = {key: [row for row in chosen if (row.backend, row.mode) == key] for key in keys}
    backends = list(dict.fromkeys(backend for backend, _ in panels))
    columns = min(2, len(backends))
    figure, places = plt.subplots(
        -(-len(backends) // columns),
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(WIDTH, 1 + 3.2 * -(-len(backends) // columns)),
        layout="constrained",
    )
    for place in places.flat[len(backends) :]:
        place.remove()
    for axes, backend in zip(places.flat, backends, strict=False):
        modes = [mode for each, mode in panels if each == backend]
        for mode, style in zip(modes, STYLES, strict=False):
            group = panels[backend, mode]
            numbers = [tuple(map(int, row.size.split("x"))) for row in group]
            classes = [number[1] for number in numbers]
            for medians, color, marker, name in (
                ([row.ours_median for row in group], OURS, "o", "ours"),
                ([row.peer_median for row in group], PEER, "s", _short(group[0].peer)),
            ):
                times = [1e9 * time / (count * size) for time, (count, size) in zip(medians, numbers, strict=True)]
                axes.plot(classes, times, style, marker=marker, color=color, label=f"{name}, {mode}")
        axes.set_title(backend, fontsize="medium", loc="left", weight="bold")
        axes.set(xscale="log")
        axes.tick_params(labelbottom=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    for axes in places[-1]:
        axes.set(xlabel="classes")
    for axes in places[:, 0]:
        axes.set(ylabel="ns per logit", ylim=(0, None))
    figure.suptitle(
        f"Cross-entropy + gradient at {_count(chosen)} logits: level is linear in the classes", fontsize="large"
    )
    _save(figure, path)


def _dots(axes: Axes, rows: list[Row], lines: list[str], colors: dict[str, str], best: list[Row]) -> None:
    shift = 0.15 if any(REUSED in row.mode for row in rows) else 0.0
    shifts = dict(zip(FILLS.values(), (-shift, shift), strict=True))
    for position, line in enumerate(lines):
        members = [row for row in rows if _line(row) == line]
        low, high = min(row.ratio for row in members), max(row.ratio for row in members)
        axes.plot([low, high], [position, position], color="0.85", linewidth=1, zorder=1)
        for row in members:
            fill = FILLS[REUSED if REUSED in row.mode else FRESH]
            axes.plot(
                row.ratio, position + shifts[fill], "o", color=colors[_label(row, best)], fillstyle=fill, zorder=2
            )
    axes.set_yticks(range(len(lines)), lines)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelbottom=True)
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.set_ylim(len(lines) - 0.5, -0.5)  # the first loss on top


def _line(row: Row) -> str:
    """Return the name of a loss, with the mode where it is another than eager."""
    mode = row.mode.removesuffix(f", {REUSED}")
    return LABELS[row.loss] if mode == "eager" else f"{LABELS[row.loss]}, {mode}"


def _short(peer: str) -> str:
    """Return the name of a peer's library, or of torch's function."""
    return peer.split(",")[0] if peer.startswith("F.") or peer == OWN else peer.split()[0]


def _label(row: Row, rows: list[Row]) -> str:
    """Return the size, with the dtype where the run has several."""
    return row.size if len({each.dtype for each in rows}) == 1 else f"{row.size} {row.dtype}"


def _count(rows: list[Row]) -> str:
    numbers = [int(first) * int(second) for first, _, second in (row.size.partition("x") for row in rows)]
    return f"{max(numbers) / 1e6:g} million"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
