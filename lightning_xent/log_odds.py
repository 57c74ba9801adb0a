"""The formulas: logits (or probabilities) -> log-odds m of a class, p = sigmoid(m).

Categorical: m_c = x_c - logsumexp(x_j, j != c). Class axis last everywhere.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_xent import kernels
from lightning_xent.kernels import plain
from lightning_xent.kernels.plain import entry, largest, peak_of, relative_to_peak, safe_log
from lightning_xent.kernels.plain import expm1 as expm1
from lightning_xent.kernels.plain import is_class as is_class
from lightning_xent.kernels.plain import log_partition as log_partition
from lightning_xent.kernels.plain import scaled as scaled

Function = Callable[..., Tensor]
WithSlope = Callable[..., tuple[Tensor, Tensor, Tensor | float]]

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
    return torch.exp(head * coarse) * (1 + expm1(fine))  # XLA would merge a product of two exp


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
    return plain.of_label(logits, label, counts, temperature)


def of_label_and_others(
    logits: Tensor, label: Tensor, temperature: float, class_weight: Tensor | None, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    if kernels.applies(logits, label, counts):
        return kernels.of_label_and_others(logits, label, counts, class_weight, temperature)
    return plain.of_label_and_others(logits, label, counts, class_weight, temperature)


def of_classes(logits: Tensor, temperature: float, from_logits: bool, margin: Tensor | float = 0.0) -> Tensor:
    """Log-odds [..., C] of every class in `logits` [..., C], in O(C); `margin` as in `of_label`, for each class."""
    if not from_logits:
        peak, is_peak = peak_of(logits)
        rest = torch.where(is_peak, 0.0, logits).sum(-1, keepdim=True)  # [..., 1]
        return _limited(logits, torch.where(is_peak, rest, peak + (rest - logits)))
    shifted, is_peak, rest = relative_to_peak(logits, temperature)
    others = torch.where(is_peak, 0.0, rest - scaled(shifted, temperature).exp())  # [..., C]
    if _is_none(margin):
        return scaled(shifted, temperature) - torch.where(is_peak, safe_log(rest), torch.log1p(others))
    # The rivals of the peak, relative to the largest of them: their sum is not 0, which would lose the margin.
    of_rivals = torch.where(is_peak, -math.inf, logits)
    second = largest(of_rivals)  # [..., 1]
    second = torch.where(second == -math.inf, 0.0, second)
    lead = shifted + torch.where(is_peak, logits - second, 0.0) - margin
    rivals = scaled(of_rivals - second, temperature).exp().sum(-1, keepdim=True)
    return scaled(lead, temperature) - torch.where(is_peak, safe_log(rivals), torch.log1p(others))


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C]."""
    if kernels.applies(logits, masses):
        return kernels.of_distribution(logits, masses, temperature)
    return plain.of_distribution(logits, masses, temperature)


def margin_of_classes(logits: Tensor, temperature: float) -> Tensor:
    """Lead [..., C] of every class over its strongest rival, in O(C)."""
    peak, is_peak = peak_of(logits)
    second, _ = peak_of(torch.where(is_peak, -math.inf, logits))  # [..., 1]
    return scaled(logits - torch.where(is_peak, second, peak), temperature) * poison(logits)


def relative(logits: Tensor) -> Tensor:
    """`logits` [..., C] minus the largest of their row, which gets no gradient; the softmax is the same."""
    return logits - largest(logits)


