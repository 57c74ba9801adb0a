"""The kernel for distributions: cross-entropy of soft targets, with its gradient."""

from typing import Any

import torch
from torch import Tensor

from lightning_xent.kernels import blocks


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C], which get no gradient."""
    if not blocks.keeps(logits):
        return _forward(logits, masses, temperature)[0]
    losses: Tensor = _OfDistribution.apply(logits, masses, temperature)  # type: ignore[no-untyped-call]
    return losses


class _OfDistribution(torch.autograd.Function):
    """Cross-entropy of distributions; all classes but the peak are summed separately, which is exact in the tail."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
        losses, saved = _forward(logits, masses, temperature)
        ctx.temperature, ctx.is_spent = temperature, False
        ctx.save_for_backward(logits, masses, *saved)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logits, masses, place, rest, mass, kept = ctx.saved_tensors
        taken = None if blocks.needs_plain_operations([gradient]) else blocks.taken(ctx, kept)
        is_peak = place == torch.arange(logits.shape[-1], device=logits.device)
        if taken is None:
            shifted = blocks.scaled(logits - torch.where(is_peak, logits, 0.0).sum(-1, keepdim=True), ctx.temperature)
            exponentials = torch.where(is_peak, shifted.detach(), shifted.exp())
            rest = exponentials.sum(-1, keepdim=True)
        gradient = blocks.scaled(gradient.unsqueeze(-1), ctx.temperature)
        share = mass * gradient / (1 + rest)  # mass * p of the peak, times the gradient
        # p - t of the peak is minus the sum of p - t of the others, which keeps its digits near certainty.
        lacking = torch.where(is_peak, 0.0, masses).sum(-1, keepdim=True)
        own = torch.where(rest < 1, gradient * lacking - share * rest, share - gradient * masses.gather(-1, place))
        if taken is None:
            return torch.where(is_peak, own, exponentials * share - masses * gradient), None, None
        result = taken.mul_(share).addcmul_(masses, gradient, value=-1.0).scatter_(-1, place, own)
        return result, None, None


def _forward(logits: Tensor, masses: Tensor, temperature: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The losses, and what the gradient needs beside the inputs."""
    peak, place = logits.max(-1, keepdim=True)
    shifted = blocks.scaled(logits - peak, temperature)  # [..., C]
    distance = -(masses * shifted).sum(-1, keepdim=True)
    if distance.is_cuda or not torch.isfinite(distance.sum()):  # on CUDA the answer would need a synchronisation
        is_absent = (masses == 0) & torch.isinf(shifted)
        distance = -torch.where(is_absent, 0.0, masses * shifted).sum(-1, keepdim=True)
    of_peak = shifted.gather(-1, place)  # 0, or NaN if the peak is infinite, which must reach the sum
    exponentials = shifted.exp_().scatter_(-1, place, of_peak)
    rest, mass = exponentials.sum(-1, keepdim=True), masses.sum(-1, keepdim=True)
    return (distance + mass * rest.log1p()).squeeze(-1), (place, rest, mass, exponentials)
