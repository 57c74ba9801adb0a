"""What the examples draw beside their losses: a picture, or a text, of what each side says of the test rows."""

from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, precision_recall_curve

from demo import plots
from demo.data import Split
from demo.examples import many_classes
from demo.examples.example import kept
from demo.examples.language_modelling import LanguageModelling
from demo.examples.recording import Record
from demo.plots import plt

SHOWN = 5
"""Images a picture."""


def confusion(split: Split, records: list[Record], folder: Path) -> None:
    """Draw how often each class was taken for each other, a panel a side: the share of its rows."""
    size = 1.2 + 0.42 * len(split.class_names)
    figure, panels = plt.subplots(1, 2, figsize=(2 * size, size + 0.9), sharey=True, layout="constrained")
    for axes, record in zip(panels, records, strict=True):
        target = split.test_target
        predicted = kept(np.asarray(record.observed["predicted"]), target)
        labels = range(len(split.class_names))
        shares = confusion_matrix(kept(target, target), predicted, labels=labels, normalize="true")
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=8)
        axes.set_xticks(labels, split.class_names, rotation=90 if len(split.class_names[-1]) > 1 else 0)
        axes.set_yticks(labels, split.class_names)
        axes.set_title(record.framework, fontsize=10)
    panels[0].set_ylabel("class")
    figure.supxlabel("predicted class, % of the rows of the class", fontsize=10)
    plots.save(figure, folder / "confusion.png")


def precision_recall(split: Split, records: list[Record], folder: Path) -> None:
    """Draw precision against recall over all thresholds, and how often probabilities come true."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    target = split.test_target.ravel()
    for record, style in zip(records, plots.SIDES, strict=True):
        color, dashes = style["line"]["color"], "-" if style is plots.SIDES[0] else "--"
        precision, recall, _ = precision_recall_curve(target, record.observed["probability"])
        left.plot(recall, precision, color=color, linestyle=dashes, drawstyle="steps-post", label=record.framework)
        happened, said = calibration_curve(target, record.observed["probability"], n_bins=5)
        line = {"color": color, "linestyle": dashes, "marker": style["line"]["fmt"], "fillstyle": "none"}
        right.plot(said, happened, label=record.framework, **line)
    left.axhline(target.mean(), color="gray", linestyle=":", label="rows in random order")
    left.set(xlabel="recall", ylabel="precision", title=f"{split.class_names[1]}, all thresholds", ylim=(0, 1.03))
    right.plot([0, 1], [0, 1], color="gray", linestyle=":", label="calibrated")
    right.set(xlabel="predicted probability", ylabel="share that is malignant", title="calibration, 5 bins")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    plots.save(figure, folder / "precision_recall.png")


def labelled_images(split: Split, records: list[Record], folder: Path) -> None:
    """Draw test images with the labels that are there and those that each side says; first those with a mistake."""
    predicted = [np.asarray(record.observed["predicted"]) for record in records]
    is_wrong = (predicted[0] != split.test_target).any(1)
    figure, panels = plt.subplots(2, SHOWN, figsize=(2.4 * SHOWN, 4), layout="constrained")
    rows = [*np.flatnonzero(is_wrong)[:SHOWN], *np.flatnonzero(~is_wrong)[: 2 * SHOWN]][: 2 * SHOWN]
    for axes, row in zip(panels.flat, rows, strict=True):
        _show(axes, split.test_inputs[row, ..., 0])
        said = [f"there: {_names(split, split.test_target[row])}"]
        said += [
            f"{record.framework.split()[0]}: {_names(split, label[row])}"
            for record, label in zip(records, predicted, strict=True)
        ]
        axes.set_title("\n".join(said), fontsize=9)
    figure.suptitle("test images: some with a mistake, then some without")
    plots.save(figure, folder / "images.png")


def masks(split: Split, records: list[Record], folder: Path) -> None:
    """Draw test images, the classes of their pixels, and those that each side says."""
    columns = [("input", split.test_inputs[:SHOWN, ..., 0]), ("truth", split.test_target[:SHOWN])]
    columns += [(record.framework.split()[0], np.asarray(record.observed["predicted"][:SHOWN])) for record in records]
    figure, panels = plt.subplots(SHOWN, 4, figsize=(8.6, 1.75 * SHOWN), layout="constrained")
    colors = plt.get_cmap("tab10").colors
    colormap = ListedColormap(["black", *colors])
    for position, (title, images) in enumerate(columns):
        panels[0, position].set_title(title, fontsize=9)
        for axes, image in zip(panels[:, position], images, strict=True):
            if position == 0:
                _show(axes, image)
            else:
                shown = axes.imshow(image, cmap=colormap, vmin=-0.5, vmax=len(colors) + 0.5, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
    bar = figure.colorbar(shown, ax=panels, shrink=0.5, ticks=range(len(split.class_names)))
    bar.ax.set_yticklabels(split.class_names)
    plots.save(figure, folder / "masks.png")


def perplexities(split: Split, records: list[Record], folder: Path) -> None:
    """Draw the perplexity on the test words beside those of models that look at no word before."""
    unigram = float(np.exp(-LanguageModelling().baseline(split)))
    bars = {"all words alike": float(len(split.class_names)), "unigram": unigram}
    bars |= {record.framework: float(np.exp(-record.observed["log_likelihood"])) for record in records}
    figure, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
    colors = ["lightgray", "gray", *(style["line"]["color"] for style in plots.SIDES)]
    drawn = axes.barh(list(bars), list(bars.values()), color=colors)
    axes.bar_label(drawn, fmt="{:.0f}", padding=4)
    axes.set(xscale="log", xlabel="perplexity on the test words, lower is better", xlim=(100, 30_000))
    axes.invert_yaxis()
    plots.save(figure, folder / "perplexity.png")


def recalls(split: Split, records: list[Record], folder: Path) -> None:
    """Draw the recall@1 of digits and of distractors: nearest in pixels, and of both networks."""
    found = {"nearest in pixels": many_classes.nearest(split)}
    found |= {record.framework: np.asarray(record.observed["predicted"]) for record in records}
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    colors = ["gray", *(style["line"]["color"] for style in plots.SIDES)]
    for place, ((name, predicted), color) in enumerate(zip(found.items(), colors, strict=True)):
        values = many_classes.recalls(split, predicted)
        drawn = axes.barh([place, place + 4], values, color=color, label=name)
        axes.bar_label(drawn, fmt="{:.2f}", padding=4)
    axes.set(xlabel=f"recall@1 among {many_classes.PROTOTYPES:,} prototypes", xlim=(0, 1.1))
    axes.set_yticks([1, 5], ["digits", "distractors"])
    axes.invert_yaxis()
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    plots.save(figure, folder / "recall.png")


def _show(axes: plt.Axes, image: NDArray) -> None:
    axes.imshow(image, cmap="gray", interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _names(split: Split, is_there: NDArray) -> str:
    return ", ".join(name for name, there in zip(split.class_names, is_there, strict=True) if there) or "none"
