"""Known-wrong losses: `Plain` with one step replaced, each a mistake that people make.

A test that cannot fail proves nothing: the vectors must pass `Plain` and fail every mutant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from plain import CLIP, Plain


@dataclass(frozen=True)
class Mutant:
    """`Plain` with another body for one step; cases with `flag` catch it.

    Plain computes in float64, and a mutant must be off by more than the tolerance of float32, the widest that any
    side is judged by. One that only `loses_digits` must be off by more than the tolerance of float64.
    """

    name: str
    flag: str
    step: str
    body: Callable[[Plain], object]
    loses_digits: bool = False

    def build(self) -> type[Plain]:
        assert self.step in vars(Plain), self.step
        wrong = cached_property(self.body)
        return type(self.name, (Plain,), {self.step: wrong})


def right(self: Plain, step: str):
    """What the step gives without the bug."""
    return vars(Plain)[step].func(self)


def weighted_sum(self: Plain, values) -> Tensor:
    """Sum over the counted rows of sample weight times values."""
    return torch.where(self.counted & self.active, self.row_weight * values, 0.0).sum()


def denominator(reduction: str, wrong: Callable[[Plain], Tensor]):
    """Another denominator, for one reduction."""
    return lambda self: wrong(self) if self.reduction == reduction else right(self, "denominator")


def unlike_mean(self: Plain) -> Tensor:
    """Keras' mean of row means: over the last axis first, ignored elements as zeros."""
    if not self.is_binary or self.reduction != "mean" or self.counted_loss.ndim < 2:
        return right(self, "value")
    count = self.counted.sum(-1)
    return (self.counted_loss.sum(-1) / count.clamp(min=1)).mean()


def smoothing(wrong: Callable[[Plain, Tensor, float, int], Tensor], over: str):
    """Another smoothing for one `smooth_over`, from the target, the share and the number of classes."""

    def body(self):
        share, classes = self.option("label_smoothing", 0.0), self.distribution.shape[-1]
        is_affected = self.option("smooth_over", "all") == over and share > 0 and classes > 1
        return wrong(self, self.distribution, share, classes) if is_affected else right(self, "smoothed")

    return body


def left(tensor: Tensor, share: float) -> Tensor:
    return (1 - share) * tensor


def others(tensor: Tensor) -> Tensor:
    return tensor.sum(-1, keepdim=True) - tensor


def from_labels(wrong: Callable[[Tensor, int], Tensor]):
    """A categorical loss that changes its labels before use; what is then out of range is silently all zeros."""

    def body(self):
        if self.is_distribution:
            return right(self, "distribution")
        classes = self.scores.shape[-1]
        label = wrong(self.label, classes)
        return (label.unsqueeze(-1) == torch.arange(classes)).to(self.logits.dtype)

    return body


def from_soft(wrong: Callable[[Tensor], Tensor], binary: bool = False):
    """A loss that changes a distribution before use."""
    return lambda self: (
        wrong(right(self, "distribution"))
        if self.is_distribution and self.is_binary is binary
        else right(self, "distribution")
    )


