"""Class weights from the row counts of the classes."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_xent import arguments

SCHEMES = ("balanced", "inverse", "effective")


def class_weights(
    counts_or_labels: Any, *, scheme: str = "balanced", beta: float = 0.999, classes: int | None = None
) -> list[float]:
    """Return K weights that sum to K: w_c = K a_c / sum_j a_j, with a_c = 1/n_c or 1/E(n_c), n_c the rows of class c.

    Args:
        counts_or_labels: Without `classes` the row counts n_c of K classes, numbers > 0; sums of soft labels count as
            well. With `classes` the labels themselves, class indices in [0, K) of any shape and integer dtype. A
            list, tuple, array or tensor.
        scheme: "balanced" and "inverse": 1/n_c. They are the names of n/(K n_c), as in scikit-learn, and of 1/n_c,
            which differ by a factor that the sum takes out again. "effective": 1/E(n_c), see `effective_numbers`.
        beta: Overlap of the rows for "effective", in [0, 1): 0 weighs all classes alike, towards 1 it is "inverse".
        classes: Number K of classes, >= 1, where labels are given.

    Raises:
        ValueError: A class without rows, a label out of range, or an argument out of its own.
        TypeError: Labels that are not integers.

    Reference: Cui et al., 2019, Class-Balanced Loss Based on Effective Number of Samples.
    """
    scheme = arguments.choice("scheme", scheme, SCHEMES)
    beta = arguments.number("beta", beta, "[0, 1)")
    counts = counts_or_labels
    if classes is None:
        counts = arguments.counts("counts_or_labels", counts)
    else:
        counts = class_counts("counts_or_labels", _array("counts_or_labels", counts), classes=classes)
        counts = arguments.counts("counts of counts_or_labels", counts)
    sizes = effective_numbers(counts, beta) if scheme == "effective" else counts
    # Quotients at most 1 cannot overflow, as the inverse of a count below 1e-308 does.
    inverses = [min(sizes) / size for size in sizes]
    total = math.fsum(inverses)
    return [len(sizes) * inverse / total for inverse in inverses]


def effective_numbers(counts: Any, beta: float) -> list[float]:
    """Return the effective numbers E(n) = (1 - beta^n) / (1 - beta) of K row counts n.

    Args:
        counts: Row counts of K classes, numbers > 0: a list, tuple, array or tensor.
        beta: Overlap of the rows, in [0, 1): E(n) is 1 at 0 and goes to n towards 1.

    Raises:
        ValueError: A count that is not > 0, or a beta out of range.

    Reference: Cui et al., 2019, Class-Balanced Loss Based on Effective Number of Samples.
    """
    sizes = arguments.counts("counts", counts)
    beta = arguments.number("beta", beta, "[0, 1)")
    if beta == 0.0:
        return [1.0] * len(sizes)
    return [-math.expm1(size * math.log(beta)) / (1 - beta) for size in sizes]


def class_counts(
    name: str, data: Any, *, classes: int | None, axis: int = -1, ignore_index: float | None = None
) -> list[float]:
    """Return the row counts of K classes in targets.

    Args:
        name: What errors call the data.
        data: Targets, an array or tensor; or a finite iterable of batches (inputs, target[, sample_weight]). Sample
            weights do not count.
        classes: Number K of classes, >= 1, of targets that are class indices, of any shape and integer dtype. None:
            the targets are distributions or one-hot, and a count is a sum of their entries.
        axis: Class axis of distributions.
        ignore_index: Class index that does not count.

    Raises:
        ValueError: A label out of range, class indices without `classes`, other batches, or none.
        TypeError: With `classes`, targets that are not integers; or data that hold no numbers.
    """
    classes = None if classes is None else arguments.integer("classes", classes, 1)
    total: list[float] = []
    for target in _targets(name, data):
        array = _array(name, target)
        sums = _label_counts(name, array, classes, ignore_index) if classes else _mass(name, array, axis)
        if total and len(total) != len(sums):
            raise ValueError(f"{name} must have as many classes in every batch, got {len(total)} and {len(sums)}")
        total = [sum(pair) for pair in zip(total, sums, strict=True)] if total else sums
    if not total:
        raise ValueError(f"{name} must have batches, got none")
    return total


def _targets(name: str, data: Any) -> Iterator[Any]:
    """Give the targets in `data`, of each batch or the one that it is."""
    if hasattr(data, "dtype"):
        yield data
        return
    wanted = f"{name} must be an array or tensor of targets, or give batches (inputs, target[, sample_weight])"
    if not isinstance(data, Iterable) and hasattr(data, "num_batches"):  # a PyDataset of an older Keras
        data = map(data.__getitem__, range(data.num_batches))
    if not isinstance(data, Iterable):
        raise TypeError(f"{wanted}, got {type(data).__name__}")
    for batch in data:
        if not isinstance(batch, Sequence) or len(batch) not in (2, 3):
            raise ValueError(f"{wanted}, got a batch of type {type(batch).__name__}")
        yield batch[1]


def _array(name: str, value: Any) -> NDArray[Any]:
    """Return a list, array or tensor as an array of numbers; one of bfloat16 becomes float64."""
    array = value if isinstance(value, np.ndarray) else np.asarray(arguments.as_python(value))
    if array.dtype.kind not in "biuf":
        array = np.asarray(array.tolist())
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got {type(value).__name__}")
    return array


def _label_counts(name: str, labels: NDArray[Any], classes: int, ignore_index: float | None) -> list[float]:
    if labels.dtype.kind not in "iu" and labels.size:
        raise TypeError(
            f"{name} must hold class indices of an integer dtype with classes={classes}, got {labels.dtype}; "
            "classes=None is for distributions"
        )
    counts = labels != ignore_index
    positions = np.argwhere(counts & ((labels < 0) | (labels >= classes)))
    if len(positions):
        label, position = labels[tuple(positions[0])], positions[0].tolist()
        raise ValueError(
            f"{name} must hold class indices in [0, {classes - 1}], got {label} at {position}, "
            f"one of {len(positions)} such labels"
        )
    return np.bincount(labels[counts].astype(np.int64), minlength=classes).astype(float).tolist()


def _mass(name: str, distribution: NDArray[Any], axis: int) -> list[float]:
    """Return the sums of the entries of each class; whole numbers must be one-hot, or they are class indices."""
    is_label = distribution.ndim < 2
    if not is_label and distribution.dtype.kind != "f":
        is_label = bool((distribution.sum(axis) != 1).any() or (distribution < 0).any())
    if is_label:
        got = f"{distribution.dtype} of shape {distribution.shape}"
        raise ValueError(
            f"{name} must hold distributions or one-hot rows with classes=None, got {got}; "
            "classes=K is for class indices"
        )
    return np.moveaxis(distribution, axis, -1).reshape(-1, distribution.shape[axis]).sum(0, dtype=float).tolist()
