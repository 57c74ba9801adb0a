"""Torchmetrics that read logits, targets, ignored rows and weights as the losses do."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, classification

from lightning_xent import targets
from lightning_xent.base import Loss
from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from lightning_xent.log_odds import scaled, softplus, take
from lightning_xent.losses.bi_tempered import BiTemperedLogistic
from lightning_xent.losses.cross_entropy import CategoricalCrossEntropy
from lightning_xent.losses.divergence import Distillation
from lightning_xent.reduction import quotient
from shared_specs.common import arguments

IGNORED = -1
BINS = 15
"""Bins of the calibration error, as in Guo et al., 2017, On Calibration of Modern Neural Networks."""

ROWS = 2**14
"""Rows that are sorted into bins at a time, which takes 15 numbers per row."""

PARTS, SMALL = 16, 2**16
"""Batches whose logits have more than SMALL elements are processed in PARTS parts of their rows."""

MOST_CLASSES = 1000
"""Up to this many classes have their own values: torchmetrics counts pairs, which takes 800 MB for 10,000 classes."""

NAMES = {"accuracy": "Accuracy", "precision": "Precision", "recall": "Recall", "f1": "F1Score", "support": "StatScores"}


class Sums(Metric):
    """Base of the metrics that are a function of sums over all rows of an epoch, on all devices.

    A sum is kept as two float32 numbers, `sums` and its rounding error `excess`: about 48 bits, on every device. One
    float32 number would stop counting at 2^24 rows (Kahan, 1965), and not every device has float64.

    Args:
        shape: Shape of the sums.
    """

    full_state_update = False
    sums: Tensor
    excess: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        for name in ("sums", "excess"):
            self.add_state(name, torch.zeros(shape), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        """Add the sums of a batch."""
        added = values.detach().to(_wide(values)) - self.excess
        after = (self.sums + added).to(self.sums.dtype)
        excess = (after.to(added.dtype) - self.sums) - added
        self.excess = torch.where(after.isfinite(), excess, 0.0).to(self.sums.dtype)
        self.sums = after


def _wide(values: Tensor) -> torch.dtype:
    """Return float64 if the device has it, else float32."""
    return torch.float32 if values.device.type == "mps" else torch.float64


class EpochMean(Sums):
    """The mean over all rows of an epoch, on all devices, from the sums and denominators of its batches.

    Args:
        is_sum: Whether the result is the sum, with the denominator 1 for the whole epoch.
    """

    def __init__(self, is_sum: bool = False) -> None:
        super().__init__(2)
        self.is_sum = is_sum

    def update(self, total: Tensor, denominator: Tensor) -> None:
        """Add a batch."""
        self._add(torch.stack([total, denominator]))

    def compute(self) -> Tensor:
        """Return the mean of all rows so far; 0 if none counts."""
        total, denominator = self.sums - self.excess
        return total if self.is_sum else quotient(total, denominator)


class CalibrationError(Sums):
    """Calibration error of confidences: sum_b abs(sum_{i in b} s_i (hit_i - confidence_i)) / sum s, in [0, 1].

    Bin b holds the rows with a confidence in ((b-1)/bins, b/bins]; a confidence of exactly 1 lies in the last. A bin
    keeps three sums: rows, hits and confidences.

    Args:
        bins: Number of bins of equal width, >= 1.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.bins = arguments.integer("bins", bins, minimum=1)
        super().__init__(3, self.bins)

    def update(self, confidence: Tensor, hit: Tensor, weight: Tensor) -> None:
        """Add rows [...] with these confidences, hits and weights; rows of weight 0 may hold anything.

        They are added in parts of 2^14 rows, which float32 can count.
        """
        counts = weight != 0
        confidence = torch.where(counts, confidence, 0.0).float()
        values = torch.stack([torch.ones_like(confidence), hit.to(confidence.dtype), confidence])  # [3, ...]
        values = torch.where(counts, weight.float() * values, 0.0).reshape(3, -1)
        # Minus 1e-6, because rounding may put a confidence of 1/3 just above 1/3, where a bin ends.
        places = (confidence.reshape(-1) * (self.bins * (1 - 1e-6))).ceil().nan_to_num(0.0).clamp(1, self.bins)
        ends = torch.arange(1, self.bins + 1, device=places.device, dtype=places.dtype)
        for place, part in zip(torch.split(places, ROWS), torch.split(values, ROWS, -1), strict=True):
            inside = place.unsqueeze(-1) == ends  # [N, B]
            of_bins = [torch.where(inside, value.unsqueeze(-1), 0.0).sum(0, dtype=_wide(value)) for value in part]
            self._add(torch.stack(of_bins))  # [3, B]

    def compute(self) -> Tensor:
        """Return the error of all rows so far; 0 if none counts."""
        (_, hits, confidences), (_, more_hits, more_confidences) = self.sums, self.excess
        gaps = (hits - confidences) - (more_hits - more_confidences)
        return quotient(gaps.abs().sum(), (self.sums - self.excess)[0].sum())


