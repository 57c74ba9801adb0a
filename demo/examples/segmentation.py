"""Digits on a noisy image, and the class of each pixel."""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from demo.data import Split
from demo.examples.example import Example
from demo.examples.image_classification import CLASS_NAMES, digits

TRAIN_ROWS, TEST_ROWS = 1000, 200
SIDE, DIGIT = 24, 8
DIGITS = 4
"""Digits an image, none over another: each in a cell of its own, shifted by up to four pixels, cut off at the edge."""

NOISE, INK = 0.1, 0.3
"""Standard deviation of the noise, and how bright a pixel must be to belong to its digit, of 1."""


class Segmentation(Example):
    about = "four of scikit-learn's digits on 24 x 24 pixels of noise: to which class does each pixel belong?"
    score_name = "mean IoU"
    margin = 0.3
    tolerance = 0.1  # seen: 0.02 to 0.05, for a digit at the edge is a guess

    def load(self, seed: int) -> Split:
        """Return images [N, 24, 24, 1] and classes [N, 24, 24], 0 the background; no digit is in both parts."""
        single, generator = digits(seed), np.random.default_rng([seed, 6])
        train = _scenes(single.train_inputs, single.train_target, TRAIN_ROWS, generator)
        test = _scenes(single.test_inputs, single.test_target, TEST_ROWS, generator)
        return Split(*train, *test, ["background", *CLASS_NAMES])

    def score(self, split: Split, predicted: NDArray) -> float:
        """Return intersection over union, the mean of all classes."""
        score = jaccard_score(split.test_target.ravel(), predicted.ravel(), average="macro", zero_division=0)
        return float(score)


def _scenes(
    images: NDArray, labels: NDArray, number: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scenes = np.zeros((number, SIDE, SIDE), np.float32)
    target = np.zeros((number, SIDE, SIDE), np.int64)
    cells = [(top, left) for top in range(0, SIDE, DIGIT) for left in range(0, SIDE, DIGIT)]
    for scene, classes in zip(scenes, target, strict=True):
        shift = generator.integers(0, DIGIT // 2 + 1, 2)
        for cell in generator.permutation(len(cells))[:DIGITS]:
            chosen = int(generator.integers(len(images)))
            top, left = cells[cell] + shift
            height, width = min(DIGIT, SIDE - top), min(DIGIT, SIDE - left)
            image = images[chosen, :height, :width, 0]
            scene[top : top + height, left : left + width] = image
            classes[top : top + height, left : left + width] = np.where(image > INK, 1 + labels[chosen], 0)
    noise = generator.normal(0, NOISE, scenes.shape)
    return (scenes + noise).astype(np.float32)[..., None], target
