"""Fills `expected` in the case files with 150 digits, from one-hot textbook formulas.

A probability is exp(x) / sum exp(x), a loss is a function of the probability of the true class, a soft
target mixes such losses, and a gradient is a central difference. On purpose nothing here is clever:
the code under test works with log-odds, and the two must not share an idea.

A new variant is one function of `textbook.py`, its line in a table there, and its case file.
"""

import argparse
import difflib
import functools
import inspect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mpmath import mp, mpf
from numpy.typing import NDArray

from shared_specs import textbook
from shared_specs.load import CASES, numbers, tensor
from shared_specs.textbook import BINARY, CURVES, NEED_LOGITS, OF_LABEL, OF_ROW, OF_TARGET, TEXTBOOK

DIGITS = 150
STEP = "1e-50"  # of the central difference: its own error is of the order of 1e-100
NOISE = "1e-90"  # a smaller slope is rounding, and stands for 0
CLIP = "1e-7"  # from_logits=False: the one clip
COMMON = {"from_logits", "label_smoothing", "smooth_over", "ignore_index", "temperature", "entropy_penalty"}
COMMON |= {"hard_fraction", "check_labels", "reduction"}
CATEGORICAL_KEYWORDS = COMMON | {"axis", "class_weight", "z_loss", "softcap"}
BINARY_KEYWORDS = COMMON | {"pos_weight", "axis"}
SYNONYMS = {"sum_over_batch_size": "mean", "mean_with_sample_weight": "weighted_mean"}

OWN_WEIGHTS = {"BinaryFocalCrossEntropy": {"alpha"}}  # keywords of a class that are weights, not curve


# ---- One row: logits to probabilities to the loss of the row.


