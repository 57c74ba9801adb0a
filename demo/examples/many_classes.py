"""Retrieval: which of 100,000 prototypes is this?"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from demo import data
from demo.data import Split
from demo.examples.example import Example, LogitsOf, Observed

PROTOTYPES, DIGITS = 100_000, 10
"""As in the config: the ten digits come first, and all others are distractors."""

HIDDEN, SIZE = 128, 64
"""As in the config: the network whose embeddings of the prototypes are the first class vectors."""

NOISE = 0.3
"""Standard deviation of the noise on the view of a distractor, beside 1 of the pixels."""

AT_ONCE = 64
"""Rows whose logits are in memory together: 26 MB."""


@dataclass(frozen=True)
class Gallery(Split):
    """The rows, and the prototypes [C, 64] among which they are looked up."""

    prototypes: NDArray


class ManyClasses(Example):
    about = "digits and noisy views of distractors (8 x 8 pixels): which of 100,000 prototypes are they?"
    score_name = "mean recall@1 of digits and distractors"
    margin = 0.2

    def load(self, seed: int) -> Gallery:
        """Return images [N, 64] and the numbers of their prototypes: half are digits, half are distractors.

        The prototype of a digit is the mean of its training images. A distractor has its four quadrants from four
        training images. Test rows have views of other distractors than training rows.
        """
        return _gallery(seed)

    def last_kernel(self, shape: tuple[int, int], seed: int) -> NDArray:
        """Return the embeddings of the prototypes, of length 1, by the network before training."""
        first, second = data.initial_kernels([(64, HIDDEN), (HIDDEN, SIZE)], seed)
        found = np.tanh(_gallery(seed).prototypes @ first) @ second
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).T

    def score(self, split: Split, predicted: NDArray) -> float:
        """Return the mean of the shares of digits and of distractors whose prototype is found."""
        return float(np.mean(recalls(split, predicted)))

    def baseline(self, split: Split) -> float:
        """Return the score of the prototype with the largest cosine of pixels."""
        return self.score(split, nearest(split))

    def observe(self, logits_of: LogitsOf, split: Split) -> Observed:
        starts = range(0, len(split.test_inputs), AT_ONCE)
        found = [logits_of(split.test_inputs[start : start + AT_ONCE]).argmax(-1) for start in starts]
        return {"predicted": np.concatenate(found).tolist()}

    def report(self, split: Split, observed: Observed) -> str:
        lines = [f"{'recall@1 among 100,000':24}{'digits':>12}{'distractors':>14}"]
        for name, predicted in (("nearest in pixels", nearest(split)), ("network", observed["predicted"])):
            digits, distractors = recalls(split, np.asarray(predicted))
            lines.append(f"{name:24}{digits:12.4f}{distractors:14.4f}")
        return "\n".join(lines)


@cache
def _gallery(seed: int) -> Gallery:
    split, generator = data.load("digits", seed), np.random.default_rng([seed, 8])
    rows, tests = len(split.train_target), len(split.test_target)
    digits = [split.train_inputs[split.train_target == digit].mean(0) for digit in range(DIGITS)]
    images = split.train_inputs.reshape(-1, 2, 4, 2, 4)
    sources = generator.integers(0, rows, (PROTOTYPES - DIGITS, 2, 2))
    quadrants = np.empty((PROTOTYPES - DIGITS, 2, 4, 2, 4), np.float32)
    for row, column in np.ndindex(2, 2):
        quadrants[:, row, :, column] = images[sources[:, row, column], row, :, column]
    prototypes = np.concatenate([np.stack(digits), quadrants.reshape(-1, 64)])
    chosen = generator.choice(np.arange(DIGITS, PROTOTYPES), rows + tests, replace=False)
    views = prototypes[chosen] + NOISE * generator.normal(size=(rows + tests, 64)).astype(np.float32)
    order = generator.permutation(2 * rows)
    return Gallery(
        np.concatenate([split.train_inputs, views[:rows]])[order],
        np.concatenate([split.train_target, chosen[:rows]])[order],
        np.concatenate([split.test_inputs, views[rows:]]),
        np.concatenate([split.test_target, chosen[rows:]]),
        [f"digit {digit}" for digit in range(DIGITS)] + [f"distractor {i}" for i in range(PROTOTYPES - DIGITS)],
        prototypes,
    )


def nearest(split: Split) -> NDArray:
    """Return the prototype with the largest cosine of pixels, of each test row."""
    assert isinstance(split, Gallery)
    directions = split.prototypes / np.linalg.norm(split.prototypes, axis=1, keepdims=True)
    starts = range(0, len(split.test_inputs), AT_ONCE)
    return np.concatenate([(split.test_inputs[start : start + AT_ONCE] @ directions.T).argmax(1) for start in starts])


def recalls(split: Split, predicted: NDArray) -> tuple[float, float]:
    """Return the shares of digits and of distractors whose prototype is found."""
    is_right, is_digit = predicted == split.test_target, split.test_target < DIGITS
    return float(is_right[is_digit].mean()), float(is_right[~is_digit].mean())
