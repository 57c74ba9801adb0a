"""The kernels in torch: for class indices, for distributions, and for any elementwise or rowwise function.

F.cross_entropy needs three more tensors as large as the logits, and spends much of its time on their fresh pages. Here
a block of rows stays in the cache until it is done. What the gradient needs is kept in the memory of that gradient, as
a saved tensor, which checkpoints and offloading see. On CUDA these are plain operations; nothing calls a compiler.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

Function = Callable[..., Tensor]

BLOCK = 1 << 18
"""Elements of one block: 1 MiB in float32, which fits into a second-level cache."""


def applies(logits: Tensor, *constants: Tensor) -> bool:
    """Whether the kernel accepts these logits, and constants, which get no gradient.

    It accepts none under traces, transforms and forward derivatives.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch._C._are_functorch_transforms_active()
        and type(logits) is Tensor
        and logits.device.type in ("cpu", "cuda")
        and not any(_has_tangent(tensor) for tensor in (logits, *constants))
        and not any(constant.requires_grad for constant in constants)
    )


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor of a subclass that only adds attributes, as in MONAI and fastai, as a plain tensor.

    Subclasses that compute differently, such as distributed and fake tensors, are returned unchanged.
    """
    kind = type(tensor)
    if torch.compiler.is_compiling() or kind is Tensor or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is not of a subclass, which may hold its values elsewhere."""
    return type(tensor) is Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor holds all of its entries, one after the other."""
    return tensor.layout == torch.strided


def on_cpu(values: Any) -> Tensor:
    """Return an array as a tensor on the CPU, for any device of the loss."""
    return torch.as_tensor(values, device="cpu")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def now(function: Callable[[str], None], text: str) -> None:
    """Call a function right here, while torch.compile traces."""
    function(text)


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


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
        class_weight = torch.ones((), dtype=_compute_dtype(logits), device=logits.device)
    log_odds, others = _apply(logits, label, counts, class_weight, temperature)
    return log_odds, others


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C], which get no gradient."""
    losses: Tensor = _OfDistribution.apply(logits, masses, temperature, _keeps(logits))  # type: ignore[no-untyped-call]
    return losses


