"""Cross-entropy losses for PyTorch and Lightning; keras_xent has the same ones for Keras.

.. PYTEST_DONT_REWRITE: else pytest, which finds our plugin, warns where this package is imported before it starts.
"""

from importlib.metadata import PackageNotFoundError, version

from lightning_xent.check import check_model, check_outputs
from lightning_xent.fused import TopK
from lightning_xent.information import cross_entropy, entropy, kl_divergence
from lightning_xent.layers import LinearLoss as LinearLoss
from lightning_xent.losses.asymmetric import AsymmetricLoss
from lightning_xent.losses.bi_tempered import BiTemperedLogistic
from lightning_xent.losses.bootstrapping import Bootstrapping
from lightning_xent.losses.consistency import JensenShannonConsistency
from lightning_xent.losses.cross_entropy import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    SparseCategoricalCrossEntropy,
)
from lightning_xent.losses.divergence import Distillation, KLDivergence
from lightning_xent.losses.focal import BinaryFocalCrossEntropy, CategoricalFocalCrossEntropy
from lightning_xent.losses.generalized import BinaryGeneralizedCrossEntropy, CategoricalGeneralizedCrossEntropy
from lightning_xent.losses.generalized_focal import QualityFocalLoss, VarifocalLoss
from lightning_xent.losses.hinge import BinaryHinge, CategoricalHinge
from lightning_xent.losses.jensen_shannon import BinaryJensenShannon, CategoricalJensenShannon
from lightning_xent.losses.label_relaxation import BinaryLabelRelaxation, CategoricalLabelRelaxation
from lightning_xent.losses.logit_adjusted import LogitAdjustedCrossEntropy
from lightning_xent.losses.margin import ArcFaceCrossEntropy, CosFaceCrossEntropy, LDAMCrossEntropy
from lightning_xent.losses.mean_absolute_error import BinaryMeanAbsoluteError, CategoricalMeanAbsoluteError
from lightning_xent.losses.normalized import NormalizedCrossEntropy
from lightning_xent.losses.ordinal import OrdinalCrossEntropy, SquaredEarthMoverDistance
from lightning_xent.losses.poly import BinaryPolyCrossEntropy, CategoricalPolyCrossEntropy
from lightning_xent.losses.squared_error import BinarySquaredError, CategoricalSquaredError
from lightning_xent.losses.symmetric import BinarySymmetricCrossEntropy, CategoricalSymmetricCrossEntropy
from lightning_xent.losses.taylor import BinaryTaylorCrossEntropy, CategoricalTaylorCrossEntropy
from lightning_xent.porting import from_keras_config as from_keras_config
from lightning_xent.porting import from_torch as from_torch
from lightning_xent.porting import to_spec as to_spec
from lightning_xent.spec import get
from shared_specs.common import arguments as arguments
from shared_specs.common.weights import class_weights, effective_numbers, pos_weights

__all__ = [
    "ArcFaceCrossEntropy",
    "AsymmetricLoss",
    "BiTemperedLogistic",
    "BinaryCrossEntropy",
    "BinaryFocalCrossEntropy",
    "BinaryGeneralizedCrossEntropy",
    "BinaryHinge",
    "BinaryJensenShannon",
    "BinaryLabelRelaxation",
    "BinaryMeanAbsoluteError",
    "BinaryPolyCrossEntropy",
    "BinarySquaredError",
    "BinarySymmetricCrossEntropy",
    "BinaryTaylorCrossEntropy",
    "Bootstrapping",
    "CategoricalCrossEntropy",
    "CategoricalFocalCrossEntropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "CategoricalJensenShannon",
    "CategoricalLabelRelaxation",
    "CategoricalMeanAbsoluteError",
    "CategoricalPolyCrossEntropy",
    "CategoricalSquaredError",
    "CategoricalSymmetricCrossEntropy",
    "CategoricalTaylorCrossEntropy",
    "CosFaceCrossEntropy",
    "Distillation",
    "JensenShannonConsistency",
    "KLDivergence",
    "LDAMCrossEntropy",
    "LogitAdjustedCrossEntropy",
    "NormalizedCrossEntropy",
    "OrdinalCrossEntropy",
    "QualityFocalLoss",
    "SparseCategoricalCrossEntropy",
    "SquaredEarthMoverDistance",
    "TopK",
    "VarifocalLoss",
    "check_model",
    "check_outputs",
    "class_weights",
    "cross_entropy",
    "effective_numbers",
    "entropy",
    "get",
    "kl_divergence",
    "pos_weights",
]

try:
    __version__ = version("crossent")
except PackageNotFoundError:  # run from a clone that is not installed
    __version__ = "0+unknown"
