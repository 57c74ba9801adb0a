"""Losses over K exclusive classes: logits and a target give the loss of each row."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lightning_xent import fused, kernels, log_odds, reading, reduction, shards, targets, weighting
from lightning_xent.base import Loss
from lightning_xent.kernels.linear import Best
from lightning_xent.reduction import Rows
from shared_specs.common import guard
from shared_specs.common.options import CategoricalOptions, take_any_loss

Margin: TypeAlias = Tensor | float | Callable[[Tensor], Tensor]
"""What is taken from the logit of the true class: a number, one per class [C], or a function of that logit."""


@dataclass(frozen=True)
class Softmax:
    """What the softmax of a loss reads: a class has the log-odds of softmax(logits / divisor), less a margin."""

    logits: Tensor
    """[..., C]"""
    divisor: float
    margin: Margin = 0.0
    unadjusted: Tensor | None = None
    """The logits [..., C] for regularisers and probabilities, where they differ from `logits`."""

    @property
    def plain(self) -> Tensor:
        """The logits [..., C] for regularisers and probabilities."""
        return self.logits if self.unadjusted is None else self.unadjusted

    @property
    def has_margin(self) -> bool:
        return not isinstance(self.margin, float) or self.margin != 0.0

    def margin_of(self, label: Tensor, own: Tensor | None = None) -> Tensor | float:
        """The margin [...] of the class `label` [...], whose logit `own` [...] may be known."""
        if isinstance(self.margin, Tensor):
            return weighting.per_label(self.margin, label)
        if not callable(self.margin):
            return self.margin
        return self.margin(log_odds.take(self.logits, label) if own is None else own)

    def margins(self) -> Tensor | float:
        """The margin of each class, [..., C] or [C]."""
        return self.margin(self.logits) if callable(self.margin) else self.margin


def _constant(margin: Tensor, own: Tensor) -> Tensor:
    """Return a margin without axes in the shape of the logits `own`."""
    return margin.expand_as(own)


class Given(NamedTuple):
    """What is given beside the logits, in the layout of the rows."""

    target: Any
    """Class indices [...], or distributions [..., C]; for `linear` a TopK too."""
    is_labels: bool
    kept: Tensor | None
    """Whether each row [...] is kept; None if all are."""
    active: Tensor | None
    """Whether each row [...] is kept and has a weight other than 0; None if all do."""
    sample_weight: Tensor | None
    """[...]"""


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalLoss(CategoricalOptions, Loss):
    """Base of the losses over K exclusive classes; a variant adds its curve.

    A row is a position of the logits without the class axis. Its target is a class index (any integer dtype) or a
    distribution over the classes. The loss of a distribution is the expectation: sum_c t_c w_c curve(m_c). A target in
    the shape of the logits is a distribution. Integers there must be one-hot or multi-hot rows of 0 and 1: class
    indices raise ValueError, or give NaN where labels are not read. Logits of one class warn: the loss is always 0.

    Args:
        axis: Class axis of the logits. None: 1, and 0 for 1-D logits, as in torch.
    """

    labels_only: ClassVar[bool] = False
    takes_distributions: ClassVar[bool] = True
    """Whether a target in the shape of the logits is a distribution."""

    reads_log_odds: ClassVar[bool] = True
    is_linear: ClassVar[bool] = True
    is_cross_entropy: ClassVar[bool] = False
    passes_logits: ClassVar[bool] = True
    has_plain_softmax: ClassVar[bool] = True
    has_common_regulariser: ClassVar[bool] = True
    reads_one_logits: ClassVar[bool] = True
    facts: ClassVar[Mapping[str, Collection[str]]] = {
        "reads_log_odds": {"of_classes"},
        "is_linear": {"of_target"},
        "is_cross_entropy": {"curve", "of_classes"},
        "passes_logits": {"softmax_input", "capped", "softmax"},
        "has_plain_softmax": {"divisor", "margin_in"},
        "has_common_regulariser": {"regulariser"},
        "reads_one_logits": {"_rows"},
    }

    def fields_changed(self) -> None:
        super().fields_changed()
        weights = None if self.class_weight is None else tuple(self.class_weight)  # the check makes it a tuple
        self._class_weight = None if weights is None else weighting.constant(weights)
        self._least_weight = 1.0 if weights is None else min(weights)

    def _kind(self, logits: Tensor) -> guard.Kind:
        axis = targets.class_axis(logits, self.axis)
        size = logits.shape[axis]
        classes = self.count_classes(size)
        views = max(1, size // classes)
        given = type(self).__name__, self.from_logits, self.takes_cosines, self.temperature
        return guard.Kind(*given, axis=axis, classes=classes, views=views)

    def count_classes(self, size: int) -> int:
        """Return the number of classes, given the size of the class axis of the logits."""
        return size

    def linear(
        self,
        hidden: Tensor,
        weight: Tensor,
        target: Any,
        bias: Tensor | None = None,
        sample_weight: Any = None,
        mask: Any = None,
        denominator: Any = None,
    ) -> Tensor:
        """Return the loss of the logits hidden @ weight.T + bias, whose classes are last, without holding all logits.

        Value and gradients are those of the loss on the logits. A chunk has 1 / 8 of the logits, or 8 MiB if that is
        more, or up to 64 MiB where it would have fewer than 128 rows (CUDA: 64 MiB, 512 MiB, 1024 rows). Ignored rows
        are never multiplied; under torch.compile their hidden states become 0. Gradients are computed in the forward
        pass, and those of the weight are summed in float32. With the reduction "none" or a hard_fraction the backward
        pass computes the logits again. Under forward derivatives, and traces other than torch.compile, the logits are
        whole. Under autocast the products have its dtype, and the loss is float32.

        Args:
            hidden: Input [..., D] of the last layer.
            weight: Its weight [C, D], as that of torch.nn.Linear and torch.nn.Embedding.
            target: Class indices [...], a distribution [..., C], or a `TopK`; a tuple (indices, probabilities) too.
            bias: Its bias [C].
            sample_weight: As in a call.
            mask: As in a call.
            denominator: As in a call.

        Raises:
            ValueError: As in a call; a loss that reads more than one tensor of logits, or probabilities.
            TypeError: Tensors that are not floating point, or not of one dtype.
        """
        given = hidden, weight, bias, target, sample_weight, mask
        rows = shards.rows_of_traced_layer(self, *given)
        if rows is not None:
            return reduction.reduce(rows, self.reduction, denominator, self.check_labels)
        call = self._call_of_layer(*given)
        if self.reduction == "none" or self.hard_fraction < 1.0:
            return reduction.reduce(fused.rows(self, call), self.reduction, denominator, self.check_labels)
        total, count = fused.parts(self, call)
        if denominator is not None:
            count = weighting.scalar("denominator", denominator, total, self.check_labels)
        return reduction.quotient(total, count)

    def linear_parts(
        self,
        hidden: Tensor,
        weight: Tensor,
        target: Any,
        bias: Tensor | None = None,
        sample_weight: Any = None,
        mask: Any = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the `parts` of `linear`: (weighted sum of the row losses, denominator), whose quotient is the loss."""
        if self.reduction == "none":
            raise ValueError('reduction must be "mean", "weighted_mean" or "sum" for linear_parts(), got "none"')
        return self._linear_parts(hidden, weight, bias, target, sample_weight, mask)

    def _linear_parts(self, *given: Any, best: Best | None = None) -> tuple[Tensor, Tensor]:
        rows = shards.rows_of_traced_layer(self, *given)
        if rows is not None:
            return reduction.parts(rows, self.reduction)
        call = self._call_of_layer(*given)
        if self.hard_fraction < 1.0:
            return reduction.parts(fused.rows(self, call), self.reduction)
        return fused.parts(self, call, best)

    def _call_of_layer(self, *given: Any) -> fused.Call:
        is_ranked = self.hard_fraction < 1.0
        call = shards.of_layer(self, *given, is_ranked=is_ranked)
        return fused.read(self, *given, is_ranked=is_ranked) if call is None else call

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the K classes, on the class axis of the logits.

        They are softmax(logits / temperature), after the softcap and with the scale of a loss that has one, but without
        its margins and adjustments. With from_logits=False they are the input divided by its sum.
        """
        logits = reading.checked_logits(reading.whole(logits))
        axis = targets.class_axis(logits, self.axis)
        logits = targets.class_axis_last(logits.to(reading.compute_dtype(logits)), axis)  # [..., C]
        probabilities = self.class_probabilities(self.softmax_input(logits))
        return probabilities if axis == logits.ndim - 1 else probabilities.movedim(-1, axis)

    def class_probabilities(self, softmax: Softmax) -> Tensor:
        """Return the probabilities [..., C] of all classes."""
        if not self.from_logits:
            return softmax.plain / softmax.plain.sum(-1, keepdim=True)
        return log_odds.sigmoid(log_odds.of_classes(softmax.plain, softmax.divisor, True))

    def softmax_input(self, inputs: Tensor) -> Softmax:
        """Return what the softmax reads, given the logits [..., C]."""
        return self.softmax(self.capped(inputs))

    def softmax(self, logits: Tensor, unadjusted: Tensor | None = None) -> Softmax:
        """Return the softmax of logits [..., C] with the divisor and the margin of the loss.

        Raises:
            TypeError: A `divisor` that is no Python number: kernels would lose its gradient.
        """
        divisor, margin = self.divisor, self.margin_in(logits)
        if not isinstance(divisor, (int, float)):
            raise TypeError(
                f"divisor must be a Python number, got {type(divisor).__name__}: "
                "multiply the logits by a scale that is learned, before the loss"
            )
        if not (isinstance(margin, float) or callable(margin) or len(getattr(margin, "shape", "")) > 0):
            margin = partial(_constant, margin) if isinstance(margin, Tensor) else float(margin)
        return Softmax(logits, divisor, margin, unadjusted)

    def margin_in(self, logits: Tensor) -> Margin:
        """Return what is taken from the logit of the true class; of the logits [..., C] only dtype and shape count."""
        return 0.0

    def capped(self, logits: Tensor) -> Tensor:
        """Return the logits [..., C] after the softcap, still to be divided by the temperature."""
        if self.softcap is None:
            return logits
        bound = self.softcap * self.temperature
        return bound * torch.tanh(logits / bound) * log_odds.poison(logits)  # tanh would turn +inf into a number

    def of_classes(self, softmax: Softmax) -> Tensor:
        """Return the input of the curve [..., C] for every class: their log-odds."""
        return log_odds.of_classes(softmax.logits, softmax.divisor, self.from_logits, softmax.margins())

    def of_target(self, softmax: Softmax, target: Tensor, class_weight: Tensor | None) -> Tensor:
        """Return the losses [...] of targets [..., C], given the weights [C] of the classes."""
        masses = target if class_weight is None else target * class_weight
        return self._expected(self.curve, masses, self.of_classes(softmax)).sum(-1)

    def regulariser(self, softmax: Softmax, inputs: Tensor) -> Tensor | None:
        """Return what each row's loss [...] gets for any target, given the logits [..., C] before `softmax_input`."""
        log_partition = entropy = None
        if self.z_loss != 0.0:
            log_partition = log_odds.log_partition(softmax.plain, softmax.divisor)
        if self.entropy_penalty != 0.0:
            entropy = log_odds.entropy(softmax.plain, softmax.divisor, self.from_logits)
        return self._common_regulariser(log_partition, entropy)

    def _common_regulariser(self, log_partition: Tensor | None, entropy: Tensor | None) -> Tensor | None:
        """Return z_loss and entropy_penalty of each row [...], given what they need of it."""
        value = None if log_partition is None else log_odds.square(log_partition, self.z_loss)
        if entropy is None:
            return value
        penalty = -self.entropy_penalty * entropy
        return penalty if value is None else value + penalty

    def _of_label(
        self,
        softmax: Softmax,
        label: Tensor,
        class_weight: Tensor | None,
        weights: Tensor | None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Return the losses [...] of labels [...] with their `weights`; rows that do not count may hold any logits."""
        logits, divisor, others = softmax.logits, softmax.divisor, None
        if self.label_smoothing > 0.0:
            score, others = log_odds.of_label_and_others(logits, label, divisor, class_weight, counts)  # [...]
        elif self.reads_log_odds:
            score = log_odds.of_label(logits, label, divisor, self.from_logits, softmax.margin_of(label), counts)
        else:
            score = log_odds.take(self.of_classes(softmax), label)
        return self._of_score(score, others, weights, logits.shape[-1])

    def _of_score(self, score: Tensor, others: Tensor | None, weights: Tensor | None, classes: int) -> Tensor:
        """Return the losses [...] of labels, given the input of the curve and, if smoothed, what the others add."""
        share = 1.0
        if others is not None:
            share, other_share = targets.smoothed_shares(classes, self.label_smoothing, self.smooth_over)
            others = other_share * others
        if share != 1.0:
            weights = torch.full_like(score, share) if weights is None else share * weights
        if weights is None:
            losses = self.curve(score)
        elif take_any_loss(share * self._least_weight):
            losses = weights * self.curve(score)
        else:
            losses = self._expected(self.curve, weights, score)
        return losses if others is None else losses + others

    def _less_margin(self, score: Tensor, own: Tensor, label: Tensor, classes: int) -> Tensor:
        """Return log-odds [n] of labels [n], less their margins, given their logits `own` [n]."""
        logits = score.new_zeros(()).expand(classes)  # they take no memory
        margin = self.softmax(logits).margin_of(label, own)
        return score - log_odds.scaled(margin, self.divisor)

    def _in_one_read(
        self,
        logits: Tensor,
        target: Tensor,
        class_weight: Tensor | None,
        weights: Tensor | None,
        counts: Tensor | None,
        is_labels: bool,
    ) -> Tensor:
        """Return the losses [...] by kernels that read each row that counts once, and no other."""
        if not is_labels:
            smoothed = targets.smoothed(target, self.label_smoothing, self.smooth_over)  # [..., C]
            masses = smoothed if class_weight is None else smoothed * class_weight
            return kernels.of_distribution(logits, masses, self.temperature, counts)
        found = kernels.all_of_label(
            logits, target, counts, class_weight, self.temperature, self.softcap,
            others=self.label_smoothing > 0.0, log_partition=self.z_loss != 0.0, entropy=self.entropy_penalty != 0.0,
        )  # fmt: skip
        losses = self._of_score(found.log_odds, found.others, weights, logits.shape[-1])
        regulariser = self._common_regulariser(found.log_partition, found.entropy)
        return losses if regulariser is None else losses + regulariser

    def _rows(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None) -> Rows:
        axis = targets.class_axis(logits, self.axis)
        given = self._given(logits, axis, target, sample_weight, mask)
        target, is_labels, kept, active, sample_weight = given
        classes = self.count_classes(logits.shape[axis])
        logits = targets.class_axis_last(logits, axis)  # [..., C]
        is_ranked = self.hard_fraction < 1.0
        reads_once = kernels.reads_once(logits, target, active)
        is_direct = self._is_direct(is_labels, reads_once) and not (is_ranked and sample_weight is not None)
        if not is_direct:
            logits = logits.to(reading.compute_dtype(logits))
            logits = weighting.harmless_logits(logits, kept, sample_weight, ranked=is_ranked)

        validity = None
        if is_labels:
            target, validity = targets.checked_labels(target, classes, kept, active, check_labels)
        else:
            keeps_dtype = is_direct and target.is_floating_point() and self.label_smoothing == 0.0
            dtype = target.dtype if keeps_dtype else reading.compute_dtype(logits)
            target, validity = targets.checked_distribution(
                target, axis, active, check_labels, self.ignore_index, dtype
            )
            if kept is not None and not is_direct:
                target = weighting.harmless_logits(target, kept, None, ranked=False)
        class_weight, weights = self._weights(target, is_labels, logits, classes)
        if is_direct:
            losses = self._direct(logits, target, class_weight, weights, active, is_labels, reads_once)
        else:
            losses = self._indirect(logits, target, class_weight, is_labels)
        if validity is not None:
            losses = losses * validity.to(losses.dtype)
            self._watch.say_unchecked(type(self).__name__, losses, check_labels)
        return Rows(losses, weights, kept, sample_weight)

    def _rows_of_shards(
        self, logits: Any, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None
    ) -> Rows | None:
        return shards.of_logits(self, logits, target, sample_weight, mask, check_labels)

    def _given(self, logits: Tensor, axis: int, target: Any, sample_weight: Any, mask: Any) -> Given:
        """Return what was given beside the logits, in the layout of the rows; of the logits only the shape is read."""
        classes = self.count_classes(logits.shape[axis])
        target, is_labels = targets.labels_or_distribution(target, logits, axis, classes, labels_only=self.labels_only)
        rows = reading.without_axis(tuple(logits.shape), axis)
        sample_weight = weighting.sample_weight_per_row(sample_weight, rows, logits)
        kept = weighting.mask_per_row(mask, rows, logits)
        if is_labels and self.ignore_index is not None:
            kept = weighting.both(kept, target != self.ignore_index)
        active = kept if sample_weight is None else weighting.both(kept, sample_weight != 0)
        return Given(target, is_labels, kept, active, sample_weight)

    def _weights(
        self, target: Tensor, is_labels: bool, logits: Tensor, classes: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the weights [C] of the classes, and those [...] of the targets, if the loss needs them."""
        class_weight = weights = None
        if self._class_weight is not None:
            class_weight = weighting.per_class("class_weight", self._class_weight, logits, classes)  # [C]
        if is_labels and class_weight is not None:
            weights = weighting.per_label(class_weight, target)  # [...]
        elif not is_labels and self.reduction == "weighted_mean":
            masses = target if class_weight is None else target * class_weight
            weights = masses.sum(-1, dtype=reading.compute_dtype(logits))
        return class_weight, weights

    def _direct(
        self,
        logits: Tensor,
        target: Tensor,
        class_weight: Tensor | None,
        weights: Tensor | None,
        active: Tensor | None,
        is_labels: bool,
        reads_once: bool,
    ) -> Tensor:
        """Return the losses [...] by kernels that take the logits [..., C] unchanged, and leave rows out themselves."""
        if reads_once:
            return self._in_one_read(logits, target, class_weight, weights, active, is_labels)
        return self._of_label(self.softmax_input(logits), target, class_weight, weights, active)

    def _indirect(self, logits: Tensor, target: Tensor, class_weight: Tensor | None, is_labels: bool) -> Tensor:
        """Return the losses [...] of logits [..., C] in the compute dtype, none of which needs to be left out."""
        if self._is_plain_cross_entropy and not is_labels and class_weight is None and self.label_smoothing == 0.0:
            return self.of_target(self.softmax_input(logits), target, None)  # a kernel, with blocks of its own
        rows_of = partial(self._losses, class_weight=class_weight, is_labels=is_labels)
        return log_odds.rowwise(rows_of, logits, target)

    def _losses(self, inputs: Tensor, target: Tensor, class_weight: Tensor | None, is_labels: bool) -> Tensor:
        """Return the losses [...] of labels [...] or distributions [..., C], given logits [..., C], row by row."""
        softmax = self.softmax_input(inputs)
        if is_labels and self._goes_by_label(softmax.has_margin):
            weights = None if class_weight is None else weighting.per_label(class_weight, target)  # [...]
            losses = self._of_label(softmax, target, class_weight, weights)
        else:
            distribution = log_odds.is_class(target, softmax.logits).to(inputs.dtype) if is_labels else target
            smoothed = targets.smoothed(distribution, self.label_smoothing, self.smooth_over)  # [..., C]
            losses = self.of_target(softmax, smoothed, class_weight)
        regulariser = self.regulariser(softmax, inputs)
        return losses if regulariser is None else losses + regulariser
