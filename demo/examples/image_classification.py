"""Handwritten digits, ten classes."""

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

from demo.data import TEST_SHARE, Split
from demo.examples.example import Example

CLASS_NAMES = [str(digit) for digit in range(10)]


class ImageClassification(Example):
    about = "handwritten digits (scikit-learn's 1797, 8 x 8 pixels): which of ten is it?"
    score_name = "accuracy"
    margin = 0.7

    def load(self, seed: int) -> Split:
        """Return images [N, 8, 8, 1] and their digits [N]."""
        return digits(seed)

    def score(self, split: Split, predicted: NDArray) -> float:
        return float(accuracy_score(split.test_target, predicted))


def digits(seed: int) -> Split:
    """Return images [N, 8, 8, 1] from 0 to 1, and their digits [N]; `seed` decides split and order."""
    inputs, target = load_digits(return_X_y=True)
    images = (inputs / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train_inputs, test_inputs, train_target, test_target = train_test_split(
        images, target.astype(np.int64), test_size=TEST_SHARE, stratify=target, random_state=seed
    )
    return Split(train_inputs, train_target, test_inputs, test_target, CLASS_NAMES)