@dataclass(frozen=True)
class Rule:
    """Turns the logits of a row into its loss, given the loss class and its configuration."""

    loss: str
    config: dict[str, Any]

    @property
    def binary(self) -> bool:
        return self.loss in BINARY

    @property
    def reduction(self) -> str:
        spelling: str = self.config.get("reduction", "mean")
        return SYNONYMS.get(spelling, spelling)

    def number(self, name: str, default: float) -> mpf:
        return decimal(self.config.get(name, default))

    @property
    def own(self) -> dict[str, Any]:
        """The loss's own keywords, with numbers exactly as printed."""
        return {name: exact(self.config.get(name, default)) for name, default in own_keywords(self.loss).items()}

    def count_classes(self, size: int) -> int:
        """The number of classes, given the size of the class axis of the logits."""
        if self.loss == "OrdinalCrossEntropy":
            return size + 1
        return size // int(self.own["views"]) if self.loss == "JensenShannonConsistency" else size

    def softmax_input(self, logits: Sequence[mpf], temperature: mpf) -> list[mpf]:
        """Logits over temperature, softly capped."""
        inputs = list(logits) if temperature == 1 else [logit / temperature for logit in logits]
        if self.config.get("softcap") is None:
            return inputs
        bound = self.number("softcap", 1)
        return [bound * (mp.tanh(x / bound) if mp.isfinite(x) else mp.sign(x)) for x in inputs]

    def masses(self, logits: Sequence[mpf]) -> list[mpf]:
        """Unnormalised probabilities of the classes; a binary row is (not label 1, label 1)."""
        if not self.config.get("from_logits", True):
            return [1 - logits[0], logits[0]] if self.binary else list(logits)
        if self.loss == "OrdinalCrossEntropy":
            return continuation_ratios(self.softmax_input(logits, self.number("temperature", 1)))
        if not self.binary:
            scale = self.own.get("scale", 1)
            inputs = self.softmax_input(logits, self.number("temperature", 1))
            return [exponential(x if scale == 1 else scale * x, mp.prec) for x in inputs]
        if logits[0] == mp.inf:
            return [mpf(0), mpf(1)]
        return [mpf(1), exponential(self.softmax_input(logits, self.number("temperature", 1))[0], mp.prec)]

    def row(self, logits: Sequence[mpf], still: Sequence[mpf]) -> textbook.Row:
        views = [logits]
        if self.loss == "JensenShannonConsistency":
            classes = self.count_classes(len(logits))
            views = [logits[start : start + classes] for start in range(0, len(logits), classes)]
            logits, still = views[0], views[0]
        masses = self.masses(views[0])
        total = mp.fsum(masses)

        def rest(label: int) -> mpf:
            if not self.config.get("from_logits", True):
                return 1 - p[label]
            return mp.fsum(masses[:label] + masses[label + 1 :]) / total

        p = self.probabilities(views[0])
        return textbook.Row(
            x=self.softmax_input(views[0], self.number("temperature", 1)),
            plain=self.softmax_input(views[0], mpf(1)),
            p=p,
            rest=rest,
            still=p if still is logits else self.probabilities(still),
            temperature=self.number("temperature", 1),
            views=[self.probabilities(view) for view in views] if len(views) > 1 else [p],
        )

    def probabilities(self, logits: Sequence[mpf]) -> list[mpf]:
        masses = self.masses(logits)
        total = mp.fsum(masses)
        p = [mass / total for mass in masses]
        if self.config.get("from_logits", True):
            return p
        return [min(max(probability, mpf(CLIP)), 1 - mpf(CLIP)) for probability in p]

    def loss_of_row(
        self, logits: Sequence[mpf], target: Sequence[mpf], weights: Sequence[mpf], still: Sequence[mpf]
    ) -> mpf:
        """sum_c t_c w_c phi(p_c) + R, t smoothed; classes with t_c w_c = 0 add nothing."""
        row, target = self.row(logits, still), self.smoothed_target(target)
        if self.loss in OF_TARGET:
            value = OF_TARGET[self.loss](row, target, weights, **self.own)
        else:
            value = mpf(0)
            for label, (mass, weight) in enumerate(zip(target, weights, strict=True)):
                if mass * weight != 0:
                    value += mass * weight * self.of_label(row, label)
        if self.loss in OF_ROW:
            value += OF_ROW[self.loss](row, **self.own)
        masses = self.masses(logits[: self.count_classes(len(logits))])
        return value + self.regulariser(masses, mp.fsum(masses))

    def of_label(self, row: textbook.Row, label: int) -> mpf:
        if self.loss in CURVES:
            return CURVES[self.loss](row.p[label], row.rest(label), **self.own)
        return OF_LABEL[self.loss](row, label, **self.own)

    def smoothed_target(self, target: Sequence[mpf]) -> list[mpf]:
        if self.loss != "Distillation" or self.own["alpha"] == 1:
            return self.smoothed(target)
        count = len(target) // 2
        return self.smoothed(target[:count]) + self.smoothed(target[count:])

    def regulariser(self, masses: Sequence[mpf], total: mpf) -> mpf:
        """z_loss * log(sum exp x)^2 - entropy_penalty * H(p)"""
        value = mpf(0)
        if self.number("z_loss", 0) != 0:
            value += self.number("z_loss", 0) * mp.log(total) ** 2
        if self.number("entropy_penalty", 0) != 0:
            probabilities = [mass / total for mass in masses if mass > 0]
            value += self.number("entropy_penalty", 0) * sum(p * mp.log(p) for p in probabilities)
        return value

    def smoothed(self, target: Sequence[mpf]) -> list[mpf]:
        smoothing = self.number("label_smoothing", 0)
        count = len(target)
        if smoothing == 0:
            return list(target)
        if self.config.get("smooth_over", "all") == "all":
            return [(1 - smoothing) * mass + smoothing / count for mass in target]
        if count == 1:
            return list(target)
        total = sum(target)
        return [(1 - smoothing) * mass + smoothing * (total - mass) / (count - 1) for mass in target]


def decimal(value: Any) -> mpf:
    """The number exactly as printed: 0.1 is one tenth."""
    return parsed(repr(float(value)), mp.prec)


@functools.cache
def parsed(text: str, precision: int) -> mpf:
    return mpf(text)


