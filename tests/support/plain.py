"""The losses as a textbook has them, written for the vectors alone.

`Plain` shares no code or idea with the packages: probabilities, -log p and 1 - p, every class at once, autograd.
Its steps are cached properties, so that a mutant is one step with another body.
"""

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SYNONYMS = {"sum_over_batch_size": "mean", "mean_with_sample_weight": "weighted_mean"}
CLIP = 1e-7


class Plain:
    """One call of a loss. Rows are [...], classes the last axis [..., C]; a binary element is a row of two classes."""

    def __init__(self, loss, config, logits, target, sample_weight=None, mask=None, denominator=None):
        self.loss, self.config, self.is_binary = loss, config, loss.startswith("Binary")
        self.logits, self.target, self.sample_weight, self.mask = logits, target, sample_weight, mask
        self.given_denominator = denominator

    def option(self, name, default):
        return self.config.get(name, default)

    def constant(self, value):
        return torch.tensor(value, dtype=self.logits.dtype)

    @cached_property
    def axis(self):
        return self.option("axis", -1)

    @cached_property
    def scores(self) -> Tensor:
        """Logits [..., C]; binary [...]."""
        return self.logits if self.is_binary else self.logits.movedim(self.axis, -1)

    @cached_property
    def rows(self):
        return self.scores.shape if self.is_binary else self.scores.shape[:-1]

    @cached_property
    def is_distribution(self):
        return self.is_binary or ("Sparse" not in self.loss and self.target.shape == self.logits.shape)

    @cached_property
    def label(self) -> Tensor:
        """What ignore_index is compared with, [...]."""
        return self.target.reshape(self.rows)

    @cached_property
    def ignored(self) -> Tensor:
        """Rows that count nowhere, [...]."""
        is_masked = torch.zeros(self.rows, dtype=torch.bool) if self.mask is None else ~self.along_rows(self.mask)
        has_label = self.is_binary or not self.is_distribution
        ignore_index = self.option("ignore_index", None)
        return is_masked if ignore_index is None or not has_label else is_masked | (self.label == ignore_index)

    @cached_property
    def row_weight(self) -> Tensor:
        """Sample weights [...], aligned from the left."""
        if self.sample_weight is None:
            return torch.ones(self.rows, dtype=self.logits.dtype)
        return self.along_rows(self.sample_weight)

    def along_rows(self, values: Tensor) -> Tensor:
        """Values [...] of rows, aligned from the left."""
        if values.numel() == math.prod(self.rows):
            return values.reshape(self.rows)
        lead = values.shape
        if lead != self.rows[: len(lead)]:
            lead = lead[:-1]
        return values.reshape(lead + (1,) * (len(self.rows) - len(lead))).expand(self.rows)

    @cached_property
    def active(self) -> Tensor:
        return ~self.ignored & (self.row_weight != 0)

    @cached_property
    def clean(self) -> Tensor:
        """Scores in which rows that count nowhere hold a harmless 0.5."""
        active = self.active if self.is_binary else self.active.unsqueeze(-1)
        return torch.where(active, self.scores, 0.5)

    @cached_property
    def bound(self):
        return self.option("softcap", None) and self.config["softcap"] * self.option("temperature", 1.0)

    @cached_property
    def capped(self) -> Tensor:
        """Scores within +-softcap after the temperature; +inf is an error of its row."""
        if self.bound is None:
            return self.clean
        return torch.where(self.clean == math.inf, math.nan, self.bound * torch.tanh(self.clean / self.bound))

    @cached_property
    def distribution(self) -> Tensor:
        """The target [..., C] before smoothing; NaN in rows whose label is out of range."""
        if self.is_binary:
            share, valid = self.label.to(self.logits.dtype), (self.label >= 0) & (self.label <= 1)
            distribution = torch.stack([1 - share, share], -1)
        elif self.is_distribution:
            target = self.target.movedim(self.axis, -1)
            distribution = target.to(self.logits.dtype)
            if target.is_floating_point():
                return distribution
            valid = ((target == 0) | (target == 1)).all(-1)
        else:
            classes = self.scores.shape[-1]
            distribution = (self.label.unsqueeze(-1) == torch.arange(classes)).to(self.logits.dtype)
            valid = (self.label >= 0) & (self.label < classes)
        if self.option("check_labels", None) is not False and not valid[self.active].all():
            raise ValueError("target out of range")
        return torch.where((valid | ~self.active).unsqueeze(-1), distribution, math.nan)

    @cached_property
    def smoothed(self) -> Tensor:
        smoothing, classes = self.option("label_smoothing", 0.0), self.distribution.shape[-1]
        kept = (1 - smoothing) * self.distribution
        if self.option("smooth_over", "all") == "all":
            return kept + smoothing / classes
        if classes == 1:
            return self.distribution
        return kept + smoothing * (self.distribution.sum(-1, keepdim=True) - self.distribution) / (classes - 1)

    @cached_property
    def positive_weight(self) -> Tensor:
        weight = self.constant(self.option("pos_weight", 1.0))
        if weight.ndim == 1 and self.option("axis", None) is not None:
            return weight.expand(self.logits.movedim(self.axis, -1).shape).movedim(-1, self.axis)
        return weight.expand(self.rows)

    @cached_property
    def balance(self):
        """Weights of labels 0 and 1 from alpha."""
        alpha = self.option("alpha", None)
        return (1.0, 1.0) if alpha is None else (1 - alpha, alpha)

    @cached_property
    def class_weight(self) -> Tensor:
        """[..., C] or [C]"""
        if self.is_binary:
            negative, positive = self.balance
            weights = [negative * torch.ones_like(self.positive_weight), positive * self.positive_weight]
            return torch.stack(weights, -1)
        return self.constant(self.option("class_weight", [1.0] * self.scores.shape[-1]))

    @cached_property
    def scaled(self) -> Tensor:
        """Scores / temperature less the largest of a row, which float32 would lose at logits of 1000."""
        largest = 0.0 if self.is_binary or not self.option("from_logits", True) else self.largest
        return (self.capped - largest) / self.option("temperature", 1.0)

    @cached_property
    def largest(self) -> Tensor:
        return self.capped.detach().amax(-1, keepdim=True)

    @cached_property
    def probability(self) -> Tensor:
        """[..., C]"""
        if self.is_binary:
            positive = self.scaled.sigmoid() if self.option("from_logits", True) else self.scaled
            negative = (-self.scaled).sigmoid() if self.option("from_logits", True) else 1 - self.scaled
            return torch.stack([negative, positive], -1)
        if self.option("from_logits", True):
            return self.scaled.softmax(-1)
        return self.scaled / self.scaled.sum(-1, keepdim=True)

    @cached_property
    def clipped(self) -> Tensor:
        return self.probability.clamp(CLIP, 1 - CLIP)

    @cached_property
    def rest(self) -> Tensor:
        """1 - p [..., C], summed over the other classes."""
        if not self.option("from_logits", True):
            return 1 - self.clipped
        classes = self.probability.shape[-1]
        return self.probability @ (1 - torch.eye(classes, dtype=self.logits.dtype))

    @cached_property
    def log_probability(self) -> Tensor:
        """log p [..., C], by 1 - p where p is near 1."""
        if not self.option("from_logits", True):
            return self.clipped.log()
        by_rest = self.rest < 0.5
        near = torch.log1p(-torch.where(by_rest, self.rest, 0.0))
        if self.is_binary:
            far = torch.stack([logsigmoid(-self.scaled), logsigmoid(self.scaled)], -1)
        else:
            far = self.scaled.log_softmax(-1)
        return torch.where(by_rest, near, far)

    @cached_property
    def mass(self) -> Tensor:
        return self.smoothed * self.class_weight

    @cached_property
    def is_left_out(self) -> Tensor:
        """Classes [..., C] without mass; a NaN is not left out."""
        return (self.mass == 0) & ~self.probability.isnan()

    @cached_property
    def gamma(self):
        gamma = self.option("gamma", 2.0) if "Focal" in self.loss else 0.0
        return torch.where(self.probability < 0.2, 5.0, 3.0) if gamma == "flsd53" else gamma

    @cached_property
    def modulator(self) -> Tensor:
        """(1 - p)^gamma [..., C]; where 1 - p is 0 the loss is 0 with any factor."""
        rest = torch.where((self.mass == 0) | (self.rest == 0), 1.0, self.rest)
        return rest**self.gamma

    @cached_property
    def surprise(self) -> Tensor:
        """-log p [..., C] of the classes with mass."""
        return -torch.where(self.is_left_out, 0.0, self.log_probability)

    @cached_property
    def mixed(self) -> Tensor:
        """sum_c t_c w_c phi(p_c), [...]."""
        return torch.where(self.is_left_out, 0.0, self.mass * self.modulator * self.surprise).sum(-1)

    @cached_property
    def log_partition(self) -> Tensor:
        temperature = self.option("temperature", 1.0)
        return self.scaled.logsumexp(-1) + self.largest.squeeze(-1) / temperature

    @cached_property
    def entropy(self) -> Tensor:
        p = self.probability
        return -(p * torch.where(p == 0, 1.0, p).log()).sum(-1)

    @cached_property
    def regulariser(self) -> Tensor | float:
        """z_loss * log(sum exp x)^2 - entropy_penalty * H(p), [...]."""
        value = 0.0
        if self.option("z_loss", 0.0) != 0:
            value = value + self.config["z_loss"] * self.log_partition**2
        if self.option("entropy_penalty", 0.0) != 0:
            value = value - self.config["entropy_penalty"] * self.entropy
        return value

    @cached_property
    def row_loss(self) -> Tensor:
        return self.mixed + self.regulariser

    @cached_property
    def ranking(self) -> Tensor:
        """What hard_fraction ranks by, [...]."""
        return self.row_loss

    @cached_property
    def hard_count(self):
        return math.ceil(self.option("hard_fraction", 1.0) * int((~self.ignored).sum()) * (1 - 1e-6))

    @cached_property
    def counted(self) -> Tensor:
        """Rows that are neither ignored nor too easy, [...]."""
        ranking = torch.where(self.ignored, -math.inf, self.ranking.detach().nan_to_num(math.inf, math.inf))
        chosen = ranking.flatten().argsort(descending=True, stable=True)[: self.hard_count]
        counted = torch.zeros(ranking.numel(), dtype=torch.bool)
        counted[chosen] = True
        return counted.reshape(self.rows) & ~self.ignored

    @cached_property
    def counted_loss(self) -> Tensor:
        """k s l [...]"""
        return torch.where(self.counted & self.active, self.row_weight * self.row_loss, 0.0)

    @cached_property
    def target_weight(self) -> Tensor:
        """u = sum_c t_c w_c [...] of the target before smoothing."""
        return (self.distribution * self.class_weight).sum(-1)

    @cached_property
    def reduction(self):
        spelling = self.option("reduction", "mean")
        return SYNONYMS.get(spelling, spelling)

    @cached_property
    def denominator(self) -> Tensor:
        if self.given_denominator is not None:
            return self.given_denominator
        if self.reduction == "sum":
            return self.constant(1.0)
        if self.reduction == "mean":
            return self.counted.sum().to(self.logits.dtype)
        return torch.where(self.counted & self.active, self.row_weight * self.target_weight, 0.0).sum()

    @cached_property
    def value(self) -> Tensor:
        if self.reduction == "none":
            return self.counted_loss
        is_empty = self.denominator == 0
        return torch.where(is_empty, 0.0, self.counted_loss.sum() / torch.where(is_empty, 1.0, self.denominator))


def evaluate(kind: type[Plain], case, dtype: str) -> tuple[Tensor, Tensor]:
    """The loss of a case and the gradient of its sum."""
    tensors = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(getattr(torch, dtype))
    logits = tensors.pop("logits").requires_grad_()
    value = kind(case.loss, case.config, logits, **tensors).value
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient
