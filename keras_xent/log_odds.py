"""The formulas: logits (or probabilities) -> log-odds m of a class, p = sigmoid(m).

Categorical: m_c = x_c - logsumexp(x_j, j != c). The logsumexp itself is never computed: at logits near 1000
it would make the error of a float32 cross-entropy 114 eps. Class axis last everywhere.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import kernels
from keras_xent.kernels.passes import softplus as softplus
from keras_xent.shapes import along_classes, class_numbers

Function = Callable[..., Tensor]
WithSlope = Callable[..., tuple[Tensor, Tensor, Tensor | float]]

PROBABILITY_LIMIT = math.log((1 - 1e-7) / 1e-7)
"""Log-odds of probabilities are limited to +-16.118, those of 1e-7 and 1 - 1e-7."""

PARTS = 16
"""Sums over all earlier classes are made of the sums of up to so many parts."""


def expm1(value: Tensor) -> Tensor:
    """exp(value) - 1, exact near 0, also under torch.compile."""
    return kernels.expm1(value) if kernels.IS_ON_TORCH and not keras.utils.is_keras_tensor(value) else ops.expm1(value)


def sigmoid(value: Tensor) -> Tensor:
    """1 / (1 + exp(-value)) with a gradient that stays exact in both tails.

    The gradient of ops.sigmoid is exactly 0 from 17 up in float32, where its value rounds to 1.
    """
    # exp(value) / (exp(value) + 1) below -2, else 1 / (1 + exp(-value)): so the slope is neither a difference nor a
    # product of tiny factors. From 1000 up it is 1 with gradient 0, even if the incoming gradient overflows: 2 * 3e38.
    is_low = value < -2
    own = ops.exp(ops.where(is_low, value + 2, 0.0))
    return own / (own + ops.exp(-ops.where(is_low, -2.0, ops.where(value > 1000, 1000.0, value))))


def power_of_sigmoid(value: Tensor, exponent: float) -> Tensor:
    """sigmoid(value) ** exponent, exact in both tails, for any exponent > 0.

    exp(-exponent * softplus(-value)) is off by half an ulp of its argument: by 30 eps if the argument is 60. So the
    power is a product of two exponentials: the first has an exact argument, the second a small one.
    """
    lowest = max(-750 / exponent, -1e38)  # beyond, it is 0 or 1, in float64 too
    bounded = ops.where(value < lowest, lowest, ops.where(value > 1000, 1000.0, value))
    negative = ops.where(bounded < 0, bounded, 0.0)
    rest = ops.log1p(ops.exp(2 * negative - bounded))  # 2 * negative - bounded is -abs(bounded)
    head, step = parts_of_exponent(exponent)
    coarse = step * ops.round(ops.stop_gradient(negative - rest) / step)
    fine = (exponent - head) * coarse + exponent * ((negative - coarse) - rest)
    return ops.exp(head * coarse) * (1 + expm1(fine))  # XLA would merge a product of two exp


def parts_of_exponent(exponent: float) -> tuple[float, float]:
    """The first 12 bits of `exponent`, and a power of 2: their product with up to 2^12 times that power is exact."""
    mantissa, power = math.frexp(exponent)
    return math.ldexp(round(mantissa * 4096), power - 12), 2.0 ** min(-power - 3, 100)


def log1p(value: Tensor) -> Tensor:
    """log(1 + value), exact below 0 too; XLA's own is off by 115 eps there in float64."""
    is_negative = value < 0
    below = ops.where(is_negative, value, 0.0)
    return ops.where(is_negative, -ops.log1p(-below / (1 + below)), ops.log1p(ops.where(is_negative, 0.0, value)))


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
        rivals = ops.sum(ops.where(is_class(label, logits), 0.0, logits), -1)  # [...]
        return _limited(take(logits, label), rivals)
    if not _is_none(margin):
        # Taken from the log-odds, a margin would get lost where the sum over the rivals is 0 in float32.
        logits = relative(logits)
        margin = margin if isinstance(margin, float) else ops.expand_dims(margin, -1)
        logits = ops.where(is_class(label, logits), logits - margin, logits)
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
    surprise = ops.expand_dims(_log(rivals + ops.exp(own)), -1) - shifted  # [..., C]
    weight = ops.ones_like(surprise)
    weight = weight if class_weight is None else weight * along_classes(class_weight, surprise)
    weight = ops.where(is_class(label, logits), 0.0, weight)
    return own - _log(rivals), ops.sum(weight * ops.where(ops.equal(weight, 0), 0.0, surprise), -1)


