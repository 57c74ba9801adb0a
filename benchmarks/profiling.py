"""Where the time of a small call goes: by stages, in torch's operators and in Python."""

import cProfile
import pstats
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

from benchmarks.settings import Size
from lightning_xent import CategoricalCrossEntropy
from lightning_xent.log_odds import of_label

SIZE, CALLS, LINES = Size((128, 10)), 1000, 12


class _Sum(torch.autograd.Function):
    """The least that a gradient of one's own costs in Python."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.shape = logits.shape
        return logits.sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.expand(ctx.shape)


def show(side: Any) -> None:
    """Print the stages of a call, then two breakdowns for cross-entropy at 128x10, of ours and of its first peer."""
    print(f"\n=== loss + gradient, {SIZE}: microseconds ===")
    for name, function in _stages().items():
        timer = Timer("torch.autograd.grad(function(), logits)", globals={"torch": torch, **function})
        print(f"{timer.blocked_autorange(min_run_time=0.5).median * 1e6:8.1f}  {name}")
    setting = next(side.settings(SIZE, "float32", ["cross_entropy"]))
    for contender in (setting.ours, setting.peers[0]):
        for _ in range(CALLS):
            contender.call()
        print(f"\n=== {contender.name}, {SIZE}, {CALLS} calls: operators ===")
        with profile(activities=[ProfilerActivity.CPU]) as operators:
            for _ in range(CALLS):
                contender.call()
        averages = operators.key_averages()
        print(averages.table(sort_by="self_cpu_time_total", row_limit=LINES, max_name_column_width=40))
        print(f"=== {contender.name}, {SIZE}, {CALLS} calls: Python functions ===")
        functions = cProfile.Profile()
        functions.enable()
        for _ in range(CALLS):
            contender.call()
        functions.disable()
        pstats.Stats(functions).strip_dirs().sort_stats("tottime").print_stats(LINES)


def _stages() -> dict[str, dict[str, Any]]:
    """Return, by name, the calls whose time is that of one more stage each, and their logits."""
    logits = torch.randn(SIZE.shape).requires_grad_()
    target = torch.randint(0, SIZE.classes, SIZE.shape[:-1])
    ignored = torch.where(torch.arange(len(target)) % 10 == 0, -100, target)
    weight = 0.5 + torch.rand(SIZE.classes)
    plain = CategoricalCrossEntropy()
    weighted = CategoricalCrossEntropy(class_weight=weight.tolist(), ignore_index=-100, reduction="weighted_mean")
    functions: dict[str, Callable[[], Tensor]] = {
        "a sum, in an autograd.Function that does nothing else": lambda: _Sum.apply(logits),
        "the log-odds of the labels, summed": lambda: of_label(logits, target, 1.0, True).sum(),
        "cross-entropy": lambda: plain(logits, target),
        "cross-entropy with class weights and ignored rows": lambda: weighted(logits, ignored),
        "F.cross_entropy": lambda: F.cross_entropy(logits, target),
        "F.cross_entropy with class weights and ignored rows": lambda: F.cross_entropy(logits, ignored, weight),
    }
    return {name: {"function": function, "logits": logits} for name, function in functions.items()}
