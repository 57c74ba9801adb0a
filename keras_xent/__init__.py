"""Cross-entropy losses for Keras 3; lightning_xent has the same ones for PyTorch and Lightning."""

from keras_xent.losses.cross_entropy import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    SparseCategoricalCrossEntropy,
)
from keras_xent.losses.focal import BinaryFocalCrossEntropy, CategoricalFocalCrossEntropy
from keras_xent.spec import get

__all__ = [
    "BinaryCrossEntropy",
    "BinaryFocalCrossEntropy",
    "CategoricalCrossEntropy",
    "CategoricalFocalCrossEntropy",
    "SparseCategoricalCrossEntropy",
    "get",
]
