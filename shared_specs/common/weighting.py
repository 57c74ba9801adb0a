"""The callback that sets weights from row counts, without a framework: its keywords, and what it does to a loss."""

from dataclasses import dataclass, fields
from typing import Any

from shared_specs.common import arguments, docstrings
from shared_specs.common.options import BinaryOptions, CategoricalOptions
from shared_specs.common.weights import SCHEMES, binary_counts, class_counts, ratios_of_counts, weights_of_counts


@dataclass(kw_only=True, eq=False, repr=False)
class WeightingOptions:
    """The keywords of `ClassWeighting`.

    Args:
        scheme: "balanced", "inverse" or "effective", see `class_weights`.
        beta: Overlap of the rows for "effective", in [0, 1).
        classes: Number K of classes, >= 1, if the targets of a categorical loss are class indices; labels equal to the
            loss's ignore_index do not count. None: the targets are distributions or one-hot, with the classes on the
            loss's axis, and their sums are the counts. A binary loss needs None.
        start_epoch: First epoch with the weights, >= 0, counted from 0.
        power: Exponent >= 0 of the weights, see `class_weights` and `pos_weights`.
        max_weight: Largest weight, > 0. None: no bound.
        pseudo_count: Number >= 0 that is added to each count.
        batches: Largest number of batches to read, >= 1. None: all, if their number is known. Data of unknown length,
            such as generators, iterators and datasets that repeat, need a number: they may have no end.
        per_label: Whether each label of a multi-label loss, along its axis (None: the last), gets its own pos_weight.
            None: one number for targets of rank 1, one for each label at rank 2; higher ranks need True or False.
    """

    scheme: str = arguments.field("balanced", arguments.choice, SCHEMES)
    beta: float = arguments.field(0.999, arguments.number, "[0, 1)")
    classes: int | None = arguments.field(None, arguments.integer, 1)
    start_epoch: int = arguments.field(0, arguments.integer, 0)
    power: float = arguments.field(1.0, arguments.number, "[0, inf)")
    max_weight: float | None = arguments.field(None, arguments.number, "(0, inf)")
    pseudo_count: float = arguments.field(0.0, arguments.number, "[0, inf)")
    batches: int | None = arguments.field(None, arguments.integer, 1)
    per_label: bool | None = arguments.field(None, arguments.choice, (True, False))

    def __init_subclass__(cls, **options: Any) -> None:
        """Document the keywords."""
        super().__init_subclass__(**options)
        if cls.__doc__:
            cls.__doc__ = docstrings.with_keywords(cls.__doc__, WeightingOptions.__doc__ or "")

    def __post_init__(self) -> None:
        super().__init__()
        for field in fields(self):
            check = arguments.check_of(type(self), field.name)
            if check is not None:
                setattr(self, field.name, check(field.name, getattr(self, field.name)))

    def counts(self, loss: CategoricalOptions | BinaryOptions, data: Any, axis: int) -> list[list[float]]:
        """Return the row counts of the K classes; or those of labels 0 and those of labels 1.

        `axis` is the class axis of a categorical loss whose own is None.
        """
        ignored = loss.ignore_index
        if isinstance(loss, CategoricalOptions):
            axis = axis if loss.axis is None else loss.axis
            return [class_counts("data", data, classes=self.classes, axis=axis, ignore_index=ignored)]
        if self.classes is not None:
            raise ValueError(f"classes must be None for a binary loss, got {self.classes}: its labels are 0 and 1")
        axis = -1 if loss.axis is None else loss.axis
        return list(binary_counts("data", data, per_label=self.per_label, axis=axis, ignore_index=ignored))

    def weights_of(self, counts: list[list[float]]) -> list[float]:
        """Return the weights of the loss, given its `counts`."""
        options: dict[str, Any] = {
            "scheme": self.scheme,
            "beta": self.beta,
            "power": self.power,
            "max_weight": self.max_weight,
            "pseudo_count": self.pseudo_count,
        }
        if len(counts) == 1:
            return weights_of_counts("counts of data", *counts, **options)
        return ratios_of_counts("data", *counts, **options)


def set_weights(loss: CategoricalOptions | BinaryOptions, weights: list[float]) -> None:
    """Give the weights to the loss: its `class_weight` or its `pos_weight`."""
    if isinstance(loss, CategoricalOptions):
        loss.set_class_weight(weights)
    else:
        loss.pos_weight = weights
