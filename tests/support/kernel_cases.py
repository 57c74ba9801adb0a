"""Cases of the Triton kernels, on any device, beside formulas in extended precision. Needs torch and NumPy alone.

Gradients are those of sums with random factors, one for each output and row. An entry may be off by 512 eps of the sum
of the absolute values of its terms, and by one rounding to the dtype of the logits.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_xent.kernels import cuda

ALL = ("others", "log_partition", "entropy")
wide = np.longdouble


class Case(NamedTuple):
    """Logits [..., C], how they lie in memory, and what is wanted of them."""

    name: str
    shape: tuple[int, ...]
    lies: str = "last"
    dtype: torch.dtype = torch.float32
    wanted: tuple[str, ...] = ()
    temperature: float = 1.0
    softcap: float | None = None
    weights: bool = False
    ignored: bool = False
    lead: float | None = None
    shift: float = 0.0
    label_dtype: torch.dtype = torch.int64


F16, B16, F64 = torch.float16, torch.bfloat16, torch.float64
OPTIONS: dict[str, Any] = {"wanted": ALL, "temperature": 0.625, "softcap": 3.0, "weights": True, "ignored": True}
LONG, SHORT, MANY = (3, 9000), (37, 100), (2, 5, 7, 19)
LABELS = [
    *(Case(f"{name} {dtype}", shape, lies, dtype) for name, shape, lies in [
        ("long", LONG, "last"), ("short", SHORT, "last"), ("many", MANY, "second"),
    ] for dtype in (torch.float32, B16, F16, F64)),
    *(Case(f"{name} {dtype} all", shape, lies, dtype, **OPTIONS) for name, shape, lies in [
        ("long", LONG, "last"), ("short", SHORT, "last"), ("many", MANY, "second"),
    ] for dtype in (torch.float32, B16, F64)),
    *(Case(f"{classes} classes", (5, classes), wanted=ALL) for classes in (1, 2, 3, 1000, 1023, 1024, 1025, 4097)),
    *(Case(f"{classes} classes second", (2, 3, classes), "second", wanted=ALL) for classes in (2, 17, 1030)),
    *(Case(f"{columns} positions", (2, columns, 19), "second", B16, ALL) for columns in (1, 8, 1030)),
    *(Case(f"{name} {lies}", shape, lies, B16, ("others",)) for name, shape, lies in [
        ("long", (2, 3, 2056), "all but the last row"), ("long", (6, 2000), "padded classes"),
        ("long", (6, 2001), "unaligned"), ("short", (4, 3, 40), "all but the last row"),
        ("short", (6, 50), "padded classes"), ("short", (6, 50), "unaligned"), ("short", (6, 50), "every other row"),
        ("many", (2, 9, 16), "all but the last class"), ("many", (2, 4, 6, 16), "all but the last column"),
        ("many", (30, 16), "transposed"), ("rows", (2, 3, 4, 16), "permuted"), ("one row", (12,), "last"),
        ("a broadcast row", (5, 12), "broadcast"), ("every other class", (5, 12), "every other class"),
    ]),
    *(Case(f"lead {lead:g} {name}", shape, lies, dtype, lead=lead) for lead in (20.0, 80.0, 1e4, -1e4)
      for name, shape, lies, dtype in [
        ("long", LONG, "last", torch.float32), ("short", SHORT, "last", torch.float32),
        ("many", MANY, "second", torch.float32), ("short in double", SHORT, "last", F64),
    ]),
    *(Case(f"lead {lead:g} all", SHORT, wanted=ALL, lead=lead) for lead in (20.0, 80.0, 1e4, -1e4)),
    *(Case(f"logits near 1000 {name}", shape, shift=1000.0, wanted=ALL) for name, shape in [
        ("long", LONG), ("short", SHORT),
    ]),
    *(Case(f"labels of {dtype}", SHORT, label_dtype=dtype) for dtype in (
        torch.uint8, torch.int8, torch.int16, torch.int32,
    )),
    Case("temperature 100", SHORT, temperature=100.0, wanted=ALL),
    Case("weights alone", LONG, weights=True, wanted=("others",)),
    Case("softcap alone", LONG, softcap=30.0),
    Case("entropy alone", LONG, wanted=("entropy",)),
    Case("log-partition alone", LONG, wanted=("log_partition",)),
]  # fmt: skip


def logits_of(case, device="cpu"):
    """Logits, as they lie in memory: [..., C]; and the generator of all else, which is one of the CPU."""
    *rows, classes = case.shape
    generator = torch.Generator().manual_seed(len(case.name))
    match case.lies:
        case "all but the last row":
            memory = (*rows[:-1], rows[-1] + 1, classes)
        case "padded classes":
            memory = (*rows, classes + 6)
        case "unaligned":
            memory = (*rows, classes + 1)
        case "every other row":
            memory = (2 * rows[0], classes)
        case "every other class":
            memory = (*rows, 2 * classes)
        case "broadcast":
            memory = (1, classes)
        case "second":
            memory = (rows[0], classes, *rows[1:])
        case "all but the last class":
            memory = (rows[0], classes + 1, *rows[1:])
        case "all but the last column":
            memory = (rows[0], classes, *rows[1:-1], rows[-1] + 1)
        case "transposed":
            memory = (classes, *rows)
        case "permuted":
            memory = (*reversed(rows), classes)
        case _:
            memory = case.shape
    x = (3 * torch.randn(memory, generator=generator, dtype=torch.float64) + case.shift).to(device, case.dtype)
    match case.lies:
        case "all but the last row":
            x = x[..., :-1, :]
        case "padded classes":
            x = x[..., :classes]
        case "unaligned":
            x = x[..., 1:]
        case "every other row":
            x = x[::2]
        case "every other class":
            x = x[:, ::2]
        case "broadcast":
            x = x.expand(case.shape)
        case "second" | "transposed":
            x = x.movedim(1, -1) if case.lies == "second" else x.t()
        case "all but the last class":
            x = x[:, :-1].movedim(1, -1)
        case "all but the last column":
            x = x[..., :-1].movedim(1, -1)
        case "permuted":
            x = x.permute(*reversed(range(len(rows))), len(rows))
    assert x.shape == case.shape
    return x, generator


def label_reference(x, label, weight, temperature, softcap):
    """The outputs of rows, the slopes [..., C] of each, and the sum of the absolute values of their terms."""
    x, is_own = x.astype(wide), label[..., None] == np.arange(x.shape[-1])
    temperature = wide(temperature)
    slope_of_cap = wide(1)
    if softcap is not None:
        tanh = np.tanh(x / (softcap * temperature))
        x, slope_of_cap = softcap * temperature * tanh, 1 - tanh**2
    x, slope_of_cap = x / temperature, slope_of_cap / temperature
    of_rivals = logsumexp(np.where(is_own, -np.inf, x))
    of_all = logsumexp(x)
    log_p = x - of_all[..., None]
    p, rival = np.exp(log_p), np.where(is_own, 0, np.exp(x - of_rivals[..., None]))
    weight = np.where(is_own, 0, weight)
    entropy = -np.where(p == 0, 0, p * log_p).sum(-1)
    values = {
        "log_odds": np.where(is_own, x, 0).sum(-1) - of_rivals,
        "others": -np.where(weight == 0, 0, weight * log_p).sum(-1),
        "log_partition": of_all,
        "entropy": entropy,
    }
    total = weight.sum(-1)[..., None]
    entropy = entropy[..., None]
    slopes = {
        "log_odds": (is_own - rival, is_own + rival),
        "others": (total * p - weight, total * p + weight),
        "log_partition": (p, p),
        "entropy": (-p * (log_p + entropy), p * (abs(log_p) + entropy)),
    }
    return values, {name: [part * slope_of_cap for part in parts] for name, parts in slopes.items()}


def logsumexp(x):
    peak = x.max(-1, keepdims=True)
    peak = np.where(np.isinf(peak), 0, peak)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - peak).sum(-1)) + peak[..., 0]


def numbers_of(tensor):
    """A tensor as NumPy's array: of float64 if it is one of floats."""
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def check(got, want, terms, what):
    """Whether `got` is `want` within 512 eps of `terms`, and one rounding to its dtype."""
    compute = torch.float64 if got.dtype == torch.float64 else torch.float32
    floor = max(1e-30, torch.finfo(got.dtype).smallest_normal * torch.finfo(got.dtype).eps)
    allowed = 512 * torch.finfo(compute).eps * terms + torch.finfo(got.dtype).eps * abs(want) + floor
    found = numbers_of(got).astype(wide)
    with np.errstate(invalid="ignore"):
        is_same = (found == want) | (abs(found - want) <= allowed)
    assert is_same.all(), (what, np.argwhere(~is_same)[:5], found[~is_same][:5], want[~is_same][:5])


