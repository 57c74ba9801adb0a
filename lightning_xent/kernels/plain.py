"""The plain home: what a loss reads of a row, from operations that can be traced, batched and differentiated again.

Only the z-loss computes the logsumexp of a row: at logits near 1000 it would make the error of a float32 cross-entropy
114 eps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_xent.kernels.blocks import compute_dtype


class OfLabel(NamedTuple):
    """What a loss of a label needs of each row, all [...]; None what was not asked for."""

    log_odds: Tensor
    others: Tensor | None
    """sum_{c != y} w_c (-log p_c)"""
    log_partition: Tensor | None
    """logsumexp(logits / temperature)"""
    entropy: Tensor | None
    """That of the softmax, in nats."""
    own: Tensor | None = None
    """The logit of the label, capped."""


def of_label(logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C]; +inf where there is no other class.

    Where `counts` [...] is False the result is some finite number, for any logits, with gradient 0.
    """
    own, rivals, _ = _label_and_rivals(logits, label, counts, temperature)
    return own - safe_log(rivals)


def of_label_and_others(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    own, rivals, shifted = _label_and_rivals(logits, label, counts, temperature)
    surprise = safe_log(rivals + own.exp()).unsqueeze(-1) - shifted  # [..., C]
    weight = torch.ones_like(surprise) if class_weight is None else class_weight.expand_as(surprise)
    weight = torch.where(is_class(label, logits), 0.0, weight)
    return own - safe_log(rivals), (weight * torch.where(weight == 0, 0.0, surprise)).sum(-1)


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C]."""
    shifted, _, rest = relative_to_peak(logits, temperature)
    surprise = torch.log1p(rest) - scaled(shifted, temperature)  # [..., C]
    is_absent = (masses == 0) & torch.isinf(surprise)
    return torch.where(is_absent, 0.0, masses * torch.where(is_absent, 0.0, surprise)).sum(-1)


def log_partition(logits: Tensor, temperature: float) -> Tensor:
    """logsumexp(logits / temperature) [...] over the classes of `logits` [..., C]."""
    peak = largest(logits)  # [..., 1]
    total = scaled(logits - peak, temperature).exp().sum(-1, keepdim=True)  # [..., 1]
    return (scaled(peak, temperature) + total.log()).squeeze(-1)


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy [...] in nats of softmax(logits / temperature) over the classes of `logits` [..., C]."""
    shifted, is_peak, rest = relative_to_peak(logits, temperature)
    rest, distance = rest.squeeze(-1), -scaled(shifted, temperature)  # [...], [..., C]
    has_mass = ~is_peak & (distance != math.inf)  # a small temperature makes finite logits infinite
    distance = torch.where(has_mass, distance, 0.0)
    return torch.log1p(rest) + (distance * torch.exp(-distance)).sum(-1) / (1 + rest)


def gradient_of(function: Callable[..., Any], gradients: Sequence[Tensor], logits: Tensor, *others: Any) -> Tensor:
    """Return the gradient of the logits, given those of function(logits, *others); it can be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        outputs = function(logits, *others)
    (gradient,) = torch.autograd.grad(outputs, logits, gradients, create_graph=create_graph)
    return gradient


def is_class(label: Tensor, logits: Tensor) -> Tensor:
    """Whether each class of `logits` [..., C] is `label` [...]."""
    return label.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)  # [..., C]


def scaled(value: Any, temperature: float) -> Any:
    """`value` / temperature."""
    return value if temperature == 1.0 else value / temperature


def largest(logits: Tensor) -> Tensor:
    """The largest [..., 1] of `logits` [..., C], without gradient."""
    return logits.detach().amax(-1, keepdim=True)


def peak_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest [..., 1] of `values` [..., C], with its gradient, and where it is [..., C]."""
    is_peak = is_class(values.argmax(-1), values)  # [..., C]
    return entry(values, is_peak), is_peak


def entry(values: Tensor, is_own: Tensor) -> Tensor:
    """The entry [..., 1] of each row of `values` [..., C] at the one place where `is_own` [..., C] is True.

    Compiled by inductor, the gradient of a gather is a scatter that can get lost: wrong by up to 80 %.
    """
    return torch.where(is_own, values, 0.0).sum(-1, keepdim=True)


def relative_to_peak(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [..., C] minus their peak, where the peak is [..., C], and the sum [..., 1] of the other exponentials."""
    peak, is_peak = peak_of(logits)
    shifted = logits - peak
    # The peak's own entry is 0, or NaN if the peak is infinite, which must reach the sum. A compiler that computes the
    # logits twice, once to find the peak, may leave 1e-7 there. That is large beside a certain class: so multiply by 0.
    shifted = torch.where(is_peak, (0.0 * shifted).detach(), shifted)
    rest = torch.where(is_peak, shifted, scaled(shifted, temperature).exp()).sum(-1, keepdim=True)
    return shifted, is_peak, rest


def expm1(value: Tensor) -> Tensor:
    """exp(value) - 1, exact near 0. What inductor makes of torch.expm1 on the CPU loses all digits there."""
    if not torch.compiler.is_compiling():
        return torch.expm1(value)
    half = torch.clamp(value / 2, -0.5, 0.5)
    return torch.where(value.abs() < 1, 2 * half.exp() * half.sinh(), value.exp() - 1)


def safe_log(value: Tensor) -> Tensor:
    """log(value), with slope 0 instead of infinity at 0."""
    is_zero = value == 0
    return torch.where(is_zero, -math.inf, torch.where(is_zero, 1.0, value).log())


def _label_and_rivals(
    logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Shifted logit [...] of the label, sum [...] of the exponentials of the others, all shifted logits [..., C]."""
    if counts is not None:
        logits = torch.where(counts.unsqueeze(-1), logits, 0.0)
    logits = logits.to(compute_dtype(logits))
    shifted = scaled(logits - largest(logits), temperature)  # [..., C]
    is_own = is_class(label, logits)
    own = entry(shifted, is_own).squeeze(-1)  # [...]
    return own, torch.where(is_own, 0.0, shifted.exp()).sum(-1), shifted
