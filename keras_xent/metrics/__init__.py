"""Metrics with the definition of the losses: each is a quotient of sums over all rows of an epoch.

A mean of the batches' means would be another number if batches differ in rows, ignored rows or weights. Under
tf.distribute Keras adds up the sums of the replicas. On JAX, Keras passes predictions with their mask in `evaluate` but
not in `fit`. `Accuracy`, `Precision`, `Recall` and `F1` read targets, weights and masks as their loss does. Keras' own
do not: they count ignored labels, and apply their threshold to logits.
"""

from keras_xent.metrics.calibration import ExpectedCalibrationError
from keras_xent.metrics.classification import F1, Accuracy, Precision, Recall
from keras_xent.metrics.losses import (
    BinaryNegativeLogLikelihood,
    CategoricalNegativeLogLikelihood,
    MeanLoss,
    Perplexity,
)

__all__ = [
    "F1",
    "Accuracy",
    "BinaryNegativeLogLikelihood",
    "CategoricalNegativeLogLikelihood",
    "ExpectedCalibrationError",
    "MeanLoss",
    "Perplexity",
    "Precision",
    "Recall",
]
