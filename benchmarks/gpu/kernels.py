"""The outputs of rows by the kernels of lightning_xent, or by its plain operations where Triton is missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_xent.kernels import cuda

WANTED = ("others", "log_partition", "entropy")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"others": True},
    "smoothing, weights": {"others": True, "weights": True},
    "z-loss": {"log_partition": True},
    "entropy": {"entropy": True},
    "softcap": {"softcap": 30.0},
    "half of the rows ignored": {"ignored": 0.5},
    "all": {**dict.fromkeys(WANTED, True), "softcap": 30.0, "temperature": 0.7, "weights": True, "ignored": 0.5},
    "soft targets": {"soft": True},
}


@dataclass(frozen=True)
class Inputs:
    """Logits [..., C] whose gradient is wanted, and what belongs to them."""

    x: Tensor
    target: Tensor
    counts: Tensor | None
    weight: Tensor | None
    options: dict[str, Any]

    @classmethod
    def of(cls, shape: tuple[int, ...], option: str, dtype: torch.dtype, device: str) -> "Inputs":
        """Make inputs: the classes of a shape of rank 2 are last, those of others second."""
        generator = torch.Generator(device).manual_seed(0)
        options = OPTIONS[option]
        x = torch.randn(shape, generator=generator, device=device, dtype=dtype).movedim(1, -1)
        rows, classes = x.shape[:-1], x.shape[-1]
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        counts = weight = None
        if "soft" in options:
            target = x.softmax(-1, wide).to(dtype)
        else:
            target = torch.randint(classes, rows, generator=generator, device=device)
        if "ignored" in options:
            counts = torch.rand(rows, generator=generator, device=device) >= options["ignored"]
        if "weights" in options:
            weight = 0.5 + torch.rand(classes, generator=generator, device=device, dtype=wide)
        return cls(x.requires_grad_(), target, counts, weight, options)

    def outputs(self) -> Sequence[Tensor]:
        """Compute the outputs of all rows."""
        has_kernels, temperature = cuda.runs_on(self.x.device), self.options.get("temperature", 1.0)
        if "soft" in self.options:
            shared = self.x, self.target, self.counts, temperature
            return ((cuda.of_distribution if has_kernels else cuda.plain_of_distribution)(*shared),)
        given = self.x, self.target, self.counts, self.weight, temperature, self.options.get("softcap")
        wanted = {name: name in self.options for name in WANTED}
        return cuda.of_label(*given, **wanted) if has_kernels else cuda.plain_of_label(*given, *wanted.values())

    def backward(self) -> Callable[[], tuple[Tensor, ...]]:
        """Compute the outputs once; what is returned computes the gradient of their sum."""
        outputs = self.outputs()
        ones = [torch.ones_like(output) for output in outputs]
        return lambda: torch.autograd.grad(outputs, self.x, ones, retain_graph=True)

    @property
    def read(self) -> int:
        """The bytes that the forward pass has to read."""
        is_read = 1.0 if self.counts is None else float(self.counts.float().mean())
        return int(self.x.nbytes * is_read) + (self.target.nbytes if "soft" in self.options else 0)


def tiny(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape for a dry run, which takes kernels of the same kind."""
    if len(shape) > 2:
        return (2, 3, 4, 4)
    rows, classes = shape
    return min(2, rows), classes if classes < 100 else 20 if classes <= 1024 else 1040 + classes % 16