class ExpectedCalibrationError(CalibrationError):
    """Expected calibration error: sum_b abs(sum_{i in b} s_i (hit_i - confidence_i)) / sum s, in [0, 1].

    The confidence of a row is its largest probability. Its hit is 1 if that class is the label, else 0; for a
    distribution it is the mass of that class. Bin b holds the rows with a confidence in ((b-1)/bins, b/bins]. Targets
    are class indices or distributions, one for each row: a position of the logits without the class axis.
    `keras_xent.metrics` has the same class, with the same values.

    Args:
        bins: Number of bins of equal width, >= 1.
        from_logits: Whether the input holds logits. False: probabilities, p_c / sum p.
        ignore_index: Rows with this label are ignored, even if their logits are NaN.
        axis: Class axis of the logits. None: 1, and 0 for 1-D logits, as in torch.

    Reference: Guo et al., 2017, On Calibration of Modern Neural Networks.
    """

    def __init__(
        self, bins: int = BINS, *, from_logits: bool = True, ignore_index: int | None = None, axis: int | None = None
    ) -> None:
        super().__init__(bins)
        self._loss = CategoricalCrossEntropy(from_logits=from_logits, ignore_index=ignore_index, axis=axis)

    def update(self, logits: Tensor, target: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Add a batch, with the arguments of a loss."""
        logits, target, sample_weight, mask = map(targets.whole, (logits, target, sample_weight, mask))
        logits = targets.checked_logits(logits)
        target, is_label, kept = _target_of(self._loss, logits, target, mask)
        weight = targets.sample_weight_per_row(sample_weight, tuple(kept.shape), logits)
        weight = torch.ones_like(kept, dtype=torch.float32) if weight is None else weight
        if is_label:
            classes = logits.shape[targets.class_axis(logits, self._loss.axis)]
            target, validity = targets.checked_labels(target, classes, kept, kept & (weight != 0), None)
        else:
            target, validity = _distribution(self._loss, logits, target, kept & (weight != 0))
        weight = weight if validity is None else weight * validity
        predicted, confidence, _ = _by_rows(self._loss, logits, target if is_label else target.argmax(-1))
        hit = predicted == target if is_label else take(target, predicted)
        assert confidence is not None
        super().update(confidence, hit, torch.where(kept, weight, 0.0))


class Predictions(NamedTuple):
    """The predictions of a network for the rows of a batch, and their labels."""

    predicted: Tensor
    """The most probable class [...]; for a binary loss 1 if label 1 is more likely than label 0, else 0."""
    label: Tensor
    """Labels [...]; IGNORED for rows that do not count."""
    confidence: Tensor | None
    """Probability [...] of the predicted class, or of label 1; None if it is not wanted."""
    surprise: Tensor | None
    """-log p [...] of the label, in nats; None if it is not wanted."""
    classes: int
    """Number of classes, or of labels that do not exclude each other."""
    is_binary: bool


@torch.no_grad()
def predictions(
    loss: Loss,
    logits: Tensor,
    target: Any,
    sample_weight: Any = None,
    mask: Any = None,
    *,
    has_probabilities: bool = True,
) -> Predictions:
    """Return predictions and labels, read from logits and target as `loss` does.

    Rows that are ignored, masked or have a sample weight of 0 do not count. The label of a soft target is the class of
    largest mass; a binary target of 1/2 or more is label 1. Predictions are without margins or adjustments.

    Args:
        loss: The loss.
        logits: Input of the loss.
        target: Its target.
        sample_weight: Its sample weights.
        mask: Its mask.
        has_probabilities: Whether confidences and surprises are wanted.
    """
    logits, target, sample_weight, mask = map(targets.whole, (logits.detach(), target, sample_weight, mask))
    if isinstance(loss, CategoricalLoss):
        target, is_label, kept = _target_of(loss, logits, target, mask)
        validity = None
        if not is_label:
            weight = targets.sample_weight_per_row(sample_weight, tuple(kept.shape), logits)
            target, validity = _distribution(loss, logits, target, kept if weight is None else kept & (weight != 0))
        label = target if is_label else target.argmax(-1)
        kept = kept if validity is None else kept & (validity == 1)
        classes = loss.count_classes(logits.shape[targets.class_axis(logits, loss.axis)])
        kept = kept & (label >= 0) & (label < classes)
        label = torch.where(kept, label, 0)
        predicted, confidence, surprise = _by_rows(loss, logits, label, has_probabilities=has_probabilities)
    else:
        assert isinstance(loss, BinaryLoss)
        classes = logits.shape[-1] if logits.ndim == 2 else 1
        predicted, label, kept, confidence, surprise = _of_binary(loss, logits, target, mask, has_probabilities)
    weight = targets.sample_weight_per_row(sample_weight, tuple(label.shape), logits)
    kept = kept if weight is None else kept & (weight != 0)
    label = torch.where(kept, label, IGNORED)
    return Predictions(predicted, label, confidence, surprise, classes, isinstance(loss, BinaryLoss))


def _target_of(loss: CategoricalLoss, logits: Tensor, target: Any, mask: Any) -> tuple[Tensor, bool, Tensor]:
    """Return labels [...] or distributions [..., K], whether they are labels, and which rows [...] are kept."""
    axis = targets.class_axis(logits, loss.axis)
    classes = loss.count_classes(logits.shape[axis])
    if isinstance(loss, Distillation):
        teacher, label = targets.teacher_and_label(target, logits, loss.axis, has_label=loss.alpha < 1.0)
        target = teacher if label is None else label
    target, is_label = targets.labels_or_distribution(target, logits, axis, classes, labels_only=loss.labels_only)
    rows = tuple(target.shape) if is_label else tuple(target.shape)[:-1]
    kept = targets.mask_per_row(mask, rows, logits)
    if is_label and loss.ignore_index is not None:
        kept = targets.both(kept, target != loss.ignore_index)
    return target, is_label, torch.ones(rows, dtype=torch.bool, device=logits.device) if kept is None else kept


def _distribution(
    loss: CategoricalLoss, logits: Tensor, target: Tensor, active: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return a distribution [..., K] and the validity [...] of its rows, as the loss reads them."""
    axis, dtype = targets.class_axis(logits, loss.axis), targets.compute_dtype(logits)
    return targets.checked_distribution(target, axis, active, loss.check_labels, loss.ignore_index, dtype)


def _by_rows(
    loss: CategoricalLoss, logits: Tensor, label: Tensor, *, has_probabilities: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the most probable class [...], its probability [...] and -log p [...] of the label [...].

    The rows are processed in 16 parts, because a tensor of all probabilities would be as large as the logits.
    """
    logits = targets.class_axis_last(logits, targets.class_axis(logits, loss.axis))  # [..., C]
    if logits.ndim == 1:
        found = _of_rows(loss, logits, label, has_probabilities)
        return found[0], *(found[1:] if has_probabilities else (None, None))
    longest = max(range(logits.ndim - 1), key=logits.shape.__getitem__)
    size = max(1, math.ceil(logits.shape[longest] / PARTS))
    if logits.numel() <= SMALL:
        size = max(1, logits.shape[longest])
    pairs = zip(torch.split(logits, size, longest), torch.split(label, size, longest), strict=True)
    parts = zip(*(_of_rows(loss, *pair, has_probabilities) for pair in pairs), strict=True)
    found = [torch.cat(part, longest) for part in parts]
    return found[0], *(found[1:] if has_probabilities else (None, None))


def _of_rows(loss: CategoricalLoss, logits: Tensor, label: Tensor, has_probabilities: bool) -> list[Tensor]:
    """Return the same as `_by_rows`, for one part of the logits [..., C], with the class axis last."""
    logits = logits.to(targets.compute_dtype(logits))
    softmax = loss.softmax_input(logits)
    if isinstance(loss, BiTemperedLogistic):
        scores = loss.log_probabilities(softmax)
    else:
        scores = scaled(softmax.plain, softmax.divisor) if loss.from_logits else softmax.plain.log()  # [..., K]
    peak, predicted = scores.max(-1)
    if not has_probabilities:
        return [predicted]
    exponentials = (scores - peak.unsqueeze(-1)).exp_().scatter_(-1, predicted.unsqueeze(-1), 0.0)
    rest = exponentials.sum(-1) + 0.0 * peak  # NaN if the peak is infinite
    return [predicted, 1 / (1 + rest), torch.log1p(rest) + (peak - take(scores, label))]


def _of_binary(
    loss: BinaryLoss, logits: Tensor, target: Any, mask: Any, has_probabilities: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return predictions, labels, which rows are kept, confidences and surprises, in the shape of the logits."""
    target = targets.binary_target(target, logits)
    kept = (target >= 0) & (target <= 1)
    if loss.ignore_index is not None:
        kept &= target != loss.ignore_index
    given = targets.mask_per_row(mask, tuple(logits.shape), logits)
    kept = kept if given is None else kept & given
    logits = logits.to(targets.compute_dtype(logits))
    scores = scaled(logits, loss.temperature) if loss.from_logits else torch.logit(logits)
    predicted, label = (scores > 0).long(), (target >= 0.5).long()
    if not has_probabilities:
        return predicted, label, kept, None, None
    return predicted, label, kept, scores.sigmoid(), softplus(torch.where(label == 1, -scores, scores))


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
