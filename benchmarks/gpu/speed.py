"""How fast: ceilings of the card, kernels and losses beside them, other tiles, and what a call costs the host."""

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

import lightning_xent
from benchmarks import memory
from benchmarks.gpu.kernels import OPTIONS, Inputs, tiny
from benchmarks.gpu.results import Clock, Results
from benchmarks.measure import relative_difference
from lightning_xent.kernels import cuda

Shape = tuple[int, ...]
Call = Callable[[], Any]
OfLogits = Callable[[Tensor], Tensor]
BF16, F32 = torch.bfloat16, torch.float32
TOLERANCES = {BF16: 2e-2, F32: 1e-4}
ROTATED = 2**29
"""Inputs below 512 MiB have three copies, used in turn: a cache would keep part of one."""
HOST_MICROSECONDS = 80.0
SMOOTHING, Z_LOSS, GAMMA, IGNORED = 0.1, 1e-4, 2.0, -100


class Bench:
    """Measures on the device; in a dry run it calls, and returns None."""

    def __init__(self, device: str, *, is_dry: bool) -> None:
        self.device, self.is_dry = device, is_dry
        self.ceilings = {"copy": 0.0, "read": 0.0}  # bytes a microsecond

    def microseconds(self, calls: list[Call]) -> float | None:
        """The median time of a call on the device, with a cold cache."""
        if self.is_dry:
            for call in calls:
                call()
            return None
        from triton.testing import do_bench

        turns = itertools.cycle(calls)
        return 1000 * do_bench(lambda: next(turns)(), warmup=10, rep=40, return_mode="median")

    def memory(self, call: Call, logits: Tensor) -> float | None:
        """The peak of a call beyond its inputs, as a multiple of the logits."""
        return None if self.is_dry else memory.torch_cuda(call) / logits.nbytes

    def share(self, size: int, taken: float | None, ceiling: str) -> float | None:
        """The share of a ceiling that `size` bytes in this time are; the card's step may be left out."""
        return size / taken / self.ceilings[ceiling] if taken and self.ceilings[ceiling] else None

    def shape(self, shape: Shape) -> Shape:
        return tiny(shape) if self.is_dry else shape

    def some(self, plan: list[Any]) -> list[Any]:
        """The plan; in a dry run a few of its entries."""
        return plan[::7] if self.is_dry else plan

    def copies(self, x: Tensor) -> list[Tensor]:
        """The logits and copies of them."""
        count = 0 if self.is_dry or x.nbytes > ROTATED else 2
        return [x, *(x.detach().clone().requires_grad_() for _ in range(count))]


def named(shape: Shape, dtype: torch.dtype, what: str) -> str:
    return f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')} {what}"


def measure_card(results: Results, bench: Bench) -> None:
    """The two ceilings, of 2 GiB: a copy, and the faster of two passes that only read."""
    x = torch.ones(2**10 if bench.is_dry else 2**29, device=bench.device)
    y = torch.empty_like(x)
    for name, size, calls in [("copy", 2 * x.nbytes, [lambda: y.copy_(x)]), ("read", x.nbytes, [x.amax, x.sum])]:
        times = [taken for call in calls if (taken := bench.microseconds([call]))]
        if times:
            bench.ceilings[name] = size / min(times)
        results.add(f"ceiling of 2 GiB: {name}", GB_per_s=bench.ceilings[name] / 1000 if times else None)


# ---- Kernels beside their targets

TARGETS: list[tuple[Shape, str, float | None, float | None, float | None]] = [
    # least shares of the ceilings: forward in bfloat16 and in float32, backward
    ((8192, 32000), "plain", 0.90, 0.90, 0.90),
    ((8192, 128256), "plain", 0.90, 0.90, 0.90),
    ((65536, 1000), "plain", 0.80, 0.80, 0.80),
    ((8192, 50257), "plain", 0.75, 0.75, 0.75),
    ((8, 21, 512, 512), "plain", 0.75, 0.75, 0.75),
    ((64, 1000000), "plain", 0.65, 0.65, 0.65),
    ((8192, 32000), "smoothing", 0.85, 0.85, 0.85),
    ((8192, 32000), "softcap", 0.45, None, 0.80),
    ((8192, 32000), "smoothing, weights", 0.55, None, None),
]


