"""Draws losses and their pulls side by side over the log-odds of the label: `xent curves LOSS ...`.

The numbers are those of the package that is installed, `lightning_xent` or `keras_xent`, by its own gradient. Needs
matplotlib (the extra `plot`).
"""

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any

SIDES = {"lightning": "torch", "keras": "keras"}
"""The packages without "_xent", and the framework that each needs."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito: the colour-blind tell them apart."""
DASHES = ("-", "--", "-.", ":")
POINTS = 121
REACH = 6.0
"""The log-odds of a picture end here, and at 1 for losses with a scale: their logits are cosines."""


@dataclass(frozen=True)
class Line:
    """One line of a picture: a loss, its keywords, and the row that it is drawn for."""

    loss: str
    config: Mapping[str, Any] = field(default_factory=dict)
    target: float = 1.0
    """The share of the label. 1 is the label itself; Distillation takes the teacher's probability of it."""
    classes: int | None = None
    """None: as many as the loss has class counts, or two."""
    label: int | None = None
    """None: the last class."""
    name: str | None = None
    """Its name in the legend. None: the loss and its keywords."""

    @property
    def legend(self) -> str:
        """The line's name in the legend."""
        if self.name is not None:
            return self.name
        given = ", ".join(f"{key}={value}" for key, value in self.config.items())
        return f"{self.loss}({given})" if self.target == 1.0 else f"{self.loss}({given}), target {self.target:g}"


@dataclass(frozen=True)
class Drawn:
    """The numbers of a line: the places, the loss there, and minus its slope."""

    places: Sequence[float]
    values: Sequence[float]
    pulls: Sequence[float]
    are_cosines: bool


