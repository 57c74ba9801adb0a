"""Our losses and their peers in torch, on the CPU or on one GPU."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import machine, memory, torch_peers
from benchmarks.measure import Contender, Setting
from benchmarks.settings import Size
from benchmarks.torch_peers import IGNORED, IN_PLACE, Inputs

PACKAGES = ("torch", "torchvision", "timm", "monai", "kornia", "liger-kernel", "triton", "numpy")
IGNORED_SHARE = 0.1
COPIES = 20


def _unchanged(module: torch.nn.Module) -> torch.nn.Module:
    return module


class TorchSide:
    """The torch losses; `settings` gives one after the other, for the inputs of a size are large."""

    def __init__(self, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("argument --device: torch sees no GPU here, got 'cuda'")
        self.device = device

    def versions(self) -> dict[str, str]:
        found = machine.versions(PACKAGES) | {"threads": str(torch.get_num_threads())}
        return found | {"gpu": torch.cuda.get_device_name()} if self.device == "cuda" else found

    def synchronise(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def array(self, value: Tensor) -> Tensor:
        """Return what `measure.relative_difference` compares."""
        return value.detach().float()

    def settings(self, size: Size, dtype: str, losses: list[str]) -> Iterator[Setting]:
        logits = self._logits(size, dtype)
        for loss in losses:
            inputs = self._inputs(loss, logits)
            peers, missing = torch_peers.of(loss, inputs)
            contenders = [self._contender(peer.name, peer.function, logits, peer.note, peer.same) for peer in peers]
            yield Setting(loss, "eager", self._ours(loss, inputs), contenders, missing)
            if loss == "cross_entropy" and self.device == "cpu" and machine.has_compiler():
                (peer,) = torch_peers.compiled_cross_entropy(inputs)
                ours = self._ours(loss, inputs, lambda module: torch.compile(module, dynamic=False))
                yield Setting(loss, "compiled", ours, [self._contender(peer.name, peer.function, logits)], [])

    def copy_seconds_per_byte(self, size: Size, dtype: str) -> float | None:
        """Return the seconds for each byte that a copy of the logits reads or writes on the GPU; None on the CPU."""
        if self.device != "cuda":
            return None
        source = self._logits(size, dtype).detach()
        target = torch.empty_like(source)
        target.copy_(source)
        self.synchronise()
        start = time.perf_counter()
        for _ in range(COPIES):
            target.copy_(source)
        self.synchronise()
        return (time.perf_counter() - start) / COPIES / (2 * source.nbytes)

    def _logits(self, size: Size, dtype: str) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        logits = torch.randn(size.shape, generator=generator, device=self.device)
        return logits.to(getattr(torch, dtype)).requires_grad_()

    def _inputs(self, loss: str, logits: Tensor) -> Inputs:
        generator = torch.Generator().manual_seed(1)
        classes = logits.shape[-1]
        if loss.startswith("binary"):
            target = (torch.rand(logits.shape, generator=generator) < 0.5).to(logits.dtype)
        elif loss == "soft_target":
            target = torch.randn(logits.shape, generator=generator).softmax(-1).to(logits.dtype)
        else:
            target = torch.randint(classes, logits.shape[:-1], generator=generator)
        if loss == "weighted_ignored":
            target[torch.rand(target.shape, generator=generator) < IGNORED_SHARE] = IGNORED
        class_weight = (0.5 + torch.rand(classes, generator=generator)).tolist()
        return Inputs(logits, target.to(self.device), class_weight)

    def _ours(
        self, loss: str, inputs: Inputs, wrapped: Callable[[torch.nn.Module], Callable[..., Tensor]] = _unchanged
    ) -> Contender:
        name, loss_class, keywords = torch_peers.ours(loss, inputs.logits.dim())
        if loss == "weighted_ignored":
            keywords = keywords | {"class_weight": inputs.class_weight}
        module = wrapped(loss_class(**keywords))
        return self._contender(name, lambda logits: module(logits, inputs.target), inputs.logits)

    def _contender(
        self, name: str, function: Callable[[Tensor], Tensor], logits: Tensor, note: str = "", same: bool = True
    ) -> Contender:
        # Its content after the first call, the comparison, changes no time.
        own = logits.detach().clone().requires_grad_() if note == IN_PLACE else logits

        def call() -> tuple[Tensor, Tensor]:
            value = function(own)
            (gradient,) = torch.autograd.grad(value, own)
            return value, gradient

        measured = memory.torch_cuda if self.device == "cuda" else memory.torch_cpu
        return Contender(name, call, lambda: measured(call), note, same)