def time_kernels(results: Results, clock: Clock, bench: Bench) -> None:
    """The kernels alone: shares of the ceilings, and memory."""
    plan = bench.some(list(itertools.product(TARGETS, enumerate((BF16, F32)))))
    for (shape, option, *forward, backward), (place, dtype) in results.each(clock, "kernels", plan):
        time_kernel(results, bench, shape, option, dtype, forward[place], backward)


def time_kernel(
    results: Results, bench: Bench, shape: Shape, option: str, dtype: torch.dtype,
    least_forward: float | None = None, least_backward: float | None = None,
) -> None:  # fmt: skip
    shape = bench.shape(shape)
    one = Inputs.of(shape, option, dtype, bench.device)
    copies = [replace(one, x=x) for x in bench.copies(one.x)]
    forward = bench.microseconds([inputs.outputs for inputs in copies])
    backward = bench.microseconds([inputs.backward() for inputs in copies])
    shares = bench.share(one.read, forward, "read"), bench.share(one.read + one.x.nbytes, backward, "copy")
    extra, what = bench.memory(lambda: one.backward()(), one.x), named(shape, dtype, option)
    results.wants(f"{what}, forward, share of the ceiling", shares[0], least_forward)
    results.wants(f"{what}, backward, share of the ceiling", shares[1], least_backward)
    if option == "plain":  # the gradient, 24 bytes a row, and as much for each program that shares one
        rows = one.x[..., 0].numel()
        allowed = 1 + (24 * (rows + max(rows, cuda.PROGRAMS)) + 2**14) / one.x.nbytes
        results.wants(f"{what}, memory in logits", extra, allowed, at_most=True)
    results.add(
        f"kernel {what}", forward_us=forward, backward_us=backward, forward_share=shares[0], backward_share=shares[1],
        memory_in_logits=extra,
    )  # fmt: skip


# ---- Losses beside those of torch

SHAPES = [(8192, 32000), (8192, 128256), (16384, 1000), (8, 21, 512, 512), (8192, 50257), (128, 10)]
LOSSES = ("cross-entropy", "focal", "smoothing", "z-loss", "weighted, ignored", "soft targets")


