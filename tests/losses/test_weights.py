"""Class weights from counts and labels."""

import numpy as np
import pytest

from shared_specs.common import weights
from sides import side

# The first four: Cui et al., 2019, with beta = 0.999. The others: (1 - beta^n) / (1 - beta) with 60 digits.
EFFECTIVE = [
    (10, 0.999, 9.95511979, 1e-9),
    (100, 0.999, 95.20785289, 1e-9),
    (500, 0.999, 393.6210551, 1e-9),
    (5000, 0.999, 993.278888, 1e-9),
    (10, 0.999, 9.95511979025179008, 1e-15),
    (5, 1 - 2**-53, 4.99999999999999889, 1e-15),
    (1e6, 1 - 1e-12, 999999.500011727508, 1e-15),
    (0.5, 1e-20, 0.9999999999, 1e-15),
    (1e300, 0.5, 2.0, 1e-15),
    (7, 0.0, 1.0, 0.0),
]


@pytest.mark.parametrize(("count", "beta", "want", "relative"), EFFECTIVE)
def test_effective_numbers(count, beta, want, relative):
    assert weights.effective_numbers([count, 1], beta) == pytest.approx([want, 1.0], rel=relative, abs=0)


LABELS = np.array([[0, 1], [1, 2]])
WEIGHTS = {
    "counts": ([1, 2, 4], {}, [12 / 7, 6 / 7, 3 / 7]),
    "inverse": ([1, 2, 4], {"scheme": "inverse"}, [12 / 7, 6 / 7, 3 / 7]),
    "soft counts": (np.array([0.5, 1.5]), {}, [1.5, 0.5]),
    "tiny counts": ([1e-320, 1e-320], {}, [1.0, 1.0]),
    "one class": ((5,), {}, [1.0]),
    "effective": ([10, 100], {"scheme": "effective"}, [1.81067252975300609, 0.189327470246993913]),
    "effective, beta": ([6, 3, 1], {"scheme": "effective", "beta": 0.9}, [0.404607672, 0.699566665, 1.895825663]),
    "effective, beta 0": ([6, 3, 1], {"scheme": "effective", "beta": 0}, [1.0, 1.0, 1.0]),
    "beta without use": ([1, 3], {"beta": 0.5}, [1.5, 0.5]),
    "labels": ([0, 1, 1, 2], {"classes": 3}, [1.2, 0.6, 1.2]),
    "labels of higher rank": (LABELS, {"classes": 3}, [1.2, 0.6, 1.2]),
    "unsigned labels": (LABELS.astype("uint8"), {"classes": 3}, [1.2, 0.6, 1.2]),
    "tensor of labels": (side.tensor(LABELS), {"classes": 3}, [1.2, 0.6, 1.2]),
    "tensor of counts": (side.tensor(np.array([1.0, 3.0]), "bfloat16"), {}, [1.5, 0.5]),
    "float labels": ([0.0, 1.0, 1.0, 2.0], {"classes": 3}, [1.2, 0.6, 1.2]),
}


@pytest.mark.parametrize(("given", "options", "want"), WEIGHTS.values(), ids=WEIGHTS)
def test_class_weights(given, options, want):
    got = weights.class_weights(given, **options)
    assert all(type(weight) is float for weight in got)
    assert got == pytest.approx(want, rel=1e-9)
    assert sum(got) == pytest.approx(len(want), rel=1e-15)