def of_classes(logits: Tensor, temperature: float, from_logits: bool, margin: Tensor | float = 0.0) -> Tensor:
    """Log-odds [..., C] of every class in `logits` [..., C], in O(C); `margin` as in `of_label`, for each class."""
    if not from_logits:
        peak, is_peak = _peak(logits)
        rest = ops.sum(ops.where(is_peak, 0.0, logits), -1, keepdims=True)  # [..., 1]
        return _limited(logits, ops.where(is_peak, rest, peak + (rest - logits)))
    shifted, is_peak, rest = _relative_to_peak(logits, temperature)
    others = ops.where(is_peak, 0.0, rest - ops.exp(scaled(shifted, temperature)))  # [..., C]
    if _is_none(margin):
        return scaled(shifted, temperature) - ops.where(is_peak, _log(rest), ops.log1p(others))
    # The rivals of the peak, relative to the largest of them: their sum is not 0, which would lose the margin.
    of_rivals = ops.where(is_peak, -math.inf, logits)
    second = _largest(of_rivals)  # [..., 1]
    second = ops.where(ops.equal(second, -math.inf), 0.0, second)
    lead = shifted + ops.where(is_peak, logits - second, 0.0) - margin
    rivals = ops.sum(ops.exp(scaled(of_rivals - second, temperature)), -1, keepdims=True)
    return scaled(lead, temperature) - ops.where(is_peak, _log(rivals), ops.log1p(others))


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C]."""
    if kernels.IS_ON_TORCH and kernels.applies(logits, masses):
        return kernels.of_distribution(logits, masses, temperature)
    shifted, _, rest = _relative_to_peak(logits, temperature)
    surprise = ops.log1p(rest) - scaled(shifted, temperature)  # [..., C]
    is_absent = ops.equal(masses, 0) & ops.isinf(surprise)
    return ops.sum(ops.where(is_absent, 0.0, masses * ops.where(is_absent, 0.0, surprise)), -1)


def margin_of_classes(logits: Tensor, temperature: float) -> Tensor:
    """Lead [..., C] of every class over its strongest rival, in O(C)."""
    peak, is_peak = _peak(logits)
    second, _ = _peak(ops.where(is_peak, -math.inf, logits))  # [..., 1]
    return scaled(logits - ops.where(is_peak, second, peak), temperature) * poison(logits)


def relative(logits: Tensor) -> Tensor:
    """`logits` [..., C] minus the largest of their row, which gets no gradient; the softmax is the same."""
    shifted = logits - _largest(logits)
    # Without an operation in between, TensorFlow's optimiser would add the next summand to `logits` first.
    return ops.where(ops.isnan(shifted), shifted, shifted)


def sum_of_others(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` >= 0 [..., C] of all other classes, in O(C) and without cancellation."""
    peak, is_peak = _peak(values)
    rest = ops.sum(ops.where(is_peak, 0.0, values), -1, keepdims=True)  # [..., 1]
    return ops.where(is_peak, rest, peak + (rest - values))


