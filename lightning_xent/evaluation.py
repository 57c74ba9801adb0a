"""Results of a validation or test epoch: the loss and the report of one loader, by the names that are logged."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric

from lightning_xent.base import Loss
from lightning_xent.binary import BinaryLoss
from lightning_xent.metrics import EpochMean, Predictions, Report, table

NAMED_CLASSES = 20
"""Up to this many classes, each has its own logged values and its own printed line. The report has all classes."""


class Evaluation:
    """Loss and report over all rows of one loader.

    Args:
        loss: The loss.
        classes: Number of classes, or of labels.
        class_names: Their names. None: their numbers.
        device: Device of the sums.

    Raises:
        ValueError: Another number of names than classes.
    """

    def __init__(self, loss: Loss, classes: int, class_names: Sequence[str] | None, device: Any) -> None:
        if class_names is not None and len(class_names) != classes:
            raise ValueError(f"class_names must have {classes} names for these logits, got {len(class_names)}")
        self.classes, self.class_names = classes, class_names
        self.has_perplexity = classes > NAMED_CLASSES and not isinstance(loss, BinaryLoss)
        self.loss = EpochMean(loss.reduction == "sum").to(device)
        self.report = Report(isinstance(loss, BinaryLoss), classes).to(device)
        self._values: dict[str, Tensor] | None = None

    def update(self, total: Tensor, denominator: Tensor, found: Predictions) -> None:
        """Add a batch."""
        self.loss.update(total, denominator)
        self.report.update(found)

    def values(self) -> dict[str, Tensor]:
        """Return loss and metrics over all batches and devices, computed once. Every device must call it."""
        if self._values is None:
            self._values = {"loss": self.loss.compute(), **self.report.compute()}
            if self.has_perplexity:
                self._values["perplexity"] = self._values["nll"].exp()
        return self._values

    def value(self, name: str) -> Tensor:
        """Return the value that is logged under a name."""
        key, place = self.places()[name]
        value = self.values()[key]
        return value if place is None else value[place]

    def places(self) -> dict[str, tuple[str, int | None]]:
        """Return the logged names, each with the key of its value and the index of its class, if it is for one."""
        places: dict[str, tuple[str, int | None]] = {}
        for key in ("loss", *self.report.names(), *(["perplexity"] if self.has_perplexity else [])):
            if not key.endswith("_none"):
                places[key] = (key, None)
            elif self.classes <= NAMED_CLASSES:
                for place, name in enumerate(self.class_names or range(self.classes)):
                    places[f"{key.removesuffix('none')}{name}"] = (key, place)
        return places

    def text(self) -> str:
        """Return the table of all classes."""
        return table(self.values(), self.class_names)

    def summary(self) -> str:
        """Return the table, without a line for each class if there are many."""
        if self.classes <= NAMED_CLASSES or "support" not in self.values():
            return self.text()
        means = table(self.values(), self.class_names, has_classes=False)
        return f"{means}\n{self.classes} classes: `report` of the module has a line for each, and so has the logger"


class Value(Metric):
    """One value of an evaluation. Lightning computes it at the end of its loader, so it belongs to that loader."""

    full_state_update = False

    def __init__(self, evaluation: Evaluation, name: str) -> None:
        super().__init__(sync_on_compute=False)
        self._evaluation, self._name = evaluation, name

    def update(self) -> None:
        """Do nothing: the evaluation already has the rows."""

    def compute(self) -> Tensor:
        """Return the value over all rows of the loader."""
        return self._evaluation.value(self._name)
