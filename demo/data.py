"""What both sides share: data sets, split, order of the rows, initial weights. NumPy and scikit-learn only."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

OUTPUTS = {"digits": 10, "breast_cancer": 1}
"""The data sets and the size of the network's output: a logit per class, or one for two classes."""

TEST_SHARE = 0.25


@dataclass(frozen=True)
class Split:
    """A data set as float32 inputs [N, F], standardised on the training rows, and integer targets.

    Targets are class indices [N], or [N, 1] with 1 for the rarer of two classes. Those of the examples have other
    shapes, which their `load` says.
    """

    train_inputs: NDArray
    train_target: NDArray[np.int64]
    test_inputs: NDArray
    test_target: NDArray[np.int64]
    class_names: list[str]


def load(name: str, seed: int = 0) -> Split:
    """Return the data set `name` of `OUTPUTS`; `seed` decides the stratified split and the order of the rows."""
    if name == "digits":
        inputs, target = load_digits(return_X_y=True)
        class_names = [str(digit) for digit in range(10)]
    elif name == "breast_cancer":
        inputs, benign = load_breast_cancer(return_X_y=True)
        target, class_names = 1 - benign, ["benign", "malignant"]  # 212 of 569 rows are malignant: label 1
    else:
        raise ValueError(f"data set must be one of {', '.join(OUTPUTS)}, got {name!r}")
    train_inputs, test_inputs, train_target, test_target = train_test_split(
        inputs, target, test_size=TEST_SHARE, stratify=target, random_state=seed
    )
    scaler = StandardScaler().fit(train_inputs)
    rows = (-1, 1) if OUTPUTS[name] == 1 else (-1,)
    return Split(
        scaler.transform(train_inputs).astype(np.float32),  # [N, F]
        train_target.astype(np.int64).reshape(rows),
        scaler.transform(test_inputs).astype(np.float32),
        test_target.astype(np.int64).reshape(rows),
        class_names,
    )


def noisy(split: Split, share: float, seed: int) -> Split:
    """Return `split` with wrong labels in `share` of its training rows, rounded to whole rows: symmetric noise.

    The rows are drawn without replacement, and each gets one of the other classes, all equally likely. The rows of a
    share are among those of a larger one, with the same labels. The test rows stay as they are.
    """
    generator = np.random.default_rng([seed, 1])  # [seed] alone draws the initial weights
    classes, target = len(split.class_names), split.train_target.copy()
    rows = generator.permutation(len(target))
    steps = generator.integers(1, classes, len(target))
    rows, steps = rows[: round(share * len(target))], steps[: round(share * len(target))]
    target[rows] = (target[rows] + steps) % classes
    return replace(split, train_target=target)


def long_tailed(split: Split, ratio: float, seed: int) -> Split:
    """Return `split` with fewer training rows of most classes: the k-th of K keeps n * ratio^(-k / (K - 1)), k from 0.

    n is the size of the smallest class, so that all start from the same one; numbers are rounded, to 1 at least. The
    seed decides the order of the classes. Kept are the first rows of a class, in their order; the test rows stay.
    """
    order = np.random.default_rng([seed, 2]).permutation(len(split.class_names))
    largest = class_counts(split).min()
    kept = np.zeros(len(split.train_target), bool)
    for position, label in enumerate(order):
        size = max(1, round(largest * ratio ** (-position / (len(order) - 1))))
        kept[np.flatnonzero(split.train_target == label)[:size]] = True
    return replace(split, train_inputs=split.train_inputs[kept], train_target=split.train_target[kept])


def class_counts(split: Split) -> NDArray[np.int64]:
    """Return the number of training rows of each class."""
    return np.bincount(split.train_target, minlength=len(split.class_names))


def initial_weights(sizes: list[int], seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return (kernel [inputs, outputs], bias [outputs]) of each dense layer: Glorot uniform, and 0."""
    shapes = list(pairwise(sizes))
    kernels = initial_kernels(shapes, seed)
    return [(kernel, np.zeros(outputs, np.float32)) for kernel, (_, outputs) in zip(kernels, shapes, strict=True)]


def initial_kernels(shapes: Iterable[tuple[int, ...]], seed: int) -> list[NDArray[np.float32]]:
    """Return a kernel [..., inputs, outputs] of each shape, Glorot uniform; the axes in front are those of the window.

    Reference: Glorot and Bengio, 2010, Understanding the Difficulty of Training Deep Feedforward Neural Networks.
    """
    generator = np.random.default_rng(seed)
    kernels = []
    for *window, inputs, outputs in shapes:
        limit = np.sqrt(6 / (math.prod(window) * (inputs + outputs)))
        kernels.append(generator.uniform(-limit, limit, (*window, inputs, outputs)).astype(np.float32))
    return kernels


def predictions(logits: NDArray[np.float32]) -> list[int]:
    """Return the predicted class of each row of `logits` [N, C], or [N, 1] for two classes."""
    labels = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
    return [int(label) for label in labels]
