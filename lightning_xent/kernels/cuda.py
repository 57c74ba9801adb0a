"""The home on CUDA: Triton kernels that read the logits once, and once more for their gradient, which they write once.

Nothing here is imported or asked for until a tensor on CUDA comes. Where Triton cannot run, the plain operations do.
"""

import contextlib
import functools
import importlib.util
import math
import os
import struct
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_xent.kernels import blocks, plain, tensors

PROGRAMS = 1024
"""Programs that keep a large GPU busy: with fewer rows, several programs share a row."""
LARGEST_SHORT = 1024
"""Classes of a row that one program holds at once."""
VECTOR = 16
"""Bytes of the widest load."""


class Layout(NamedTuple):
    """How rows and classes lie in memory: row outer * inner + position, and the three strides of each tensor."""

    kind: str
    outer: int
    inner: int
    classes: int
    strides: list[tuple[int, int, int]]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.outer * self.inner

    def align(self) -> int:
        """The largest power of 2, up to 16, that divides where vectors start and where the last one ends."""
        is_many = self.kind == "many"
        steps = [(outer, step) if is_many else (outer, inner) for outer, inner, step in self.strides]
        return math.gcd(VECTOR, self.inner if is_many else self.classes, *(step for pair in steps for step in pair))


class Tiles(NamedTuple):
    """How a kernel walks over a layout."""

    grid: tuple[int, int]
    steps: int
    options: dict[str, Any]

    @property
    def splits(self) -> int:
        """The number of programs that share a row."""
        return self.grid[1]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def runs_on(device: torch.device) -> bool:
    """Whether Triton runs on this device."""
    return launches(device)


@functools.cache
def launches(device: torch.device) -> bool:
    """Whether Triton runs on this device: asked once, by two launches."""
    if device.type == "cpu":  # the interpreter, for tests
        return os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
    if device.type != "cuda" or torch.version.hip or importlib.util.find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < (8, 0):  # below 7.0 Triton ends the process; 7.x has no bfloat16
        return False
    try:
        label = torch.zeros(1, dtype=torch.long, device=device)
        for classes in (2, 2 * LARGEST_SHORT):  # a version of Triton may compile one kind of kernel and not the other
            logits = torch.zeros((1, classes), device=device)
            launch_label_forward(logits, label, None, None, 1.0, None, False, False, False)
        torch.cuda.synchronize(device)
    except Exception as error:  # no C compiler, no Python.h, no driver: each raises its own
        warnings.warn(f"Triton cannot run on {device}, so losses there take plain operations: {error}", stacklevel=2)
        return False
    return True


def of_label(
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    softcap: float | None = None,
    *,
    others: bool = False,
    log_partition: bool = False,
    entropy: bool = False,
) -> tuple[Tensor, ...]:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C], and what else is wanted, in this order.

    Args:
        logits: In any strides; those of the usual layouts are not copied.
        label: Any integer dtype. The outputs of a label out of range are NaN.
        counts: Where it [...] is False, logits are not read, outputs are 0, and the gradient is exactly 0.
        class_weight: Weights w [C] in `others`; None: 1.
        temperature: Divides the logits.
        softcap: The logits become softcap * T * tanh(logits / (softcap * T)) first.
        others: sum_{c != y} w_c (-log p_c).
        log_partition: logsumexp(logits / temperature).
        entropy: That of the softmax, in nats.
    """
    options = temperature, softcap, others, log_partition, entropy
    outputs: tuple[Tensor, ...] = tensors.applied(
        _OfLabel, plain_of_label, logits, label, counts, class_weight, *options
    )
    return outputs


def of_distribution(logits: Tensor, masses: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C], which get no gradient."""
    given = logits, masses, counts, temperature
    losses: Tensor = tensors.applied(_OfDistribution, plain_of_distribution, *given)
    return losses


