"""docs/training_means.md says what was measured, and the measure itself. The runs are in integrations/ and keras/."""

import json
import math

import numpy as np
import pytest

from shared_specs.conformance import means
from shared_specs.conformance.trainers import step

CONTENT = json.loads(means.MEASURED.read_text(encoding="utf-8"))


def test_the_page_is_what_the_results_make():
    assert means.PAGE.read_text(encoding="utf-8") == means.page(CONTENT)


def test_every_trainer_was_measured():
    expected = [[trainer.module, trainer.backend, devices] for trainer in means.TRAINERS for devices in trainer.devices]
    found = [[row["module"], row["backend"], row["devices"]] for row in CONTENT["rows"]]
    assert sorted(expected) == sorted(map(list, {tuple(row) for row in found}))


def test_ours_was_exact():
    means.check(CONTENT["rows"])


def test_the_page_says_how_many_rows_count():
    for scenario, counts in step.SCENARIOS.items():
        whole = step.batches(scenario)
        assert [int((labels != step.IGNORED).sum()) for _, labels in whole] == [sum(pair) for pair in counts]
        halves = [step.batches(scenario, device, 2) for device in range(2)]
        for index, (inputs, labels) in enumerate(whole):
            np.testing.assert_array_equal(inputs, np.concatenate([half[index][0] for half in halves]))
            np.testing.assert_array_equal(labels, np.concatenate([half[index][1] for half in halves]))
    assert {name: [sum(pair) for pair in counts] for name, counts in step.SCENARIOS.items()} == {
        "even": [8, 8, 8],
        "uneven": [7, 2, 3],
        "gap": [7, 0, 3],
    }


@pytest.mark.parametrize("scenario", step.SCENARIOS)
def test_the_right_gradient_is_the_slope_of_the_mean(scenario):
    inputs, labels = (np.concatenate(parts) for parts in zip(*step.batches(scenario), strict=True))

    def mean(kernel):
        kept = labels != step.IGNORED
        logits = inputs[kept] @ kernel
        return np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(kept.sum()), labels[kept]])

    slopes = np.zeros((step.FEATURES, step.CLASSES))
    for place in np.ndindex(slopes.shape):
        moved = np.zeros_like(slopes)
        moved[place] = 1e-5
        slopes[place] = (mean(step.kernel() + moved) - mean(step.kernel() - moved)) / 2e-5
    np.testing.assert_allclose(step.wanted(scenario), slopes, atol=1e-9)


@pytest.mark.parametrize(
    ("gradient", "factor", "deviation"),
    [
        ([6.0, 8.0], 2.0, 0.0),
        ([-3.0, -4.0], -1.0, 0.0),
        ([7.0, 1.0], 1.0, math.sqrt(0.5)),
        ([math.nan, 1.0], "NaN", "NaN"),
    ],
)
def test_factor_and_deviation(gradient, factor, deviation):
    found = step.compared(gradient, [3.0, 4.0])
    if factor == "NaN":
        assert found == {"factor": "NaN", "deviation": "NaN"}
    else:
        assert found == {"factor": pytest.approx(factor), "deviation": pytest.approx(deviation, abs=1e-6)}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"factor": 1.00002, "deviation": 0.0}, "factor"),
        ({"factor": 1.0, "deviation": 2e-5}, "deviation"),
        ({"factor": "NaN", "deviation": "NaN"}, "NaN"),
    ],
)
def test_what_is_not_exact_fails(result, message):
    row = {"trainer": "some trainer", "devices": 2, "micro_batches": 3, "ours": {"uneven": result}}
    with pytest.raises(ValueError, match=f"some trainer on 2 devices, uneven: .*{message}"):
        means.check([row])
