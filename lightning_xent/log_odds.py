"""The formulas: logits (or probabilities) -> log-odds m of a class, p = sigmoid(m).

Categorical: m_c = x_c - logsumexp(x_j, j != c). The logsumexp itself is never computed: at logits near 1000
it would make the error of a float32 cross-entropy 114 eps. Class axis last everywhere.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_xent import kernels

PROBABILITY_LIMIT = math.log((1 - 1e-7) / 1e-7)
"""Log-odds of probabilities are limited to +-16.118, those of 1e-7 and 1 - 1e-7."""


def softplus(value: Tensor) -> Tensor:
    """log(1 + exp(value)), exact in the tail; linear from 80 on. torch's default of 20 is off by 1.6e5 eps."""
    return torch.nn.functional.softplus(value, threshold=80.0)


def sigmoid(value: Tensor) -> Tensor:
    """1 / (1 + exp(-value)) with a gradient that stays exact in both tails.

    The gradient of torch.sigmoid is exactly 0 from 17 up in float32, where its value rounds to 1.
    """
    # exp(value) / (exp(value) + 1) below -2, else 1 / (1 + exp(-value)): so the slope is neither a difference nor a
    # product of tiny factors. From 1000 up it is 1 with gradient 0, even if the incoming gradient overflows: 2 * 3e38.
    own = torch.exp(-torch.relu(-2.0 - value))
    return own / (own + torch.exp(-torch.clamp(value, -2.0, 1000.0)))


def power_of_sigmoid(value: Tensor, exponent: float) -> Tensor:
    """sigmoid(value) ** exponent, exact in both tails, for any exponent > 0.

    exp(-exponent * softplus(-value)) is off by half an ulp of its argument: by 30 eps if the argument is 60. So the
    power is a product of two exponentials: the first has an exact argument, the second a small one.
    """
    bounded = torch.clamp(value, max(-750 / exponent, -1e38), 1000.0)  # beyond, it is 0 or 1, in float64 too
    negative = torch.clamp(bounded, max=0.0)
    rest = torch.log1p(torch.exp(2 * negative - bounded))  # 2 * negative - bounded is -abs(bounded)
    head, step = parts_of_exponent(exponent)
    coarse = step * torch.round((negative - rest).detach() / step)
    fine = (exponent - head) * coarse + exponent * ((negative - coarse) - rest)
    return torch.exp(head * coarse) * (1 + torch.expm1(fine))  # XLA would merge a product of two exp


def parts_of_exponent(exponent: float) -> tuple[float, float]:
    """The first 12 bits of `exponent`, and a power of 2: their product with up to 2^12 times that power is exact."""
    mantissa, power = math.frexp(exponent)
    return math.ldexp(round(mantissa * 4096), power - 12), 2.0 ** min(-power - 3, 100)


def of_label(
    logits: Tensor,
    label: Tensor,
    temperature: float,
    from_logits: bool,
    margin: Tensor | float = 0.0,
    counts: Tensor | None = None,
) -> Tensor:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C]; +inf where there is no other class.

    `margin` [...] is taken from the logit of the label. Where `counts` [...] is False the result is some finite number,
    for any logits, and no gradient may flow back to it.
    """
    if not from_logits:
        rivals = torch.where(is_class(label, logits), 0.0, logits).sum(-1)  # [...]
        return _limited(take(logits, label), rivals)
    if not _is_none(margin):
        # Taken from the log-odds, a margin would get lost where the sum over the rivals is 0 in float32.
        logits = relative(logits)
        margin = margin.unsqueeze(-1) if isinstance(margin, Tensor) else margin
        logits = torch.where(is_class(label, logits), logits - margin, logits)
    if kernels.applies(logits, label, counts):
        return kernels.of_label(logits, label, counts, temperature)
    own, rivals, _ = _label_and_rivals(logits, label, temperature, counts)
    return own - _log(rivals)


def of_label_and_others(
    logits: Tensor, label: Tensor, temperature: float, class_weight: Tensor | None, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    if kernels.applies(logits, label, counts):
        return kernels.of_label_and_others(logits, label, counts, class_weight, temperature)
    own, rivals, shifted = _label_and_rivals(logits, label, temperature, counts)
    surprise = _log(rivals + own.exp()).unsqueeze(-1) - shifted  # [..., C]
    weight = torch.ones_like(surprise) if class_weight is None else class_weight.expand_as(surprise)
    weight = torch.where(is_class(label, logits), 0.0, weight)
    return own - _log(rivals), (weight * torch.where(weight == 0, 0.0, surprise)).sum(-1)


def of_classes(logits: Tensor, temperature: float, from_logits: bool, margin: Tensor | float = 0.0) -> Tensor:
    """Log-odds [..., C] of every class in `logits` [..., C], in O(C); `margin` as in `of_label`, for each class."""
    if not from_logits:
        peak, is_peak = _peak(logits)
        rest = torch.where(is_peak, 0.0, logits).sum(-1, keepdim=True)  # [..., 1]
        return _limited(logits, torch.where(is_peak, rest, peak + (rest - logits)))
    shifted, is_peak, rest = _relative_to_peak(logits, temperature)
    others = torch.where(is_peak, 0.0, rest - scaled(shifted, temperature).exp())  # [..., C]
    if _is_none(margin):
        return scaled(shifted, temperature) - torch.where(is_peak, _log(rest), torch.log1p(others))
    # The rivals of the peak, relative to the largest of them: their sum is not 0, which would lose the margin.
    of_rivals = torch.where(is_peak, -math.inf, logits)
    second = _largest(of_rivals)  # [..., 1]
    second = torch.where(second == -math.inf, 0.0, second)
    lead = shifted + torch.where(is_peak, logits - second, 0.0) - margin
    rivals = scaled(of_rivals - second, temperature).exp().sum(-1, keepdim=True)
    return scaled(lead, temperature) - torch.where(is_peak, _log(rivals), torch.log1p(others))


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C]."""
    if kernels.applies(logits, masses):
        return kernels.of_distribution(logits, masses, temperature)
    shifted, _, rest = _relative_to_peak(logits, temperature)
    surprise = torch.log1p(rest) - scaled(shifted, temperature)  # [..., C]
    is_absent = (masses == 0) & torch.isinf(surprise)
    return torch.where(is_absent, 0.0, masses * torch.where(is_absent, 0.0, surprise)).sum(-1)


