"""What an example is: rows, a score, the bar that the score must clear. NumPy and scikit-learn only."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import classification_report

from demo.data import Split, initial_kernels

LogitsOf = Callable[[NDArray], NDArray]
"""Inputs [N, ...] to logits, the class axis last."""

Observed = dict[str, Any]
"""What one side says of the test rows after training, ready for JSON."""

IGNORED = -1
"""The target of a position that counts nowhere, as the configs say it to the loss."""


class Example(ABC):
    """One task on real data. The config of its name has the network, the loss and the optimizer of both sides."""

    about: str
    """One line, for the terminal and for --help."""
    score_name: str
    margin: float
    """By how much the score, higher is better, must exceed the baseline: less is learning nothing."""
    tolerance = 0.05
    """How far the scores of both sides may be apart."""

    @abstractmethod
    def load(self, seed: int) -> Split:
        """Return the rows: images [N, H, W, 1], channels last, or word numbers [N, T]; targets without class axis."""

    def last_kernel(self, shape: tuple[int, int], seed: int) -> NDArray:
        """Return the initial kernel [D, C] of the last layer, where that has the loss."""
        return initial_kernels([shape], seed)[0]

    @abstractmethod
    def score(self, split: Split, predicted: NDArray) -> float:
        """Return how well `predicted`, in the shape of the test targets, meets them."""

    def baseline(self, split: Split) -> float:
        """Return the score of always saying the class that is most frequent in the training rows."""
        most_frequent = np.bincount(kept(split.train_target, split.train_target)).argmax()
        return self.score(split, np.full(split.test_target.shape, most_frequent))

    def observe(self, logits_of: LogitsOf, split: Split) -> Observed:
        """Return the classes that the network predicts for the test rows, and what else the report needs."""
        return {"predicted": logits_of(split.test_inputs).argmax(-1).tolist()}

    def result(self, split: Split, observed: Observed) -> float:
        """Return the score of what a side has observed."""
        return self.score(split, np.asarray(observed["predicted"]))

    def report(self, split: Split, observed: Observed) -> str:
        """Return precision, recall, F1 and support of each class, on the test rows."""
        predicted = np.asarray(observed["predicted"])
        target, predicted = kept(split.test_target, split.test_target), kept(predicted, split.test_target)
        return report(split, target, predicted, labels=range(len(split.class_names)))


def report(split: Split, target: NDArray, predicted: NDArray, **options: Any) -> str:
    """Return scikit-learn's report on labels [N], or on whether each label is present [N, L]."""
    options |= {"target_names": split.class_names, "digits": 4, "zero_division": 0}
    return classification_report(target, predicted, **options).rstrip()


def kept(values: NDArray, target: NDArray) -> NDArray:
    """Return those of `values` whose target counts, as one axis."""
    return values[target != IGNORED]
