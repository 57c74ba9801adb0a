"""Cross-entropy losses for PyTorch and Lightning; keras_xent has the same ones for Keras."""

from lightning_xent.losses.cross_entropy import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    SparseCategoricalCrossEntropy,
)
from lightning_xent.losses.focal import BinaryFocalCrossEntropy, CategoricalFocalCrossEntropy
from lightning_xent.spec import get

__all__ = [
    "BinaryCrossEntropy",
    "BinaryFocalCrossEntropy",
    "CategoricalCrossEntropy",
    "CategoricalFocalCrossEntropy",
    "SparseCategoricalCrossEntropy",
    "get",
]