def hard_argmax(distribution: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(distribution.argmax(-1), distribution.shape[-1]).to(distribution.dtype)


def class_axis(position: int):
    """Log-softmax over a fixed axis, whatever the class axis is."""

    def body(self):
        if self.is_binary or not self.option("from_logits", True):
            return right(self, "log_probability")
        dense = self.scaled.movedim(-1, self.axis)
        return dense.log_softmax(min(position, dense.ndim - 1)).movedim(self.axis, -1)

    return body


def wrong_log(wrong: Callable[[Plain], Tensor]):
    """Another log p where the input is logits."""
    return lambda self: wrong(self) if self.option("from_logits", True) else right(self, "log_probability")


def clamped_cross_entropy(self: Plain) -> Tensor:
    log_p = right(self, "log_probability")
    return log_p.clamp(min=-100) if self.is_binary else log_p


def overflowing_log(self: Plain) -> Tensor:
    """x - log sum exp x as written: exp(4096) is infinite."""
    if self.is_binary:
        return right(self, "log_probability")
    scaled = self.clean / self.option("temperature", 1.0)
    return scaled - scaled.exp().sum(-1, keepdim=True).log()


def single_class_log(self: Plain) -> Tensor:
    """One class read as the logit of a binary loss."""
    is_single = not self.is_binary and self.scores.shape[-1] == 1
    return logsigmoid(self.clean) if is_single else right(self, "log_probability")


def weighted_modulator(self: Plain) -> Tensor:
    """The common (1 - exp(-ce))^gamma where ce already has its weight."""
    p = torch.where(self.mass == 0, 0.5, self.log_probability) * self.class_weight
    return (1 - p.exp()).clamp(min=1e-30) ** self.gamma


def mixture_modulator(self: Plain) -> Tensor:
    """(1 - sum_c t_c p_c)^gamma, one factor for the whole row."""
    rest = 1 - (self.smoothed * self.probability).sum(-1, keepdim=True)
    return rest.clamp(min=1e-30) ** self.gamma


def exponent_modulator(self: Plain) -> Tensor:
    """(1 - exp(-ce))^gamma, where ce is that of the whole soft target."""
    ce = (self.smoothed * self.surprise).sum(-1, keepdim=True)
    return (-torch.expm1(-ce)).clamp(min=1e-30) ** self.gamma


def confident_modulator(self: Plain) -> Tensor:
    return torch.where(self.mass == 0, 1.0, self.probability.clamp(min=1e-30)) ** self.gamma


def binary_weights(wrong: Callable[[Plain, float], tuple[Tensor | float, Tensor | float]]):
    """Other weights of (label 0, label 1), from alpha (None without) and pos_weight."""

    def body(self):
        if not self.is_binary:
            return right(self, "class_weight")
        pair = wrong(self, self.option("alpha", None))
        return torch.stack([weight * torch.ones(self.rows, dtype=self.logits.dtype) for weight in pair], -1)

    return body


def alpha(wrong: Callable[[float], tuple[float, float]]):
    """Other weights of labels (0, 1) from alpha."""
    return lambda self: right(self, "balance") if self.config.get("alpha") is None else wrong(self.config["alpha"])


def positive_weight_along_first_axis(self: Plain) -> Tensor:
    weights = self.constant(self.option("pos_weight", 1.0))
    is_list = weights.ndim and len(weights) == self.rows[0]
    return weights.reshape(-1, *[1] * (len(self.rows) - 1)).expand(self.rows) if is_list else weights.expand(self.rows)


def pairwise(self: Plain) -> Tensor:
    """(N, 1) against (N,) broadcast to (N, N)."""
    loss = right(self, "counted_loss")
    if not self.is_binary or self.target.ndim == self.logits.ndim or self.config or "Focal" in self.loss:
        return loss
    logits, target = self.logits, self.target.to(self.logits.dtype)
    return torch.nn.functional.softplus(logits) - target * logits


def last_axis_weight(self: Plain) -> Tensor:
    weight = self.sample_weight
    fits = weight is not None and weight.ndim and weight.shape[-1] == self.rows[-1]
    return weight.expand(self.rows) if fits else right(self, "row_weight")


def hard_count(wrong: Callable[[Plain, float], int]):
    return lambda self: (
        wrong(self, self.config["hard_fraction"]) if "hard_fraction" in self.config else right(self, "hard_count")
    )


def whole_batch_denominator(self: Plain) -> Tensor:
    if self.reduction == "mean":
        return (~self.ignored).sum().to(self.logits.dtype)
    return right(self, "denominator")


def unmasked(self: Plain) -> Tensor:
    """A loss with two `where` too few: rows are dropped by a factor of 0."""
    return self.row_weight * self.row_loss * self.counted


def normalised_probabilities(wrong: Callable[[Plain], Tensor]):
    return lambda self: right(self, "probability") if self.option("from_logits", True) else wrong(self)


def clip(wrong: Callable[[Tensor], Tensor]):
    return lambda self: wrong(self.probability)


def straight_through(p: Tensor) -> Tensor:
    return p + (p.clamp(CLIP, 1 - CLIP) - p).detach()


def byte_label(label: Tensor) -> Tensor:
    """Labels as uint8, the usual type of a segmentation mask."""
    return label.to(torch.uint8).long()


def temperature(self: Plain):
    return self.option("temperature", 1.0)


def penalty(wrong: Callable[[Plain], Tensor]):
    """Another regulariser, for the cases that have one."""
    return lambda self: self.mixed + (wrong(self) if torch.is_tensor(self.regulariser) else self.regulariser)


def tempered(wrong: Callable[[Plain], Tensor]):
    """Another row loss, for the cases that have a temperature."""
    return lambda self: wrong(self) if temperature(self) != 1 else right(self, "row_loss")


def scores_without_temperature(self: Plain) -> "Plain":
    """The same call at temperature 1."""
    inputs = (self.logits, self.target, self.sample_weight, self.mask, self.given_denominator)
    return Plain(self.loss, self.config | {"temperature": 1.0}, *inputs)


def own_denominator(self: Plain) -> Tensor:
    inputs = (self.logits, self.target, self.sample_weight, self.mask)
    return Plain(self.loss, self.config, *inputs).denominator


MUTANTS = (
    # Which rows count, and by what the sum is divided.
    Mutant(
        "mean over all rows",
        "ignored",
        "denominator",
        denominator("mean", lambda self: self.constant(float(self.ignored.numel()))),
    ),
    Mutant(
        "mean over the sample weights",
        "sample-weight",
        "denominator",
        denominator("mean", lambda self: weighted_sum(self, 1.0)),
    ),
    Mutant(
        "weighted_mean over the rows",
        "reduction",
        "denominator",
        denominator("weighted_mean", lambda self: self.counted.sum().to(self.logits.dtype)),
    ),
    Mutant(
        "weighted_mean without class weights",
        "reduction",
        "denominator",
        denominator("weighted_mean", lambda self: weighted_sum(self, 1.0)),
    ),
    Mutant(
        "weighted_mean without sample weights",
        "sample-weight",
        "denominator",
        denominator(
            "weighted_mean",
            lambda self: torch.where(self.counted & self.active, self.target_weight, 0.0).sum(),
        ),
    ),
    Mutant(
        "weighted_mean by the smoothed target",
        "smoothing",
        "target_weight",
        lambda self: (self.smoothed * self.class_weight).sum(-1),
    ),
    Mutant(
        "weighted_mean over un-broadcast sample weights",
        "sample-weight",
        "denominator",
        denominator(
            "weighted_mean",
            lambda self: right(self, "denominator") if self.sample_weight is None else self.sample_weight.sum(),
        ),
    ),
    Mutant(
        "rows of weight 0 dropped from the mean",
        "zero-weight",
        "denominator",
        denominator("mean", lambda self: (self.counted & self.active).sum().to(self.logits.dtype)),
    ),
    Mutant(
        "0 / 0 where nothing is kept",
        "nothing-kept",
        "value",
        lambda self: self.counted_loss if self.reduction == "none" else self.counted_loss.sum() / self.denominator,
    ),
    Mutant("an empty batch gives NaN", "empty", "value", lambda self: right(self, "value") / (self.logits.numel() > 0)),
    Mutant(
        "sum is a mean",
        "reduction",
        "denominator",
        denominator("sum", lambda self: self.counted.sum().to(self.logits.dtype)),
    ),
    Mutant("a caller's denominator without effect", "denominator", "denominator", own_denominator),
    Mutant(
        "the mean over a caller's denominator",
        "denominator",
        "denominator",
        lambda self: (
            right(self, "denominator")
            if self.given_denominator is None
            else self.given_denominator * self.counted.sum().clamp(min=1)
        ),
    ),
    Mutant("mean of the row means", "ignored", "value", unlike_mean),
    Mutant(
        "none leaves ignored rows out",
        "reduction",
        "value",
        lambda self: self.counted_loss[self.counted] if self.reduction == "none" else right(self, "value"),
    ),
    Mutant(
        "none without sample weights",
        "sample-weight",
        "value",
        lambda self: (
            torch.where(self.counted & self.active, self.row_loss, 0.0)
            if self.reduction == "none"
            else right(self, "value")
        ),
    ),
    Mutant("sample_weight aligned on the last axis", "sample-weight", "row_weight", last_axis_weight),
    Mutant("binary column against row broadcasts", "shape", "counted_loss", pairwise),
    Mutant("ignored rows counted", "ignored", "counted", lambda self: right(self, "counted") | self.ignored),
    Mutant(
        "mean over the mask alone, ignore_index forgotten",
        "ignored",
        "denominator",
        lambda self: (
            right(self, "denominator")
            if self.mask is None or self.reduction != "mean"
            else self.mask.sum().to(self.logits.dtype)
        ),
    ),
    Mutant(
        "mask without effect",
        "ignored",
        "ignored",
        lambda self: (
            right(self, "ignored") if self.mask is None else self.label == self.option("ignore_index", math.nan)
        ),
    ),
    Mutant(
        "ignore_index for whole labels only",
        "ignored",
        "label",
        lambda self: self.target.reshape(self.rows).long() if "ignore_index" in self.config else right(self, "label"),
    ),
    Mutant("no where before the loss: NaN gradient", "nonfinite", "clean", lambda self: self.scores),
    Mutant("ignored rows times 0: NaN loss", "nonfinite", "counted_loss", unmasked),
    Mutant("NaN swallowed", "nonfinite", "row_loss", lambda self: right(self, "row_loss").nan_to_num()),
    # The target.
    Mutant(
        "smoothing e/(K-1) for e/K",
        "smoothing",
        "smoothed",
        smoothing(lambda self, target, share, classes: left(target, share) + share / (classes - 1), "all"),
    ),
    Mutant(
        "smoothing over the others for all",
        "smoothing",
        "smoothed",
        smoothing(
            lambda self, target, share, classes: left(target, share) + share * others(target) / (classes - 1), "all"
        ),
    ),
    Mutant(
        "smoothing over all for the others",
        "smoothing",
        "smoothed",
        smoothing(lambda self, target, share, classes: left(target, share) + share / classes, "others"),
    ),
    Mutant(
        "others without the sum of the target",
        "soft",
        "smoothed",
        smoothing(
            lambda self, target, share, classes: left(target, share) + share * (1 - target) / (classes - 1), "others"
        ),
    ),
    Mutant(
        "smoothing e * sum(t) / K",
        "soft",
        "smoothed",
        smoothing(
            lambda self, target, share, classes: left(target, share) + share * target.sum(-1, keepdim=True) / classes,
            "all",
        ),
    ),
    Mutant(
        "smoothing of index targets only",
        "soft",
        "smoothed",
        smoothing(
            lambda self, target, share, classes: target if self.is_distribution else right(self, "smoothed"), "all"
        ),
    ),
    Mutant(
        "smoothing without the uniform part",
        "smoothing",
        "smoothed",
        smoothing(lambda self, target, share, classes: left(target, share), "all"),
    ),
    Mutant(
        "smoothing not weighted by class",
        "smoothing",
        "mass",
        lambda self: (
            self.smoothed + left(self.distribution, self.option("label_smoothing", 0.0)) * (self.class_weight - 1)
        ),
    ),
    Mutant(
        "smoothing weighted by the label's class",
        "class-weight",
        "mass",
        lambda self: self.smoothed * self.target_weight.unsqueeze(-1),
    ),
    Mutant("soft target read as its argmax", "soft", "distribution", from_soft(hard_argmax)),
    Mutant("binary soft target rounded", "soft", "distribution", from_soft(hard_argmax, binary=True)),
    Mutant(
        "distribution normalised",
        "soft",
        "distribution",
        from_soft(lambda distribution: distribution / distribution.sum(-1, keepdim=True)),
    ),
    Mutant(
        "one-hot target with a softmax",
        "one-hot",
        "distribution",
        from_soft(lambda distribution: distribution.softmax(-1)),
    ),
    Mutant(
        "labels in bfloat16",
        "large-label",
        "distribution",
        from_labels(lambda label, classes: label.bfloat16().long()),
    ),
    Mutant("labels in uint8", "large-label", "distribution", from_labels(lambda label, classes: byte_label(label))),
    Mutant("labels wrap modulo K", "out-of-range", "distribution", from_labels(lambda label, classes: label % classes)),
    Mutant(
        "labels out of range are 0",
        "unchecked",
        "distribution",
        from_labels(lambda label, classes: label),
    ),
    # The class axis.
    Mutant("softmax over axis 0", "axis", "log_probability", class_axis(0)),
    Mutant("softmax over axis 1", "axis", "log_probability", class_axis(1)),
    Mutant("softmax over the last axis", "axis", "log_probability", class_axis(9)),
    Mutant(
        "classes read as the last axis",
        "axis",
        "scores",
        lambda self: self.logits.reshape(right(self, "scores").shape) if not self.is_binary else self.logits,
    ),
    Mutant("a single class read as binary", "single-class", "log_probability", wrong_log(single_class_log)),
    # Logits to log p.
    Mutant(
        "p clipped at 1e-7",
        "extreme",
        "log_probability",
        wrong_log(lambda self: self.probability.clamp(CLIP, 1 - CLIP).log()),
    ),
    Mutant("log(p + 1e-7)", "tail", "log_probability", wrong_log(lambda self: (self.probability + 1e-7).log())),
    Mutant("log of softmax", "extreme", "log_probability", wrong_log(lambda self: self.probability.log())),
    Mutant("binary log clamped at -100", "extreme", "log_probability", clamped_cross_entropy),
    Mutant("exp without the largest logit", "extreme", "log_probability", wrong_log(overflowing_log)),
    Mutant(
        "1 - p by subtraction",
        "tail",
        "rest",
        lambda self: 1 - (self.probability if self.option("from_logits", True) else self.clipped),
    ),
    Mutant(
        "0 * log 0 for classes without mass",
        "nonfinite",
        "mixed",
        lambda self: (self.mass * self.modulator * -self.log_probability).sum(-1),
    ),
    # Temperature and regularisers.
    Mutant(
        "temperature multiplied",
        "temperature",
        "scaled",
        lambda self: right(self, "scaled") * temperature(self) ** 2,
    ),
    Mutant(
        "loss times T^2",
        "temperature",
        "row_loss",
        tempered(lambda self: right(self, "row_loss") * temperature(self) ** 2),
    ),
    Mutant(
        "regulariser without temperature",
        "temperature",
        "row_loss",
        tempered(lambda self: self.mixed + scores_without_temperature(self).regulariser),
    ),
    Mutant(
        "logits / T before the largest is taken off",
        "temperature",
        "scaled",
        lambda self: (
            right(self, "scaled")
            if self.is_binary or not self.option("from_logits", True)
            else self.clean / temperature(self) - self.largest / temperature(self)
        ),
        loses_digits=True,
    ),
    Mutant(
        "softcap before the temperature",
        "softcap",
        "bound",
        lambda self: self.option("softcap", None),
    ),
    Mutant(
        "softcap as a clip",
        "softcap",
        "capped",
        lambda self: self.clean if self.bound is None else self.clean.clamp(-self.bound, self.bound),
    ),
    Mutant(
        "flsd53 the other way round",
        "gamma",
        "gamma",
        lambda self: (
            torch.where(self.probability < 0.2, 3.0, 5.0)
            if self.option("gamma", 2.0) == "flsd53"
            else right(self, "gamma")
        ),
    ),
    Mutant(
        "z_loss without the square",
        "z-loss",
        "row_loss",
        lambda self: (
            self.mixed + self.config["z_loss"] * self.log_partition
            if "z_loss" in self.config
            else right(self, "row_loss")
        ),
    ),
    Mutant(
        "z_loss of shifted logits",
        "z-loss",
        "log_partition",
        lambda self: self.scaled.logsumexp(-1),
    ),
    Mutant(
        "regulariser weighted by class",
        "class-weight",
        "row_loss",
        penalty(lambda self: self.target_weight * self.regulariser),
    ),
    Mutant("entropy penalty of the wrong sign", "entropy-penalty", "entropy", lambda self: -right(self, "entropy")),
    Mutant(
        "0 * log 0 in the entropy",
        "entropy-penalty",
        "entropy",
        lambda self: -(self.probability * self.probability.log()).sum(-1),
    ),
    Mutant(
        "entropy of clipped probabilities",
        "entropy-penalty",
        "entropy",
        lambda self: -(self.clipped * self.clipped.log()).sum(-1),
    ),
    Mutant(
        "binary entropy of label 1 alone",
        "entropy-penalty",
        "entropy",
        lambda self: (
            -torch.special.xlogy(self.probability, self.probability)[..., 1]
            if self.is_binary
            else right(self, "entropy")
        ),
    ),
    # Focal.
    Mutant("class weight inside the modulator", "class-weight", "modulator", weighted_modulator),
    Mutant("pos_weight inside the modulator", "pos-weight", "modulator", weighted_modulator),
    Mutant("modulator of the mixture", "soft", "modulator", mixture_modulator),
    Mutant("modulator of exp(-ce) of the mixture", "soft", "modulator", exponent_modulator),
    Mutant("p^gamma for (1-p)^gamma", "formula", "modulator", confident_modulator),
    Mutant("modulator detached", "gamma", "modulator", lambda self: right(self, "modulator").detach()),
    Mutant(
        "gamma 0 read as the default",
        "gamma",
        "gamma",
        lambda self: right(self, "gamma") or 2.0 * ("Focal" in self.loss),
    ),
    Mutant("infinite slope at p = 1", "single-class", "modulator", lambda self: self.rest**self.gamma),
    Mutant("alpha on label 0", "alpha", "balance", alpha(lambda alpha: (alpha, 1 - alpha))),
    Mutant("alpha on both labels", "alpha", "balance", alpha(lambda alpha: (alpha, alpha))),
    Mutant("alpha on label 1, 1 on label 0", "alpha", "balance", alpha(lambda alpha: (1.0, alpha))),
    Mutant(
        "alpha 0 read as none", "alpha", "balance", alpha(lambda alpha: (1 - alpha, alpha) if alpha else (1.0, 1.0))
    ),
    Mutant(
        "alpha 0.25 unless given",
        "formula",
        "balance",
        lambda self: right(self, "balance") if "Focal" not in self.loss or "alpha" in self.config else (0.75, 0.25),
    ),
    # pos_weight.
    Mutant(
        "pos_weight on label 0",
        "pos-weight",
        "class_weight",
        binary_weights(lambda self, alpha: (self.balance[0] * self.positive_weight, self.balance[1])),
    ),
    Mutant(
        "pos_weight on both labels",
        "pos-weight",
        "class_weight",
        binary_weights(
            lambda self, alpha: (self.balance[0] * self.positive_weight, self.balance[1] * self.positive_weight)
        ),
    ),
    Mutant("pos_weight along the first axis", "pos-weight", "positive_weight", positive_weight_along_first_axis),
    # hard_fraction.
    Mutant(
        "hard_fraction rounds down",
        "hard",
        "hard_count",
        hard_count(lambda self, fraction: int(fraction * int((~self.ignored).sum()))),
    ),
    Mutant(
        "hard_fraction of all rows, ignored ones too",
        "hard",
        "hard_count",
        hard_count(lambda self, fraction: math.ceil(fraction * self.ignored.numel())),
    ),
    Mutant("hard rows ranked with sample weights", "hard", "ranking", lambda self: self.row_weight * self.row_loss),
    Mutant("hard rows ranked without regulariser", "hard", "ranking", lambda self: self.mixed),
    Mutant("hard rows: NaN ranked last", "hard", "ranking", lambda self: self.row_loss.nan_to_num(-1e30)),
    Mutant("hard rows divided by all rows", "hard", "denominator", whole_batch_denominator),
    # from_logits=False.
    Mutant(
        "probabilities not normalised",
        "from-logits",
        "probability",
        normalised_probabilities(lambda self: right(self, "probability") if self.is_binary else self.scaled),
    ),
    Mutant(
        "probabilities read as logits",
        "from-logits",
        "probability",
        normalised_probabilities(
            lambda self: (
                torch.stack([(-self.clean).sigmoid(), self.clean.sigmoid()], -1)
                if self.is_binary
                else self.clean.softmax(-1)
            )
        ),
    ),
    Mutant("no clip of probabilities", "clip", "clipped", clip(lambda p: p)),
    Mutant("probabilities clipped at 1e-12", "clip", "clipped", clip(lambda p: p.clamp(1e-12, 1 - 1e-12))),
    Mutant("probabilities clipped from below only", "clip", "clipped", clip(lambda p: p.clamp(min=CLIP))),
    Mutant("gradient beyond the clip", "clip", "clipped", clip(straight_through)),
    Mutant("p + 1e-7 for a clip", "clip", "clipped", clip(lambda p: (p + CLIP).clamp(max=1 - CLIP))),
)
