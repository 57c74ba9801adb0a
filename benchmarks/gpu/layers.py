"""The last layer with its loss, in chunks: the values of all logits, then time and memory beside the bare products."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import lightning_xent
from benchmarks import memory
from benchmarks.gpu.results import Clock, Results
from benchmarks.gpu.speed import Bench
from benchmarks.measure import relative_difference
from lightning_xent.kernels import linear

LAYERS = ((8192, 4096, 128256), (8192, 2304, 256000))
SMALL, SMALL_CHUNK = (600, 32, 1000), 1 << 16
DRY, DRY_CHUNK = (24, 8, 130), 1 << 11
"""Rows, features and classes for the check of values, and the bytes of a chunk; Triton's interpreter is slow."""
TIMES, GIGABYTES = 1.3, 1.5
"""Wanted: the time in three products of the shape, and the memory beyond inputs and gradients."""
LOSSES = {
    "cross-entropy": lightning_xent.CategoricalCrossEntropy(ignore_index=0),
    "everything": lightning_xent.CategoricalCrossEntropy(
        label_smoothing=0.1, z_loss=1e-3, entropy_penalty=0.1, softcap=5.0, ignore_index=0
    ),
    "smoothed focal": lightning_xent.CategoricalFocalCrossEntropy(label_smoothing=0.1),
    "hardest": lightning_xent.CategoricalCrossEntropy(hard_fraction=0.3),
    "none": lightning_xent.CategoricalCrossEntropy(reduction="none"),
}


def check_and_time(results: Results, clock: Clock, bench: Bench) -> None:
    """Values and gradients in float32, and then the large layers in bfloat16."""
    for name in LOSSES:
        for plan in ("whole", "rows", "classes"):
            agree(results, bench, name, plan)
    for shape in results.each(clock, "layers", list(LAYERS)):
        time_layer(results, bench, (8, 4, 16) if bench.is_dry else shape)


def inputs_of(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and labels."""
    rows, features, classes = shape
    generator = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, features, generator=generator, device=device, dtype=dtype)
    weight = torch.randn(classes, features, generator=generator, device=device, dtype=dtype).mul_(features**-0.5)
    label = torch.randint(0, classes, (rows,), generator=generator, device=device)
    return hidden.requires_grad_(), weight.requires_grad_(), label


def gradients_of(loss: Callable[[], Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradient of its sum."""
    value = loss()
    return [value.detach(), *torch.autograd.grad(value.sum(), inputs)]


def agree(results: Results, bench: Bench, name: str, plan: str) -> None:
    """Whether chunks give what all logits give."""
    shape, size = (DRY, DRY_CHUNK) if bench.is_dry else (SMALL, SMALL_CHUNK)
    hidden, weight, label = inputs_of(shape, torch.float32, bench.device)
    loss, before = LOSSES[name], dict(linear.LIMITS)
    want = gradients_of(lambda: loss(functional.linear(hidden, weight), label), hidden, weight)
    try:
        if plan != "whole":
            linear.LIMITS |= dict.fromkeys(before, linear.Limits(size, size, 0 if plan == "rows" else 10**6, size))
        found = gradients_of(lambda: loss.linear(hidden, weight, label), hidden, weight)
    finally:
        linear.LIMITS |= before
    apart = max(relative_difference(*pair) for pair in zip(found, want, strict=True))
    results.add(f"layer, {name}, {plan}", apart=apart)
    if not apart <= 1e-4:
        results.wrong.append(f"layer, {name}, {plan}: {apart:.2g} from the loss of all logits, relative; seed 0")


def time_layer(results: Results, bench: Bench, shape: tuple[int, int, int]) -> None:
    """Time and memory in bfloat16."""
    what = f"layer {'x'.join(map(str, shape))} bfloat16"
    hidden, weight, label = inputs_of(shape, torch.bfloat16, bench.device)
    loss = LOSSES["cross-entropy"]

    @torch.no_grad()
    def products() -> Any:
        logits = hidden @ weight.T
        return logits @ weight, logits.T @ hidden

    def step() -> Any:
        return gradients_of(lambda: loss.linear(hidden, weight, label), hidden, weight)

    bare = bench.microseconds([products])
    ours = bench.microseconds([step])
    beyond = None if bench.is_dry else (memory.torch_cuda(step) - hidden.nbytes - weight.nbytes) / 1e9
    times = None if not bare or not ours else ours / bare
    results.wants(f"{what}, time in three products", times, TIMES, at_most=True)
    results.wants(f"{what}, GB beyond inputs and gradients", beyond, GIGABYTES, at_most=True)
    results.add(what, ours_us=ours, products_us=bare, GB_beyond=beyond)