def read(text: str) -> Line:
    """Return the line of `LOSS`, `LOSS:gamma=2,alpha=0.25`, or a spec in JSON, as {"loss": LOSS, "config": {...}}."""
    if text.startswith("{"):
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{text} is not JSON: {error}") from None
        if not {"loss"} <= given.keys() <= {"loss", "config"}:
            raise ValueError(f'a loss in JSON has the keys "loss" and "config", got {text}')
        return Line(given["loss"], given.get("config") or {})
    name, _, keywords = text.partition(":")
    config = {}
    for keyword in re.split(r",(?=\s*\w+=)", keywords) if keywords else []:
        key, is_given, value = keyword.partition("=")
        if not is_given:
            raise ValueError(f"{keyword!r} of {text} must be KEYWORD=VALUE")
        try:
            config[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            config[key.strip()] = value.strip()  # a word, such as flsd53
    return Line(name, config)


def package_of(side: str | None = None) -> Any:
    """Return the package of a side; None takes the first whose framework is installed."""
    names = [side] if side else list(SIDES)
    found = next((name for name in names if util.find_spec(SIDES[name])), None)
    if found is None:
        raise ValueError(f"{' or '.join(SIDES[name] for name in names)} is not installed: the losses need it")
    try:
        return import_module(f"{found}_xent")
    except ImportError as error:
        raise ValueError(f"{found}_xent cannot be imported: {error}") from error


def loss_of(line: Line, package: Any) -> Any:
    """Return the loss of a line, with one value per row."""
    counts = "class_counts"
    if counts in getattr(getattr(package, line.loss, None), "__dataclass_fields__", {}) and counts not in line.config:
        raise ValueError(f"{line.loss} needs the rows of each class, as in {line.loss}:{counts}=[900,100]")
    return package.get({"loss": line.loss, "config": {**line.config, "reduction": "none", "check_labels": False}})


def evaluate(line: Line, package: Any, reach: float | None = None) -> Drawn:
    """Return the numbers of a line, from minus to plus `reach`."""
    loss = loss_of(line, package)
    are_cosines = hasattr(loss, "scale")
    end = reach or (1.0 if are_cosines else REACH)
    places = [end * (2 * index / (POINTS - 1) - 1) for index in range(POINTS)]
    logits, direction, target = inputs(line, loss, package, places)
    values, slopes = gradient_of(package)(loss, logits, direction, target)
    return Drawn(places, values, [-slope for slope in slopes], are_cosines)


def inputs(line: Line, loss: Any, package: Any, places: Sequence[float]) -> tuple[Any, Any, Any]:
    """Return the logits whose label has the log-odds `places`, how they move with the log-odds, and the target.

    The other classes have equal logits. All logits of an ordinal loss, one a threshold, are the log-odds.
    """
    if not 0 <= line.target <= 1:
        raise ValueError(f"target must be in [0, 1], got {line.target}")
    if isinstance(loss, package.binary.BinaryLoss):
        return places, [1.0] * len(places), [line.target] * len(places)
    counts = getattr(loss, "class_counts", None)
    classes = line.classes or (2 if counts is None else len(counts))
    label = classes - 1 if line.label is None else line.label
    if classes < 2 or not 0 <= label < classes:
        raise ValueError(f"label must be one of 2 classes or more, got label {label} of {classes} classes")
    row = [float(index == label) for index in range(classes)]
    if line.loss == "OrdinalCrossEntropy":
        directions, offset = [1.0] * (classes - 1), 0.0
    elif line.loss == "JensenShannonConsistency":
        directions, offset = row + [0.0] * classes * (loss.views - 1), math.log(classes - 1)
    else:
        directions, offset = row, 0.0 if hasattr(loss, "scale") else math.log(classes - 1)
    logits = [[part * (place + offset) for part in directions] for place in places]
    if line.loss == "Distillation":
        if not 0 < line.target < 1:
            raise ValueError(f"target must be between 0 and 1 for Distillation, whose teacher it is, got {line.target}")
        teacher = math.log(line.target / (1 - line.target)) + offset
        return logits, [directions] * len(places), [[part * teacher for part in row]] * len(places)
    if line.target == 1.0:
        return logits, [directions] * len(places), [label] * len(places)
    rest = (1 - line.target) / (classes - 1)
    return logits, [directions] * len(places), [[line.target if part else rest for part in row]] * len(places)


def gradient_of(package: Any) -> Callable[..., tuple[list[float], list[float]]]:
    """Return the function of (loss, logits, direction, target) that returns the values and the slopes of the rows."""
    if package.__name__ == "lightning_xent":
        return of_torch
    backend = import_module("keras").backend.backend()
    if backend == "torch":
        return lambda loss, logits, *rest: of_torch(lambda x, target: loss(target, x), logits, *rest)
    return {"tensorflow": of_tensorflow, "jax": of_jax}[backend]


def of_torch(loss: Any, logits: Any, direction: Any, target: Any) -> tuple[list[float], list[float]]:
    """The values and slopes of a loss(logits, target)."""
    torch = import_module("torch")
    x = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    values = loss(x, torch.tensor(target))
    (gradient,) = torch.autograd.grad(values.sum(), x)
    return values.tolist(), summed((gradient * torch.tensor(direction)).tolist())


def of_tensorflow(loss: Any, logits: Any, direction: Any, target: Any) -> tuple[list[float], list[float]]:
    """The values and slopes of a loss(target, logits)."""
    tensorflow = import_module("tensorflow")
    x = tensorflow.constant(logits, "float32")
    with tensorflow.GradientTape() as tape:
        tape.watch(x)
        values = loss(tensorflow.constant(target), x)
    return values.numpy().tolist(), summed((tape.gradient(values, x) * direction).numpy().tolist())


def of_jax(loss: Any, logits: Any, direction: Any, target: Any) -> tuple[list[float], list[float]]:
    """The values and slopes of a loss(target, logits)."""
    jax = import_module("jax")
    x, labels = jax.numpy.asarray(logits, "float32"), jax.numpy.asarray(target)

    def step(given: Any) -> tuple[Any, Any]:
        values, pull = jax.vjp(lambda moved: loss(labels, moved), given)
        return values, pull(jax.numpy.ones_like(values))[0] * jax.numpy.asarray(direction)

    # Outside of jit JAX compiles every operation by itself, which takes longer.
    values, slopes = jax.jit(step)(x)
    return values.tolist(), summed(slopes.tolist())


def summed(rows: Sequence[Any]) -> list[float]:
    """The sum of each row, whose entries are those of its classes."""
    return [math.fsum(row) if isinstance(row, list) else row for row in rows]


def draw(lines: Sequence[Line], path: Path, package: Any, *, reach: float | None = None, compare: bool = True) -> None:
    """Draw lines into a PNG, SVG or PDF file; with `compare` also cross-entropy, dashed, where the axis is its own."""
    drawn = [(line.legend, evaluate(line, package, reach)) for line in lines]
    are_cosines = any(line.are_cosines for _, line in drawn)
    names = {line.loss for line in lines}
    try:
        matplotlib = import_module("matplotlib")
    except ImportError:
        raise ValueError('matplotlib is not installed: pip install matplotlib, or the extra "plot"') from None
    # The same bytes each time: no random names in an SVG, text as text, no date.
    settings = {"svg.hashsalt": "xent", "svg.fonttype": "none", "path.simplify": False}
    settings |= {"font.size": 12, "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(settings):
        figure = import_module("matplotlib.figure").Figure(figsize=(9, 4.2))
        left, right = figure.subplots(1, 2)
        if compare and not are_cosines and "BinaryCrossEntropy" not in names:
            drawn_for_comparison = evaluate(Line("BinaryCrossEntropy"), package, reach)
            plot(left, right, drawn_for_comparison, "cross-entropy", {"color": "#666666", "linestyle": ":"})
        for index, (name, numbers) in enumerate(drawn):
            style = {"color": COLORS[index % len(COLORS)], "linestyle": DASHES[index // 3 % len(DASHES)]}
            plot(left, right, numbers, name, style)
        left.set_title("loss of one row")
        right.set_title("its pull (minus the slope)")
        for axes in (left, right):
            axes.set_xlabel("cosine of the label" if are_cosines else "log-odds of the label")
            axes.axvline(0, color="black", linewidth=0.8, alpha=0.4)
            axes.grid(alpha=0.3)
            axes.set_xlim(drawn[0][1].places[0], drawn[0][1].places[-1])
        handles, labels = left.get_legend_handles_labels()
        fitting = max(1, 90 // (max(map(len, labels)) + 8))
        columns = len(labels) if fitting >= len(labels) else min(fitting, 2)
        rows = math.ceil(len(labels) / columns)
        figure.legend(handles, labels, loc="lower center", ncols=columns, frameon=False)
        # Fixed places: what matplotlib computes from the sizes of texts differs between its versions.
        figure.subplots_adjust(left=0.07, right=0.98, top=0.92, bottom=0.17 + 0.06 * rows, wspace=0.18)
        if path.suffix != ".svg":
            figure.savefig(path, dpi=110)
            return
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        # Hundredths of a point: half the size, and the same on every machine.
        rounded = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", text.getvalue())
        stripped = "".join(f"{line.rstrip()}\n" for line in rounded.splitlines())
        path.write_text(stripped, encoding="utf-8", newline="\n")


def plot(left: Any, right: Any, numbers: Drawn, name: str, style: Mapping[str, Any]) -> None:
    """Plot the loss on the left, and its pull on the right."""
    left.plot(numbers.places, numbers.values, label=name, linewidth=2, **style)
    right.plot(numbers.places, numbers.pulls, linewidth=2, **style)