class _OfLabel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, *options: Any
    ) -> tuple[Tensor, ...]:
        launch = torch.ops.crossent.label_forward if torch.compiler.is_compiling() else launch_label_forward
        *outputs, statistics = launch(logits, label, counts, class_weight, *options)
        ctx.save_for_backward(logits, label, counts, class_weight, outputs[0], statistics)
        ctx.options = options
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, label, counts, class_weight, log_odds, statistics = ctx.saved_tensors
        inputs: list[Any] = [logits, label, counts, class_weight, *ctx.options]
        arguments = [list(gradients), *inputs, log_odds, statistics]
        if torch.compiler.is_compiling():
            gradient = torch.ops.crossent.label_backward(*arguments)
        elif blocks.needs_plain_operations(gradients):
            gradient = plain.gradient_of(plain_of_label, gradients, *inputs)
        else:
            gradient = launch_label_backward(*arguments)
        return gradient, *[None] * (len(inputs) - 1)


class _OfDistribution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, masses: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
        compiling = torch.compiler.is_compiling()
        launch = torch.ops.crossent.distribution_forward if compiling else launch_distribution_forward
        losses, sums = launch(logits, masses, counts, temperature)
        ctx.save_for_backward(logits, masses, counts, sums)
        ctx.temperature = temperature
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        logits, masses, counts, sums = ctx.saved_tensors
        inputs: list[Any] = [logits, masses, counts, ctx.temperature]
        arguments = [gradient, *inputs, sums]
        if torch.compiler.is_compiling():
            gradient = torch.ops.crossent.distribution_backward(*arguments)
        elif blocks.needs_plain_operations([gradient]):
            gradient = plain.gradient_of(plain_of_distribution, [gradient], *inputs)
        else:
            gradient = launch_distribution_backward(*arguments)
        return gradient, None, None, None


def plain_of_label(
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    softcap: float | None,
    with_others: bool,
    with_log_partition: bool,
    with_entropy: bool,
) -> tuple[Tensor, ...]:
    """`of_label`, all its options, from plain operations, for second derivatives."""
    x = (logits if counts is None else torch.where(counts.unsqueeze(-1), logits, 0.0)).to(blocks.compute_dtype(logits))
    if softcap is not None:
        bound = softcap * temperature
        x = bound * torch.tanh(x / bound)
    if with_others:
        outputs = [*plain.of_label_and_others(x, label, None, class_weight, temperature)]
    else:
        outputs = [plain.of_label(x, label, None, temperature)]
    if with_log_partition:
        outputs.append(plain.log_partition(x, temperature))
    if with_entropy:
        outputs.append(plain.entropy(x, temperature))
    return tuple(output if counts is None else torch.where(counts, output, 0.0) for output in outputs)


