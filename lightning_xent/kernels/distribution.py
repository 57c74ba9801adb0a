"""The kernel for distributions: cross-entropy of soft targets, with its gradient."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_xent.kernels import blocks, plain, tensors


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C], which get no gradient."""
    if not blocks.keeps(logits):
        return _forward(logits, masses, temperature, blocks.lies_with_class_axis_second(logits))[0]
    losses: Tensor = tensors.applied(_OfDistribution, plain.of_distribution, logits, masses, temperature)
    return losses


class _Statistics(NamedTuple):
    """What the gradient needs of each row, all [N, 1, ...]."""

    rest: Tensor
    """Sum of the exponentials of all classes but the largest, the peak, relative to it."""
    mass: Tensor
    """Sum of the masses."""


class _OfDistribution(torch.autograd.Function):
    """Cross-entropy of distributions; near certainty the peak is left out of the sums, which is exact in the tail."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
        ctx.is_second = blocks.lies_with_class_axis_second(logits)
        losses, exponentials, statistics = _forward(logits, masses, temperature, ctx.is_second)
        ctx.temperature, ctx.is_spent = temperature, False
        ctx.save_for_backward(logits, masses, exponentials, *statistics)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, masses, kept, *found = ctx.saved_tensors
        if blocks.needs_plain_operations([gradient]):
            result = plain.gradient_of(plain.of_distribution, [gradient], logits, masses, ctx.temperature)
            return result, None, None
        taken = blocks.taken(ctx, kept)
        if taken is None:  # an earlier gradient of this graph has it
            _, taken, _ = _forward(logits, masses, ctx.temperature, ctx.is_second)
        m, statistics = blocks.class_axis_second(masses, ctx.is_second), _Statistics(*found)
        gradient = plain.scaled(gradient.reshape(statistics.mass.shape), ctx.temperature)
        gradient = _blockwise_gradient(taken, m, gradient, statistics)
        return blocks.in_shape_of(gradient, logits, ctx.is_second), None, None


def _forward(logits: Tensor, masses: Tensor, temperature: float, is_second: bool) -> tuple[Tensor, Tensor, _Statistics]:
    """The losses [...], the exponentials [N, C, ...] relative to the peak, and the statistics."""
    x, m = blocks.class_axis_second(logits, is_second), blocks.class_axis_second(masses, is_second)
    exponentials = torch.empty_like(x)
    if blocks.is_one_block(x):
        losses, statistics = _of_block(x, m, temperature, exponentials)
    else:
        losses, rest, mass = (x.new_empty((x.shape[0], 1, *x.shape[2:])) for _ in range(3))
        for block in blocks.split(x):
            losses[block], (rest[block], mass[block]) = _of_block(x[block], m[block], temperature, exponentials[block])
        statistics = _Statistics(rest, mass)
    return losses.reshape(logits.shape[:-1]), exponentials, statistics


def _of_block(x: Tensor, masses: Tensor, temperature: float, exponentials: Tensor) -> tuple[Tensor, _Statistics]:
    """The losses [N, 1, ...] and the statistics; writes the `exponentials`."""
    shifted = torch.sub(x, x.amax(1, keepdim=True), out=exponentials)
    if temperature != 1.0:
        shifted.div_(temperature)
    distance = -(masses * shifted).sum(1, keepdim=True)
    if distance.is_cuda or not torch.isfinite(distance.sum()):  # on CUDA the answer would need a synchronisation
        is_absent = (masses == 0) & torch.isinf(shifted)
        distance = -torch.where(is_absent, 0.0, masses * shifted).sum(1, keepdim=True)
    rest = shifted.exp_().sum(1, keepdim=True) - 1
    is_certain = rest < 1
    if is_certain.is_cuda or is_certain.any():
        # The peak is the only exponential of 1, and a sum with it would lose the digits of the others.
        rest = torch.where(is_certain, shifted.frac().sum(1, keepdim=True), rest)
    mass = masses.sum(1, keepdim=True)
    return distance + mass * rest.log1p(), _Statistics(rest, mass)


def _blockwise_gradient(exponentials: Tensor, masses: Tensor, gradient: Tensor, statistics: _Statistics) -> Tensor:
    """The gradient [N, C, ...], in the memory of the exponentials."""
    if blocks.is_one_block(exponentials):
        return _gradient_of_block(exponentials, masses, gradient, statistics)
    for block in blocks.split(exponentials):
        of_block = _Statistics(*(part[block] for part in statistics))
        _gradient_of_block(exponentials[block], masses[block], gradient[block], of_block)
    return exponentials


def _gradient_of_block(exponentials: Tensor, masses: Tensor, gradient: Tensor, statistics: _Statistics) -> Tensor:
    rest, mass = statistics
    is_certain = rest < 1
    has_certain = is_certain.is_cuda or bool(is_certain.any())
    is_peak = exponentials.floor() if has_certain else None  # 1 at the peak, else 0
    result = exponentials.mul_(mass * gradient / (1 + rest)).addcmul_(masses, gradient, value=-1.0)
    if is_peak is not None:
        # p - t of the peak is minus the sum of p - t of the others, which keeps its digits near certainty.
        is_peak.mul_(is_certain)
        result.addcmul_(result, is_peak, value=-1.0).addcmul_(result.sum(1, keepdim=True), is_peak, value=-1.0)
    return result
