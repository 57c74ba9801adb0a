"""Cross-entropy losses for Keras 3; lightning_xent has the same ones for PyTorch and Lightning.

.. PYTEST_DONT_REWRITE: else pytest, which finds our plugin, warns where this package is imported before it starts.
"""

from importlib.metadata import PackageNotFoundError, version

from keras_xent.check import check_model, check_outputs
from keras_xent.fused import TopK
from keras_xent.information import cross_entropy, entropy, kl_divergence
from keras_xent.layers import LinearLoss as LinearLoss
from keras_xent.losses.asymmetric import AsymmetricLoss
from keras_xent.losses.bi_tempered import BiTemperedLogistic
from keras_xent.losses.bootstrapping import Bootstrapping
from keras_xent.losses.consistency import JensenShannonConsistency
from keras_xent.losses.cross_entropy import BinaryCrossEntropy, CategoricalCrossEntropy, SparseCategoricalCrossEntropy
from keras_xent.losses.divergence import Distillation, KLDivergence
from keras_xent.losses.focal import BinaryFocalCrossEntropy, CategoricalFocalCrossEntropy
from keras_xent.losses.generalized import BinaryGeneralizedCrossEntropy, CategoricalGeneralizedCrossEntropy
from keras_xent.losses.generalized_focal import QualityFocalLoss, VarifocalLoss
from keras_xent.losses.hinge import BinaryHinge, CategoricalHinge
from keras_xent.losses.jensen_shannon import BinaryJensenShannon, CategoricalJensenShannon
from keras_xent.losses.label_relaxation import BinaryLabelRelaxation, CategoricalLabelRelaxation
from keras_xent.losses.logit_adjusted import LogitAdjustedCrossEntropy
from keras_xent.losses.margin import ArcFaceCrossEntropy, CosFaceCrossEntropy, LDAMCrossEntropy
from keras_xent.losses.mean_absolute_error import BinaryMeanAbsoluteError, CategoricalMeanAbsoluteError
from keras_xent.losses.normalized import NormalizedCrossEntropy
from keras_xent.losses.ordinal import OrdinalCrossEntropy, SquaredEarthMoverDistance
from keras_xent.losses.poly import BinaryPolyCrossEntropy, CategoricalPolyCrossEntropy
from keras_xent.losses.squared_error import BinarySquaredError, CategoricalSquaredError
from keras_xent.losses.symmetric import BinarySymmetricCrossEntropy, CategoricalSymmetricCrossEntropy
from keras_xent.losses.taylor import BinaryTaylorCrossEntropy, CategoricalTaylorCrossEntropy
from keras_xent.porting import from_keras as from_keras
from keras_xent.porting import from_torch_config as from_torch_config
from keras_xent.porting import to_spec as to_spec
from keras_xent.spec import get
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
