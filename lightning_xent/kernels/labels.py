"""The kernel for class indices: the log-odds of a label, and what smoothing adds, with their gradient.

F.cross_entropy needs three more tensors as large as the logits, and spends much of its time on their fresh pages. Here
a block of rows stays in the cache until it is done. On CUDA these are plain operations.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_xent.kernels import blocks, plain, tensors


def of_label(logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C], in float32 or float64.

    Where `counts` [...] is False the result is some finite number for any logits, and no gradient may flow back to it.
    """
    (log_odds,) = _apply(logits, label, counts, None, temperature)
    return log_odds


def of_label_and_others(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    if class_weight is None:
        class_weight = torch.ones((), dtype=blocks.compute_dtype(logits), device=logits.device)
    log_odds, others = _apply(logits, label, counts, class_weight, temperature)
    return log_odds, others


def _apply(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, ...]:
    given = logits, label, counts, class_weight, temperature
    if not blocks.keeps(logits):
        return _forward(*given, blocks.lies_with_class_axis_second(logits), keeps=False)[0]
    outputs: tuple[Tensor, ...] = tensors.applied(_OfLabel, _plain, *given)
    return outputs


class _Statistics(NamedTuple):
    """What the gradient needs of each row, all [N, 1, ...]; the shifted logits are (x_c - peak) / temperature."""

    peak: Tensor
    own: Tensor
    """The shifted logit of the label."""
    rivals: Tensor
    """Sum of the exponentials of the other classes' shifted logits."""
    spread: Tensor | None
    """Minus the weighted sum of the other classes' shifted logits."""
    weight: Tensor | None
    """Sum of the other classes' weights."""


class _Slopes(NamedTuple):
    """Factors of the gradient, all [N, 1, ...]: own at the label, rivals * exponential - spread * w_c elsewhere."""

    own: Tensor
    rivals: Tensor
    spread: Tensor | None


class _OfLabel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        counts: Tensor | None,
        class_weight: Tensor | None,
        temperature: float,
    ) -> tuple[Tensor, ...]:
        ctx.is_second = blocks.lies_with_class_axis_second(logits)
        given = logits, label, counts, class_weight, temperature
        outputs, saved, ctx.is_clean = _forward(*given, ctx.is_second, keeps=True)
        ctx.temperature, ctx.is_spent = temperature, False
        ctx.save_for_backward(*saved)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, place, counts, class_weight, kept, *found = ctx.saved_tensors
        x, temperature = blocks.class_axis_second(logits, ctx.is_second), ctx.temperature
        if blocks.needs_plain_operations(gradients):
            rows = logits.shape[:-1]
            given = place.reshape(rows), None if counts is None else counts.reshape(rows), class_weight, temperature
            return plain.gradient_of(_plain, gradients, logits, *given), None, None, None, None
        if ctx.is_clean:
            x, counts = torch.where(counts, x, 0.0), None
        statistics = _Statistics(*found)
        slopes = _slopes(statistics, [gradient.reshape(place.shape) for gradient in gradients], counts, temperature)
        exponentials = blocks.taken(ctx, kept)
        gradient = _blockwise_gradient(x, place, class_weight, temperature, statistics.peak, slopes, exponentials)
        # On CUDA the answer would need a synchronisation.
        if counts is not None and (x.is_cuda or not torch.isfinite(statistics.rivals).all()):
            gradient.masked_fill_(~counts, 0.0)
        return blocks.in_shape_of(gradient, logits, ctx.is_second), None, None, None, None


def _plain(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, ...]:
    """The outputs from operations that can be traced and differentiated again."""
    if class_weight is None:
        return (plain.of_label(logits, label, counts, temperature),)
    return plain.of_label_and_others(logits, label, counts, class_weight, temperature)


def _forward(
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    is_second: bool,
    keeps: bool,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...], bool]:
    """The outputs, what the gradient needs, and whether the rows that do not count were set to 0."""
    x = blocks.class_axis_second(logits, is_second)  # [N, C, ...]
    rows = (x.shape[0], 1, *x.shape[2:])
    place = label.long().reshape(rows)
    counts = None if counts is None else counts.reshape(rows)
    is_clean = False
    if counts is not None and x.numel() <= blocks.BLOCK and not x.is_cuda:
        is_clean = True  # a small copy takes less time than handling these rows
        x = torch.where(counts, x, 0.0)
    # A half-precision tensor would round the exponentials, so they are computed again.
    exponentials = torch.empty_like(x) if keeps and x.dtype == blocks.compute_dtype(x) and not x.is_cuda else None
    found = _blockwise_statistics(x, place, class_weight, temperature, exponentials)
    outputs = _outputs(found, None if is_clean else counts)
    saved = logits, place, counts, class_weight, exponentials, *found
    return tuple(output.reshape(label.shape) for output in outputs), saved, is_clean


def _outputs(statistics: _Statistics, counts: Tensor | None) -> list[Tensor]:
    """The log-odds of the label and, if wanted, the weighted sum of -log p of the other classes."""
    _, own, rivals, spread, weight = statistics
    outputs = [own - rivals.log()]
    if spread is not None and weight is not None:
        outputs.append(weight * (rivals + own.exp()).log() + spread)
    return outputs if counts is None else [torch.where(counts, output, 0.0) for output in outputs]