# n^-1 scaled to sum K, by hand: of 1, 2, 4 rows 12/7, 6/7, 3/7. Irrational ones with 25 digits.
SHAPED = {
    "power 1": ([1, 2, 4], {"power": 1}, [12 / 7, 6 / 7, 3 / 7]),
    "power 0.5": ([1, 4, 4], {"power": 0.5}, [1.5, 0.75, 0.75]),
    "power 0.5, irrational": (
        [1, 2, 4],
        {"power": 0.5},
        [1.35924551796591853, 0.961131723051122206, 0.679622758982959265],
    ),
    "power 2": ([1, 2], {"power": 2}, [1.6, 0.4]),
    "power 0": ([1, 2, 4], {"power": 0}, [1.0, 1.0, 1.0]),
    "power of tiny counts": ([1e-320, 1e-320], {"power": 3}, [1.0, 1.0]),
    "effective, power 0.5": (
        [10, 100],
        {"scheme": "effective", "power": 0.5},
        [1.5113040790270702, 0.488695920972929796],
    ),
    "max_weight": ([1, 2, 4], {"max_weight": 1}, [1.0, 6 / 7, 3 / 7]),
    "max_weight without effect": ([1, 2, 4], {"max_weight": 2}, [12 / 7, 6 / 7, 3 / 7]),
    "max_weight of all": ([1, 1], {"max_weight": 0.5}, [0.5, 0.5]),
    "power, then max_weight": ([1, 4, 4], {"power": 0.5, "max_weight": 1.25}, [1.25, 0.75, 0.75]),
    "pseudo_count": ([0, 1, 3], {"pseudo_count": 1}, [12 / 7, 6 / 7, 3 / 7]),
    "pseudo_count of labels": ([1, 2, 2, 2], {"classes": 3, "pseudo_count": 1}, [12 / 7, 6 / 7, 3 / 7]),
    "pseudo_count below 1": ([1.5, 3.5], {"pseudo_count": 0.5}, [4 / 3, 2 / 3]),
    "effective with pseudo_count": (
        [8, 98],
        {"scheme": "effective", "pseudo_count": 2},
        [1.81067252975300609, 0.189327470246993913],
    ),
}


@pytest.mark.parametrize(("given", "options", "want"), SHAPED.values(), ids=SHAPED)
def test_C1_power_cap_and_pseudo_count(given, options, want):
    got = weights.class_weights(given, **options)
    assert all(type(weight) is float for weight in got)
    assert got == pytest.approx(want, rel=1e-9)


def test_C1_schemes_are_those_of_scikit_learn():
    """n / (K n_c): 8 / (2 * 6) and 8 / (2 * 2), here scaled to sum 2; their quotient is the pos_weight 3."""
    labels = [0, 0, 0, 0, 0, 0, 1, 1]
    balanced = [8 / 12, 8 / 4]
    got = weights.class_weights(labels, classes=2)
    assert [weight / got[0] for weight in got] == pytest.approx([weight / balanced[0] for weight in balanced])
    assert weights.pos_weights(labels) == [got[1] / got[0]] == [3.0]


LABELS_OF_TWO = np.array([[0, 1], [0, 1], [1, 0], [0, 1]])
POSITIVE = {
    "labels": ([0, 0, 0, 1], {}, [3.0]),
    "bool": (np.array([False, False, True]), {}, [2.0]),
    "float": ([0.0, 1.0, 1.0], {}, [0.5]),
    "soft": ([0.25, 0.25, 0.5], {}, [2.0]),
    "tensor": (side.tensor(np.array([0.0, 0.0, 1.0]), "bfloat16"), {}, [2.0]),
    "a column": ([[0], [0], [1]], {}, [2.0]),
    "several labels": (LABELS_OF_TWO, {}, [3.0, 1 / 3]),
    "several labels, one weight": (LABELS_OF_TWO, {"per_label": False}, [1.0]),
    "labels along an axis": (LABELS_OF_TWO.T, {"axis": 0}, [3.0, 1 / 3]),
    "higher rank": (LABELS_OF_TWO.T.reshape(1, 2, 2, 2), {"axis": 1, "per_label": True}, [3.0, 1 / 3]),
    "higher rank, one weight": (LABELS_OF_TWO.reshape(2, 2, 2), {"per_label": False}, [1.0]),
    "ignored": ([0, -1, -1, 1, 0], {"ignore_index": -1}, [2.0]),
    "ignored, of two": ([[0, 255], [0, 1], [1, 0]], {"ignore_index": 255}, [2.0, 1.0]),
    "ignored, of two rows": ([[0, 255], [1, 0], [255, 1]], {"ignore_index": 255}, [1.0, 1.0]),
    "two labels": ([0, 1], {}, [1.0]),
    "counts": ([90, 10], {}, [9.0]),
    "counts of two": ([[90, 50], [10, 50]], {}, [9.0, 1.0]),
    "counts of one in a list": ([[90], [10]], {}, [9.0]),
    "soft counts": ((1.5, 0.5), {}, [3.0]),
    "tensor of counts": (side.tensor(np.array([6, 2])), {}, [3.0]),
    "power": ([90, 10], {"power": 0.5}, [3.0]),
    "power 0": ([90, 10], {"power": 0}, [1.0]),
    "max_weight": ([[90, 50], [10, 50]], {"max_weight": 5}, [5.0, 1.0]),
    "power, then max_weight": ([[90, 50], [10, 50]], {"power": 0.5, "max_weight": 2.5}, [2.5, 1.0]),
    "pseudo_count": ([0, 0, 0], {"pseudo_count": 1}, [4.0]),
    "effective": ([100, 10], {"scheme": "effective"}, [95.2078528862909580 / 9.95511979025179012]),
    "effective, beta 0": ([100, 10], {"scheme": "effective", "beta": 0}, [1.0]),
}


