"""What a case asks of a loss, in plain values: what adapters read before they look for a call of their library."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_specs.common.arguments import REDUCTION_SYNONYMS
from shared_specs.conformance.offers import Offer
from shared_specs.load import Case
from shared_specs.textbook import BINARY

DEFAULTS = {
    "from_logits": True,
    "label_smoothing": 0.0,
    "smooth_over": "all",
    "temperature": 1.0,
    "z_loss": 0.0,
    "entropy_penalty": 0.0,
    "hard_fraction": 1.0,
    "reduction": "mean",
}
CLIP = 1e-7
WEIGHTS = {"alpha", "class_weight", "pos_weight", "sample_weight"}
# What each adapter sees to.
ALWAYS = {"axis", "reduction"}


class Asked:
    """One value case, with the defaults of the common keywords left out."""

    def __init__(self, case: Case) -> None:
        """Read a case that has an expected value."""
        logits, target = case.inputs["logits"], case.inputs["target"]
        self.loss = case.loss
        self.beyond: list[str] = []
        self.config = {
            name: value
            for name, value in case.config.items()
            if value is not None and not (name in DEFAULTS and value == DEFAULTS[name])
        }
        self.inputs = {name: value for name, value in case.inputs.items() if name not in ("logits", "target")}
        self.shape = logits.shape
        self.scores = logits
        self.target = target
        self.is_binary = case.loss in BINARY
        axis = case.config.get("axis")
        self.axis: int = (logits.ndim - 1 if axis is None else axis) % max(logits.ndim, 1)
        rows = logits.shape if self.is_binary else logits.shape[: self.axis] + logits.shape[self.axis + 1 :]
        self.row_shape: tuple[int, ...] = tuple(rows)
        self.classes = 2 if self.is_binary else int(logits.shape[self.axis])

    @cached_property
    def reduction(self) -> str:
        """The canonical name; a weighted mean without weights is a mean."""
        given = self.config.get("reduction", "mean")
        name: str = REDUCTION_SYNONYMS.get(given, given)
        weighs = WEIGHTS & {*self.config, *self.inputs}
        return "mean" if name == "weighted_mean" and not weighs and self.sums_to_one else name

    def only(self, *names: str) -> bool:
        """Whether the case asks for nothing but these keywords and inputs, beside axis and reduction."""
        self.beyond = sorted({*self.config, *self.inputs}.difference(ALWAYS, names))
        return not self.beyond

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a keyword, or the default of the loss that an adapter knows."""
        return self.config.get(name, default)

    @property
    def has_logits(self) -> bool:
        """False for probabilities."""
        return "from_logits" not in self.config

    @cached_property
    def is_clipped(self) -> bool:
        """Whether a probability of the case lies beyond the clip of ours, at 1e-7 and 1 - 1e-7."""
        if self.has_logits:
            return False
        p = self.scores
        if not self.is_binary:
            p = p / p.sum(self.axis, keepdims=True)
        return bool(((p < CLIP) | (p > 1 - CLIP)).any())

    @cached_property
    def has_indices(self) -> bool:
        """Whether the targets are class indices: all of a categorical loss that have not the shape of the logits."""
        return not self.is_binary and self.target.shape != self.shape

    @cached_property
    def is_hard(self) -> bool:
        """Whether each target is a class: an index, a one-hot row, or a label of 0 or 1."""
        if self.has_indices:
            return True
        values = self.target.reshape(self.row_shape)[self.kept] if self.is_binary else self.target
        whole = bool(np.isin(values, (0, 1)).all())
        return whole and (self.is_binary or bool((self.target.sum(self.axis) == 1).all()))

    @cached_property
    def sums_to_one(self) -> bool:
        """Whether the target of each row is a distribution."""
        return self.is_binary or self.has_indices or bool(np.allclose(self.target.sum(self.axis), 1))

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """The rows whose label is not ignored, in the shape of the rows."""
        if "ignore_index" not in self.config or not (self.is_binary or self.has_indices):
            return np.ones(self.row_shape, bool)
        return (self.target != self.config["ignore_index"]).reshape(self.row_shape)

    @property
    def kept_rows(self) -> int:
        """Their number, at least 1: a sum over none of them is 0, and so is its mean."""
        return max(int(self.kept.sum()), 1)

    @cached_property
    def pos_weight(self) -> NDArray[np.float64]:
        """The weight of label 1, in a shape that broadcasts against the logits."""
        weight = np.asarray(self.config.get("pos_weight", 1.0))
        if weight.ndim == 1 and "axis" in self.config:
            return weight.reshape(np.where(np.arange(len(self.shape)) == self.axis, weight.size, 1))
        return weight

    def against_rows(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape in which sample weights or a mask, of a leading part of the rows, broadcast against the rows."""
        found = tuple(int(size) for size in shape)
        if prod(found) == prod(self.row_shape):
            return self.row_shape
        while len(found) > 1 and found[-1] == 1 and found != self.row_shape[: len(found)]:
            found = found[:-1]
        return found + (1,) * (len(self.row_shape) - len(found))


def answers(
    calls: Mapping[str, Callable[[Asked], Offer | str | None]], weighted_mean: Callable[[Asked], bool] | None = None
) -> Callable[[Case], Offer | str | None]:
    """The function `offer` of an adapter, by the name of the loss.

    Args:
        calls: What is offered for a loss: an offer, or why there is none; None: after `only` said so.
        weighted_mean: Whether the mean of a call can divide by weights; None: no call's can.
    """

    def offer(case: Case) -> Offer | str | None:
        asked = Asked(case)
        if asked.loss not in calls:
            return None
        if asked.get("gamma") == "flsd53":
            return "gamma is a number"
        if asked.reduction == "weighted_mean" and not (weighted_mean and weighted_mean(asked)):
            return "no mean divides by weights"
        found = calls[asked.loss](asked)
        return f"no argument for {', '.join(asked.beyond)}" if found is None and asked.beyond else found

    return offer


def offered(call: Callable[..., Any], *conventions: str | None) -> Offer:
    """An offer of `call(logits, target, ..., undo=False)`; with undo=True it is without its conventions."""
    named = [convention for convention in conventions if convention]
    raw = partial(call, undo=False)
    return Offer(raw, "; ".join(named), partial(call, undo=True)) if named else Offer(raw)