@functools.cache
def own_keywords(loss: str) -> dict[str, Any]:
    """The keywords of a textbook formula and their defaults."""
    if loss not in TEXTBOOK:
        raise ValueError(f"shared_specs/textbook.py has no formula for {loss}: write it, and name it in a table")
    parameters = inspect.signature(TEXTBOOK[loss]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def exact(value: Any) -> Any:
    """A keyword's value with its numbers exactly as printed; names, flags and None unchanged."""
    if isinstance(value, list):
        return [exact(entry) for entry in value]
    return value if value is None or isinstance(value, str | bool) else decimal(value)


def continuation_ratios(logits: Sequence[mpf]) -> list[mpf]:
    """P(k) = prod_{j < k} s(x_j) (1 - s(x_k)); for the last class the product alone."""
    masses, left = [], mpf(1)
    for logit in logits:
        odds = mp.exp(logit)
        masses.append(left / (1 + odds))
        left *= odds / (1 + odds)
    return [*masses, left]


@functools.cache
def exponential(logit: mpf, precision: int) -> mpf:
    """exp(x), cached, because a central difference moves one class and leaves the others."""
    return mp.exp(logit) if logit != -mp.inf else mpf(0)


# ---- One call: rows in, row losses and gradients out.


@dataclass(frozen=True)
class Row:
    """One row of a call; `target` is None if the label is out of range, `u` is the weight of the target.

    A target may be two distributions, one after the other. The first has the `share`, the second the rest.
    """

    logits: list[mpf]
    target: list[mpf] | None
    weights: list[mpf]
    kept: bool
    sample_weight: mpf
    share: mpf

    @property
    def factor(self) -> mpf:
        """k_i s_i"""
        return self.sample_weight if self.kept else mpf(0)

    @property
    def u(self) -> mpf:
        """sum_c t0_c w_c, t0 the target before smoothing"""
        target, count = self.target or [], len(self.weights)
        parts = [target[start : start + count] for start in range(0, len(target), count)]
        shares = [mpf(1)] if len(parts) < 2 else [self.share, 1 - self.share]
        sums = [mp.fdot(part, self.weights) for part in parts]
        return mp.fdot(zip(shares, sums, strict=False))

    def loss(self, rule: Rule) -> mpf:
        bad = [x for x in self.logits if mp.isnan(x) or (x == mp.inf and not rule.binary)]
        if self.target is None or bad:
            return mp.nan
        return rule.loss_of_row(self.logits, self.target, self.weights, self.logits)

    def gradient(self, rule: Rule) -> list[mpf]:
        """Central differences; an infinite logit cannot move, so its slope is the limit, 0."""
        assert self.target is not None
        step = mpf(STEP)
        slopes = []
        for index, logit in enumerate(self.logits):
            if not mp.isfinite(logit):
                slopes.append(mpf(0))
                continue
            above, below = list(self.logits), list(self.logits)
            above[index], below[index] = logit + step, logit - step
            higher = rule.loss_of_row(above, self.target, self.weights, self.logits)
            lower = rule.loss_of_row(below, self.target, self.weights, self.logits)
            slope = (higher - lower) / (2 * step)
            slopes.append(slope if abs(slope) > mpf(NOISE) else mpf(0))
        return slopes


def fill(loss: str, case: dict[str, Any]) -> dict[str, Any]:
    """The `expected` of one case."""
    rule = Rule(loss, {name: numbers(value) for name, value in case["config"].items()})
    check_keywords(rule)
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    with mp.workdps(DIGITS + extra_digits(rule, inputs["logits"])):
        return evaluate(rule, inputs)


def check_keywords(rule: Rule) -> None:
    known = BINARY_KEYWORDS if rule.binary else CATEGORICAL_KEYWORDS
    unknown = set(rule.config) - set(own_keywords(rule.loss)) - OWN_WEIGHTS.get(rule.loss, set()) - known
    if unknown:
        raise ValueError(f"{rule.loss} has no keyword {', '.join(sorted(unknown))}")
    if rule.loss in NEED_LOGITS and not rule.config.get("from_logits", True):
        raise ValueError(f"{rule.loss} takes no probabilities")


def extra_digits(rule: Rule, logits: NDArray[np.float64]) -> int:
    """The digits that a saturated probability needs: 1 - p at m = 8192 is about 1e-3558. Heavy tails need none."""
    if rule.loss == "BiTemperedLogistic":
        return 0
    finite = np.abs(logits[np.isfinite(logits)]).max(initial=0.0)
    steepness = float(rule.own.get("scale", 1)) / rule.config.get("temperature", 1.0)
    return int(2 * finite * steepness / np.log(10))


def evaluate(rule: Rule, inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The loss, denominator and gradient of one call: rows, their losses, which of them count, the reduction."""
    logits = inputs["logits"]
    axis = rule.config.get("axis", -1)
    positions = positions_of_rows(rule, logits.shape, axis)
    rows = rows_of(rule, inputs, positions, axis)
    losses = [row.loss(rule) if row.kept else mpf(0) for row in rows]
    rows = hardest(rule, rows, losses)
    denominator = denominator_of(rule.reduction, rows)
    if "denominator" in inputs:
        assert denominator is not None, "a denominator without a sum"
        denominator = mpf(inputs["denominator"].item())
    factors = [row.factor / (denominator or 1) if denominator != 0 else mpf(0) for row in rows]
    values = [factor * loss if factor != 0 else mpf(0) for factor, loss in zip(factors, losses, strict=True)]
    if rule.reduction == "none":
        loss = filled(values, shape_of_rows(rule, logits.shape, axis))
    else:
        loss = filled([sum(values, mpf(0))], ())
    loss["scale"] = max(1.0, loss["scale"])
    gradient = gradient_of(rule, rows, losses, factors, positions, logits.shape)
    divided = None if denominator is None else nearest(denominator)
    return {"loss": loss, "denominator": divided, "grad_logits": gradient}


def shape_of_rows(rule: Rule, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of the row losses: the logits' without the class axis. In a binary loss every element is a row."""
    return shape if rule.binary else tuple(np.delete(shape, axis).tolist())


def positions_of_rows(rule: Rule, shape: tuple[int, ...], axis: int) -> NDArray[np.int64]:
    """The flat positions of the logits, one line per row: [rows, classes], or [rows, 1] for a binary loss."""
    flat = np.arange(np.prod(shape, dtype=np.int64)).reshape(shape)
    return flat.reshape(-1, 1) if rule.binary else np.moveaxis(flat, axis, -1).reshape(-1, shape[axis])


def rows_of(rule: Rule, inputs: dict[str, NDArray[Any]], positions: NDArray[np.int64], axis: int) -> list[Row]:
    logits, target = inputs["logits"], inputs["target"]
    row_shape = shape_of_rows(rule, logits.shape, axis)
    read_targets = binary_targets if rule.binary else categorical_targets
    targets, ignored = read_targets(rule, target, logits, positions)
    mask = aligned(inputs.get("mask", np.array(True)), row_shape)
    sample_weight = aligned(inputs.get("sample_weight", np.array(1.0)), row_shape)
    weights = class_weights(rule, logits.shape, positions)
    rows = []
    for index, line in enumerate(positions):
        kept = bool(mask.reshape(-1)[index]) and not ignored[index]
        weight = mpf(float(sample_weight.reshape(-1)[index]))
        unchecked = rule.config.get("check_labels") is False
        if kept and weight != 0 and targets[index] is None and not unchecked:
            raise ValueError(f"row {index}: label out of range")
        row_logits = [mpf(float(value)) for value in logits.reshape(-1)[line]]
        share = rule.own["alpha"] if rule.loss == "Distillation" else mpf(1)
        rows.append(Row(row_logits, targets[index], weights[index], kept, weight, share))
    return rows


Targets = tuple[list[list[mpf] | None], list[bool]]


def binary_targets(rule: Rule, target: NDArray[Any], logits: NDArray[Any], positions: NDArray[np.int64]) -> Targets:
    """Two-class distributions (1 - t, t), and which elements are ignored."""
    assert alike(target.shape, logits.shape), "target: wrong shape"
    labels = [float(value) for value in target.reshape(-1)]
    ignored = [label == rule.config.get("ignore_index") for label in labels]
    return [[1 - mpf(label), mpf(label)] if 0 <= label <= 1 else None for label in labels], ignored


def categorical_targets(
    rule: Rule, target: NDArray[Any], logits: NDArray[Any], positions: NDArray[np.int64]
) -> Targets:
    """Distributions over the classes, and which rows are ignored (index targets only)."""
    count = rule.count_classes(positions.shape[1])
    if rule.loss == "Distillation":
        return taught(rule, target, count)
    if target.ndim == logits.ndim and target.size == len(positions) * count and not rule.loss.startswith("Sparse"):
        lines = np.moveaxis(target, rule.config.get("axis", -1), -1).reshape(-1, count)
        return [[mpf(float(mass)) for mass in line] for line in lines], [False] * len(lines)
    assert target.size == len(positions) and target.dtype == np.int64, "target: wrong shape or dtype"
    labels = [int(label) for label in target.reshape(-1)]
    ignored = [label == rule.config.get("ignore_index") for label in labels]
    one_hot = [[mpf(index == label) for index in range(count)] for label in labels]
    in_range = [0 <= label < count for label in labels]
    return [line if good else None for line, good in zip(one_hot, in_range, strict=True)], ignored


def taught(rule: Rule, target: NDArray[Any], count: int) -> Targets:
    """The teacher's distributions, each followed by the one-hot label; and which labels are ignored."""
    lines = np.moveaxis(target, rule.config.get("axis", -1), -1)
    assert lines.shape[-1] == count + (rule.own["alpha"] != 1), "target: wrong shape"
    targets: list[list[mpf] | None] = []
    ignored = []
    for line in lines.reshape(-1, lines.shape[-1]).tolist():
        masses = [exponential(mpf(logit) / rule.number("temperature", 1), mp.prec) for logit in line[:count]]
        label = line[count:]
        ignored.append(label == [rule.config.get("ignore_index")])
        in_range = all(0 <= index < count for index in label)
        one_hot = [mpf(index == entry) for entry in label for index in range(count)]
        targets.append([mass / mp.fsum(masses) for mass in masses] + one_hot if in_range else None)
    return targets, ignored


def class_weights(rule: Rule, shape: tuple[int, ...], positions: NDArray[np.int64]) -> list[list[mpf]]:
    """The weights of the classes for each row; (w_0, w_1) for a binary row."""
    if not rule.binary:
        count = rule.count_classes(positions.shape[1])
        weights = [decimal(weight) for weight in rule.config.get("class_weight") or [1] * count]
        assert len(weights) == count, "class_weight: wrong length"
        return [weights] * len(positions)
    pos_weight = np.array(rule.config.get("pos_weight", 1.0), np.float64)
    if pos_weight.ndim == 1 and pos_weight.size > 1:  # one per label, along the axis
        assert len(pos_weight) == shape[rule.config.get("axis", -1)], "pos_weight: wrong length"
        pos_weight = np.moveaxis(
            np.broadcast_to(pos_weight, np.moveaxis(np.empty(shape), rule.config.get("axis", -1), -1).shape),
            -1,
            rule.config.get("axis", -1),
        )
    positive = [decimal(weight) for weight in np.broadcast_to(pos_weight, shape).reshape(-1)]
    if rule.config.get("alpha") is None or rule.loss not in OWN_WEIGHTS:
        return [[mpf(1), weight] for weight in positive]
    alpha = decimal(rule.config["alpha"])
    return [[1 - alpha, weight * alpha] for weight in positive]


def alike(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two shapes are equal, perhaps after one of them gets an axis of size 1, at its end or as axis 1."""
    short, long = sorted((first, second), key=len)
    widened = [(*short, 1), (*short[:1], 1, *short[1:])] if len(long) == len(short) + 1 else [short]
    return long in widened


def aligned(sample_weight: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Weights aligned from the left: a leading part of the shape of the rows, a trailing 1 dropped."""
    if alike(sample_weight.shape, shape):
        return sample_weight.reshape(shape)
    lead = sample_weight.shape
    if lead != shape[: len(lead)]:
        assert lead[-1] == 1, "sample_weight: wrong shape"
        return aligned(sample_weight.reshape(lead[:-1]), shape)
    return np.broadcast_to(sample_weight.reshape(lead + (1,) * (len(shape) - len(lead))), shape)


def hardest(rule: Rule, rows: list[Row], losses: list[mpf]) -> list[Row]:
    """The rows, with only those of largest loss still kept: NaN first, ties by lower index."""
    fraction = rule.number("hard_fraction", 1)
    kept = [index for index, row in enumerate(rows) if row.kept]
    count = int(mp.ceil(fraction * len(kept) * (1 - mpf("1e-6")))) if fraction < 1 else len(kept)
    unordered = {index for index in kept if mp.isnan(losses[index])}
    ranked = sorted(unordered) + sorted(set(kept) - unordered, key=lambda index: (-losses[index], index))
    chosen = set(ranked[:count])
    return [replace(row, kept=index in chosen) for index, row in enumerate(rows)]


def denominator_of(reduction: str, rows: list[Row]) -> mpf | None:
    if reduction == "none":
        return None
    if reduction == "sum":
        return mpf(1)
    if reduction == "mean":
        return mpf(sum(row.kept for row in rows))
    assert reduction == "weighted_mean", f"reduction {reduction!r}"
    return sum((row.factor * row.u for row in rows if row.factor != 0), mpf(0))


def gradient_of(
    rule: Rule,
    rows: list[Row],
    losses: list[mpf],
    factors: list[mpf],
    positions: NDArray[np.int64],
    shape: tuple[int, ...],
) -> dict[str, Any]:
    """The gradient of the sum of the loss; None where the loss of the row is not finite."""
    flat: list[mpf | None] = [mpf(0)] * positions.size
    nonfinite = []
    share = mpf(0)
    for row, loss, factor, line in zip(rows, losses, factors, positions.tolist(), strict=True):
        if factor == 0:
            continue
        share = max(share, factor * row.u)
        if mp.isnan(loss) and row.target is not None:
            nonfinite.append(sorted(line))
        slopes = row.gradient(rule) if mp.isfinite(loss) else [None] * len(line)
        for position, slope in zip(line, slopes, strict=True):
            flat[position] = None if slope is None else factor * slope
    gradient = filled(flat, shape)
    gradient["scale"] = max(nearest(share), gradient["scale"]) or 1.0
    return gradient | ({"nonfinite": nonfinite} if nonfinite else {})


# ---- Numbers and files.


def nearest(value: mpf) -> float:
    """The nearest float64, and never -0.0."""
    return float(mp.nstr(value, 40)) + 0.0


def filled(entries: Sequence[mpf | None], shape: Sequence[int]) -> dict[str, Any]:
    """A tensor of a case file, its scale the largest finite magnitude."""
    rounded = [None if entry is None else nearest(entry) for entry in entries]
    data = np.empty(len(rounded), object)
    data[:] = [value if value is None or np.isfinite(value) else spelled(value) for value in rounded]
    finite = [abs(value) for value in rounded if value is not None and np.isfinite(value)]
    return {
        "shape": [int(size) for size in shape],
        "data": data.reshape(shape).tolist(),
        "scale": max(finite, default=0.0),
    }


def spelled(value: float) -> str:
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def filled_file(text: str) -> str:
    """The text of a case file with every `expected` computed anew."""
    content = json.loads(text)
    for case in content["cases"]:
        if "error" in case:
            continue
        try:
            case["expected"] = fill(content["loss"], case)
        except Exception as error:
            error.add_note(f"in case {case['id']}")
            raise
    return formatted(content)


def formatted(content: dict[str, Any]) -> str:
    """The text of a case file: one line per key, and one per tensor of a case."""
    cases = ",\n".join(formatted_case(case) for case in content["cases"])
    head = {name: value for name, value in content.items() if name not in ("flags", "cases")}
    lines = [f"{quoted(name)}: {quoted(value)}" for name, value in head.items()]
    flags = ",\n  ".join(f"{quoted(name)}: {quoted(value)}" for name, value in content["flags"].items())
    lines += [f'"flags": {{\n  {flags}}}', f'"cases": [\n{cases}\n]']
    return "{" + ",\n ".join(lines) + "}\n"


def formatted_case(case: dict[str, Any]) -> str:
    lines = []
    for name, value in case.items():
        if name in ("inputs", "expected"):
            parts = [f"{quoted(part)}: {quoted(entry)}" for part, entry in value.items()]
            lines.append(f"{quoted(name)}: {{" + ",\n    ".join(parts) + "}")
        else:
            lines.append(f"{quoted(name)}: {quoted(value)}")
    return " {" + ",\n  ".join(lines) + "}"


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m shared_specs.oracle", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("files", nargs="*", type=Path, help="case files (default: all)")
    options = parser.parse_args(arguments)
    changed = False
    for path in options.files or sorted(CASES.glob("*.json")):
        old = path.read_text(encoding="utf-8")
        new = filled_file(old)
        changed |= old != new
        if options.check:
            pair = old.splitlines(), new.splitlines()
            difference = difflib.unified_diff(*pair, path.name, "oracle", n=0, lineterm="")
            sys.stdout.writelines(f"{line}\n" for line in difference)
        elif old != new:
            path.write_text(new, encoding="utf-8", newline="\n")
    return int(options.check and changed)


if __name__ == "__main__":
    sys.exit(main())
