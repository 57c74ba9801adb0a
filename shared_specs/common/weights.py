"""Weights from row counts: for K classes, and for the positive label of binary losses."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_specs.common import arguments

SCHEMES = ("balanced", "inverse", "effective")
LABELS_PER_CLASS = 4
"""Whole numbers without a gap, from 0 or 1 up, look like labels if each value comes this often on average."""


def class_weights(
    counts_or_labels: Any,
    *,
    scheme: str = "balanced",
    beta: float = 0.999,
    classes: int | None = None,
    power: float = 1.0,
    max_weight: float | None = None,
    pseudo_count: float = 0.0,
) -> list[float]:
    """Return K weights that sum to K: w_c = K a_c / sum_j a_j, with a_c = n_c^-power or E(n_c)^-power.

    n_c is the number of rows of class c plus `pseudo_count`. Last, weights above `max_weight` become `max_weight`.

    Args:
        counts_or_labels: A list, tuple, array or tensor. Without `classes`: the row counts of K classes, numbers > 0
            (>= 0 with a pseudo_count), which may be sums of soft labels. With `classes`: the labels themselves, class
            indices in [0, K) of any shape, of an integer dtype or whole numbers. Without `classes`, numbers that look
            like labels are refused: 8 or more whole numbers that take every value from 0 or 1 up to their largest, two
            values or more, each 4 times on average.
        scheme: "balanced" and "inverse" use n_c. Elsewhere they are n/(K n_c), as in scikit-learn, and 1/n_c: they
            differ by a factor, which disappears here because the weights sum to K. "effective" uses E(n_c), see
            `effective_numbers`.
        beta: Overlap of the rows for "effective", in [0, 1). With 0 all weights are equal; towards 1 they become those
            of "inverse".
        classes: Number K of classes, >= 1, where labels are given.
        power: Exponent >= 0. 1 balances the classes, 0.5 takes the square root, 0 gives all classes the same weight.
        max_weight: Largest weight, > 0, applied after the weights were scaled to sum to K. They are not scaled again:
            where a weight is cut, the sum is less than K. None: no bound.
        pseudo_count: Number >= 0 of rows that is added to the count of each class.

    Raises:
        ValueError: A class without rows, a label out of range, labels without `classes`, or an argument out of its
            range.
        TypeError: Labels that are not whole numbers.

    Reference: Cui et al., 2019, Class-Balanced Loss Based on Effective Number of Samples.

    >>> class_weights([1, 4, 4], power=0.5)
    [1.5, 0.75, 0.75]
    >>> class_weights([0, 1, 1, 2], classes=3)
    [1.2, 0.6, 1.2]
    """
    name, counts = "counts_or_labels", counts_or_labels
    if classes is not None:
        counts = class_counts(name, _array(name, counts), classes=classes)
        name = f"counts of {name}"
    else:
        _refuse_labels(name, counts, pseudo_count)
    return weights_of_counts(
        name, counts, scheme=scheme, beta=beta, power=power, max_weight=max_weight, pseudo_count=pseudo_count
    )


def weights_of_counts(
    name: str,
    counts: Any,
    *,
    scheme: str = "balanced",
    beta: float = 0.999,
    power: float = 1.0,
    max_weight: float | None = None,
    pseudo_count: float = 0.0,
) -> list[float]:
    """Return the `class_weights` for row counts; errors call them `name`."""
    power = arguments.number("power", power, "[0, inf)")
    sizes = _sizes(name, counts, scheme, beta, pseudo_count)
    # These quotients are at most 1, so they cannot overflow, as the inverse of a count below 1e-308 would.
    inverses = [(min(sizes) / size) ** power for size in sizes]
    total = math.fsum(inverses)
    return _capped([len(sizes) * inverse / total for inverse in inverses], max_weight)


def pos_weights(
    labels_or_counts: Any,
    *,
    scheme: str = "balanced",
    beta: float = 0.999,
    power: float = 1.0,
    max_weight: float | None = None,
    pseudo_count: float = 0.0,
    ignore_index: float | None = None,
    per_label: bool | None = None,
    axis: int = -1,
) -> list[float]:
    """Return the `pos_weight` of a binary loss, one number per label: (negatives / positives)^power.

    With power 1 the rows of both labels have the same total weight. `pseudo_count` is added to both numbers. Last,
    weights above `max_weight` become `max_weight`.

    Args:
        labels_or_counts: A list, tuple, array or tensor. Labels in [0, 1], where a soft label counts by its share. Or
            counts: [negatives, positives], each a number or a list of L numbers. Numbers that all lie in [0, 1] are
            taken for labels.
        scheme: "balanced" and "inverse": the quotient of the counts. "effective": the quotient of their
            `effective_numbers`.
        beta: Overlap of the rows for "effective", in [0, 1).
        power: Exponent >= 0: 1 balances both labels, 0.5 takes the square root, 0 gives 1.
        max_weight: Largest weight, > 0. None: no bound.
        pseudo_count: Number >= 0 of rows that is added to the negatives and to the positives.
        ignore_index: Label that does not count.
        per_label: Whether each of the L labels along `axis` gets its own weight. None: one weight for labels of rank 1,
            L weights for rank 2. Labels of higher rank need True or False.
        axis: Axis of the labels.

    Raises:
        ValueError: A label without negatives or without positives, numbers that are neither labels nor counts, or an
            argument out of its range.

    >>> pos_weights([0, 0, 0, 1])
    [3.0]
    >>> pos_weights([[90, 50], [10, 50]])
    [9.0, 1.0]
    """
    name = "labels_or_counts"
    array = _array(name, labels_or_counts)
    others = array[array != ignore_index]
    if array.ndim in (1, 2) and len(array) == 2 and (others > 1).any() and (others >= 0).all():
        negatives, positives = np.atleast_2d(array.T).T.astype(float).tolist()
    else:
        negatives, positives = binary_counts(
            name, array, per_label=per_label, axis=axis, ignore_index=ignore_index, hint=" or counts (2,) or (2, L)"
        )
    return ratios_of_counts(
        name,
        negatives,
        positives,
        scheme=scheme,
        beta=beta,
        power=power,
        max_weight=max_weight,
        pseudo_count=pseudo_count,
    )


def ratios_of_counts(
    name: str,
    negatives: Sequence[float],
    positives: Sequence[float],
    *,
    scheme: str = "balanced",
    beta: float = 0.999,
    power: float = 1.0,
    max_weight: float | None = None,
    pseudo_count: float = 0.0,
) -> list[float]:
    """Return the `pos_weights` for the row counts of both labels; errors call them `name`."""
    power = arguments.number("power", power, "[0, inf)")
    pseudo_count = arguments.number("pseudo_count", pseudo_count, "[0, inf)")
    for kind, counts in (("negatives", negatives), ("positives", positives)):
        empty = [position for position, count in enumerate(counts) if count + pseudo_count == 0]
        if empty:
            label = "" if len(counts) == 1 else f" for label {empty[0]}"
            raise ValueError(
                f"{name} must have {kind}{label}, got none: leave the label out, or pass pseudo_count, such as 1"
            )
    pairs = zip(
        _sizes(name, negatives, scheme, beta, pseudo_count),
        _sizes(name, positives, scheme, beta, pseudo_count),
        strict=True,
    )
    return _capped([(negative / positive) ** power for negative, positive in pairs], max_weight)


def _sizes(name: str, counts: Any, scheme: str, beta: float, pseudo_count: float) -> list[float]:
    """Return the row counts plus the pseudo-count, or their effective numbers."""
    scheme = arguments.choice("scheme", scheme, SCHEMES)
    beta = arguments.number("beta", beta, "[0, 1)")
    pseudo_count = arguments.number("pseudo_count", pseudo_count, "[0, inf)")
    given = arguments.weights(name, counts) if pseudo_count > 0 else arguments.counts(name, counts)
    sizes = [count + pseudo_count for count in given]
    return effective_numbers(sizes, beta) if scheme == "effective" else sizes


def _capped(weights: list[float], max_weight: float | None) -> list[float]:
    if max_weight is None:
        return weights
    bound = arguments.number("max_weight", max_weight, "(0, inf)")
    return [min(weight, bound) for weight in weights]


def _refuse_labels(name: str, counts: Any, pseudo_count: float) -> None:
    """Raise if counts look like labels. Without a pseudo-count, a 0 among them is wrong in any case."""
    items = arguments.as_python(counts)
    if isinstance(items, Sequence) and items and isinstance(items[0], Sequence) and not isinstance(items[0], str):
        raise ValueError(
            f"{name} must be the row counts of the classes without classes=, one number each, got rows of numbers: of "
            "one-hot or soft labels pass the sum over the rows, labels.sum(axis=0); with class indices pass classes=K"
        )
    if not isinstance(items, Sequence) or not items or not all(_is_whole(item) for item in items):
        return
    distinct = set(items)
    has_no_gap = min(distinct) in (0, 1) and len(distinct) == max(distinct) - min(distinct) + 1
    is_long = len(distinct) > 1 and len(items) >= LABELS_PER_CLASS * len(distinct)
    is_wrong_anyway = pseudo_count == 0 and min(distinct) == 0 and max(distinct) < len(items) > len(distinct)
    if (has_no_gap and is_long) or is_wrong_anyway:
        raise ValueError(
            f"{name} must be the row counts of the classes without classes=, got {len(items)} whole numbers from "
            f"{min(distinct)} to {max(distinct)} that look like labels: pass classes=K, the number of classes"
        )


def _is_whole(item: Any) -> bool:
    is_whole = isinstance(item, int) or (isinstance(item, float) and item.is_integer())
    return is_whole and not isinstance(item, bool)


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
        name: The name of the data in errors.
        data: Targets, an array or tensor; or a finite iterable of batches (inputs, target[, sample_weight[, mask]]).
            Sample weights do not count; masked rows are left out.
        classes: Number K of classes, >= 1, of targets that are class indices: of any shape, of an integer dtype or
            whole numbers. None: the targets are distributions or one-hot, and a count is a sum of their entries.
        axis: Class axis of distributions.
        ignore_index: Class index that does not count.

    Raises:
        ValueError: A label out of range, class indices without `classes`, other batches, or none.
        TypeError: With `classes`, targets that are not whole numbers; or data that hold no numbers.
    """
    classes = None if classes is None else arguments.integer("classes", classes, 1)
    total: list[float] = []
    for target, mask in _targets(name, data):
        if classes:
            sums = _label_counts(name, target, mask, classes, axis, ignore_index)
        else:
            sums = _mass(name, target, mask, axis)
        total = _added(name, total, sums)
    return _seen(name, total)


