"""What the losses aim at, and how far a run reached it; a target missed is reported, and fails nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.measure import Row
from benchmarks.settings import Size

MANY_CLASSES = 32000
OWN = "our cross-entropy"


@dataclass(frozen=True)
class Target:
    """A bound for some rows; the worst of them counts, which is that of the best peer."""

    text: str
    wanted: float
    rows: Callable[[Row], bool]
    number: Callable[[Row], float | None] = lambda row: row.ratio
    at_least: bool = True

    def worst(self, rows: Iterable[Row]) -> float | None:
        """Return the worst number of the rows that it is about; None without any."""
        numbers = [self.number(row) for row in rows if not row.scaling and self.rows(row)]
        measured = [number for number in numbers if number is not None]
        return None if not measured else min(measured) if self.at_least else max(measured)

    def met(self, number: float) -> bool:
        return number >= self.wanted if self.at_least else number <= self.wanted


def _is(row: Row, backend: str, *losses: str, mode: str = "", peer: str = "", classes: int = 0) -> bool:
    return (
        row.backend == backend
        and row.loss in losses
        and (not mode or row.mode == mode)
        and peer in row.peer
        and Size.parse(row.size).classes >= classes
    )


def _against_torch(loss: str) -> Callable[[Row], bool]:
    return lambda row: _is(row, "torch", loss, mode="eager", peer="F.cross_entropy", classes=MANY_CLASSES)


def _small(size: str) -> Callable[[Row], bool]:
    losses = ("cross_entropy", "label_smoothing", "weighted_ignored")
    return lambda row: row.size == size and _is(row, "torch", *losses, mode="eager", peer="F.")


def _keras(backend: str, mode: str, loss: str) -> Callable[[Row], bool]:
    return lambda row: _is(row, backend, loss, mode=mode, peer="Keras", classes=MANY_CLASSES)


CURVES = ("focal", "poly", "generalized")
CATEGORICAL = ("cross_entropy", "label_smoothing", "weighted_ignored", *CURVES)

TARGETS = (
    Target("torch: cross-entropy, 32000 classes or more", 1.6, _against_torch("cross_entropy")),
    Target("torch: with label smoothing, 32000 classes or more", 2.0, _against_torch("label_smoothing")),
    Target(
        "torch: with class weights and ignored rows, 32000 classes or more", 1.6, _against_torch("weighted_ignored")
    ),
    Target(
        "torch: focal, poly, GCE beside our own cross-entropy",
        1 / 1.1,
        lambda row: _is(row, "torch", *CURVES, peer=OWN),
    ),
    Target(
        "torch: focal, poly beside MONAI, kornia, timm",
        2.0,
        lambda row: _is(row, "torch", *CURVES) and row.peer != OWN,
    ),
    Target("torch: index labels, 4096x1000", 0.95, _small("4096x1000")),
    Target("torch: index labels, 128x10", 0.8, _small("128x10")),
    Target(
        "Keras on TensorFlow, graph: cross-entropy, 32000 classes or more",
        1.5,
        _keras("keras-tensorflow", "graph", "cross_entropy"),
    ),
    Target(
        "Keras on TensorFlow, XLA: cross-entropy, 32000 classes or more",
        0.95,
        _keras("keras-tensorflow", "XLA", "cross_entropy"),
    ),
    Target(
        "Keras on TensorFlow, graph: focal, 32000 classes or more", 3.0, _keras("keras-tensorflow", "graph", "focal")
    ),
    Target("Keras on JAX: cross-entropy, 32000 classes or more", 1.5, _keras("keras-jax", "jit", "cross_entropy")),
    Target(
        "Keras on JAX: memory in logits, 32000 classes or more (gradient and a one-hot: 2)",
        1.5,
        lambda row: _is(row, "keras-jax", "cross_entropy", "focal", classes=MANY_CLASSES),
        lambda row: row.ours_memory,
        at_least=False,
    ),
    Target(
        "Keras on torch: cross-entropy, (B, T, V)",
        4.0,
        lambda row: row.size.count("x") == 2 and _is(row, "keras-torch", "cross_entropy", peer="Keras"),
    ),
    Target(
        "torch: binary cross-entropy beside F.binary_cross_entropy_with_logits, 4096x1000",
        0.95,
        lambda row: row.size == "4096x1000" and _is(row, "torch", "binary_cross_entropy", peer="F."),
    ),
    Target(
        "torch: binary focal beside torchvision, 4096x1000",
        2.0,
        lambda row: row.size == "4096x1000" and _is(row, "torch", "binary_focal", peer="torchvision"),
    ),
    Target(
        "torch: memory in logits, index labels, from 4096x1000 on",
        1.15,
        lambda row: _is(row, "torch", *CATEGORICAL, mode="eager") and Size.parse(row.size).elements >= 4096 * 1000,
        lambda row: row.ours_memory,
        at_least=False,
    ),
)
