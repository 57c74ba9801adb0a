"""Metrics of torchmetrics for what the losses take: their logits, targets, ignored rows and weights."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, classification
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from lightning_xent import targets
from lightning_xent.base import Loss
from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import scaled
from lightning_xent.losses.divergence import Distillation
from lightning_xent.reduction import quotient

IGNORED = -1
BINS = 15
"""Of the calibration error, as in Guo et al., 2017, On Calibration of Modern Neural Networks."""

MOST_CLASSES = 1000
"""Up to so many classes are told apart one by one: torchmetrics counts pairs, of 10,000 classes 800 MB a batch."""

NAMES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1Score", "support": "StatScores"}


class EpochMean(Metric):
    """The mean over all rows of an epoch, on all devices, from the sums and denominators of its batches.

    Args:
        is_sum: Whether the sum itself is wanted, whose denominator is 1 for the whole epoch.
    """

    full_state_update = False
    sums: Tensor
    excess: Tensor

    def __init__(self, is_sum: bool = False) -> None:
        super().__init__()
        self.is_sum = is_sum
        for name in ("sums", "excess"):
            self.add_state(name, torch.zeros(2), dist_reduce_fx="sum")

    def update(self, total: Tensor, denominator: Tensor) -> None:
        """Add a batch; float32 sums alone would stop at 2^24 rows (Kahan, 1965)."""
        added = torch.stack([total.detach(), denominator.detach()]).to(self.sums.dtype) - self.excess
        after = self.sums + added
        self.excess = torch.where(after.isfinite(), (after - self.sums) - added, 0.0)
        self.sums = after

    def compute(self) -> Tensor:
        total, denominator = self.sums - self.excess
        return total if self.is_sum else quotient(total, denominator)


class Predictions(NamedTuple):
    """What a loss reads from its input, row by row."""

    scores: Tensor
    """What the softmax takes [..., K], or the sigmoid [...]."""
    label: Tensor
    """[...]; IGNORED where a row does not count."""
    is_binary: bool

    @property
    def classes(self) -> int:
        """K classes, L labels of binary scores (N, L), or 1 for one binary label."""
        return self.scores.shape[-1] if not self.is_binary or self.scores.ndim == 2 else 1

    @property
    def predicted(self) -> Tensor:
        """The most likely class [...], or whether label 1 is more likely than label 0 [...]."""
        return self.scores > 0 if self.is_binary else self.scores.argmax(-1)


@torch.no_grad()
def predictions(loss: Loss, logits: Tensor, target: Any, sample_weight: Any = None) -> Predictions:
    """Read logits and target as `loss` does.

    Rows that are ignored or have a sample weight of 0 do not count. Of a soft target the label is the class of largest
    mass, or whether label 1 has at least half. The scores are those of a prediction: without margins or adjustments.
    """
    logits = logits.detach()
    if isinstance(loss, CategoricalLoss):
        scores, label, kept = _of_categorical(loss, logits, target)
    else:
        assert isinstance(loss, BinaryLoss)
        scores, label, kept = _of_binary(loss, logits, target)
    weight = targets.sample_weight_per_row(sample_weight, tuple(label.shape), logits)
    kept = kept if weight is None else kept & (weight != 0)
    return Predictions(scores, torch.where(kept, label, IGNORED), isinstance(loss, BinaryLoss))


def _of_categorical(loss: CategoricalLoss, logits: Tensor, target: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores [..., K], labels [...] and which of them count [...]."""
    axis = targets.class_axis(logits, loss.axis)
    classes = loss.count_classes(logits.shape[axis])
    if isinstance(loss, Distillation):
        teacher, label = targets.teacher_and_label(target, logits, loss.axis, has_label=loss.alpha < 1.0)
        target = teacher if label is None else label
    target, is_label = targets.labels_or_distribution(target, logits, axis, classes, labels_only=loss.labels_only)
    label = target if is_label else target.argmax(-1)
    kept = (label >= 0) & (label < classes)
    if is_label and loss.ignore_index is not None:
        kept &= label != loss.ignore_index
    logits = targets.class_axis_last(logits, axis)
    scores = scaled(loss.transformed(logits), loss.divisor) if loss.from_logits else logits.log()
    return scores, label, kept