@pytest.mark.parametrize(("given", "options", "want"), POSITIVE.values(), ids=POSITIVE)
def test_C1_pos_weights(given, options, want):
    got = side.package.pos_weights(given, **options)
    assert all(type(weight) is float for weight in got)
    assert got == pytest.approx(want, rel=1e-12)
    assert side.package.BinaryCrossEntropy(pos_weight=got).pos_weight in (tuple(got), got[0])


POSITIVE_ERRORS = {
    "no positives": ([0, 0], {}, r"must have positives, got none: leave the label out, or pass pseudo_count"),
    "no negatives": ([1, 1, 1], {}, r"must have negatives, got none"),
    "of one label": ([[0, 1], [1, 1]], {}, r"must have negatives for label 1, got none"),
    "counts without positives": ([5, 0], {}, r"must have positives, got none"),
    "class indices": ([0, 1, 2], {}, r"labels in \[0, 1\] or counts \(2,\) or \(2, L\), got 2 at \[2\], one of 1"),
    "ignored label": ([0, 1, -1], {}, r"got -1 at \[2\], one of 1 such labels; ignore_index=-1 leaves them out"),
    "NaN": ([0.0, 1.0, float("nan")], {}, r"got nan at \[2\]"),
    "negative counts": ([5, -1], {}, r"labels_or_counts must hold labels in \[0, 1\] or counts"),
    "higher rank": (LABELS_OF_TWO.reshape(2, 2, 2), {}, r"per_label must be True or False .* \(2, 2, 2\): True for"),
    "nothing": ([], {}, "must have negatives, got none"),
    "power": ([1, 2], {"power": -1}, r"power must be a number in \[0, inf\), got -1"),
    "max_weight": ([1, 2], {"max_weight": 0}, r"max_weight must be a number in \(0, inf\), got 0"),
    "pseudo_count": ([1, 2], {"pseudo_count": -1}, r"pseudo_count must be a number in \[0, inf\), got -1"),
    "scheme": ([1, 2], {"scheme": "sqrt"}, "scheme must be one of"),
}


@pytest.mark.parametrize(("given", "options", "message"), POSITIVE_ERRORS.values(), ids=POSITIVE_ERRORS)
def test_C1_pos_weights_name_the_argument(given, options, message):
    with pytest.raises(ValueError, match=message):
        weights.pos_weights(given, **options)