def margin_of_classes(logits: Tensor, temperature: float) -> Tensor:
    """Lead [..., C] of every class over its strongest rival, in O(C)."""
    peak, is_peak = _peak(logits)
    second, _ = _peak(torch.where(is_peak, -math.inf, logits))  # [..., 1]
    return scaled(logits - torch.where(is_peak, second, peak), temperature) * poison(logits)


def relative(logits: Tensor) -> Tensor:
    """`logits` [..., C] minus the largest of their row, which gets no gradient; the softmax is the same."""
    return logits - _largest(logits)


def sum_of_others(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` >= 0 [..., C] of all other classes, in O(C) and without cancellation."""
    peak, is_peak = _peak(values)
    rest = torch.where(is_peak, 0.0, values).sum(-1, keepdim=True)  # [..., 1]
    return torch.where(is_peak, rest, peak + (rest - values))


def of_positive(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Log-odds, elementwise, of the positive label of binary `logits`."""
    return scaled(logits, temperature) if from_logits else _limited(logits, 1 - logits)


def elementwise(
    function: Callable[..., Tensor], slope: Callable[..., Tensor] | None, x: Tensor, *others: Tensor
) -> Tensor:
    """function(x, *others), elementwise; `slope` is its derivative in x, or None. The others get no gradient."""
    if kernels.applies(x, *others):
        return kernels.elementwise(function, slope, x, *others)
    return function(x, *others)


def rowwise(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others) [...], row by row, of x [..., C]. The others, [...] or [..., C], get no gradient."""
    if kernels.applies(x, *others):
        return kernels.rowwise(function, x, *others)
    return function(x, *others)


def sign(label: Tensor) -> Tensor:
    """1 where the binary `label` is 1, -1 where it is 0."""
    return torch.rsub(label, -1.0, alpha=-2.0)  # 2 label - 1, in one pass


def is_class(label: Tensor, logits: Tensor) -> Tensor:
    """Whether each class of `logits` [..., C] is `label` [...]."""
    return label.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)  # [..., C]


def square(value: Tensor, factor: float) -> Tensor:
    """factor * value^2. If that overflows, its gradient is a large number, because 0 times infinity would be NaN."""
    limit = torch.finfo(value.dtype).max / (4 * max(1.0, factor))
    bounded = torch.clamp(value.detach(), -limit, limit)
    return factor * (bounded * (2 * value - bounded))


def log_partition(logits: Tensor, temperature: float) -> Tensor:
    """logsumexp(logits / temperature) [...] over the classes of `logits` [..., C]."""
    peak = _largest(logits)  # [..., 1]
    total = scaled(logits - peak, temperature).exp().sum(-1, keepdim=True)  # [..., 1]
    return (scaled(peak, temperature) + total.log()).squeeze(-1)


def entropy(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Entropy [...] in nats of softmax(logits / temperature) over the classes of `logits` [..., C]."""
    if not from_logits:
        return _surprise(logits / logits.sum(-1, keepdim=True)).sum(-1)
    shifted, is_peak, rest = _relative_to_peak(logits, temperature)
    rest, distance = rest.squeeze(-1), -scaled(shifted, temperature)  # [...], [..., C]
    has_mass = ~is_peak & (distance != math.inf)  # a small temperature makes finite logits infinite
    distance = torch.where(has_mass, distance, 0.0)
    return torch.log1p(rest) + (distance * torch.exp(-distance)).sum(-1) / (1 + rest)


def binary_entropy(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Entropy in nats, elementwise, of the two labels of binary `logits`; 0 at +-inf."""
    if not from_logits:
        return _surprise(logits) + _surprise(1 - logits)
    x = scaled(logits, temperature)
    is_certain = torch.isinf(x)
    x = torch.where(is_certain, 0.0, x)
    return torch.where(is_certain, 0.0, sigmoid(x) * softplus(-x) + sigmoid(-x) * softplus(x))


def scaled(value: Any, temperature: float) -> Any:
    """`value` / temperature."""
    return value if temperature == 1.0 else value / temperature


def _is_none(margin: Tensor | float) -> bool:
    return isinstance(margin, float) and margin == 0.0


def take(values: Tensor, label: Tensor) -> Tensor:
    """The entry [...] of the class `label` [...] in `values` [..., C]."""
    return _entry(values, is_class(label, values)).squeeze(-1)  # [...]


def _label_and_rivals(
    logits: Tensor, label: Tensor, temperature: float, counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shifted logit [...] of the label, sum [...] of the exponentials of the others, all shifted logits [..., C]."""
    if counts is not None:
        logits = torch.where(counts.unsqueeze(-1), logits, 0.0)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    shifted = scaled(logits - _largest(logits), temperature)  # [..., C]
    is_own = is_class(label, logits)
    own = _entry(shifted, is_own).squeeze(-1)  # [...]
    return own, torch.where(is_own, 0.0, shifted.exp()).sum(-1), shifted


def _largest(logits: Tensor) -> Tensor:
    """The largest [..., 1] of `logits` [..., C], without gradient."""
    return logits.detach().amax(-1, keepdim=True)


def poison(logits: Tensor) -> Tensor:
    """A factor [..., 1]: NaN for rows that hold NaN or +inf, 1 for others."""
    is_bad = torch.isnan(logits) | (logits == math.inf)
    return torch.where(is_bad.any(-1, keepdim=True), math.nan, torch.ones_like(logits[..., :1]))


def _peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest [..., 1] of `values` [..., C], with its gradient, and where it is [..., C]."""
    is_peak = is_class(values.argmax(-1), values)  # [..., C]
    return _entry(values, is_peak), is_peak


def _entry(values: Tensor, is_own: Tensor) -> Tensor:
    """The entry [..., 1] of each row of `values` [..., C] at the one place where `is_own` [..., C] is True.

    Compiled by inductor, the gradient of a gather is a scatter that can get lost: wrong by up to 80 %.
    """
    return torch.where(is_own, values, 0.0).sum(-1, keepdim=True)


def _relative_to_peak(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [..., C] minus their peak, where the peak is [..., C], and the sum [..., 1] of the other exponentials."""
    peak, is_peak = _peak(logits)
    shifted = logits - peak
    # The peak's own entry is 0, or NaN if the peak is infinite, which must reach the sum. A compiler that computes the
    # logits twice, once to find the peak, may leave 1e-7 there. That is large beside a certain class: so multiply by 0.
    shifted = torch.where(is_peak, (0.0 * shifted).detach(), shifted)
    rest = torch.where(is_peak, shifted, scaled(shifted, temperature).exp()).sum(-1, keepdim=True)
    return shifted, is_peak, rest


def _limited(probability: Tensor, rivals: Tensor) -> Tensor:
    """log(probability / rivals) within +-PROBABILITY_LIMIT, with gradient 0 beyond; NaN if one of them is infinite."""
    log_odds = _log(probability) - _log(rivals) + 0.0 * (probability + rivals)
    limit = torch.full_like(log_odds, PROBABILITY_LIMIT)
    log_odds = torch.where(log_odds > limit, limit, log_odds)
    return torch.where(log_odds < -limit, -limit, log_odds)


def _surprise(probability: Tensor) -> Tensor:
    """-p log p, elementwise; 0 with gradient 0 at p = 0."""
    has_mass = probability != 0
    return -torch.where(has_mass, probability, 0.0) * torch.where(has_mass, probability, 1.0).log()


def _log(value: Tensor) -> Tensor:
    """log(value), with slope 0 instead of infinity at 0."""
    is_zero = value == 0
    return torch.where(is_zero, -math.inf, torch.where(is_zero, 1.0, value).log())
