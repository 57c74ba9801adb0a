"""The plots of a run, as PNG files."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from demo import curves, report
from demo.result import Result

DOTS_PER_INCH = 150
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
    _save(figure, path)


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
    _save(figure, path)


def _labels(result: Result) -> dict[str, str]:
    """Return the lines to draw, with their labels: the curve, and each row loss that is not the curve itself."""
    bare = result.curves[curves.CURVE]
    changed = [name for name, values in result.curves.items() if not np.allclose(values, bare, rtol=1e-4)]
    return {curves.CURVE: r"curve $\phi(m)$"} | {name: f"row of {name}" for name in changed}


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)