def binary_counts(
    name: str,
    data: Any,
    *,
    per_label: bool | None,
    axis: int = -1,
    ignore_index: float | None = None,
    hint: str = "",
) -> tuple[list[float], list[float]]:
    """Return the row counts of 0 and of 1 in binary targets, for each of L labels or for all together.

    Args:
        name: The name of the data in errors.
        data: Targets as in `class_counts`, in [0, 1]; soft ones count by their share.
        per_label: Whether each label along `axis` is counted separately. None: False for targets of rank 1, True for
            rank 2.
        axis: Axis of the labels.
        ignore_index: Label that does not count.
        hint: What errors say that the data may be, too.

    Raises:
        ValueError: A target outside [0, 1], targets of rank 3 or more without `per_label`, other batches, or none.
        TypeError: Data that hold no numbers.
    """
    total: list[float] = []
    for target, mask in _targets(name, data):
        if per_label is None and target.ndim > 2:
            raise ValueError(
                f"per_label must be True or False for labels of shape {target.shape}: True for a weight for each label "
                f"along axis {axis}, False for one weight"
            )
        counts = target != ignore_index if mask is None else (target != ignore_index) & mask
        positions = np.argwhere(counts & ~((target >= 0) & (target <= 1)))
        if len(positions):
            label, position = target[tuple(positions[0])], positions[0].tolist()
            raise ValueError(
                f"{name} must hold labels in [0, 1]{hint}, got {label} at {position}, one of {len(positions)} such "
                f"labels; ignore_index={label} leaves them out"
            )
        target = np.where(counts, target, 0).astype(float)
        if target.ndim > 1 and per_label is not False:
            counts, target = (np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis]) for array in (counts, target))
        else:
            counts, target = counts.reshape(-1, 1), target.reshape(-1, 1)
        positives = target.sum(0)
        total = _added(name, total, [*(counts.sum(0) - positives).tolist(), *positives.tolist()])
    half = len(_seen(name, total)) // 2
    return total[:half], total[half:]


