"""The expected calibration error: the same bins and values on every side, computed by hand."""

import math

import numpy as np
import pytest

from sides import is_keras, side

if is_keras:
    from keras_xent.metrics import ExpectedCalibrationError
else:
    import torch

    from lightning_xent.metrics import ExpectedCalibrationError

P3 = 1 / (1 + math.exp(-3))
HALVES = [[0.5, 0.5], [1.0, 0.0], [0.75, 0.25]]
THIRDS = [[1 / 3, 1 / 3, 1 / 3], [0.38, 0.31, 0.31]]

# Options, logits, target, sample weights, and the error.
CASES = {
    # All three in the last bin: 2 hits, confidences of P3 + 2.
    "A2: probabilities of exactly 1": ({}, [[3, 0], [60, 0], [60, 0]], [0, 1, 0], None, (2 + P3 - 2) / 3),
    # The same by weights: 2 + 0.5 rows, hits of 2, confidences of 2 P3 + 0.5.
    "weights": ({}, [[3, 0], [60, 0], [60, 0]], [0, 1, 0], [2, 0.5, 0], abs(2 - 2 * P3 - 0.5) / 2.5),
    "an ignored row": ({"ignore_index": -1}, [[3, 0], [60, 0], [60, 0]], [-1, 1, 0], None, 0.5),
    "an ignored NaN": ({"ignore_index": -1}, [[np.nan, 0], [60, 0], [60, 0]], [-1, 1, 0], None, 0.5),
    # Bins of (0, 1/2] and (1/2, 1]: |1 - 0.5| and |0 + 1 - 1 - 0.75|.
    "two bins": ({"bins": 2, "from_logits": False}, HALVES, [0, 1, 0], None, (0.5 + 0.75) / 3),
    # 1/3 ends bin 5 of 15, 0.38 lies in bin 6: |1 - 1/3| and |0 - 0.38|.
    "the end of a bin": ({"from_logits": False}, THIRDS, [0, 1], None, (2 / 3 + 0.38) / 2),
    "one bin": ({"bins": 1, "from_logits": False}, THIRDS, [0, 1], None, abs(1 - 1 / 3 - 0.38) / 2),
    # A hit is the mass of the target at the most probable class, 0.25 and 1.
    "distributions": ({"bins": 1}, [[3, 0], [0, 3]], [[0.25, 0.75], [0, 1]], None, abs(1.25 - 2 * P3) / 2),
    "no row": ({"ignore_index": 0}, [[3, 0]], [0], None, 0.0),
    "the class axis": ({"axis": 1}, [[[3, 0], [0, 60]]], [[0, 0]], None, P3 / 2),
}


def updated(metric, logits, target, weights):
    logits, target = np.array(logits, "float32"), np.array(target)
    target = target.astype("float32") if target.dtype.kind == "f" else target
    weights = None if weights is None else np.array(weights, "float32")
    if is_keras:
        metric.update_state(target, side.tensor(logits), sample_weight=weights)
    else:
        metric.update(torch.from_numpy(logits), torch.from_numpy(target), weights)


def result(metric):
    return float(metric.result() if is_keras else metric.compute())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_A2_calibration_error_by_hand(name, batch):
    options, logits, target, weights, want = CASES[name]
    metric = ExpectedCalibrationError(**options)
    for start in range(0, len(logits), batch):
        part = slice(start, start + batch)
        updated(metric, logits[part], target[part], None if weights is None else weights[part])
    assert result(metric) == pytest.approx(want, abs=2e-7)  # a difference of sums of the order of 1


def test_A2_more_rows_in_a_bin_than_float32_counts():
    """2^24 rows that are right, with a confidence of 1, then 300 that are wrong, with one of P3."""
    metric = ExpectedCalibrationError()
    updated(metric, [[1000, 0]], [0], [2.0**24])
    for _ in range(3):
        updated(metric, [[3, 0]] * 100, [1] * 100, None)
    assert result(metric) == pytest.approx(300 * P3 / (2**24 + 300), rel=1e-4)


def test_A2_of_no_bins():
    with pytest.raises(ValueError, match="bins must be an integer >= 1"):
        ExpectedCalibrationError(0)
