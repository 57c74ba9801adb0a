"""Class weights from counts and labels."""

import importlib

import numpy as np
import pytest

from sides import side

weights = importlib.import_module(f"{side.package.__name__}.weights")

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
}


@pytest.mark.parametrize(("given", "options", "want"), WEIGHTS.values(), ids=WEIGHTS)
def test_class_weights(given, options, want):
    got = weights.class_weights(given, **options)
    assert all(type(weight) is float for weight in got)
    assert got == pytest.approx(want, rel=1e-9)
    assert sum(got) == pytest.approx(len(want), rel=1e-15)


ERRORS = {
    "empty class": ([3, 0], {}, ValueError, r"counts_or_labels\[1\] must be > 0, got 0: merge"),
    "class without labels": ([0, 0, 2], {"classes": 3}, ValueError, r"counts_or_labels\[1\] must be > 0, got 0: merge"),
    "no labels": ([], {"classes": 2}, ValueError, r"counts_or_labels\[0\] must be > 0"),
    "no counts": ([], {}, ValueError, "counts_or_labels must be a non-empty"),
    "negative count": ([1, -1], {}, ValueError, r"counts_or_labels\[1\] must be a number in \[0, inf\), got -1"),
    "NaN": ([1, float("nan")], {}, ValueError, r"counts_or_labels\[1\] must be a number in \[0, inf\), got nan"),
    "counts of rank 2": ([[1, 2]], {}, ValueError, r"counts_or_labels\[0\] must be a number"),
    "label too large": (
        LABELS,
        {"classes": 2},
        ValueError,
        r"counts_or_labels must hold class indices in \[0, 1\], got 2 at \[1, 1\]",
    ),
    "negative label": ([0, -1, -1], {"classes": 2}, ValueError, r"in \[0, 1\], got -1 at \[1\], one of 2 such labels"),
    "float labels": ([0.0, 1.0], {"classes": 2}, TypeError, "counts_or_labels must .* integer dtype .* got float64"),
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
        "data must have as many classes in every batch",
    ),
}


@pytest.mark.parametrize(("data", "classes", "error", "message"), COUNT_ERRORS.values(), ids=COUNT_ERRORS)
def test_errors_name_the_data(data, classes, error, message):
    with pytest.raises(error, match=message):
        weights.class_counts("data", data, classes=classes)