def limited(name: str, data: Any, batches: int | None) -> Any:
    """Return `data`, or its first `batches` batches. Data that may have no end are refused without `batches`.

    Raises:
        ValueError: Batches of unknown number without `batches`: generators and other iterators, datasets that repeat.
    """
    if hasattr(data, "dtype"):
        return data
    number = _number_of_batches(data)
    if number is None and batches is None and (isinstance(data, Iterable) or hasattr(data, "num_batches")):
        raise ValueError(
            f"{name} must have a known number of batches, got {type(data).__name__}, which may have no end: pass "
            "batches=N to read at most N batches, or the targets as an array"
        )
    if isinstance(data, Iterable):
        return data if batches is None else islice(data, batches)
    if hasattr(data, "num_batches"):  # a PyDataset of an older Keras
        return map(data.__getitem__, range(min(count for count in (number, batches) if count is not None)))
    return data


def _number_of_batches(data: Any) -> int | None:
    """Return the number of batches in data; None if it is unknown."""
    try:
        return len(data)
    except (TypeError, NotImplementedError):  # the latter: a PyDataset without a length
        pass
    try:
        number = getattr(data, "num_batches", None)
    except NotImplementedError:
        return None
    return number if isinstance(number, int) else None


def _added(name: str, total: list[float], sums: list[float]) -> list[float]:
    if total and len(total) != len(sums):
        raise ValueError(f"{name} must have one number of classes in all batches, got {len(total)} and {len(sums)}")
    return [sum(pair) for pair in zip(total, sums, strict=True)] if total else sums


