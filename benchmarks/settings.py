"""What to measure: backends, losses, sizes, and which of them go together."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

BACKENDS = ("torch", "keras-tensorflow", "keras-jax", "keras-torch")
KERAS_LOSSES = ("cross_entropy", "focal")
LOSSES = (
    "cross_entropy",
    "label_smoothing",
    "weighted_ignored",
    "soft_target",
    "focal",
    "poly",
    "generalized",
    "binary_cross_entropy",
    "binary_label_smoothing",
    "binary_focal",
)
DTYPES = {"float32": 1e-4, "bfloat16": 3e-2}
"""How far a peer may be from our value and gradient, relative: in bfloat16 some peers round every step to 8 bits."""

REUSED = "memory reused"
"""The second condition of torch on the CPU, in its mode."""

MANY_LABELS = 1000
"""Binary losses are elementwise: sizes with more labels would tell the same once more."""

HUGE = 2**28
"""From this number of logits on, only cross-entropy: some peers hold ten times the logits."""

SCALING_CLASSES = (10**3, 10**4, 10**5, 10**6)


@dataclass(frozen=True)
class Size:
    """Shape of the logits, rows x classes, or batch x positions x classes."""

    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read a size such as 512x32000.

        Raises:
            ValueError: Anything else.
        """
        numbers = text.split("x")
        if len(numbers) not in (2, 3) or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise ValueError(f"must be rows x classes or batch x positions x classes, as 512x32000, got {text!r}")
        if int(numbers[-1]) < 2:
            raise ValueError(f"must have at least 2 classes, got {text!r}")
        return cls(tuple(map(int, numbers)))

    def __str__(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def classes(self) -> int:
        return self.shape[-1]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


DEFAULT_SIZES = {
    "cpu": ("128x10", "4096x1000", "512x32000", "256x128256", "8x64x32000"),
    "cuda": ("128x10", "4096x1000", "512x32000", "256x128256", "8x64x32000", "8192x128256"),
}
DEFAULT_DTYPES = {"cpu": ("float32",), "cuda": ("bfloat16", "float32")}
DEFAULT_BACKENDS = {"cpu": BACKENDS, "cuda": ("torch",)}


def applies(loss: str, size: Size, backend: str) -> bool:
    """Return whether `loss` is measured at `size` on `backend`."""
    if backend != "torch" and loss not in KERAS_LOSSES:
        return False
    if loss.startswith("binary"):
        return len(size.shape) == 2 and size.classes <= MANY_LABELS
    if size.elements >= HUGE:
        return loss == "cross_entropy"
    # Rank 3 asks what another class axis costs, which no curve changes; on Keras focal has a peer of its own there.
    return len(size.shape) == 2 or loss == "cross_entropy" or backend != "torch"


@dataclass(frozen=True)
class Plan:
    """What one process measures."""

    backend: str
    device: str
    losses: tuple[str, ...]
    sizes: tuple[str, ...]
    dtypes: tuple[str, ...]
    repeat: int
    scaling_elements: int
    profile: bool
    memory_only: bool = False

    def settings(self) -> list[tuple[str, Size, list[str]]]:
        """Return dtype, size and losses of each set of inputs."""
        settings = []
        for dtype in self.dtypes:
            for size in map(Size.parse, self.sizes):
                if losses := [loss for loss in self.losses if applies(loss, size, self.backend)]:
                    settings.append((dtype, size, losses))
        return settings

    def scaling_sizes(self) -> list[Size]:
        """Return the sizes of the scaling run: more and more classes, the same number of logits."""
        shapes = [(self.scaling_elements // classes, classes) for classes in SCALING_CLASSES]
        return [Size(shape) for shape in shapes if shape[0] > 0]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Plan":
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
