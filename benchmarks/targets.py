"""What the losses aim at, and how far a run reached it; a target missed is reported, and fails nothing."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.measure import Row
from benchmarks.settings import REUSED, Size

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


@dataclass(frozen=True)
class _Of:
    """Which rows a target is about."""

    backend: str
    losses: tuple[str, ...] = ()
    """Empty: all of them."""
    mode: str = ""
    peers: tuple[str, ...] = ()
    """Parts of the names of peers; empty: all but our own cross-entropy."""
    classes: int = 0
    """At least so many."""
    elements: int = 0
    """At least so many logits."""
    sizes: tuple[str, ...] = ()
    """Empty: all of them."""

    def __call__(self, row: Row) -> bool:
        size = Size.parse(row.size)
        is_peer = any(peer in row.peer for peer in self.peers) if self.peers else row.peer != OWN
        return (
            is_peer
            and row.backend == self.backend
            and self.mode in ("", row.mode)
            and row.loss in (self.losses or (row.loss,))
            and row.size in (self.sizes or (row.size,))
            and size.classes >= self.classes
            and size.elements >= self.elements
        )


CURVES = ("focal", "poly", "generalized")
INDEX_LABELS = ("cross_entropy", "label_smoothing", "weighted_ignored")
CATEGORICAL = (*INDEX_LABELS, "soft_target", *CURVES)
BINARY = ("binary_cross_entropy", "binary_label_smoothing")
TORCH = ("F.",)
MEDIUM, SMALL = ("4096x1000",), ("128x10",)
FOCAL_LIBRARIES = ("torchvision", "MONAI")

OF_TORCH: tuple[tuple[str, _Of, float, float | None], ...] = (
    ("index labels, 32000 classes or more", _Of("torch", INDEX_LABELS, peers=TORCH, classes=MANY_CLASSES), 1.6, 0.75),
    (
        "index labels, soft targets, smoothing, 4096x1000",
        _Of("torch", (*INDEX_LABELS, "soft_target"), peers=TORCH, sizes=MEDIUM),
        1.0,
        0.7,
    ),
    ("binary cross-entropy, smoothed too, 4096x1000", _Of("torch", BINARY, peers=TORCH, sizes=MEDIUM), 1.0, 0.9),
    ("binary focal, 4096x1000", _Of("torch", ("binary_focal",), peers=FOCAL_LIBRARIES, sizes=MEDIUM), 1.5, 1.2),
    ("anything beside torch, 128x10", _Of("torch", peers=TORCH, sizes=SMALL), 0.45, None),
    (
        "anything beside timm, MONAI, kornia, torchvision, 128x10",
        _Of("torch", peers=("timm", "kornia", *FOCAL_LIBRARIES), sizes=SMALL),
        0.9,
        None,
    ),
    ("focal, poly, GCE beside our own cross-entropy", _Of("torch", CURVES, peers=(OWN,)), 0.9, None),
)
"""Text, rows, and what is wanted with fresh pages and with reused memory."""


def _of_torch() -> Iterator[Target]:
    for text, of, fresh, reused in OF_TORCH:
        yield Target(f"torch, fresh pages: {text}", fresh, replace(of, mode="eager"))
        if reused is not None:
            yield Target(f"torch, {REUSED}: {text}", reused, replace(of, mode=f"eager, {REUSED}"))
    yield Target("torch, compiled: cross-entropy beside compiled F.cross_entropy", 0.95, _Of("torch", mode="compiled"))
    large = _Of("torch", CATEGORICAL, "eager", elements=4096 * 1000)
    yield Target("torch: memory in logits, from 4096x1000 on", 1.15, large, lambda row: row.ours_memory, at_least=False)


def _of_keras() -> Iterator[Target]:
    many = {"peers": ("Keras",), "classes": MANY_CLASSES}
    tensorflow, jax, torch = "keras-tensorflow", "keras-jax", "keras-torch"
    yield Target("Keras on TensorFlow, graph: 32000 classes or more", 2.5, _Of(tensorflow, (), "graph", **many))
    yield Target("Keras on TensorFlow, XLA: 32000 classes or more", 1.3, _Of(tensorflow, (), "XLA", **many))
    yield Target("Keras on JAX: 32000 classes or more", 1.5, _Of(jax, **many))
    yield Target("Keras on JAX: beside optax", 0.95, _Of(jax, peers=("optax",), classes=MANY_CLASSES))
    yield Target(
        "Keras on JAX: memory in logits, 32000 classes or more (gradient and a one-hot: 2)",
        1.5,
        _Of(jax, classes=MANY_CLASSES),
        lambda row: row.ours_memory,
        at_least=False,
    )
    yield Target("Keras on torch: 4096x1000", 0.8, _Of(torch, peers=("Keras",), sizes=MEDIUM))
    yield Target("Keras on torch: 32000 classes or more", 1.2, _Of(torch, **many))


TARGETS = (*_of_torch(), *_of_keras())