LIKE_LABELS = {
    "with zeros": [0, 1, 1, 2],
    "without the class 0": [1, 2, 2, 1, 1, 2, 1, 1],
    "of one batch": [3, 1, 2, 1, 3, 2, 1, 2, 3, 1, 2, 3],
    "floats": [0.0, 1.0, 0.0],
    "array": np.array([0, 1, 2, 2, 1, 0]),
    "tensor": side.tensor(np.array([1, 2, 2, 1, 1, 2, 1, 1])),
    "not all classes occur": [0, 5, 7, 7, 2, 5, 5, 7],
}


@pytest.mark.parametrize("given", LIKE_LABELS.values(), ids=LIKE_LABELS)
def test_A12_labels_without_classes_are_refused(given):
    with pytest.raises(
        ValueError, match=r"counts_or_labels must be the row counts .* look like labels: pass classes=K"
    ):
        weights.class_weights(given)


def test_newcomer_13_rows_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"counts_or_labels must be the row counts .*one-hot .*labels\.sum\(axis=0\)"):
        weights.class_weights(np.eye(3)[[0, 1, 1, 2]])


@pytest.mark.parametrize("zeros", [{}, {"pseudo_count": 1}], ids=str)
def test_A12_labels_are_refused_with_a_pseudo_count_too(zeros):
    with pytest.raises(ValueError, match="look like labels"):
        weights.class_weights([0, 1, 1, 0, 0, 0, 1, 0], **zeros)


REAL_COUNTS = {
    "balanced": [10] * 100,
    "one of each": [1] * 50,
    "toy": [2, 1, 1],
    "small and equal": [1, 2, 1, 2],
    "few shots": [4, 5, 5, 4, 5, 4, 4, 5] * 20,
    "long tail": [530, 236, 144, 121, 109, 77, 71, 55] + [3, 2, 2] * 50 + [1] * 500,
    "soft": [0.5, 1.5, 1.0, 0.5, 1.5, 1.0, 0.5, 1.5],
}


@pytest.mark.parametrize("given", REAL_COUNTS.values(), ids=REAL_COUNTS)
def test_A12_real_counts_are_taken(given):
    got = weights.class_weights(given)
    assert got == pytest.approx([got[0] * given[0] / count for count in given])


ERRORS = {
    "empty class": ([3, 0], {}, ValueError, r"counts_or_labels\[1\] must be > 0, got 0: merge"),
    "class without labels": ([0, 0, 2], {"classes": 3}, ValueError, r"counts_or_labels\[1\] must be > 0, got 0: merge"),
    "no labels": ([], {"classes": 2}, ValueError, r"counts_or_labels\[0\] must be > 0"),
    "no counts": ([], {}, ValueError, "counts_or_labels must be a non-empty"),
    "negative count": ([1, -1], {}, ValueError, r"counts_or_labels\[1\] must be a number in \[0, inf\), got -1"),
    "NaN": ([1, float("nan")], {}, ValueError, r"counts_or_labels\[1\] must be a number in \[0, inf\), got nan"),
    "counts of rank 2": ([[1, 2]], {}, ValueError, "counts_or_labels must be the row counts .* got rows of numbers"),
    "label too large": (
        LABELS,
        {"classes": 2},
        ValueError,
        r"counts_or_labels must hold class indices in \[0, 1\], got 2 at \[1, 1\]",
    ),
    "negative label": ([0, -1, -1], {"classes": 2}, ValueError, r"in \[0, 1\], got -1 at \[1\], one of 2 such labels"),
    "labels that are not whole": (
        [0.5, 1.0],
        {"classes": 2},
        TypeError,
        "counts_or_labels must .* integer dtype, or whole numbers, .* got float64",
    ),
    "power": ([1, 2], {"power": -0.5}, ValueError, r"power must be a number in \[0, inf\), got -0.5"),
    "max_weight": ([1, 2], {"max_weight": 0}, ValueError, r"max_weight must be a number in \(0, inf\), got 0"),
    "pseudo_count": ([1, 2], {"pseudo_count": -1}, ValueError, r"pseudo_count must be a number in \[0, inf\), got -1"),
    "words": (["a", "b"], {"classes": 2}, TypeError, "counts_or_labels must hold numbers"),
    "scheme": ([1, 2], {"scheme": "sqrt"}, ValueError, "scheme must be one of .*, got 'sqrt'"),
    "beta": ([1, 2], {"beta": 1.0}, ValueError, r"beta must be a number in \[0, 1\), got 1.0"),
    "classes": ([1, 2], {"classes": 0}, ValueError, "classes must be an integer >= 1, got 0"),
}