def sums_before(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` [..., C] of all classes before each one."""
    return _sums_of_earlier(values, lambda some: some)


def sums_after(values: Tensor) -> Tensor:
    """Sum [..., C] of the `values` [..., C] of all classes after each one."""
    return _sums_of_earlier(values, lambda some: ops.flip(some, -1))


def of_positive(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Log-odds, elementwise, of the positive label of binary `logits`."""
    return scaled(logits, temperature) if from_logits else _limited(logits, 1 - logits)


def elementwise(function: Function, with_slope: WithSlope | None, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others), elementwise. The others get no gradient.

    with_slope(x, *others) returns the same, and two factors of its derivative in x; None if they are unknown.
    """
    if kernels.IS_ON_TORCH and kernels.applies(x, *others):
        return kernels.elementwise(function, with_slope, x, *others)
    return function(x, *others)


def elementwise_sum(function: Function, with_slope: WithSlope | None, x: Tensor, *others: Tensor) -> Tensor:
    """The sum [] of `elementwise`, whose values need not be stored."""
    if kernels.IS_ON_TORCH and kernels.applies(x, *others):
        return kernels.elementwise_sum(function, with_slope, x, *others)
    return ops.sum(function(x, *others))


def rowwise(function: Function, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others) [...], row by row, of x [..., C]. The others, [...] or [..., C], get no gradient."""
    if kernels.IS_ON_TORCH and kernels.applies(x, *others):
        return kernels.rowwise(function, x, *others)
    return function(x, *others)


def sign(label: Tensor) -> Tensor:
    """1 where the binary `label` is 1, -1 where it is 0."""
    return 2 * label - 1


def sign_of_other(label: Tensor) -> Tensor:
    """-1 where the binary `label` is 1, 1 where it is 0."""
    return 1 - 2 * label


def is_class(label: Tensor, logits: Tensor) -> Tensor:
    """Whether each class of `logits` [..., C] is `label` [...]."""
    return ops.equal(ops.expand_dims(label, -1), class_numbers(logits, label.dtype))  # [..., C]


def square(value: Tensor, factor: float) -> Tensor:
    """factor * value^2. If that overflows, its gradient is a large number, because 0 times infinity would be NaN."""
    largest = 1.7e308 if keras.backend.standardize_dtype(value.dtype) == "float64" else 3.4e38
    limit = largest / (4 * max(1.0, factor))
    inside = ops.clip(value, -limit, limit)
    return factor * (inside * inside + 2 * ops.stop_gradient(inside) * (value - inside))


def log_partition(logits: Tensor, temperature: float) -> Tensor:
    """logsumexp(logits / temperature) [...] over the classes of `logits` [..., C]."""
    peak = _largest(logits)  # [..., 1]
    total = ops.sum(ops.exp(scaled(logits - peak, temperature)), -1, keepdims=True)  # [..., 1]
    return ops.squeeze(scaled(peak, temperature) + ops.log(total), -1)


def entropy(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Entropy [...] in nats of softmax(logits / temperature) over the classes of `logits` [..., C]."""
    if not from_logits:
        return ops.sum(_surprise(logits / ops.sum(logits, -1, keepdims=True)), -1)
    shifted, is_peak, rest = _relative_to_peak(logits, temperature)
    rest, distance = ops.squeeze(rest, -1), -scaled(shifted, temperature)  # [...], [..., C]
    has_mass = ~is_peak & (distance != math.inf)  # a small temperature makes finite logits infinite
    distance = ops.where(has_mass, distance, 0.0)
    return ops.log1p(rest) + ops.sum(distance * ops.exp(-distance), -1) / (1 + rest)


def binary_entropy(logits: Tensor, temperature: float, from_logits: bool) -> Tensor:
    """Entropy in nats, elementwise, of the two labels of binary `logits`; 0 at +-inf."""
    if not from_logits:
        return _surprise(logits) + _surprise(1 - logits)
    x = scaled(logits, temperature)
    is_certain = ops.isinf(x)
    x = ops.where(is_certain, 0.0, x)
    return ops.where(is_certain, 0.0, sigmoid(x) * softplus(-x) + sigmoid(-x) * softplus(x))


def scaled(value: Any, temperature: float) -> Any:
    """`value` / temperature."""
    return value if temperature == 1.0 else value / temperature


def _is_none(margin: Tensor | float) -> bool:
    return isinstance(margin, float) and margin == 0.0


def take(values: Tensor, label: Tensor) -> Tensor:
    """The entry [...] of the class `label` [...] in `values` [..., C]."""
    return ops.squeeze(_entry(values, is_class(label, values)), -1)  # [...]


def _label_and_rivals(
    logits: Tensor, label: Tensor, temperature: float, counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Shifted logit [...] of the label, sum [...] of the exponentials of the others, all shifted logits [..., C]."""
    if counts is not None:
        logits = ops.where(ops.expand_dims(counts, -1), logits, 0.0)
    is_wide = keras.backend.standardize_dtype(logits.dtype) == "float64"
    logits = logits if is_wide else ops.cast(logits, "float32")
    shifted = scaled(logits - _largest(logits), temperature)  # [..., C]
    is_own = is_class(label, logits)
    own = ops.squeeze(_entry(shifted, is_own), -1)  # [...]
    return own, ops.sum(ops.where(is_own, 0.0, ops.exp(shifted)), -1), shifted


def _largest(logits: Tensor) -> Tensor:
    """The largest [..., 1] of `logits` [..., C], without gradient."""
    # ops.amax refuses an empty batch in TensorFlow's eager mode; a sum does not, and has the same shape.
    largest = ops.sum if 0 in logits.shape else ops.amax
    return ops.stop_gradient(largest(logits, -1, keepdims=True))


def poison(logits: Tensor) -> Tensor:
    """A factor [..., 1]: NaN for rows that hold NaN or +inf, 1 for others."""
    is_bad = ops.logical_or(ops.isnan(logits), ops.equal(logits, math.inf))
    is_bad = ops.any(is_bad, -1, keepdims=True)
    return ops.where(is_bad, math.nan, ops.ones_like(is_bad, dtype=logits.dtype))


def _peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """The largest [..., 1] of `values` [..., C], with its gradient, and where it is [..., C]."""
    is_peak = is_class(ops.argmax(values, -1), values)  # [..., C]
    return _entry(values, is_peak), is_peak


def _entry(values: Tensor, is_own: Tensor) -> Tensor:
    """The entry [..., 1] of each row of `values` [..., C] at the one place where `is_own` [..., C] is True.

    Compiled by torch's inductor, the gradient of a gather is a scatter that can get lost: wrong by up to 80 %.
    """
    return ops.sum(ops.where(is_own, values, 0.0), -1, keepdims=True)


def _relative_to_peak(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [..., C] minus their peak, where the peak is [..., C], and the sum [..., 1] of the other exponentials."""
    peak, is_peak = _peak(logits)
    shifted = logits - peak
    # The peak's own entry is 0, or NaN if the peak is infinite, which must reach the sum. A compiler that computes the
    # logits twice, once to find the peak, may leave 1e-7 there. That is large beside a certain class: so multiply by 0.
    shifted = ops.where(is_peak, ops.stop_gradient(0.0 * shifted), shifted)
    mass = ops.where(is_peak, shifted, ops.exp(scaled(shifted, temperature)))
    rest = ops.sum(mass, -1, keepdims=True)
    return shifted, is_peak, rest


def _sums_of_earlier(values: Tensor, turned: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum [..., C] of the values before each one, where `turned` puts them in order.

    The sums of parts are added up separately. So, if JAX shards the classes over devices, each adds up its own.
    """
    shape = ops.shape(values)
    count = 1 if any(size is None for size in shape) or not isinstance(shape[-1], int) else math.gcd(shape[-1], PARTS)
    if count == 1:
        return _before(values, turned)
    parts = ops.reshape(values, (*shape[:-1], count, shape[-1] // count))  # [..., P, C / P]
    found = _before(parts, turned) + ops.expand_dims(_before(ops.sum(parts, -1), turned), -1)
    return ops.reshape(found, shape)


def _before(values: Tensor, turned: Callable[[Tensor], Tensor]) -> Tensor:
    values = turned(values)
    earlier = values[..., :-1]
    # On torch, ops.cumsum of float64 is float32.
    has_own = kernels.IS_ON_TORCH and not keras.utils.is_keras_tensor(values)
    sums = earlier.cumsum(-1) if has_own else ops.cumsum(earlier, -1)
    return turned(ops.concatenate([ops.zeros_like(values[..., :1]), sums], -1))


def _limited(probability: Tensor, rivals: Tensor) -> Tensor:
    """log(probability / rivals) within +-PROBABILITY_LIMIT, with gradient 0 beyond; NaN if one of them is infinite."""
    log_odds = _log(probability) - _log(rivals) + 0.0 * (probability + rivals)
    limit = ops.convert_to_tensor(PROBABILITY_LIMIT, log_odds.dtype)
    log_odds = ops.where(log_odds > limit, limit, log_odds)
    return ops.where(log_odds < -limit, -limit, log_odds)


def _surprise(probability: Tensor) -> Tensor:
    """-p log p, elementwise; 0 with gradient 0 at p = 0."""
    has_mass = probability != 0
    return -ops.where(has_mass, probability, 0.0) * ops.log(ops.where(has_mass, probability, 1.0))


def _log(value: Tensor) -> Tensor:
    """log(value), with slope 0 instead of infinity at 0."""
    is_zero = ops.equal(value, 0)
    return ops.where(is_zero, -math.inf, ops.log(ops.where(is_zero, 1.0, value)))
