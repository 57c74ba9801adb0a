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
from lightning_xent import BinaryCrossEntropy, CategoricalCrossEntropy
from lightning_xent.kernels.blocks import BLOCK
from lightning_xent.log_odds import of_label

SIZE, CALLS, LINES = Size((128, 10)), 1000, 12
ELEMENTS = Size((4096, 1000))


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
    """Print the stages of a small call, the calls of a large binary one, and two breakdowns at 128x10."""
    print(f"\n=== loss + gradient, {SIZE}: microseconds ===")
    for name, function in _stages().items():
        print(f"{_seconds(**function) * 1e6:8.1f}  {name}")
    print(f"\n=== binary cross-entropy of labels + gradient, {ELEMENTS}: milliseconds ===")
    logits = torch.randn(ELEMENTS.shape).requires_grad_()
    target = (torch.rand(ELEMENTS.shape) < 0.5).float()
    for name, call in _calls_of_binary(logits.detach(), target).items():
        timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
        print(f"{timer.blocked_autorange(min_run_time=0.5).median * 1e3:8.1f}  {name}")
    for loss in (BinaryCrossEntropy(), F.binary_cross_entropy_with_logits):
        seconds = _seconds(lambda loss=loss: loss(logits, target), logits)
        print(f"{seconds * 1e3:8.1f}  {getattr(loss, '__name__', type(loss).__name__)}")
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


def _seconds(function: Callable[[], Tensor], logits: Tensor) -> float:
    """Return the median time of a loss and its gradient."""
    given = {"torch": torch, "function": function, "logits": logits}
    timer = Timer("torch.autograd.grad(function(), logits)", globals=given, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=0.5).median)


def _calls_of_binary(logits: Tensor, target: Tensor) -> dict[str, Callable[[], Any]]:
    """Return the calls of torch that exact tails and read labels need, in blocks that stay in the cache, by name."""
    gradient = torch.empty_like(logits)
    sign, block = torch.rsub(target, 1.0, alpha=2.0), BLOCK // 2
    parts = list(zip(*(torch.split(each.reshape(-1), block) for each in (logits, target, sign, gradient)), strict=True))

    def over_parts(call: Callable[[Tensor, Tensor, Tensor, Tensor], Any]) -> Callable[[], list[Any]]:
        return lambda: [call(*part) for part in parts]

    calls: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Any]] = {
        "whether the labels are 0 or 1": lambda x, t, s, g: torch.addcmul(t, t, t, value=-1).abs_().sum(),
        "sign": lambda x, t, s, g: torch.rsub(t, 1.0, alpha=2.0),
        "sign times logit": lambda x, t, s, g: x * s,
        "softplus": lambda x, t, s, g: F.softplus(x, threshold=80.0),
        "sum": lambda x, t, s, g: x.sum(),
        "sigmoid": lambda x, t, s, g: torch.sigmoid(x),
        "its product with the sign, into the gradient": lambda x, t, s, g: torch.mul(x, s, out=g),
    }
    named = {name: over_parts(call) for name, call in calls.items()}
    return named | {"the gradient times what comes in": lambda: gradient.mul_(0.5)}