def elementwise(function: Function, slope: Function | None, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others), elementwise in x [...]; the others get no gradient.

    slope(x, *others) is the derivative in x. If it is None, automatic differentiation computes it with the values.
    """
    if x.numel() <= BLOCK or not x.is_contiguous() or x.is_cuda:
        return function(x, *others)
    others = tuple(other.expand_as(x) for other in others)
    if x.ndim == 1:  # one row, which blocks cannot split
        return elementwise(function, slope, x.unsqueeze(-1), *(other.unsqueeze(-1) for other in others)).squeeze(-1)
    values: Tensor = _Blockwise.apply(function, slope, x.shape, _keeps(x), x, *others)  # type: ignore[no-untyped-call]
    return values


def rowwise(function: Function, x: Tensor, *others: Tensor) -> Tensor:
    """function(x, *others) [...], row by row, of x [..., C]. The others, [...] or [..., C], get no gradient."""
    if x.numel() <= BLOCK or x.is_cuda:
        return function(x, *others)
    values: Tensor = _Blockwise.apply(function, None, x.shape[:-1], _keeps(x), x, *others)  # type: ignore[no-untyped-call]
    return values


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


def _apply(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, ...]:
    outputs: tuple[Tensor, ...] = _OfLabel.apply(  # type: ignore[no-untyped-call]
        logits, label, counts, class_weight, temperature, _keeps(logits)
    )
    return outputs


def _keeps(logits: Tensor) -> bool:
    """Whether a gradient may be wanted, which needs more than the value."""
    return logits.requires_grad and torch.is_grad_enabled()


class _OfLabel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        label: Tensor,
        counts: Tensor | None,
        class_weight: Tensor | None,
        temperature: float,
        keeps: bool,
    ) -> tuple[Tensor, ...]:
        x = _class_axis_second(logits)  # [N, C, ...]
        rows = (x.shape[0], 1, *x.shape[2:])
        place = label.long().reshape(rows)
        counts = None if counts is None else counts.reshape(rows)
        ctx.is_clean = counts is not None and x.numel() <= BLOCK and not x.is_cuda
        if ctx.is_clean:  # a small copy takes less time than handling these rows
            x = torch.where(counts, x, 0.0)  # type: ignore[arg-type]
        # A half-precision tensor would round the exponentials, so they are computed again.
        exponentials = torch.empty_like(x) if keeps and x.dtype == _compute_dtype(x) and not x.is_cuda else None
        found = _blockwise_statistics(x, place, class_weight, temperature, exponentials)
        ctx.temperature, ctx.is_spent = temperature, False
        ctx.save_for_backward(logits, place, counts, class_weight, exponentials, *found)
        outputs = _outputs(found, None if ctx.is_clean else counts)
        return tuple(output.reshape(label.shape) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, place, counts, class_weight, kept, *found = ctx.saved_tensors
        x, temperature = _class_axis_second(logits), ctx.temperature
        statistics, is_plain = _Statistics(*found), _needs_plain_operations(gradients)
        if is_plain:
            x = x if counts is None else torch.where(counts, x, 0.0)
            statistics = _statistics(x, place, class_weight, temperature)
        elif ctx.is_clean:
            x, counts = torch.where(counts, x, 0.0), None
        slopes = _slopes(statistics, [gradient.reshape(place.shape) for gradient in gradients], counts, temperature)
        if is_plain:
            gradient = _gradient(x, place, counts, class_weight, temperature, statistics.peak, slopes)
        else:
            exponentials = _taken(ctx, kept)
            gradient = _blockwise_gradient(x, place, class_weight, temperature, statistics.peak, slopes, exponentials)
            # On CUDA the answer would need a synchronisation.
            if counts is not None and (x.is_cuda or not torch.isfinite(statistics.rivals).all()):
                gradient.masked_fill_(~counts, 0.0)
        return _class_axis_last(gradient, logits), None, None, None, None, None


class _OfDistribution(torch.autograd.Function):
    """Cross-entropy of distributions; all classes but the peak are summed separately, which is exact in the tail."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, masses: Tensor, temperature: float, keeps: bool) -> Tensor:
        peak, place = logits.max(-1, keepdim=True)
        shifted = _scaled(logits - peak, temperature)  # [..., C]
        distance = -(masses * shifted).sum(-1, keepdim=True)
        if distance.is_cuda or not torch.isfinite(distance.sum()):  # on CUDA the answer would need a synchronisation
            is_absent = (masses == 0) & torch.isinf(shifted)
            distance = -torch.where(is_absent, 0.0, masses * shifted).sum(-1, keepdim=True)
        of_peak = shifted.gather(-1, place)  # 0, or NaN if the peak is infinite, which must reach the sum
        exponentials = shifted.exp_().scatter_(-1, place, of_peak)
        rest, mass = exponentials.sum(-1, keepdim=True), masses.sum(-1, keepdim=True)
        if keeps:
            ctx.temperature, ctx.is_spent = temperature, False
            ctx.save_for_backward(logits, masses, place, rest, mass, exponentials)
        return (distance + mass * rest.log1p()).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        logits, masses, place, rest, mass, kept = ctx.saved_tensors
        taken = None if _needs_plain_operations([gradient]) else _taken(ctx, kept)
        is_peak = place == torch.arange(logits.shape[-1], device=logits.device)
        if taken is None:
            shifted = _scaled(logits - torch.where(is_peak, logits, 0.0).sum(-1, keepdim=True), ctx.temperature)
            exponentials = torch.where(is_peak, shifted.detach(), shifted.exp())
            rest = exponentials.sum(-1, keepdim=True)
        gradient = _scaled(gradient.unsqueeze(-1), ctx.temperature)
        share = mass * gradient / (1 + rest)  # mass * p of the peak, times the gradient
        # p - t of the peak is minus the sum of p - t of the others, which keeps its digits near certainty.
        lacking = torch.where(is_peak, 0.0, masses).sum(-1, keepdim=True)
        own = torch.where(rest < 1, gradient * lacking - share * rest, share - gradient * masses.gather(-1, place))
        if taken is None:
            return torch.where(is_peak, own, exponentials * share - masses * gradient), None, None, None
        result = taken.mul_(share).addcmul_(masses, gradient, value=-1.0).scatter_(-1, place, own)
        return result, None, None, None


