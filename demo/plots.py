"""The plots of a run, as PNG files."""

from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from demo import comparison, curves, report
from demo.comparison import Values
from demo.plan import Outcomes, Plan
from demo.result import Result

DOTS_PER_INCH = 150
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00")
"""Colours that the colour-blind tell apart, of Okabe and Ito; the yellow is left out, too pale for a line."""

DASHES = ("-", "--", "-.")
"""Not as many as the colours: no two of the first 21 lines are alike."""

ROUND = (1, 2, 5, 10)
"""Steps between the ticks, times a power of ten."""

SIDES = (
    {"offset": -0.14, "line": {"fmt": "o", "color": "#0072B2", "fillstyle": "none"}},
    {"offset": 0.14, "line": {"fmt": "D", "color": "#D55E00", "markersize": 5}},
)
"""How Keras and Lightning are drawn where both share a panel."""

SMALLEST = 1e-8
"""Where a difference of 0 is drawn on a logarithmic axis: below 6e-8, the spacing of float32 numbers."""


def losses(keras: Result, lightning: Result, title: str, path: Path) -> None:
    """Draw both loss curves, and below them their relative difference with its limit."""
    epochs = range(len(keras.epoch_losses))
    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(7, 6), height_ratios=(2, 1), layout="constrained")
    upper.plot(epochs, lightning.epoch_losses, color="tab:orange", linewidth=2, label=lightning.framework)
    upper.plot(epochs, keras.epoch_losses, "o", color="tab:blue", fillstyle="none", markersize=8, label=keras.framework)
    if min(*keras.epoch_losses, *lightning.epoch_losses) > 0:
        upper.set_yscale("log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter("{x:g}")
        upper.yaxis.set_minor_formatter(NullFormatter())
    upper.set(title=title, ylabel="loss of the training set [nats]")
    upper.legend()

    differences = report.relative_differences(keras.epoch_losses, lightning.epoch_losses)
    label = f"Keras and Lightning (0 is drawn at {SMALLEST:g})"
    lower.plot(epochs, np.maximum(differences, SMALLEST), "s-", color="black", markersize=4, label=label)
    lower.axhline(report.LIMIT, color="tab:red", linestyle="--", label=f"limit: {report.LIMIT:g}")
    lower.set(yscale="log", ylim=(SMALLEST / 2, None), xlabel="epoch (0: initial weights)")
    lower.set_ylabel("relative difference")
    lower.yaxis.set_minor_locator(NullLocator())
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.margins(y=0.15)
    figure.legend(*lower.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    save(figure, path)


def histories(records: dict[str, Any], title: str, path: Path) -> None:
    """Draw the losses of both sides by epoch, a panel for training and one for the test rows.

    Args:
        records: By framework, with `train_losses` of the epochs and `test_losses`, which start before the first one.
        title: What was trained.
        path: PNG file to write.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for (framework, record), style in zip(records.items(), SIDES, strict=True):
        color, marker = style["line"]["color"], style["line"]["fmt"]
        line = {"color": color, "marker": marker, "fillstyle": "none", "label": framework}
        line["linestyle"] = "-" if style is SIDES[0] else "--"
        panels[0].plot(range(1, len(record.train_losses) + 1), record.train_losses, **line)
        panels[1].plot(range(len(record.test_losses)), record.test_losses, **line)
    panels[0].set(title="training rows, over the epoch", xlabel="epoch", ylabel="loss [nats]")
    panels[1].set(title="test rows, after the epoch", xlabel="epoch (0: initial weights)")
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    panels[1].legend()
    figure.suptitle(title)
    save(figure, path)


def curve(keras: Result, lightning: Result, title: str, path: Path) -> None:
    """Draw the curve phi(m) of the loss and what it makes of a row, and beside them their slopes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for position, (name, label) in enumerate(_labels(lightning).items()):
        color = f"C{position}"
        left.plot(curves.LOG_ODDS, lightning.curves[name], color=color, linewidth=2, label=f"{label}, Lightning")
        every = slice(position * 2, None, 10)  # staggered, for lines may coincide
        left.plot(
            curves.LOG_ODDS[every],
            keras.curves[name][every],
            "o",
            color=color,
            fillstyle="none",
            label=f"{label}, Keras",
        )
        right.plot(curves.LOG_ODDS, lightning.slopes[name], color=color, linewidth=2, label=label)
    cross_entropy = np.logaddexp(0, -curves.LOG_ODDS)
    if not np.allclose(lightning.curves[curves.CURVE], cross_entropy, rtol=1e-4):
        left.plot(curves.LOG_ODDS, cross_entropy, ":", color="gray", label="cross-entropy, for comparison")
        slope = -1 / (1 + np.exp(curves.LOG_ODDS))
        right.plot(curves.LOG_ODDS, slope, ":", color="gray", label="cross-entropy, for comparison")
    left.set(title="Loss of one row", ylabel="loss [nats]")
    right.set(title="Its slope (autograd on the Lightning side)", ylabel="d loss / d m")
    for axes in (left, right):
        axes.set_xlabel("log-odds m of the true class [nats]")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    save(figure, path)


def scores(keras: Values, lightning: Values, frameworks: tuple[str, str], title: str, path: Path) -> None:
    """Draw mean and standard deviation of each method, a panel for each column of the table."""
    columns = list(next(iter(keras.values())))
    positions = np.arange(len(keras))
    size = (1.8 + 3.1 * len(columns), 1.8 + 0.42 * len(keras))
    figure, panels = plt.subplots(
        1, len(columns), sharex=True, sharey=True, squeeze=False, figsize=size, layout="constrained"
    )
    for axes, column in zip(panels[0], columns, strict=True):
        for side, name, style in zip((keras, lightning), frameworks, SIDES, strict=True):
            values = [side[method][column] for method in keras]
            means, spreads = map(fmean, values), map(comparison.spread, values)
            offset = style["offset"]
            axes.errorbar(list(means), positions + offset, xerr=list(spreads), label=name, capsize=3, **style["line"])
        axes.set(title=column, xlabel="share classified right")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        axes.grid(alpha=0.3)
    panels[0, 0].set_yticks(positions, map(comparison.label, keras))
    panels[0, 0].invert_yaxis()  # the first method on top; the axis is shared
    figure.suptitle(title)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save(figure, path)


def epochs(plan: Plan, keras: Outcomes, lightning: Outcomes, title: str, path: Path) -> None:
    """Draw the score after each epoch at the largest level, the mean over the seeds, a panel for each side."""
    level = max(job.level for job in plan.jobs)
    methods = list(dict.fromkeys(job.method for job in plan.jobs))
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(11, 4.8), layout="constrained")
    for axes, side in zip(panels, (keras, lightning), strict=True):
        pairs = list(zip(plan.jobs, side.outcomes, strict=True))
        for position, method in enumerate(methods):
            curves_of_seeds = [outcome.scores for job, outcome in pairs if (job.method, job.level) == (method, level)]
            color, dashes = COLORS[position % len(COLORS)], DASHES[position % len(DASHES)]
            means = np.mean(curves_of_seeds, axis=0)
            steps = range(1, len(means) + 1)
            axes.plot(steps, means, color=color, linestyle=dashes, label=comparison.label(method))
        axes.set(title=side.framework, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=ROUND))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share classified right, mean over the seeds")
    figure.suptitle(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")
    save(figure, path)


def _labels(result: Result) -> dict[str, str]:
    """Return the lines to draw, with their labels: the curve, and each row loss that is not the curve itself."""
    bare = result.curves[curves.CURVE]
    changed = [name for name, values in result.curves.items() if not np.allclose(values, bare, rtol=1e-4)]
    return {curves.CURVE: r"curve $\phi(m)$"} | {name: f"row of {name}" for name in changed}


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG file and forget it."""
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