def check_labels(case, x, label, counts, weight):
    """Whether the outputs and the gradient of labels are right, on the device of the logits x."""
    rows, classes = x.shape[:-1], x.shape[-1]
    wanted = {name: name in case.wanted for name in ALL}
    leaf = x.detach().requires_grad_()
    found = cuda.of_label(leaf, label.to(case.label_dtype), counts, weight, case.temperature, case.softcap, **wanted)
    factors = [torch.linspace(0.25, 1.0, label.numel(), dtype=value.dtype).reshape(rows).to(value) for value in found]
    (gradient,) = torch.autograd.grad(found, leaf, factors)

    clean = torch.where(counts[..., None], x, 0) if counts is not None else x
    numbers = np.ones(classes) if weight is None else numbers_of(weight)
    arguments = numbers_of(label), numbers.astype(wide), case.temperature, case.softcap
    with np.errstate(invalid="ignore", divide="ignore"):
        values, slopes = label_reference(numbers_of(clean), *arguments)
    kept = np.ones(rows, bool) if counts is None else numbers_of(counts)
    want, terms = np.zeros(x.shape, wide), np.zeros(x.shape, wide)
    names = ["log_odds", *(name for name in ALL if wanted[name])]
    for name, value, factor in zip(names, found, factors, strict=True):
        # A weighted sum of surprises has terms of either sign around the log-partition.
        check(value, np.where(kept, values[name], 0), np.maximum(1, abs(values[name])), name)
        slope, size = slopes[name]
        with np.errstate(invalid="ignore"):
            want += numbers_of(factor)[..., None].astype(wide) * np.where(np.isnan(slope), 0, slope)
            terms += numbers_of(factor)[..., None].astype(wide) * np.where(np.isnan(size), 0, size)
    check(gradient, np.where(kept[..., None], want, 0), terms, "gradient")
    assert gradient.dtype == x.dtype
    if counts is not None:
        assert (gradient[~counts] == 0).all()


