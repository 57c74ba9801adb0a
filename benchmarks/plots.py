"""The plots of a run, as PNG files."""

from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.measure import Row
from benchmarks.settings import LOSSES
from benchmarks.targets import OWN

DOTS_PER_INCH = 150
OURS, PEER = "#0072B2", "#D55E00"
SIZE_COLORS = ("#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#0072B2", "#D55E00", "#000000")
"""Colours that the colour-blind tell apart, of Okabe and Ito."""

LABELS = {
    "cross_entropy": "cross-entropy",
    "label_smoothing": "label smoothing",
    "weighted_ignored": "class weights,\nignored rows",
    "soft_target": "soft targets",
    "focal": "focal",
    "poly": "poly",
    "generalized": "generalized",
    "binary_cross_entropy": "binary\ncross-entropy",
    "binary_label_smoothing": "binary,\nsmoothed",
    "binary_focal": "binary focal",
}


def ratios(rows: list[Row], path: Path) -> None:
    """Draw for each loss and size how many times longer the best peer takes; one panel for each backend and mode."""
    best = best_peers(rows)
    sizes = list(dict.fromkeys(size for row in best for size in [_label(row, best)]))
    colors = {size: SIZE_COLORS[position % len(SIZE_COLORS)] for position, size in enumerate(sizes)}
    panels = {key: list(group) for key, group in groupby(best, lambda row: (row.backend, row.mode))}
    lengths = {key: len(group) + 0.8 * len({row.loss for row in group}) for key, group in panels.items()}
    first, *others = sorted(panels, key=lambda key: -lengths[key])  # the longest on the left, the others beside it
    height = max(lengths[first], sum(lengths[key] + 3 for key in others))
    figure = plt.figure(figsize=(14 if others else 8, 1.8 + 0.21 * height), layout="constrained")
    grid = figure.add_gridspec(1, 2 if others else 1)
    places = {first: figure.add_subplot(grid[0])}
    if others:
        right = grid[1].subgridspec(len(others), 1, height_ratios=[lengths[key] for key in others])
        places |= {key: figure.add_subplot(right[position]) for position, key in enumerate(others)}
    limits = min(0.8, *(row.ratio for row in best)) / 1.15, max(1.3, *(row.ratio for row in best)) * 4
    for key, axes in places.items():
        _bars(axes, panels[key], colors, best)
        axes.set(title=", ".join(key), xlim=limits)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    figure.suptitle("Loss + gradient: time of the fastest peer / ours (right of the line ours is faster)")
    figure.legend(handles, sizes, loc="outside lower center", ncols=len(sizes), title="size of the logits")
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
    figure, places = plt.subplots(
        1,
        len(panels),
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(1.5 + 3.3 * len(panels), 4.4),
        layout="constrained",
    )
    for axes, (key, group) in zip(places[0], panels.items(), strict=True):
        numbers = [tuple(map(int, row.size.split("x"))) for row in group]
        classes = [number[1] for number in numbers]
        for medians, color, marker, name in (
            ([row.ours_median for row in group], OURS, "o", "ours"),
            ([row.peer_median for row in group], PEER, "s", group[0].peer.replace(" ", "\n", 1)),
        ):
            times = [1e9 * time / (count * size) for time, (count, size) in zip(medians, numbers, strict=True)]
            axes.plot(classes, times, marker=marker, color=color, label=name)
        axes.set(title=", ".join(key), xscale="log", xlabel="classes")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    places[0, 0].set(ylabel="loss + gradient [ns per logit]", ylim=(0, None))  # shared by all
    figure.suptitle(f"Cross-entropy at {_count(chosen)} logits: level is linear in the number of classes")
    _save(figure, path)


def _bars(axes: Axes, rows: list[Row], colors: dict[str, str], best: list[Row]) -> None:
    position, ticks = 0.0, {}
    for loss, group in groupby(rows, lambda row: row.loss):
        members = list(group)
        ticks[LABELS[loss]] = position + (len(members) - 1) / 2
        for row in members:
            axes.barh(position, row.ratio - 1, left=1, color=colors[_label(row, best)], height=0.85)
            end = max(row.ratio, 1) * 1.04
            axes.text(end, position, f"{row.ratio:.2f}  {_short(row.peer)}", va="center", fontsize=7)
            position += 1
        position += 0.8
    axes.set_yticks(list(ticks.values()), list(ticks), fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    axes.invert_yaxis()  # the first loss on top


def _short(peer: str) -> str:
    """Return the name of a peer's library, or of torch's function."""
    return peer if peer.startswith("F.") or peer == OWN else peer.split()[0]


def _label(row: Row, rows: list[Row]) -> str:
    """Return the size, with the dtype where the run has several."""
    return row.size if len({each.dtype for each in rows}) == 1 else f"{row.size} {row.dtype}"


def _count(rows: list[Row]) -> str:
    numbers = [int(first) * int(second) for first, _, second in (row.size.partition("x") for row in rows)]
    return f"{max(numbers) / 1e6:g} million"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