def _of_binary(loss: BinaryLoss, logits: Tensor, target: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores, labels and which of them count, in the shape of the logits."""
    target = targets.binary_target(target, logits)
    kept = (target >= 0) & (target <= 1)
    if loss.ignore_index is not None:
        kept &= target != loss.ignore_index
    scores = scaled(logits, loss.temperature) if loss.from_logits else torch.logit(logits)
    return scores, (target >= 0.5).long(), kept


class Report(nn.Module):
    """Accuracy, precision, recall, F1, negative log-likelihood and expected calibration error of `Predictions`.

    `nll` is in nats; `ece` has 15 bins of equal width. Precision, recall and F1 of several classes are means over the
    classes that have a row or a prediction, `*_weighted` by rows, `*_none` of each class; of one binary label those of
    label 1. `support` ends with the rows of each class. Of more than 1000 classes, a vocabulary, there are
    accuracy, `nll` and `ece` alone.

    Args:
        is_binary: Whether labels do not exclude each other.
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

        calibration = BinaryCalibrationError if is_binary else partial(MulticlassCalibrationError, classes)
        self.ece = calibration(n_bins=BINS, compute_on_cpu=True, **options)
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
        # Said beforehand, for ranks would else find it out from batches that some of them may not have.
        self.scores = MetricCollection(metrics, compute_groups=groups)

    def update(self, found: Predictions) -> None:
        """Add the rows of a batch."""
        rows = (-1,) if self.is_binary and self.classes == 1 else (-1, self.classes)
        scores = found.scores.to(targets.compute_dtype(found.scores)).reshape(rows)
        label = found.label.reshape(rows if self.is_binary else -1)
        # torchmetrics takes binary values that are not in [0, 1], as NaN is, for logits: all of the batch.
        probabilities = scores.sigmoid().nan_to_num(0.0) if self.is_binary else scores.softmax(-1)
        self.scores.update(probabilities, label)
        self.ece.update(probabilities.reshape(-1) if self.is_binary else probabilities, label.reshape(-1))
        kept = label != IGNORED
        if self.is_binary:
            surprise = F.binary_cross_entropy_with_logits(scores, label.clamp(min=0).to(scores.dtype), reduction="none")
        else:
            surprise = F.cross_entropy(scores, label, ignore_index=IGNORED, reduction="none")
        self.nll.update(torch.where(kept, surprise, 0.0).sum(), kept.sum())

    def compute(self) -> dict[str, Tensor]:
        """Return the values over all batches and devices."""
        values: dict[str, Tensor] = self.scores.compute()
        return values | {"nll": self.nll.compute(), "ece": self.ece.compute()}

    def reset(self) -> None:
        """Forget all rows."""
        for metric in (self.scores, self.nll, self.ece):
            metric.reset()


def table(values: Mapping[str, Tensor], names: Sequence[str] | None = None) -> str:
    """Return the values of a `Report` as text: a line for each class that it tells apart, then the means.

    Args:
        values: What `Report.compute` returned.
        names: Names of the classes; by default their numbers.
    """
    rest = ", ".join(f"{name} {values[name].item():.4f}" for name in ("accuracy", "nll", "ece"))
    if "support" not in values:
        return rest
    columns = ("precision", "recall", "f1")
    support = values["support"][..., -1].reshape(-1).tolist()
    is_single = values["f1"].ndim == 0 and "f1_none" not in values
    names = names or (["1"] if is_single else [str(index) for index in range(len(support))])
    of_class = [values[name if is_single else f"{name}_none"].reshape(-1).tolist() for name in columns]
    lines = list(zip(names, *of_class, support, strict=True))
    if not is_single:
        for average, suffix in (("macro mean", ""), ("weighted mean", "_weighted")):
            lines.append((average, *(values[name + suffix].item() for name in columns), sum(support)))
    width = max(len(str(line[0])) for line in lines)
    head = f"{'':{width}} {'precision':>10} {'recall':>10} {'F1':>10} {'rows':>10}"
    body = [f"{name!s:{width}} {p:10.4f} {r:10.4f} {f1:10.4f} {rows:10.0f}" for name, p, r, f1, rows in lines]
    return "\n".join([head, *body, rest])
