"""Two digits side by side, ten labels: which digits are there?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from demo.data import Split
from demo.examples.example import Example, LogitsOf, Observed, report
from demo.examples.image_classification import digits

TRAIN_ROWS, TEST_ROWS = 4000, 1000


class MultiLabel(Example):
    about = "two of scikit-learn's digits side by side, 8 x 16 pixels: which of ten labels are present?"
    score_name = "macro F1"
    margin = 0.4

    def load(self, seed: int) -> Split:
        """Return images [N, 8, 16, 1] and whether each digit is in them [N, 10]; no digit is in both parts."""
        single, generator = digits(seed), np.random.default_rng([seed, 3])
        train = _pairs(single.train_inputs, single.train_target, TRAIN_ROWS, generator)
        test = _pairs(single.test_inputs, single.test_target, TEST_ROWS, generator)
        return Split(*train, *test, single.class_names)

    def score(self, split: Split, predicted: NDArray) -> float:
        return float(f1_score(split.test_target, predicted, average="macro", zero_division=0))

    def baseline(self, split: Split) -> float:
        """Return the score of saying that every label is present: the best that does not look at the image."""
        return self.score(split, np.ones_like(split.test_target))

    def observe(self, logits_of: LogitsOf, split: Split) -> Observed:
        return {"predicted": (logits_of(split.test_inputs) > 0).astype(int).tolist()}

    def report(self, split: Split, observed: Observed) -> str:
        options: dict[str, Any] = {"labels": range(len(split.class_names))}
        return report(split, split.test_target, np.asarray(observed["predicted"]), **options)


def _pairs(
    images: NDArray, labels: NDArray, number: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    chosen = generator.integers(0, len(images), (number, 2))
    inputs = np.concatenate([images[chosen[:, 0]], images[chosen[:, 1]]], axis=2)  # [N, 8, 16, 1]
    target = np.zeros((number, 10), np.int64)
    np.put_along_axis(target, labels[chosen], 1, axis=1)
    return inputs, target
