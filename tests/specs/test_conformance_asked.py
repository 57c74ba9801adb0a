"""What adapters read off a case, in plain values."""

import dataclasses

import numpy as np
import pytest

from shared_specs import load
from shared_specs.conformance.asked import Asked, answers, offered

CASES = {case.id: case for case in load.cases()}
# Each id, an attribute and its value.
FACTS = [
    ("categorical-cross-entropy/index-target", "has_indices", True),
    ("categorical-cross-entropy/soft-target", "has_indices", False),
    ("categorical-cross-entropy/soft-target", "is_hard", False),
    ("categorical-cross-entropy/one-hot-integers", "is_hard", True),
    ("categorical-cross-entropy/multi-hot-integers", "is_hard", False),
    ("categorical-cross-entropy/multi-hot-integers", "sums_to_one", False),
    ("categorical-cross-entropy/ignore-index-alone", "kept_rows", 4),
    ("categorical-cross-entropy/all-ignored", "kept_rows", 1),
    ("categorical-focal/from-logits-clip", "is_clipped", True),
    ("categorical-cross-entropy/logits-3d-axis-negative", "axis", 1),
    ("categorical-cross-entropy/logits-4d-axis-first", "row_shape", (1, 2, 2)),
    ("categorical-cross-entropy/weighted-mean-alone", "reduction", "mean"),
    ("categorical-cross-entropy/class-weight-with-weighted-mean", "reduction", "weighted_mean"),
    ("categorical-cross-entropy/reduction-sum-over-batch-size", "reduction", "mean"),
    ("binary-cross-entropy/logits-column", "is_hard", True),
    ("binary-cross-entropy/ignore-index-and-mask", "is_hard", True),
    ("binary-focal/ignore-index-half", "kept_rows", 2),
]


@pytest.mark.parametrize(("id", "fact", "value"), FACTS)
def test_facts(id, fact, value):
    assert getattr(Asked(CASES[id]), fact) == value


# The target of Distillation holds a teacher's logits; no other library has that loss.
VALUES = [case for case in CASES.values() if case.expected and case.loss != "Distillation"]


@pytest.mark.parametrize("case", VALUES, ids=lambda case: case.id)
def test_every_value_case_can_be_read(case):
    asked = Asked(case)
    for fact in ("has_indices", "is_hard", "sums_to_one", "kept_rows", "is_clipped", "reduction", "pos_weight"):
        getattr(asked, fact)
    for name in {"mask", "sample_weight"} & set(asked.inputs):
        np.broadcast_to(asked.inputs[name].reshape(asked.against_rows(asked.inputs[name].shape)), asked.row_shape)


def test_what_goes_beyond_the_arguments_is_named():
    offer = answers({"CategoricalCrossEntropy": lambda asked: offered(print) if asked.only("class_weight") else None})
    assert offer(CASES["categorical-cross-entropy/class-weight-alone"]).convention is None
    assert offer(CASES["categorical-cross-entropy/class-weight-with-z-loss"]) == "no argument for sample_weight, z_loss"
    assert offer(CASES["categorical-cross-entropy/class-weight-with-weighted-mean"]) == "no mean divides by weights"
    assert offer(CASES["categorical-focal/index-target"]) is None


def test_a_default_that_is_written_out_asks_for_nothing():
    case = CASES["categorical-cross-entropy/index-target"]
    assert Asked(dataclasses.replace(case, config={"label_smoothing": 0.0, "from_logits": True})).only()


def test_conventions_are_joined_and_undone_together():
    given = offered(lambda *, undo: undo, "first", None, "second")
    assert given.convention == "first; second"
    assert (given.call(), given.undone()) == (False, True)
