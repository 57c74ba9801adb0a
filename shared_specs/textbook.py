"""Textbook formulas of the losses, as their papers print them, with probabilities and one-hot labels.

On purpose nothing here is clever: the code under test works with log-odds, and the two must not share an idea. A
formula is a curve of the probability of the true class (`CURVES`), a function of a row and its label (`OF_LABEL`),
or a function of a row and its target (`OF_TARGET`). A soft target mixes the first two over the labels. Keyword
arguments are the keywords of the loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpmath import mp, mpf


@dataclass(frozen=True)
class Row:
    """The quantities of a row that a formula may use. A binary row has the classes (not label 1, label 1)."""

    x: Sequence[mpf]
    """Logits over temperature, softly capped; a binary row has one logit."""
    plain: Sequence[mpf]
    """Logits, softly capped."""
    p: Sequence[mpf]
    rest: Callable[[int], mpf]
    """1 - p of a class, as the sum over the others, so that it is exact where p rounds to 1."""
    still: Sequence[mpf]
    """p at the given logits, which a central difference does not move: for factors without a gradient."""
    temperature: mpf
    views: Sequence[Sequence[mpf]] = ()
    """p of each view, for losses with several views."""


# ---- Curves of the probability of the true class.


def cross_entropy(p: mpf, rest: mpf) -> mpf:
    """-log p"""
    return -mp.log(p)


def focal(p: mpf, rest: mpf, *, gamma: Any = 2) -> mpf:
    """-(1 - p)^gamma log p"""
    if gamma == "flsd53":
        gamma = 5 if p < mpf("0.2") else 3
    return -(rest**gamma) * mp.log(p)


def poly(p: mpf, rest: mpf, *, epsilon: Any = 1) -> mpf:
    """-log p + epsilon (1 - p)"""
    return -mp.log(p) + epsilon * rest


def generalized(p: mpf, rest: mpf, *, q: Any = 0.7, truncate_at: Any = None) -> mpf:
    """(1 - p^q) / q, or (1 - k^q) / q where p <= k"""
    if truncate_at is not None and p <= truncate_at:
        p = truncate_at
    return (1 - p**q) / q


def symmetric(p: mpf, rest: mpf, *, alpha: Any = 0.1, beta: Any = 1, log_zero: Any = -4) -> mpf:
    """alpha H(q, p) + beta H(p, q), where the one-hot q has log 0 = log_zero"""
    return (-alpha * mp.log(p) if alpha != 0 else 0) - beta * log_zero * rest


def taylor(p: mpf, rest: mpf, *, order: Any = 2) -> mpf:
    """sum_{j=1..order} (1 - p)^j / j"""
    return mp.fsum(rest**power / power for power in range(1, int(order) + 1))


def label_relaxation(p: mpf, rest: mpf, *, alpha: Any = 0.1) -> mpf:
    """0 where p >= 1 - alpha, else KL((1 - alpha, alpha) || (p, 1 - p))"""
    if rest <= alpha:
        return mpf(0)
    return (1 - alpha) * mp.log((1 - alpha) / p) + alpha * mp.log(alpha / rest)


def jensen_shannon(p: mpf, rest: mpf) -> mpf:
    """(KL(e || a) + KL(p || a)) / 2, a = (e + p) / 2; every other class has a = p / 2"""
    own = p * mp.log(2 * p / (1 + p)) if p != 0 else 0
    return (mp.log(2 / (1 + p)) + own + rest * mp.log(2)) / 2


def mean_absolute_error(p: mpf, rest: mpf) -> mpf:
    """sum_c |e_c - p_c|"""
    return abs(1 - p) + rest


def squared_error(p: mpf, rest: mpf) -> mpf:
    """(1 - p)^2"""
    return rest**2


# ---- Functions of a row and its label.


def crammer_singer(row: Row, label: int) -> mpf:
    """max(0, 1 + max_{j != y} x_j - x_y)"""
    rivals = [x for index, x in enumerate(row.x) if index != label]
    return max(mpf(0), 1 + max(rivals) - row.x[label]) if rivals else mpf(0)


def hinge(row: Row, label: int) -> mpf:
    """max(0, 1 - s x), s = 1 for label 1 and -1 for label 0"""
    return max(mpf(0), 1 - (1 if label == 1 else -1) * row.x[0])


def brier(row: Row, label: int) -> mpf:
    """sum_c (p_c - e_c)^2"""
    return row.rest(label) ** 2 + mp.fsum(p**2 for index, p in enumerate(row.p) if index != label)


def asymmetric(
    row: Row,
    label: int,
    *,
    gamma_pos: Any = 0,
    gamma_neg: Any = 4,
    margin: Any = 0.05,
    detach_modulator: Any = False,
) -> mpf:
    """-(1 - p)^gamma_pos log p; for label 0 -q^gamma_neg log(1 - q), q = max(p - margin, 0)"""
    factors = row.still if detach_modulator else row.p
    if label == 1:
        still_rest = factors[0]
        return -(still_rest**gamma_pos) * mp.log(row.p[1])
    if row.p[1] <= margin:
        return mpf(0)
    return -((factors[1] - margin) ** gamma_neg) * mp.log(row.p[0] + margin)


def bootstrapping(row: Row, label: int, *, beta: Any = 0.95, mode: str = "soft") -> mpf:
    """beta times the cross-entropy with the label; `bootstrapped` has the term without the label"""
    return -beta * mp.log(row.p[label]) if beta != 0 else mpf(0)


def bootstrapped(row: Row, *, beta: Any = 0.95, mode: str = "soft") -> mpf:
    """-(1 - beta) sum_c b_c log p_c, b = p, or the one-hot largest p"""
    if mode == "hard":
        return -(1 - beta) * mp.log(max(row.p))
    return -(1 - beta) * mp.fsum(p * mp.log(p) for p in row.p if p != 0)


def normalized(row: Row, label: int, *, alpha: Any = 1, beta: Any = 0, log_zero: Any = -4) -> mpf:
    """alpha log p_y / sum_k log p_k - beta log_zero (1 - p_y)"""
    logarithms = [mp.log(p) if p != 0 else -mp.inf for p in row.p]
    total = mp.fsum(logarithms)
    ratio = mpf(row.p[label] == 0) if total in (0, -mp.inf) else logarithms[label] / total
    return alpha * ratio - beta * log_zero * row.rest(label)


def earth_mover(row: Row, label: int) -> mpf:
    """sum_k (CDF_p(k) - CDF_e(k))^2"""
    value = mpf(0)
    for index in range(len(row.p)):
        value += mp.fsum(row.p[: index + 1]) ** 2 if index < label else mp.fsum(row.p[index + 1 :]) ** 2
    return value


def logit_adjusted(row: Row, label: int, *, class_counts: Any, tau: Any = 1) -> mpf:
    """-log(exp(x_y + tau log pi_y) / sum_j exp(x_j + tau log pi_j))"""
    share = [mp.log(count / mp.fsum(class_counts)) for count in class_counts]
    return softmax_loss([x + tau * log_prior for x, log_prior in zip(row.x, share, strict=True)], label)


def ldam(row: Row, label: int, *, class_counts: Any, max_margin: Any = 0.5, scale: Any = 30) -> mpf:
    """-log(exp(s (x_y - D_y)) / (exp(s (x_y - D_y)) + sum_{j != y} exp(s x_j))), D_y = C / n_y^(1/4)"""
    quarter = mpf(1) / 4
    factor = max_margin / max(1 / count**quarter for count in class_counts)
    return softmax_loss(moved(row.x, label, row.x[label] - factor / class_counts[label] ** quarter), label, scale)


def cosface(row: Row, label: int, *, margin: Any = 0.35, scale: Any = 64) -> mpf:
    """-log(exp(s (cos_y - m)) / (exp(s (cos_y - m)) + sum_{j != y} exp(s cos_j)))"""
    return softmax_loss(moved(row.x, label, row.x[label] - margin), label, scale)


def arcface(row: Row, label: int, *, margin: Any = 0.5, scale: Any = 64) -> mpf:
    """-log(exp(s cos(theta_y + m)) / (exp(s cos(theta_y + m)) + sum_{j != y} exp(s cos_j)))

    Beyond pi cos_y - m sin m takes the place of cos(theta_y + m).
    """
    angle = mp.acos(row.x[label]) + margin
    cosine = mp.cos(angle) if angle < mp.pi else row.x[label] - margin * mp.sin(margin)
    return softmax_loss(moved(row.x, label, cosine), label, scale)


def consistency(row: Row, label: int, *, views: Any = 3, weight: Any = 12) -> mpf:
    """-log p_y of the first view; `disagreement` has the term without the label"""
    return -mp.log(row.p[label])


def disagreement(row: Row, *, views: Any = 3, weight: Any = 12) -> mpf:
    """weight times JS(p_1, ..., p_V) = (1/V) sum_v KL(p_v || M), M = (1/V) sum_v p_v"""
    mean = [mp.fsum(column) / len(row.views) for column in zip(*row.views, strict=True)]
    divergences = [kl(view, mean) for view in row.views]
    return weight * mp.fsum(divergences) / len(row.views)


# ---- Functions of a row and its whole target; `weights` are the class weights.

Masses = Sequence[mpf]


def quality_focal(row: Row, target: Masses, weights: Masses, *, beta: Any = 2) -> mpf:
    """-|y - s|^beta ((1 - y) log(1 - s) + y log s)"""
    y, s = target[1], row.p[1]
    return abs(y - s) ** beta * binary_cross_entropy(row, target, weights)


def varifocal(row: Row, target: Masses, weights: Masses, *, alpha: Any = 0.75, gamma: Any = 2) -> mpf:
    """-q (q log p + (1 - q) log(1 - p)) where q > 0, -alpha p^gamma log(1 - p) where q = 0"""
    q, p = target[1], row.p[1]
    if q > 0:
        return q * binary_cross_entropy(row, target, weights)
    return -weights[0] * alpha * p**gamma * mp.log(row.p[0]) if alpha * weights[0] != 0 else mpf(0)


def kl_divergence(row: Row, target: Masses, weights: Masses) -> mpf:
    """sum_c t_c log(t_c / p_c)"""
    return kl(target, row.p, weights)


def distillation(row: Row, target: Masses, weights: Masses, *, alpha: Any = 1) -> mpf:
    """alpha T^2 KL(teacher || p) + (1 - alpha) CE(label, p at T = 1); the target holds the teacher, then the label"""
    count = len(row.p)
    value = alpha * row.temperature**2 * kl(target[:count], row.p, weights) if alpha != 0 else mpf(0)
    for label, mass in enumerate(target[count:]):
        if mass * weights[label] != 0:
            value += (1 - alpha) * mass * weights[label] * softmax_loss(row.plain, label)
    return value


def bi_tempered(row: Row, target: Masses, weights: Masses, *, t1: Any = 0.8, t2: Any = 1.2) -> mpf:
    """sum_c t_c (log_t1 t_c - log_t1 p_c) - (t_c^(2-t1) - p_c^(2-t1)) / (2-t1), p_c = exp_t2(x_c - norm)

    With class weights it is the sum over the classes of target times weight times the loss of the one-hot target, plus
    the terms that depend only on the target, each times the weight of its class.
    """
    norm = tempered_norm(row.x, t2)
    p = [tempered_exp(x - norm, t2) for x in row.x]
    power = 2 - t1
    value = mpf(0)
    for label, (mass, weight) in enumerate(zip(target, weights, strict=True)):
        if mass * weight == 0:
            continue
        one_hot = -tempered_log(p[label], t1) - 1 / power + mp.fsum(other**power for other in p) / power
        own = mass * tempered_log(mass, t1) - mass**power / power + mass / power
        value += weight * (mass * one_hot + own)
    return value


# ---- Functions that several formulas need.


def softmax_loss(logits: Masses, label: int, scale: Any = 1) -> mpf:
    """-log softmax(scale * logits)_label"""
    rivals = mp.fsum(mp.exp(scale * (x - logits[label])) for index, x in enumerate(logits) if index != label)
    return mp.log(1 + rivals)


def moved(logits: Masses, label: int, value: mpf) -> list[mpf]:
    """`logits` with `value` in place of the logit of `label`."""
    return [value if index == label else x for index, x in enumerate(logits)]


def kl(target: Masses, p: Masses, weights: Masses | None = None) -> mpf:
    """sum_c w_c t_c log(t_c / p_c); 0 log 0 is 0"""
    value = mpf(0)
    for index, (mass, probability) in enumerate(zip(target, p, strict=True)):
        weight = mpf(1) if weights is None else weights[index]
        if mass * weight != 0:
            value += weight * mass * (mp.log(mass / probability) if probability != 0 else mp.inf)
    return value


def binary_cross_entropy(row: Row, target: Masses, weights: Masses) -> mpf:
    """-((1 - y) w_0 log(1 - s) + y w_1 log s)"""
    terms = zip(target, weights, row.p, strict=True)
    return -mp.fsum(mass * weight * mp.log(p) for mass, weight, p in terms if mass * weight != 0)


def tempered_log(value: mpf, t: mpf) -> mpf:
    """(value^(1-t) - 1) / (1-t)"""
    if t == 1:
        return mp.log(value)
    if value == 0 and t > 1:
        return -mp.inf
    return (value ** (1 - t) - 1) / (1 - t)


def tempered_exp(value: mpf, t: mpf) -> mpf:
    """max(0, 1 + (1-t) value)^(1/(1-t))"""
    if value == -mp.inf:
        return mpf(0)
    if t == 1:
        return mp.exp(value)
    inner = 1 + (1 - t) * value
    return inner ** (1 / (1 - t)) if inner > 0 else mpf(0)


def tempered_norm(logits: Masses, t: mpf) -> mpf:
    """The norm at which the tempered exponentials sum to 1, by Newton's method: the sum is convex and falls."""
    norm = max(logits)
    while True:
        p = [tempered_exp(x - norm, t) for x in logits]
        step = (mp.fsum(p) - 1) / mp.fsum(probability**t for probability in p)
        norm += step
        if abs(step) <= mpf(10) ** (10 - mp.dps) * (1 + abs(norm)):
            return norm