class _Blockwise(torch.autograd.Function):
    """A function and its derivative, block by block, so that intermediate results stay in the cache."""

    @staticmethod
    def forward(
        ctx: Any, function: Function, slope: Function | None, shape: torch.Size, keeps: bool, x: Tensor, *others: Tensor
    ) -> Tensor:
        values, kept = x.new_empty(shape), None
        if keeps and slope is None:
            kept = x.new_empty(x.shape)
            for value, slopes, part, *rest in _parts(x, values, kept, x, *others):
                found = _derivative(function, part.detach().requires_grad_(), rest, torch.ones_like(value))
                value.copy_(found[0])
                slopes.copy_(found[1])
        else:
            for value, *parts in _parts(x, values, x, *others):
                value.copy_(function(*parts))
        if keeps:
            ctx.function, ctx.slope, ctx.is_spent = function, slope, False
            ctx.save_for_backward(kept, x, *others)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, x, *others = ctx.saved_tensors
        is_plain = _needs_plain_operations([gradient])
        slopes = None if is_plain else _taken(ctx, kept)
        if is_plain or (slopes is None and ctx.slope is None):
            _, result = _derivative(ctx.function, x, others, gradient, create_graph=torch.is_grad_enabled())
        elif slopes is not None:
            result = slopes.mul_(gradient if gradient.ndim == x.ndim else gradient.unsqueeze(-1))
        else:
            result = x.new_empty(x.shape)
            for out, factor, *parts in _parts(x, result, gradient, x, *others):
                torch.mul(ctx.slope(*parts), factor, out=out)
        return None, None, None, None, result, *(None for _ in others)


def _taken(ctx: Any, kept: Tensor | None) -> Tensor | None:
    """Return the memory of a saved tensor for the gradient, once; None if there is none or it was already used.

    Autograd counts changes of saved tensors, and would refuse a second gradient of the same graph. That gradient
    computes what is lost again, so the change is hidden: `data` has its own count.
    """
    if kept is None or ctx.is_spent:
        return None
    ctx.is_spent = True
    return kept.data