def _seen(name: str, total: list[float]) -> list[float]:
    if not total:
        raise ValueError(f"{name} must have batches, got none")
    return total


def _targets(name: str, data: Any) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
    """Yield (targets, mask or None) of each batch in `data`, or `data` itself if it is an array of targets."""
    if hasattr(data, "dtype"):
        yield _array(name, data), None
        return
    wanted = f"{name} must be an array or tensor of targets, or give batches (inputs, target[, sample_weight])"
    if not isinstance(data, Iterable) and hasattr(data, "num_batches"):  # a PyDataset of an older Keras
        data = map(data.__getitem__, range(data.num_batches))
    if not isinstance(data, Iterable):
        raise TypeError(f"{wanted}, got {type(data).__name__}")
    for batch in data:
        if not isinstance(batch, Sequence) or len(batch) not in (2, 3, 4):
            raise ValueError(f"{wanted}, got a batch of type {type(batch).__name__}")
        target = _array(name, _only(batch[1]))
        mask = None if len(batch) < 4 or batch[3] is None else _array(name, batch[3]).astype(bool)
        if mask is not None:
            mask = mask.reshape(mask.shape + (1,) * (target.ndim - mask.ndim))
        yield target, mask


def _only(target: Any) -> Any:
    """Return the only target in a list or dictionary, from a model with one output; others unchanged."""
    items = list(target.values()) if isinstance(target, Mapping) else target
    return items[0] if isinstance(items, list | tuple) and len(items) == 1 and hasattr(items[0], "dtype") else items


def _array(name: str, value: Any) -> NDArray[Any]:
    """Return a list, array or tensor as an array of numbers; bfloat16 becomes float64."""
    array = value if isinstance(value, np.ndarray) else np.asarray(arguments.as_python(value))
    if array.dtype.kind not in "biuf":
        array = np.asarray(array.tolist())
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got {type(value).__name__}")
    return array


def _label_counts(
    name: str, labels: NDArray[Any], mask: NDArray[Any] | None, classes: int, axis: int, ignore_index: float | None
) -> list[float]:
    counts = labels != ignore_index if mask is None else (labels != ignore_index) & mask
    kind = labels.dtype.kind
    is_index = kind in "iu" or not labels.size
    if kind == "f" and not is_index:
        is_index = bool((labels[counts] % 1 == 0).all()) and not _is_one_hot(labels, classes, axis)
    if not is_index:
        raise TypeError(
            f"{name} must hold class indices of an integer dtype, or whole numbers, with classes={classes}, got "
            f"{labels.dtype} of shape {labels.shape}; classes=None is for distributions and one-hot rows"
        )
    positions = np.argwhere(counts & ((labels < 0) | (labels >= classes)))
    if len(positions):
        label, position = labels[tuple(positions[0])], positions[0].tolist()
        raise ValueError(
            f"{name} must hold class indices in [0, {classes - 1}], got {label} at {position}, "
            f"one of {len(positions)} such labels"
        )
    return np.bincount(labels[counts].astype(np.int64), minlength=classes).astype(float).tolist()


def _is_one_hot(labels: NDArray[Any], classes: int, axis: int) -> bool:
    """Whether `labels` hold one 1 and otherwise 0 along an axis whose size is the number of classes."""
    if labels.ndim < 2 or not -labels.ndim <= axis < labels.ndim or labels.shape[axis] != classes:
        return False
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis) == 1).all())


def _mass(name: str, distribution: NDArray[Any], mask: NDArray[Any] | None, axis: int) -> list[float]:
    """Return the sum of the entries of each class. Integers must be one-hot: others are class indices, and raise."""
    is_label = distribution.ndim < 2
    if not is_label and distribution.dtype.kind != "f":
        is_label = bool((distribution.sum(axis) != 1).any() or (distribution < 0).any())
    if is_label:
        got = f"{distribution.dtype} of shape {distribution.shape}"
        raise ValueError(
            f"{name} must hold distributions or one-hot rows with classes=None, got {got}; "
            "classes=K is for class indices"
        )
    rows = np.moveaxis(distribution, axis, -1)
    if mask is not None:
        rows = np.where(mask, rows, 0)
    return rows.reshape(-1, distribution.shape[axis]).sum(0, dtype=float).tolist()
