"""The values of an epoch, and the table that is printed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, classification

from lightning_xent.metrics.calibration import CalibrationError
from lightning_xent.metrics.prediction import IGNORED, Predictions
from lightning_xent.metrics.sums import EpochMean

MOST_CLASSES = 1000
"""Up to this many classes have their own values: torchmetrics counts pairs, which takes 800 MB for 10,000 classes."""
NAMES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1Score", "support": "StatScores"}


class Report(nn.Module):
    """Accuracy, precision, recall, F1, negative log-likelihood and expected calibration error of `Predictions`.

    `nll` is in nats; `ece` has 15 bins of equal width. Precision, recall and F1 of several classes are means over the
    classes that have a row or a prediction, `*_weighted` means by rows, `*_none` the values of each class. For one
    binary label they are the values of label 1. `support` ends with the rows of each class. For more than 1000 classes,
    such as a vocabulary, there are only accuracy, `nll` and `ece`.

    Args:
        is_binary: Whether the loss is binary, so that labels do not exclude each other.
        classes: Number of classes, or of labels.
    """

    def __init__(self, is_binary: bool, classes: int) -> None:
        super().__init__()
        self.is_binary, self.classes = is_binary, classes
        self.nll = EpochMean()
        options: dict[str, Any] = {"ignore_index": IGNORED, "validate_args": False}
        kind = "Multiclass"
        if is_binary:
            kind = "Binary" if classes == 1 else "Multilabel"

        def metric(name: str, **more: Any) -> Metric:
            size = {"Binary": {}, "Multilabel": {"num_labels": classes}, "Multiclass": {"num_classes": classes}}[kind]
            built: Metric = getattr(classification, kind + name)(**size, **options, **more)
            return built

        self.ece = CalibrationError()
        if kind == "Multiclass" and classes > MOST_CLASSES:
            metrics: dict[str, Metric | MetricCollection] = {"accuracy": metric("Accuracy", average="micro")}
            groups = [list(metrics)]
        elif kind == "Binary":
            metrics = {key: metric(name) for key, name in NAMES.items()}
            groups = [list(metrics)]
        else:
            metrics = {
                f"{name}_{average}".removesuffix("_macro"): metric(NAMES[name], average=average)
                for name in ("precision", "recall", "f1")
                for average in ("macro", "weighted", "none")
            }
            metrics["support"] = metric(NAMES["support"], average="none")
            groups = [list(metrics), ["accuracy"]]
            metrics["accuracy"] = metric(NAMES["accuracy"], average="micro")
        # The groups are set here, because ranks would find them from batches, which some ranks may not have.
        self.scores = MetricCollection(metrics, compute_groups=groups)

    def update(self, found: Predictions) -> None:
        """Add the rows of a batch."""
        assert found.confidence is not None and found.surprise is not None
        shape = (-1, self.classes) if self.is_binary and self.classes > 1 else (-1,)
        self.scores.update(found.predicted.reshape(shape), found.label.reshape(shape))
        kept = found.label != IGNORED
        hit = found.label if self.is_binary else found.predicted == found.label
        self.ece.update(found.confidence, hit, kept.float())
        self.nll.update(torch.where(kept, found.surprise, 0.0).sum(), kept.sum())

    def names(self) -> list[str]:
        """Return the names of the values, without `support`."""
        return [*(str(name) for name in self.scores if name != "support"), "nll", "ece"]

    def compute(self) -> dict[str, Tensor]:
        """Return the values over all batches and devices."""
        values: dict[str, Tensor] = self.scores.compute()
        return values | {"nll": self.nll.compute(), "ece": self.ece.compute()}

    def reset(self) -> None:
        """Forget all rows."""
        for metric in (self.scores, self.nll, self.ece):
            metric.reset()


def table(values: Mapping[str, Tensor], names: Sequence[str] | None = None, *, has_classes: bool = True) -> str:
    """Return the values of a `Report` as text: a line for each class that has its own values, then the means.

    Args:
        values: What `Report.compute` returned.
        names: Names of the classes; by default their numbers.
        has_classes: Whether each class has a line.
    """
    rest = ", ".join(f"{name} {values[name].item():.4f}" for name in ("accuracy", "nll", "ece"))
    if "support" not in values:
        return rest
    columns = ("precision", "recall", "f1")
    support = values["support"][..., -1].reshape(-1).tolist()
    is_single = values["f1"].ndim == 0 and "f1_none" not in values
    names = names or (["1"] if is_single else [str(index) for index in range(len(support))])
    of_class = [values[name if is_single else f"{name}_none"].reshape(-1).tolist() for name in columns]
    lines = list(zip(names, *of_class, support, strict=True)) if has_classes else []
    if not is_single:
        for average, suffix in (("macro mean", ""), ("weighted mean", "_weighted")):
            lines.append((average, *(values[name + suffix].item() for name in columns), sum(support)))
    width = max(len(str(line[0])) for line in lines)
    head = f"{'':{width}} {'precision':>10} {'recall':>10} {'F1':>10} {'rows':>10}"
    body = [f"{name!s:{width}} {p:10.4f} {r:10.4f} {f1:10.4f} {rows:10.0f}" for name, p, r, f1, rows in lines]
    return "\n".join([head, *body, rest])