def _derivative(
    function: Function, x: Tensor, others: Sequence[Tensor], gradient: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return function(x, *others), and its derivative in x times the `gradient` of the values."""
    with torch.enable_grad():
        values = function(x, *others)
    if not values.requires_grad:
        return values, torch.zeros_like(x)
    (slopes,) = torch.autograd.grad(values, x, gradient, create_graph=create_graph)
    return values, slopes


def _parts(x: Tensor, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Yield parts of the tensors [..., C] and [...] for whole rows of x [..., C], about BLOCK / 2 elements at a time.

    Half, because intermediate results need room in the cache too.
    """
    flat = [tensor.reshape((-1, tensor.shape[-1]) if tensor.ndim == x.ndim else -1) for tensor in tensors]
    rows = max(1, BLOCK // 2 // x.shape[-1])
    yield from map(list, zip(*(torch.split(tensor, rows) for tensor in flat), strict=True))


def _needs_plain_operations(gradients: Sequence[Tensor]) -> bool:
    """Whether a second derivative is wanted, or the gradients are batched by vmap, and each needs its own memory."""
    is_batched = torch._C._functorch.is_batchedtensor, torch._C._functorch.is_legacy_batchedtensor
    return torch.is_grad_enabled() or any(test(gradient) for test in is_batched for gradient in gradients)


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
        own, rivals, spread = own + share * own_logit.exp(), rivals + share, _scaled(gradients[1], temperature)
    if counts is not None:  # the statistics may be NaN
        own, rivals = torch.where(counts, own, 0.0), torch.where(counts, rivals, 0.0)
    return _Slopes(_scaled(own, temperature), _scaled(rivals, temperature), spread)


def _statistics(x: Tensor, place: Tensor, class_weight: Tensor | None, temperature: float) -> _Statistics:
    """The statistics of the rows, from operations that can be differentiated and compiled."""
    peak = x.detach().amax(1, keepdim=True).to(_compute_dtype(x))
    shifted = _scaled(x - peak, temperature)  # [N, C, ...]
    is_own = _is_own(place, x)
    own = torch.where(is_own, shifted, 0.0).sum(1, keepdim=True)
    rivals = torch.where(is_own, 0.0, shifted.exp()).sum(1, keepdim=True)
    spread = weight = None
    if class_weight is not None:
        spread = -_weighted(torch.where(is_own, 0.0, shifted), class_weight).sum(1, keepdim=True)
        weight = _weight_of_others(x, place, class_weight)
    return _Statistics(peak, own, rivals, spread, weight)


def _gradient(
    x: Tensor,
    place: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    peak: Tensor,
    slopes: _Slopes,
) -> Tensor:
    """The gradient [N, C, ...], from operations that can be differentiated and compiled."""
    gradient = _scaled(x - peak, temperature).exp() * slopes.rivals
    if class_weight is not None and slopes.spread is not None:
        gradient = gradient - _along_classes(class_weight, x) * slopes.spread
    gradient = torch.where(_is_own(place, x), slopes.own, gradient)
    return (gradient if counts is None else torch.where(counts, gradient, 0.0)).to(x.dtype)


def _blockwise_statistics(
    x: Tensor, place: Tensor, class_weight: Tensor | None, temperature: float, exponentials: Tensor | None
) -> _Statistics:
    """`_statistics`; writes the exponentials of all classes but the label into `exponentials` [N, C, ...]."""
    weight = None if class_weight is None else _weight_of_others(x, place, class_weight)
    if _is_one_block(x):
        return _Statistics(*_statistics_of_block(x, place, class_weight, temperature, exponentials), weight)
    peak, own, rivals, spread = (x.new_empty(place.shape, dtype=_compute_dtype(x)) for _ in range(4))
    for block in _blocks(x):
        out = None if exponentials is None else exponentials[block]
        found = _statistics_of_block(x[block], place[block], class_weight, temperature, out)
        peak[block], own[block], rivals[block] = found[:3]
        if found[3] is not None:
            spread[block] = found[3]
    return _Statistics(peak, own, rivals, None if class_weight is None else spread, weight)


def _statistics_of_block(
    x: Tensor, place: Tensor, class_weight: Tensor | None, temperature: float, exponentials: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    peak = x.amax(1, keepdim=True).to(_compute_dtype(x))
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
    """`_gradient`, in the memory of the `exponentials` if there are any."""
    if _is_one_block(x):
        part = _scaled(x - peak, temperature).exp_() if exponentials is None else exponentials
        return _gradient_of_block(part, x, place, class_weight, slopes).to(x.dtype)
    gradient = torch.empty_like(x) if exponentials is None else exponentials
    for block in _blocks(x):
        part = gradient[block]
        if exponentials is None:
            part = _scaled(torch.sub(x[block], peak[block]), temperature).exp_()
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


def _is_one_block(x: Tensor) -> bool:
    """Whether x is one block. It always is on CUDA, where few large kernels start faster than many small ones."""
    return x.numel() <= BLOCK or x.is_cuda


def _blocks(x: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield indices of parts of x [N, C, ...] with about BLOCK elements, and all classes of their rows."""
    count, classes, *inner = x.shape
    width = math.prod(inner)
    step = max(1, BLOCK // (classes * width))
    columns = max(1, BLOCK // classes) if step == 1 and inner else width
    for first in range(0, count, step):
        for column in range(0, width, columns):
            rest = (slice(None), slice(column, column + columns)) if inner else ()
            yield (slice(first, first + step), *rest)


def _class_axis_second(logits: Tensor) -> Tensor:
    """Logits [..., C] as [N, C], or as [N, C, M] if they lie in memory that way."""
    if _lies_with_class_axis_second(logits):
        return logits.movedim(-1, 1).flatten(2)
    return logits if logits.ndim == 2 else logits.reshape(-1, logits.shape[-1])


def _class_axis_last(gradient: Tensor, logits: Tensor) -> Tensor:
    """The inverse of `_class_axis_second`, for the gradient of `logits`."""
    if _lies_with_class_axis_second(logits):
        return gradient.reshape(*gradient.shape[:2], *logits.shape[1:-1]).movedim(1, -1)
    return gradient if logits.ndim == 2 else gradient.reshape(logits.shape)


def _lies_with_class_axis_second(logits: Tensor) -> bool:
    return logits.ndim > 2 and not logits.is_contiguous() and logits.movedim(-1, 1).is_contiguous()


def _is_own(place: Tensor, x: Tensor) -> Tensor:
    """Whether each class of x [N, C, ...] is the label."""
    return place == _along_classes(torch.arange(x.shape[1], device=x.device), x)


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
    return (before + after).to(_compute_dtype(x))[place]


def _scaled(value: Tensor, temperature: float) -> Tensor:
    return value if temperature == 1.0 else value / temperature


def _along_classes(values: Tensor, x: Tensor) -> Tensor:
    """Values [C] or [] in a shape that broadcasts against x [N, C, ...]."""
    return values if values.ndim == 0 else values.reshape(-1, *(1,) * (x.ndim - 2))


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
