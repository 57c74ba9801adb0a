"""Breast cancer, with few malignant rows to learn from."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from demo import data
from demo.data import Split
from demo.examples.example import Example, LogitsOf, Observed

SHARE = 0.05
"""Of the training rows, malignant."""


class ImbalancedBinary(Example):
    about = f"breast cancer (scikit-learn's 569 rows): is it malignant, learnt from {100 * SHARE:.0f} % malignant rows?"
    score_name = "balanced accuracy"
    margin = 0.3

    def load(self, seed: int) -> Split:
        """Return standardised rows [N, 30] and 1 for malignant [N, 1]; test rows are not thinned out."""
        split = data.load("breast_cancer", seed)
        malignant = np.flatnonzero(split.train_target[:, 0])
        number = round(SHARE / (1 - SHARE) * (len(split.train_target) - len(malignant)))
        left = np.ones(len(split.train_target), bool)
        left[malignant[number:]] = False
        return replace(split, train_inputs=split.train_inputs[left], train_target=split.train_target[left])

    def score(self, split: Split, predicted: NDArray) -> float:
        return float(balanced_accuracy_score(split.test_target.ravel(), predicted.ravel()))

    def observe(self, logits_of: LogitsOf, split: Split) -> Observed:
        logits = logits_of(split.test_inputs)  # [N, 1]
        return {"predicted": (logits > 0).astype(int).tolist(), "probability": expit(logits[:, 0]).tolist()}

    def report(self, split: Split, observed: Observed) -> str:
        precision = average_precision_score(split.test_target.ravel(), observed["probability"])
        share = split.test_target.mean()
        return f"{super().report(split, observed)}\nAverage precision {precision:.4f}; of a random order: {share:.4f}"