@pytest.mark.parametrize(("given", "options", "error", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_argument(given, options, error, message):
    with pytest.raises(error, match=message):
        weights.class_weights(given, **options)


ROWS = np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
COUNTS = {
    "labels": (np.array([0, 1, 1]), {"classes": 3}, [1, 2, 0]),
    "ignored": (np.array([0, -1, 1]), {"classes": 2, "ignore_index": -1}, [1, 1]),
    "distributions": (ROWS, {"classes": None}, [1.75, 1.25]),
    "distributions along an axis": (ROWS, {"classes": None, "axis": 0}, [1, 1, 1]),
    "one-hot": (np.eye(3, dtype="int64")[[0, 1, 1]], {"classes": None}, [1, 2, 0]),
    "higher rank": (np.eye(3)[[[0, 1], [1, 1]]].transpose(0, 2, 1), {"classes": None, "axis": 1}, [1, 3, 0]),
    "batches": ([("inputs", np.array([0, 1])), ["inputs", [1], "weights"]], {"classes": 2}, [1, 2]),
    "float labels": (np.array([[0.0], [1.0], [1.0]], "float32"), {"classes": 3}, [1, 2, 0]),
    "float labels, one of them ignored": (np.array([0.0, -0.5, 1.0]), {"classes": 2, "ignore_index": -0.5}, [1, 1]),
    "batches with a mask": (
        [("inputs", np.array([[0, 1], [1, 7]]), None, np.array([[True, True], [True, False]]))],
        {"classes": 2},
        [1, 2],
    ),
    "mask of the rows": ([("inputs", np.array([[0, 1], [1, 7]]), None, [True, False])], {"classes": 2}, [1, 1]),
    "mask of distributions": ([("inputs", ROWS, None, [True, False, True])], {"classes": None}, [1.25, 0.75]),
    "target of the only output": (
        [("inputs", [np.array([0, 1])]), ("inputs", {"out": np.array([1])})],
        {"classes": 2},
        [1, 2],
    ),
    "batches of tensors": (
        iter([("inputs", side.tensor(ROWS[:1])), ("inputs", ROWS[1:])]),
        {"classes": None},
        [1.75, 1.25],
    ),
}


@pytest.mark.parametrize(("data", "options", "want"), COUNTS.values(), ids=COUNTS)
def test_class_counts(data, options, want):
    assert weights.class_counts("data", data, **options) == want


COUNT_ERRORS = {
    "labels without classes": (np.array([0, 1]), None, ValueError, "data must hold distributions .* int64 of shape"),
    "map of labels without classes": (np.array([[0, 1], [1, 1]]), None, ValueError, "classes=K is for class indices"),
    "distributions with classes": (ROWS, 2, TypeError, "data must hold class indices .* got float64"),
    "list of labels": ([0, 1], 2, ValueError, "data must be an array or tensor .* got a batch of type int"),
    "number": (3, 2, TypeError, "data must be an array or tensor .* got int"),
    "no batches": ([], 2, ValueError, "data must have batches, got none"),
    "unequal batches": (
        [(0, ROWS), (0, ROWS[:, :1])],
        None,
        ValueError,
        "data must have one number of classes in all batches",
    ),
}


@pytest.mark.parametrize(("data", "classes", "error", "message"), COUNT_ERRORS.values(), ids=COUNT_ERRORS)
def test_errors_name_the_data(data, classes, error, message):
    with pytest.raises(error, match=message):
        weights.class_counts("data", data, classes=classes)