def plain_of_distribution(logits: Tensor, masses: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """`of_distribution` from plain operations, for second derivatives."""
    dtype = blocks.compute_dtype(logits)
    if counts is not None:
        logits, masses = (torch.where(counts.unsqueeze(-1), tensor, 0.0) for tensor in (logits, masses))
    return plain.of_distribution(logits.to(dtype), masses.to(dtype), temperature)


def layout_of(*tensors: Tensor) -> Layout | None:
    """How the rows of tensors [..., C] of one shape lie in memory; None if they have to be copied."""
    *leading, classes = tensors[0].shape
    levels: list[tuple[int, list[int]]] = []
    for axis, size in enumerate(leading):
        strides = [tensor.stride(axis) for tensor in tensors]
        if size == 1:
            continue
        if levels and levels[-1][1] == [size * stride for stride in strides]:
            levels[-1] = levels[-1][0] * size, strides
        else:
            levels.append((size, strides))
    if len(levels) > 2:
        return None
    unused = 1, [0] * len(tensors)
    (outer, outer_strides), (inner, inner_strides) = [unused, unused, *levels][-2:]
    steps = [tensor.stride(-1) for tensor in tensors]
    strides_of = list(zip(outer_strides, inner_strides, steps, strict=True))
    if classes == 1 or all(step == 1 for step in steps):
        kind = "short" if classes <= LARGEST_SHORT else "long"
        return Layout(kind, outer, inner, classes, [(outer, inner, 1) for outer, inner, _ in strides_of])
    if levels and all(stride == 1 for stride in inner_strides):
        return Layout("many", outer, inner, classes, strides_of)
    return None


def like(logits: Tensor) -> Tensor:
    """An empty tensor of the shape and dtype of logits [..., C], which are in a layout, without gaps."""
    layout = layout_of(logits)
    if layout is None or layout.kind != "many":
        return logits.new_empty(logits.shape)
    empty = logits.new_empty((layout.outer, layout.classes, layout.inner))
    return empty.movedim(1, -1).reshape(logits.shape)


def arranged(logits: Tensor, *others: Tensor) -> list[Tensor]:
    """Tensors [..., C] that have a layout together; one that does not fit is copied."""
    if layout_of(logits) is None:
        logits = logits.contiguous()
    tensors = [logits]
    for other in others:
        together = layout_of(*tensors, other)
        if together is None or together.kind != layout_of(logits).kind:  # type: ignore[union-attr]
            other = torch.empty_like(like(logits), dtype=other.dtype).copy_(other)
        tensors.append(other)
    return tensors


def tiles_of(layout: Layout, dtype: torch.dtype, *, backward: bool, is_heavy: bool) -> Tiles:
    """The tiles of a kernel; a heavy one, with weights or a softcap, needs more registers an element.

    Sizes are those that keep 4 programs or more on a multiprocessor, without spilled registers, and with loads of 16
    bytes wherever rows are aligned.
    """
    align, widest = layout.align(), VECTOR // dtype.itemsize
    vector, classes = min(widest, align), layout.classes
    warps, splits = 4, 1
    if layout.kind == "short":
        warps, size = 1, max(4, _power_of_2(classes))
        height, programs, tile = max(1, 1024 // size), -(-layout.rows // max(1, 1024 // size)), size
    elif layout.kind == "many":
        size = min(128 * widest, _power_of_2(layout.inner))
        height = min((2048 if is_heavy else 4096) // size, _power_of_2(classes))
        programs, tile = layout.outer * -(-layout.inner // size), height
    else:
        warps = 8 if backward else 4
        size, height = 32 * warps * vector, min(16, (2 if backward or is_heavy else 4) * widest // vector)
        programs, tile = layout.rows, size * height
    total = -(-classes // tile)
    if layout.kind == "long":
        splits = max(1, min(PROGRAMS // max(1, programs), total // 4))
    steps = -(-total // splits)
    options = {"KIND": layout.kind, "A": height, "SIZE": size, "V": vector, "ALIGN": align, "num_warps": warps}
    return Tiles((programs, -(-total // steps)), steps, options)


def launch_label_forward(
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    softcap: float | None,
    with_others: bool,
    with_log_partition: bool,
    with_entropy: bool,
) -> list[Tensor]:
    """The log-odds of the label and the other outputs that are wanted, all [...], and the statistics."""
    (logits,) = arranged(logits)
    wanted = with_others, with_log_partition, with_entropy
    outputs = empty_of_label(logits, label, *wanted)
    if logits.numel() == 0:
        return outputs
    layout = _layout(logits)
    tiles = tiles_of(layout, logits.dtype, backward=False, is_heavy=with_others or with_entropy or softcap is not None)
    rest = iter(outputs[1:])
    optional = [next(rest) if is_wanted else None for is_wanted in wanted]
    statistics = outputs[-1]
    parts = statistics.new_empty((5, layout.rows, tiles.splits)) if tiles.splits > 1 else statistics
    labels, flags, weights = label.contiguous(), _flags(counts), _weights(class_weight)
    numbers = _numbers(temperature, softcap)
    shared = {"SPREAD": with_others, "CAP": softcap is not None, "DTYPE": _dtype(logits)}
    _launch(
        "label_forward", tiles.grid, logits.device,
        logits, labels, flags, weights, outputs[0], *optional, parts,
        layout.rows, layout.inner, layout.classes, tiles.steps, *layout.strides[0], *numbers[:2],
        **shared, SPLIT=tiles.splits > 1, **tiles.options,
    )  # fmt: skip
    if tiles.splits > 1:
        _launch(
            "label_merge", (layout.rows, 1), logits.device,
            logits, labels, flags, outputs[0], *optional, parts, statistics,
            layout.rows, tiles.splits, layout.inner, layout.classes, *layout.strides[0], *numbers[:2],
            **shared, SPLITS=_power_of_2(tiles.splits), num_warps=1,
        )  # fmt: skip
    return outputs


def empty_of_label(
    logits: Tensor, label: Tensor, with_others: bool, with_log_partition: bool, with_entropy: bool
) -> list[Tensor]:
    """Empty tensors for what `launch_label_forward` returns."""
    dtype = blocks.compute_dtype(logits)
    outputs = [
        logits.new_empty(label.shape, dtype=dtype) for _ in range(1 + with_others + with_log_partition + with_entropy)
    ]
    kept = 4 if with_entropy else 3 if with_others else 2
    return [*outputs, logits.new_empty((kept, label.numel()), dtype=dtype)]


def launch_label_backward(
    gradients: list[Tensor],
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    softcap: float | None,
    with_others: bool,
    with_log_partition: bool,
    with_entropy: bool,
    log_odds: Tensor,
    statistics: Tensor,
) -> Tensor:
    """The gradient [..., C] of the logits, given those of the outputs."""
    (logits,) = arranged(logits)
    gradient = like(logits)
    if logits.numel() == 0:
        return gradient
    layout = _layout(logits, gradient)
    tiles = tiles_of(layout, logits.dtype, backward=True, is_heavy=False)
    rest = iter(gradients[1:])
    wanted = with_others, with_log_partition, with_entropy
    optional = [next(rest).contiguous() if is_wanted else None for is_wanted in wanted]
    _launch(
        "label_backward", tiles.grid, logits.device,
        logits, gradient, label.contiguous(), _flags(counts), _weights(class_weight), log_odds, statistics,
        gradients[0].contiguous(), *optional,
        layout.rows, layout.inner, layout.classes, tiles.steps, *layout.strides[0], *layout.strides[1],
        *_numbers(temperature, softcap),
        CAP=softcap is not None, DTYPE=_dtype(logits), **tiles.options,
    )  # fmt: skip
    return gradient


def launch_distribution_forward(
    logits: Tensor, masses: Tensor, counts: Tensor | None, temperature: float
) -> list[Tensor]:
    """sum_c m_c (-log p_c) [...], and the sums that the gradient needs."""
    logits, masses = arranged(logits, masses)
    losses, sums = outputs = empty_of_distribution(logits)
    if logits.numel() == 0:
        return outputs
    layout = _layout(logits, masses)
    tiles = tiles_of(layout, logits.dtype, backward=False, is_heavy=True)
    parts = sums.new_empty((5, layout.rows, tiles.splits)) if tiles.splits > 1 else sums
    flags, rate, dtype = _flags(counts), _numbers(temperature, None)[0], _dtype(logits)
    _launch(
        "distribution_forward", tiles.grid, logits.device,
        logits, masses, flags, losses, parts,
        layout.rows, layout.inner, layout.classes, tiles.steps, *layout.strides[0], *layout.strides[1], rate,
        SPLIT=tiles.splits > 1, DTYPE=dtype, **tiles.options,
    )  # fmt: skip
    if tiles.splits > 1:
        _launch(
            "distribution_merge", (layout.rows, 1), logits.device,
            flags, losses, parts, sums, layout.rows, tiles.splits, rate,
            SPLITS=_power_of_2(tiles.splits), DTYPE=dtype, num_warps=1,
        )  # fmt: skip
    return outputs


def empty_of_distribution(logits: Tensor) -> list[Tensor]:
    """Empty tensors for what `launch_distribution_forward` returns."""
    losses = logits.new_empty(logits.shape[:-1], dtype=blocks.compute_dtype(logits))
    return [losses, losses.new_empty((4, losses.numel()))]


def launch_distribution_backward(
    of_losses: Tensor, logits: Tensor, masses: Tensor, counts: Tensor | None, temperature: float, sums: Tensor
) -> Tensor:
    """The gradient [..., C] of the logits, given that of the losses."""
    logits, masses = arranged(logits, masses)
    gradient = like(logits)
    if logits.numel() == 0:
        return gradient
    layout = _layout(logits, masses, gradient)
    tiles = tiles_of(layout, logits.dtype, backward=True, is_heavy=False)
    rate, _, factor = _numbers(temperature, None)
    _launch(
        "distribution_backward", tiles.grid, logits.device,
        logits, masses, gradient, _flags(counts), sums, of_losses.contiguous(),
        layout.rows, layout.inner, layout.classes, tiles.steps,
        *layout.strides[0], *layout.strides[1], *layout.strides[2], rate, factor,
        DTYPE=_dtype(logits), **tiles.options,
    )  # fmt: skip
    return gradient


def _layout(*tensors: Tensor) -> Layout:
    layout = layout_of(*tensors)
    if layout is None:
        raise RuntimeError(f"tensors have no common layout: strides {[tensor.stride() for tensor in tensors]}")
    return layout


def _launch(name: str, grid: tuple[int, int], device: torch.device, *arguments: Any, **options: Any) -> None:
    from lightning_xent.kernels import triton_code

    # Another current device would make Triton refuse the pointers.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        getattr(triton_code, name)[grid](*arguments, **options, enable_fp_fusion=True)


def _numbers(temperature: float, softcap: float | None) -> list[int]:
    """What multiplies a distance, the input of tanh, and a slope: the bits of float64 numbers, as Triton takes them.

    With a softcap, cap * tanh(x / (cap * T)), the distances are those of tanh, at temperature 1 / cap.
    """
    rate = 1 / temperature if softcap is None else softcap
    bound = 1.0 if softcap is None else 1 / (softcap * temperature)
    return [struct.unpack("<q", struct.pack("<d", number))[0] for number in (rate, bound, 1 / temperature)]


def _flags(counts: Tensor | None) -> Tensor | None:
    return None if counts is None else counts.contiguous().view(torch.uint8)


def _weights(class_weight: Tensor | None) -> Tensor | None:
    return None if class_weight is None or class_weight.ndim == 0 else class_weight.contiguous()


def _dtype(logits: Tensor) -> Any:
    import triton.language as tl

    return tl.float64 if logits.dtype == torch.float64 else tl.float32


def _power_of_2(number: int) -> int:
    """The smallest power of 2 that is not below a number > 0."""
    return 1 << (number - 1).bit_length()


# torch.compile sees each launch as one operation that it does not look into.
LABEL = (
    "Tensor logits, Tensor label, Tensor? counts, Tensor? class_weight, float temperature, float? softcap, "
    "bool with_others, bool with_log_partition, bool with_entropy"
)
DISTRIBUTION = "Tensor logits, Tensor masses, Tensor? counts, float temperature"


def _operation(name: str, schema: str, launch: Callable[..., Any], empty: Callable[..., Any]) -> None:
    """Register a launch, and what returns empty tensors like its results, as torch.ops.crossent.NAME."""
    operation = torch.library.custom_op(f"crossent::{name}", launch, mutates_args=(), schema=schema)
    operation.register_fake(empty)


def _empty_label(logits: Tensor, label: Tensor, counts: Any, class_weight: Any, *options: Any) -> list[Tensor]:
    return empty_of_label(logits, label, *options[2:])


def _empty_distribution(logits: Tensor, *others: Any) -> list[Tensor]:
    return empty_of_distribution(logits)


def _empty_gradient(gradients: Any, logits: Tensor, *others: Any) -> Tensor:
    (logits,) = arranged(logits)
    return like(logits)


_operation("label_forward", f"({LABEL}) -> Tensor[]", launch_label_forward, _empty_label)
_operation(
    "label_backward",
    f"(Tensor[] gradients, {LABEL}, Tensor log_odds, Tensor statistics) -> Tensor",
    launch_label_backward,
    _empty_gradient,
)
_operation("distribution_forward", f"({DISTRIBUTION}) -> Tensor[]", launch_distribution_forward, _empty_distribution)
_operation(
    "distribution_backward",
    f"(Tensor of_losses, {DISTRIBUTION}, Tensor sums) -> Tensor",
    launch_distribution_backward,
    _empty_gradient,
)