def sum_of_others(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` >= 0 [..., C] of all other classes, in O(C) and without cancellation."""
    peak, is_peak = peak_of(values)
    rest = torch.where(is_peak, 0.0, values).sum(-1, keepdim=True)  # [..., 1]
    return torch.where(is_peak, rest, peak + (rest - values))


def sums_before(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` [..., C] of all classes before each one."""
    return torch.cat([torch.zeros_like(values[..., :1]), values[..., :-1].cumsum(-1)], -1)


def sums_after(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` [..., C] of all classes after each one."""
    return sums_before(values.flip(-1)).flip(-1)


def of_positive(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Log-odds, elementwise, of the positive label of binary `logits`."""
    return scaled(logits, temperature) if from_logits else _limited(logits, 1 - logits)


def elementwise(function: Function, with_slope: WithSlope | None, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others), elementwise. The others get no gradient.

    with_slope(x, *others) returns the same, and two factors of its derivative in x; None if they are unknown.
    """
    if kernels.applies(x, *others):
        return kernels.elementwise(function, with_slope, x, *others)
    return function(x, *others)


def elementwise_sum(function: Function, with_slope: WithSlope | None, x: Tensor, *others: Tensor) -> Tensor:
    """The sum [] of `elementwise`, whose values need not be stored."""
    if kernels.applies(x, *others):
        return kernels.elementwise_sum(function, with_slope, x, *others)
    return function(x, *others).sum()


def rowwise(function: Function, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others) [...], row by row, of x [..., C]. The others, [...] or [..., C], get no gradient."""
    if kernels.applies(x, *others):
        return kernels.rowwise(function, x, *others)
    return function(x, *others)


def sign(label: Tensor) -> Tensor:
    """1 where the binary `label` is 1, -1 where it is 0."""
    return torch.rsub(label, -1.0, alpha=-2.0)  # 2 label - 1, in one pass


def sign_of_other(label: Tensor) -> Tensor:
    """-1 where the binary `label` is 1, 1 where it is 0."""
    return torch.rsub(label, 1.0, alpha=2.0)


def square(value: Tensor, factor: float) -> Tensor:
    """factor * value^2. If that overflows, its gradient is a large number, because 0 times infinity would be NaN."""
    limit = torch.finfo(value.dtype).max / (4 * max(1.0, factor))
    inside = torch.clamp(value, -limit, limit)
    return factor * (inside * inside + 2 * inside.detach() * (value - inside))


def entropy(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Entropy [...] in nats of softmax(logits / temperature) over the classes of `logits` [..., C]."""
    if not from_logits:
        return _surprise(logits / logits.sum(-1, keepdim=True)).sum(-1)
    return plain.entropy(logits, temperature)


def binary_entropy(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Entropy in nats, elementwise, of the two labels of binary `logits`; 0 at +-inf."""
    if not from_logits:
        return _surprise(logits) + _surprise(1 - logits)
    x = scaled(logits, temperature)
    is_certain = torch.isinf(x)
    x = torch.where(is_certain, 0.0, x)
    return torch.where(is_certain, 0.0, sigmoid(x) * softplus(-x) + sigmoid(-x) * softplus(x))


def _is_none(margin: Tensor | float) -> bool:
    return isinstance(margin, float) and margin == 0.0


def take(values: Tensor, label: Tensor) -> Tensor:
    """The entry [...] of the class `label` [...] in `values` [..., C]."""
    return entry(values, is_class(label, values)).squeeze(-1)  # [...]


def poison(logits: Tensor) -> Tensor:
    """A factor [..., 1]: NaN for rows that hold NaN or +inf, 1 for others."""
    is_bad = torch.isnan(logits) | (logits == math.inf)
    return torch.where(is_bad.any(-1, keepdim=True), math.nan, torch.ones_like(logits[..., :1]))


def _limited(probability: Tensor, rivals: Tensor) -> Tensor:
    """log(probability / rivals) within +-PROBABILITY_LIMIT, with gradient 0 beyond; NaN if one of them is infinite."""
    log_odds = safe_log(probability) - safe_log(rivals) + 0.0 * (probability + rivals)
    limit = torch.full_like(log_odds, PROBABILITY_LIMIT)
    log_odds = torch.where(log_odds > limit, limit, log_odds)
    return torch.where(log_odds < -limit, -limit, log_odds)


def _surprise(probability: Tensor) -> Tensor:
    """-p log p, elementwise; 0 with gradient 0 at p = 0."""
    has_mass = probability != 0
    return -torch.where(has_mass, probability, 0.0) * torch.where(has_mass, probability, 1.0).log()