def _slopes(statistics: _Statistics, gradients: list[Tensor], counts: Tensor | None, temperature: float) -> _Slopes:
    """The slopes of both outputs, times the incoming gradient of each."""
    _, own_logit, rival_sum, _, weight = statistics
    if counts is not None:
        gradients = [torch.where(counts, gradient, 0.0) for gradient in gradients]
    own, rivals, spread = gradients[0], -gradients[0] / rival_sum.masked_fill(rival_sum == 0, math.inf), None
    if weight is not None:
        share = weight * gradients[1] / (rival_sum + own_logit.exp())
        own, rivals, spread = own + share * own_logit.exp(), rivals + share, plain.scaled(gradients[1], temperature)
    if counts is not None:  # the statistics may be NaN
        own, rivals = torch.where(counts, own, 0.0), torch.where(counts, rivals, 0.0)
    return _Slopes(plain.scaled(own, temperature), plain.scaled(rivals, temperature), spread)


def _blockwise_statistics(
    x: Tensor, place: Tensor, class_weight: Tensor | None, temperature: float, exponentials: Tensor | None
) -> _Statistics:
    """The statistics; writes the exponentials of all classes but the label into `exponentials` [N, C, ...]."""
    weight = None if class_weight is None else _weight_of_others(x, place, class_weight)
    if blocks.is_one_block(x):
        return _Statistics(*_statistics_of_block(x, place, class_weight, temperature, exponentials), weight)
    peak, own, rivals, spread = (x.new_empty(place.shape, dtype=blocks.compute_dtype(x)) for _ in range(4))
    for block in blocks.split(x):
        out = None if exponentials is None else exponentials[block]
        found = _statistics_of_block(x[block], place[block], class_weight, temperature, out)
        peak[block], own[block], rivals[block] = found[:3]
        if found[3] is not None:
            spread[block] = found[3]
    return _Statistics(peak, own, rivals, None if class_weight is None else spread, weight)


def _statistics_of_block(
    x: Tensor, place: Tensor, class_weight: Tensor | None, temperature: float, exponentials: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    peak = x.amax(1, keepdim=True).to(blocks.compute_dtype(x))
    shifted = torch.sub(x, peak, out=exponentials)
    if temperature != 1.0:
        shifted.div_(temperature)
    own, spread = shifted.gather(1, place), None
    if class_weight is not None:
        spread = -_weighted(shifted.scatter_(1, place, 0.0), class_weight).sum(1, keepdim=True)
    rivals = shifted.scatter_(1, place, -math.inf).exp_().sum(1, keepdim=True)
    return peak, own, rivals, spread


def _blockwise_gradient(
    x: Tensor,
    place: Tensor,
    class_weight: Tensor | None,
    temperature: float,
    peak: Tensor,
    slopes: _Slopes,
    exponentials: Tensor | None,
) -> Tensor:
    """The gradient [N, C, ...], in the memory of the `exponentials` if there are any."""
    if blocks.is_one_block(x):
        part = plain.scaled(x - peak, temperature).exp_() if exponentials is None else exponentials
        return _gradient_of_block(part, x, place, class_weight, slopes).to(x.dtype)
    gradient = torch.empty_like(x) if exponentials is None else exponentials
    for block in blocks.split(x):
        part = gradient[block]
        if exponentials is None:
            part = plain.scaled(torch.sub(x[block], peak[block]), temperature).exp_()
        spread = None if slopes.spread is None else slopes.spread[block]
        of_block = _Slopes(slopes.own[block], slopes.rivals[block], spread)
        part = _gradient_of_block(part, x, place[block], class_weight, of_block)
        if exponentials is None:
            gradient[block] = part
    return gradient


def _gradient_of_block(
    exponentials: Tensor, x: Tensor, place: Tensor, class_weight: Tensor | None, slopes: _Slopes
) -> Tensor:
    gradient = exponentials.mul_(slopes.rivals)
    if slopes.spread is not None and class_weight is not None:
        gradient.addcmul_(_along_classes(class_weight, x), slopes.spread, value=-1.0)
    return gradient.scatter_(1, place, slopes.own)


def _weighted(shifted: Tensor, class_weight: Tensor) -> Tensor:
    """The shifted logits times the weights of their classes; 0 where the weight is 0, even for infinite logits."""
    if class_weight.ndim == 0:
        return shifted
    weight = _along_classes(class_weight, shifted)
    return torch.where(weight == 0, 0.0, shifted * weight)


def _weight_of_others(x: Tensor, place: Tensor, class_weight: Tensor) -> Tensor:
    """Sum of the weights of all classes but the label's, rounded once."""
    if class_weight.ndim == 0:
        return class_weight * (x.shape[1] - 1)
    wide = class_weight.double().expand(x.shape[1])
    # Sums from both ends, because the sum of all minus the weight of the label may lose all digits.
    zero = wide.new_zeros(1)
    before, after = torch.cat([zero, wide[:-1].cumsum(0)]), torch.cat([zero, wide.flip(0)[:-1].cumsum(0)]).flip(0)
    return (before + after).to(blocks.compute_dtype(x))[place]


def _along_classes(values: Tensor, x: Tensor) -> Tensor:
    """Values [C] or [] in a shape that broadcasts against x [N, C, ...]."""
    return values if values.ndim == 0 else values.reshape(-1, *(1,) * (x.ndim - 2))
