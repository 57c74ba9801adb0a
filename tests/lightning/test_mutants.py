"""The vectors pass a plain textbook implementation and fail every known-wrong one: a suite that cannot fail proves
nothing. Runs with torch, on the lightning side."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

from mutants import MUTANTS
from plain import Plain, evaluate
from shared_specs import load
from sides import side

# The plain implementation is of these; the variants share their path, and each has its own vectors and laws.
PLAIN = ("BinaryCrossEntropy", "CategoricalCrossEntropy", "SparseCategoricalCrossEntropy")
PLAIN += ("BinaryFocalCrossEntropy", "CategoricalFocalCrossEntropy")
ALL = {case.id: case for loss in PLAIN for case in load.cases(loss)}
CASES = [case for case in ALL.values() if case.error is None or case.error.kind == "label"]
EXCEPTIONS = {
    # (1 - p)^2 log p at log p = -8192: autograd of a softmax cancels terms of 8192, and 280 eps remain.
    "categorical-focal/extreme-soft",
}
# Cases made for few flags first: they find a mutant sooner.
BINDING = sorted((case for case in CASES if case.id not in EXCEPTIONS), key=lambda case: len(case.flags))


def difference(kind, case, judged_in):
    """What is wrong with the result of `kind` in one case, or None. Computed in float64."""
    if case.error:
        try:
            value, _ = evaluate(kind, case, "float64")
        except ValueError as error:
            return None if case.error.argument in str(error) else f"raises {error}"
        return f"gives {value.tolist()}"
    wants = case.expected.loss, case.expected.grad_logits
    for want, got in zip(wants, evaluate(kind, case, "float64"), strict=True):
        verdict = load.compare(want, got.numpy(), judged_in, judged_in, "tail" in case.flags)
        if not verdict.ok:
            return verdict.message
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_control(case):
    """The unmutated losses pass at the tolerance of float64, so what a mutant fails by is its bug."""
    failure = difference(Plain, case, "float64")
    assert (failure is not None) == (case.id in EXCEPTIONS), failure


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_killed(mutant, record_property):
    """By the first case that carries its flag and gives a wrong number (a crash is not taken for a kill)."""
    kind, judged_in = mutant.build(), "float64" if mutant.loses_digits else "float32"
    flagged = [case for case in BINDING if mutant.flag in case.flags]
    for case in flagged:
        try:
            failure = difference(kind, case, judged_in)
        except ValueError as error:  # a mutant that looks at rows it must not look at may find a label out of range
            assert "out of range" in str(error)
            continue
        if failure is not None:
            record_property("killed_by", case.id)
            print(f"{mutant.name}: killed by {case.id} [{mutant.flag}]: {failure}")
            return
    pytest.fail(f"{mutant.name!r} survives the {len(flagged)} cases flagged {mutant.flag!r}")


def test_names_are_unique():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 24


def changed(part, **repairs):
    """A repair of the named entries of `part` of a call: "config" or "inputs"."""

    def repair(case):
        values = getattr(case, part)
        return dataclasses.replace(case, **{part: values | {name: fix(values[name]) for name, fix in repairs.items()}})

    return repair


def without_unknown_keywords(case):
    known = inspect.signature(getattr(side.package, case.loss)).parameters
    return changed_config(case, {name: value for name, value in case.config.items() if name in known})


def without_negative_weights(case):
    return changed_config(case, {name: np.maximum(value, 0.0).tolist() for name, value in case.config.items()})


def changed_config(case, config):
    return dataclasses.replace(case, config=config)


LENIENT = (
    # Implementations that mend what they are given before they compute; the case that must notice.
    ("gamma below 0 is 0", changed("config", gamma=lambda value: 0.0), "categorical-focal/rejects-gamma-negative"),
    ("gamma NaN is the default", changed("config", gamma=lambda value: 2.0), "binary-focal/rejects-gamma-nan"),
    ("gamma as text", changed("config", gamma=float), "categorical-focal/rejects-gamma-string"),
    (
        "alpha above 1 is 1",
        changed("config", alpha=lambda value: min(value, 1.0)),
        "binary-focal/rejects-alpha-above-one",
    ),
    (
        "negative smoothing is none",
        changed("config", label_smoothing=lambda value: max(value, 0.0)),
        "categorical-cross-entropy/rejects-label-smoothing-negative",
    ),
    (
        "temperature without logits has no effect",
        changed("config", temperature=lambda value: 1.0),
        "binary-cross-entropy/rejects-temperature-without-logits",
    ),
    (
        "hard_fraction 0 is off",
        changed("config", hard_fraction=lambda value: value or 1.0),
        "binary-cross-entropy/rejects-hard-fraction-zero",
    ),
    (
        "an unknown reduction is mean",
        changed("config", reduction=lambda value: "mean"),
        "categorical-cross-entropy/rejects-reduction-unknown",
    ),
    ("axis cut to an integer", changed("config", axis=int), "categorical-cross-entropy/rejects-axis-fraction"),
    ("unknown keywords dropped", without_unknown_keywords, "categorical-cross-entropy/rejects-keyword-smoothing"),
    ("negative weights are 0", without_negative_weights, "categorical-cross-entropy/rejects-class-weight-negative"),
    (
        "missing class weights are 1",
        changed("config", class_weight=lambda value: [*value, 1.0]),
        "sparse-categorical-cross-entropy/rejects-class-weight-length",
    ),
    (
        "surplus class weights cut",
        changed("config", class_weight=lambda value: value[:3]),
        "categorical-focal/rejects-class-weight-length",
    ),
    (
        "labels cut to integers",
        changed("inputs", target=lambda value: value.astype(np.int64)),
        "categorical-cross-entropy/rejects-label-fraction",
    ),
    (
        "labels limited to the classes",
        changed("inputs", target=lambda value: value.clip(0, 2)),
        "sparse-categorical-cross-entropy/rejects-label-too-large",
    ),
    (
        "binary labels other than 0 are 1",
        changed("inputs", target=lambda value: value != 0),
        "binary-focal/rejects-label-two",
    ),
    (
        "targets flattened",
        changed("inputs", target=np.ravel),
        "binary-cross-entropy/rejects-target-broadcast",
    ),
    (
        "one-hot targets by argmax",
        changed("inputs", target=lambda value: value.argmax(-1)),
        "sparse-categorical-cross-entropy/rejects-one-hot",
    ),
    (
        "integer logits cast",
        changed("inputs", logits=lambda value: value.astype(np.float32)),
        "categorical-cross-entropy/rejects-integer-logits",
    ),
    (
        "sample weights cut to fit",
        changed("inputs", sample_weight=lambda value: value[:2]),
        "categorical-cross-entropy/rejects-sample-weight-shape",
    ),
    (
        "mask broadcast",
        changed("inputs", mask=lambda value: np.repeat(value, 2)),
        "categorical-cross-entropy/rejects-mask-shape",
    ),
)


def rejects(case):
    inputs = {name: torch.from_numpy(array) for name, array in case.inputs.items()}
    try:
        loss = getattr(side.package, case.loss)(**case.config)
        if inputs:
            side.call(loss, **inputs)
    except (ValueError, TypeError) as error:
        return type(error).__name__ == case.error.exception and case.error.argument in str(error)
    return False


@pytest.mark.parametrize(("repair", "case_id"), [row[1:] for row in LENIENT], ids=[row[0] for row in LENIENT])
def test_silent_acceptance_is_killed(repair, case_id):
    """The package as it is rejects the input; with the lenient step before it, it would not, and the case fails."""
    case = ALL[case_id]
    assert rejects(case)
    assert not rejects(repair(case))


def test_every_flag_kills():
    """A flag that kills nothing hunts nothing."""
    flags = {flag for case in ALL.values() for flag in case.flags}
    by_lenient = {flag for _, _, case_id in LENIENT for flag in ALL[case_id].flags}
    assert flags == {mutant.flag for mutant in MUTANTS} | by_lenient
