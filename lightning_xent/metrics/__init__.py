"""Torchmetrics that read logits, targets, ignored rows and weights as the losses do."""

from lightning_xent.metrics.calibration import CalibrationError, ExpectedCalibrationError
from lightning_xent.metrics.prediction import IGNORED, Predictions, predictions, predictions_of_layer
from lightning_xent.metrics.report import MOST_CLASSES, Report, table
from lightning_xent.metrics.sums import EpochMean

__all__ = [
    "IGNORED",
    "MOST_CLASSES",
    "CalibrationError",
    "EpochMean",
    "ExpectedCalibrationError",
    "Predictions",
    "Report",
    "predictions",
    "predictions_of_layer",
    "table",
]