CURVES: dict[str, Callable[..., mpf]] = {
    "BinaryCrossEntropy": cross_entropy,
    "CategoricalCrossEntropy": cross_entropy,
    "SparseCategoricalCrossEntropy": cross_entropy,
    "OrdinalCrossEntropy": cross_entropy,
    "BinaryFocalCrossEntropy": focal,
    "CategoricalFocalCrossEntropy": focal,
    "BinaryPolyCrossEntropy": poly,
    "CategoricalPolyCrossEntropy": poly,
    "BinaryGeneralizedCrossEntropy": generalized,
    "CategoricalGeneralizedCrossEntropy": generalized,
    "BinarySymmetricCrossEntropy": symmetric,
    "CategoricalSymmetricCrossEntropy": symmetric,
    "BinaryTaylorCrossEntropy": taylor,
    "CategoricalTaylorCrossEntropy": taylor,
    "BinaryLabelRelaxation": label_relaxation,
    "CategoricalLabelRelaxation": label_relaxation,
    "BinaryJensenShannon": jensen_shannon,
    "CategoricalJensenShannon": jensen_shannon,
    "BinaryMeanAbsoluteError": mean_absolute_error,
    "CategoricalMeanAbsoluteError": mean_absolute_error,
    "BinarySquaredError": squared_error,
}
OF_LABEL: dict[str, Callable[..., mpf]] = {
    "ArcFaceCrossEntropy": arcface,
    "AsymmetricLoss": asymmetric,
    "BinaryHinge": hinge,
    "Bootstrapping": bootstrapping,
    "CategoricalHinge": crammer_singer,
    "CategoricalSquaredError": brier,
    "CosFaceCrossEntropy": cosface,
    "JensenShannonConsistency": consistency,
    "LDAMCrossEntropy": ldam,
    "LogitAdjustedCrossEntropy": logit_adjusted,
    "NormalizedCrossEntropy": normalized,
    "SquaredEarthMoverDistance": earth_mover,
}
OF_TARGET: dict[str, Callable[..., mpf]] = {
    "BiTemperedLogistic": bi_tempered,
    "Distillation": distillation,
    "KLDivergence": kl_divergence,
    "QualityFocalLoss": quality_focal,
    "VarifocalLoss": varifocal,
}
OF_ROW: dict[str, Callable[..., mpf]] = {"Bootstrapping": bootstrapped, "JensenShannonConsistency": disagreement}
"""The term that a loss adds to each row for any target."""

TEXTBOOK = CURVES | OF_LABEL | OF_TARGET
BINARY = {"AsymmetricLoss", "QualityFocalLoss", "VarifocalLoss"} | {
    name for name in TEXTBOOK if name.startswith("Binary")
}
NEED_LOGITS = {"ArcFaceCrossEntropy", "BiTemperedLogistic", "BinaryHinge", "CategoricalHinge", "CosFaceCrossEntropy"}
NEED_LOGITS |= {"Distillation", "LDAMCrossEntropy", "LogitAdjustedCrossEntropy", "OrdinalCrossEntropy"}