def losses_of(name: str, target: Tensor, weight: Tensor) -> tuple[OfLogits, OfLogits]:
    """Our loss, and what one writes with torch, as functions of logits whose class axis is 1."""

    def of_torch(logits: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        if name == "focal":
            own = functional.log_softmax(logits, 1).gather(1, target.unsqueeze(1))
            return -((1 - own.exp()) ** GAMMA * own).mean()
        if name == "smoothing":
            options = {"label_smoothing": SMOOTHING}
        elif name == "weighted, ignored":
            options = {"weight": weight.to(logits.dtype), "ignore_index": IGNORED}
        value = functional.cross_entropy(
            logits, target.to(logits.dtype) if target.is_floating_point() else target, **options
        )
        return value + Z_LOSS * logits.logsumexp(1).square().mean() if name == "z-loss" else value

    keywords = {
        "smoothing": {"label_smoothing": SMOOTHING},
        "z-loss": {"z_loss": Z_LOSS},
        "weighted, ignored": {
            "class_weight": weight.tolist(), "ignore_index": IGNORED, "reduction": "weighted_mean"
        },
    }.get(name, {})  # fmt: skip
    if name == "focal":
        loss: Any = lightning_xent.CategoricalFocalCrossEntropy(gamma=GAMMA)
    else:
        loss = lightning_xent.CategoricalCrossEntropy(**keywords)
    return lambda logits: loss(logits, target), of_torch


def inputs_of(name: str, shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target and class weights."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(shape, generator=generator, device=device, dtype=dtype).requires_grad_()
    rows, weight = (shape[0], *shape[2:]), 0.5 + torch.rand(shape[1], generator=generator, device=device)
    if name == "soft targets":
        return x, torch.randn(shape, generator=generator, device=device, dtype=dtype).softmax(1), weight
    target = torch.randint(shape[1], rows, generator=generator, device=device)
    if name == "weighted, ignored":
        target[torch.rand(rows, generator=generator, device=device) < 0.1] = IGNORED
    return x, target, weight


def time_losses(results: Results, clock: Clock, bench: Bench) -> None:
    """Ours and torch's loss in every setting; then cross-entropy compiled, and Liger's, as long as there is time."""
    settings = list(itertools.product(SHAPES, (BF16, F32), LOSSES))
    plan = [(*setting, False) for setting in settings]
    plan += [(*setting, True) for setting in settings if setting[2] == "cross-entropy"]
    for shape, dtype, name, is_second in results.each(clock, "losses", bench.some(plan)):
        shape = bench.shape(shape)
        what = named(shape, dtype, name)
        try:
            x, target, weight = inputs_of(name, shape, dtype, bench.device)
            ours, of_torch = losses_of(name, target, weight)
            if is_second:
                time_other_peers(results, bench, what, x, target)
                continue
            agree(results, what, ours, of_torch, x)
            time_loss(results, bench, what, "ours", ours, x)
            time_loss(results, bench, what, "torch", of_torch, x)
        except Exception as error:
            is_ours = not (is_second or isinstance(error, torch.OutOfMemoryError))
            (results.wrong if is_ours else results.not_run).append(f"{what}: {type(error).__name__}: {error}")


def time_other_peers(results: Results, bench: Bench, what: str, x: Tensor, target: Tensor) -> None:
    torch.compiler.reset()  # after some shapes it would compile no more
    backend = "eager" if bench.is_dry else "inductor"
    compiled = torch.compile(functional.cross_entropy, dynamic=False, backend=backend)
    time_loss(results, bench, what, "torch, compiled", lambda logits: compiled(logits, target), x)
    if x.is_cuda and x.ndim == 2 and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerCrossEntropyLoss

        loss, own = LigerCrossEntropyLoss(), x.detach().clone().requires_grad_()  # it writes its gradient over them
        time_loss(results, bench, what, "Liger", lambda logits: loss(logits, target), own)


def agree(results: Results, what: str, ours: OfLogits, of_torch: OfLogits, x: Tensor) -> None:
    """Whether ours has the value and the gradient of torch in float32."""
    wide = x.detach().float().requires_grad_()
    found, want = ours(x), of_torch(wide)
    gradients = torch.autograd.grad(found, x)[0].float(), torch.autograd.grad(want, wide)[0]
    for part, pair in {"value": (found.detach(), want.detach()), "gradient": gradients}.items():
        if not (apart := relative_difference(*pair)) <= TOLERANCES[x.dtype]:
            results.wrong.append(f"{what}: its {part} is {apart:.2g} from torch's, relative; seed 0")


def time_loss(results: Results, bench: Bench, what: str, contender: str, function: OfLogits, x: Tensor) -> None:
    """Forward, and what backward adds; the logits are read twice and written once, which a copy would do as fast."""
    copies = bench.copies(x)
    forward = bench.microseconds([lambda x=x: function(x) for x in copies])
    both = bench.microseconds([lambda x=x: torch.autograd.grad(function(x), x) for x in copies])
    results.add(
        what, who=contender, forward_us=forward,
        backward_us=None if both is None or forward is None else both - forward,
        share_of_copy=bench.share(3 * x.nbytes, both, "copy"),
        memory_in_logits=bench.memory(lambda: torch.autograd.grad(function(x), x), x),
    )  # fmt: skip


# ---- Other tiles


@contextmanager
def tiles(height: int | None = None, warps: int | None = None, splits: int | None = None) -> Iterator[None]:
    """Let kernels walk in other tiles than `cuda.tiles_of` chooses."""
    chosen = cuda.tiles_of

    def tiles_of(layout: cuda.Layout, dtype: torch.dtype, **more: bool) -> cuda.Tiles:
        found = chosen(layout, dtype, **more)
        options = {**found.options, "A": height or found.options["A"]}
        programs, tile = found.grid[0], options["SIZE"]
        if layout.kind == "short":
            programs = -(-layout.rows // options["A"])
        elif layout.kind == "many":
            tile = options["A"]
        else:
            options["num_warps"] = warps or options["num_warps"]
            options["SIZE"] = 32 * options["num_warps"] * options["V"]
            tile = options["A"] * options["SIZE"]
        total = -(-layout.classes // tile)
        steps = -(-total // min(splits or found.splits, total))
        return cuda.Tiles((programs, -(-total // steps)), steps, options)

    with mock.patch.object(cuda, "tiles_of", tiles_of):
        yield


HEIGHTS_AND_WARPS = [{"height": height, "warps": warps} for warps in (4, 8) for height in (2, 4, 8)]
SWEEP: dict[Shape, list[dict[str, int]]] = {
    (8192, 32000): HEIGHTS_AND_WARPS,
    (8192, 128256): HEIGHTS_AND_WARPS,
    (64, 1000000): [{"splits": splits} for splits in (1, 4, 8, 16, 32)],
    (65536, 1000): [{"height": height} for height in (1, 2)],
    (8, 21, 512, 512): [{"height": height} for height in (4, 8)],
}


def sweep(results: Results, clock: Clock, bench: Bench) -> None:
    """The kernels in other tiles: the same values, and times beside those of the tiles that are chosen."""
    if not cuda.runs_on(torch.device(bench.device)):
        results.not_run.append("sweep: Triton is not installed")
        return
    plan = [(bench.shape(shape), choice) for shape, choices in SWEEP.items() for choice in [{}, *choices]]
    for shape, choice in results.each(clock, "tiles", bench.some(plan)):
        what = named(shape, BF16, str(choice or "as chosen"))
        inputs = Inputs.of(shape, "plain", BF16, bench.device)
        want = inputs.outputs()[0], *inputs.backward()()
        try:
            with tiles(**choice):
                found = inputs.outputs()[0], *inputs.backward()()
                torch.testing.assert_close(found, want, rtol=1e-2, atol=1e-4)
                copies = [replace(inputs, x=x) for x in bench.copies(inputs.x)]
                forward = bench.microseconds([of_copy.outputs for of_copy in copies])
                backward = bench.microseconds([of_copy.backward() for of_copy in copies])
                results.add(what, forward_us=forward, backward_us=backward)
        except Exception as error:
            results.wrong.append(f"sweep: {what}: {type(error).__name__}: {error}")


# ---- Options, the host, and ways to run


def try_options(results: Results, clock: Clock, bench: Bench) -> None:
    """What a call costs the host, other ways to run a loss, and each option of the kernels alone."""
    time_host(results, bench)
    try_ways(results, bench)
    for option in results.each(clock, "options", bench.some(list(OPTIONS))):
        time_kernel(results, bench, (8192, 32000), option, BF16)


def time_host(results: Results, bench: Bench) -> None:
    """Microseconds of the host for forward and backward at 128x10, without waiting for the device."""
    inputs = Inputs.of((128, 10), "plain", F32, bench.device)
    ours, of_torch = losses_of("cross-entropy", inputs.target, torch.ones(10))
    contenders = {
        "kernels alone": lambda x: inputs.outputs()[0].sum(),
        "cross-entropy": ours,
        "F.cross_entropy": of_torch,
    }
    for name, function in contenders.items():
        rounds = []
        for _ in range(1 if bench.is_dry else 5):
            start = time.perf_counter()
            for _ in range(1 if bench.is_dry else 200):
                torch.autograd.grad(function(inputs.x), inputs.x)
            rounds.append((time.perf_counter() - start) / 200 * 1e6)
            if bench.device == "cuda":
                torch.cuda.synchronize()
        taken = None if bench.is_dry else sorted(rounds)[2]
        results.add(f"host, 128x10, {name}", host_us=taken)
        if name == "cross-entropy":
            results.wants(f"host, 128x10, {name}, us", taken, HOST_MICROSECONDS, at_most=True)


def try_ways(results: Results, bench: Bench) -> None:
    """The same value and gradient from torch.compile without a graph break, a CUDA graph, and beside another device."""
    for name in ("cross-entropy", "soft targets"):
        x, target, weight = inputs_of(name, bench.shape((64, 1000)), F32, bench.device)
        loss, _ = losses_of(name, target, weight)
        torch.compiler.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="eager" if bench.is_dry else "inductor")

        def step(loss: OfLogits = loss, x: Tensor = x) -> list[Tensor]:
            value = loss(x)
            return [value.detach(), *torch.autograd.grad(value, x)]

        ways: dict[str, Call] = {"torch.compile, fullgraph": lambda step=step, compiled=compiled: step(compiled)}
        if not bench.is_dry:
            ways["CUDA graph"] = lambda step=step: captured(step)
        if torch.cuda.device_count() > 1:
            ways["another device is current"] = lambda step=step: beside_another_device(step)
        want = step()
        for way, call in ways.items():
            try:
                torch.testing.assert_close(call(), want, rtol=1e-5, atol=1e-7)
                results.add(f"{way}: {name}", verdict="the same")
            except Exception as error:
                results.wrong.append(f"{way}: {name}: {type(error).__name__}: {error}")


def captured(step: Call) -> Any:
    """What a step returns that is captured in a CUDA graph and replayed."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        found = step()
    for tensor in found:
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    return found


def beside_another_device(step: Call) -> Any:
    with torch.cuda.device(1):
        return step()