def run_labels(case, device="cpu"):
    """Check a case of LABELS."""
    x, generator = logits_of(case, device)
    rows, classes = case.shape[:-1], case.shape[-1]
    label = torch.randint(min(classes, 100), rows, generator=generator).to(device)
    label.view(-1)[-1] = min(classes, 100) - 1
    if case.lead is not None:
        rival = x.scatter(-1, label[..., None], -torch.inf).amax(-1, keepdim=True)
        x.scatter_(-1, label[..., None], rival + case.lead)
    counts = weight = None
    if case.ignored:
        counts = torch.rand(rows, generator=generator).to(device) > 0.4
        counts.view(-1)[0], counts.view(-1)[1] = False, True
        x[~counts] = torch.nan
        label[~counts] = -100
    if case.weights:
        dtype = torch.float64 if case.dtype == F64 else torch.float32
        weight = torch.rand(classes, generator=generator, dtype=dtype).to(device)
        weight[::3] = 0
    check_labels(case, x, label, counts, weight)


# ---- Distributions


DISTRIBUTIONS = [
    *(Case(f"{name} {dtype}", shape, lies, dtype, temperature=0.625) for name, shape, lies in [
        ("long", LONG, "last"), ("short", SHORT, "last"), ("many", MANY, "second"),
    ] for dtype in (torch.float32, B16, F16, F64)),
    *(Case(f"{name} ignored", shape, lies, ignored=True) for name, shape, lies in [
        ("long", LONG, "last"), ("short", SHORT, "last"), ("many", MANY, "second"),
    ]),
    *(Case(f"{classes} classes", (5, classes)) for classes in (1, 2, 3, 1024, 1025)),
    *(Case(lies, (2, 3, 4, 16), lies, B16) for lies in [
        "all but the last row", "padded classes", "unaligned", "all but the last class", "all but the last column",
        "permuted",
    ]),
    *(Case(f"lead {lead:g} {name}", shape, lies, dtype, lead=lead) for lead in (20.0, 80.0, 1e4, -1e4)
      for name, shape, lies, dtype in [
        ("long", LONG, "last", torch.float32), ("short", SHORT, "last", torch.float32),
        ("many", MANY, "second", torch.float32), ("short in double", SHORT, "last", F64),
    ]),
]  # fmt: skip


def check_distributions(case, x, masses, counts):
    """Whether the losses and the gradient of distributions are right, on the device of the logits x."""
    leaf = x.detach().requires_grad_()
    found = cuda.of_distribution(leaf, masses, counts, case.temperature)
    factor = torch.linspace(0.25, 1.0, found.numel(), dtype=found.dtype).reshape(found.shape).to(found)
    (gradient,) = torch.autograd.grad(found, leaf, factor)

    kept = np.ones(found.shape, bool) if counts is None else numbers_of(counts)
    scaled = np.where(kept[..., None], numbers_of(x), 0).astype(wide) / wide(case.temperature)
    t = numbers_of(masses).astype(wide)
    is_peak = np.arange(x.shape[-1]) == scaled.argmax(-1)[..., None]
    distance = scaled.max(-1, keepdims=True) - scaled
    with np.errstate(invalid="ignore"):
        exponential = np.where(is_peak, 0, np.exp(-distance))
    rest = exponential.sum(-1, keepdims=True)
    surprise = np.where(t == 0, 0, distance + np.log1p(rest))
    check(found, np.where(kept, (t * surprise).sum(-1), 0), (t * surprise).sum(-1), "losses")
    total, p = t.sum(-1, keepdims=True), np.where(is_peak, 1, exponential) / (1 + rest)
    below = np.where(is_peak, 0, t).sum(-1, keepdims=True)
    # Of the peak, without 1 - p: total * p - t = below - total * (1 - p).
    slope = np.where(is_peak, below - total * rest / (1 + rest), total * p - t)
    size = np.where(is_peak, below + total * rest / (1 + rest), total * p + t)
    scale = numbers_of(factor)[..., None].astype(wide) / wide(case.temperature)
    check(gradient, np.where(kept[..., None], slope * scale, 0), size * scale, "gradient")


def run_distributions(case, device="cpu"):
    """Check a case of DISTRIBUTIONS."""
    x, generator = logits_of(case, device)
    dtype = torch.float64 if case.dtype == F64 else torch.float32
    masses = torch.rand(case.shape, generator=generator, dtype=dtype).to(device)
    masses = torch.where(masses < 0.3, 0, masses)
    if case.lead is not None:  # one-hot
        label = torch.randint(case.shape[-1], case.shape[:-1], generator=generator).to(device)[..., None]
        rival = x.scatter(-1, label, -torch.inf).amax(-1, keepdim=True)
        x.scatter_(-1, label, rival + case.lead)
        masses = torch.zeros_like(masses).scatter_(-1, label, 1.0)
    counts = None
    if case.ignored:
        counts = torch.rand(case.shape[:-1], generator=generator).to(device) > 0.4
        x[~counts], masses[~counts] = torch.nan, torch.nan
        masses = masses.where(counts[..., None], 0)
    check_distributions(case, x, masses, counts)
