"""Every value case of the shared vectors in every mode: value, gradient and denominator; every error case: its error.

README.md says how a case reaches each mode.
"""

import re
from collections import Counter
from itertools import groupby

import numpy as np
import pytest

from shared_specs import load
from sides import is_keras, side

CASES = load.cases()
VALUES = [case for case in CASES if case.expected]
WITH_PARTS = [case for case in VALUES if "denominator" not in case.inputs]
KERAS_NAMES = {"target": "y_true", "logits": "y_pred"}

# The first group of each is compiled on every Python and with the oldest versions; all other compiled runs are slow.
FAST_COMPILED = ["BinaryHinge"]
if "inductor" not in side.compiled_modes:
    FAST_COMPILED.append("SparseCategoricalCrossEntropy")


def arguments(case, dtype):
    """The inputs of a case as tensors; floats in the dtype under test."""
    return {name: side.tensor(array, dtype if array.dtype.kind == "f" else None) for name, array in case.inputs.items()}


def positional(case, call):
    """`call` of the case's loss as a function of tensors, the logits first, and the names of those tensors."""
    loss = side.package.get({"loss": case.loss, "config": case.config})
    names = sorted(case.inputs, key=lambda name: name != "logits")
    return lambda *tensors: call(loss, **dict(zip(names, tensors, strict=True))), names


def evaluate(run, call, cases, dtype, mode):
    """What `run`, of the side, gives for these cases: as one function, where the mode compiles."""
    functions, inputs = [], []
    for case in cases:
        function, names = positional(case, call)
        functions.append(function)
        tensors = arguments(case, dtype)
        inputs.append(tuple(tensors[name] for name in names))
    return run(functions, inputs, mode)


def outcomes(run, call, cases, dtype, mode):
    """`evaluate`, with an exception for each case that has none: a group that fails is split until it is named."""
    try:
        return evaluate(run, call, cases, dtype, mode)
    except Exception as error:
        if len(cases) == 1:
            return [error]
        middle = len(cases) // 2
        found = [
            outcome for part in (cases[:middle], cases[middle:]) for outcome in outcomes(run, call, part, dtype, mode)
        ]
        if not any(isinstance(outcome, Exception) for outcome in found):
            raise  # the cases fail together alone
        return found


def verdicts_of(case, outcome, dtype):
    if isinstance(outcome, Exception):
        return [load.Verdict(False, np.inf, f"{type(outcome).__name__}: {outcome}")]
    value, gradient = outcome
    compute_dtype = "float64" if dtype == "float64" else "float32"
    got = side.dtype_name(value), side.dtype_name(gradient)
    if got != (compute_dtype, dtype):
        return [load.Verdict(False, np.inf, f"dtypes of value and gradient: want {(compute_dtype, dtype)}, got {got}")]
    tail = "tail" in case.flags
    return [
        load.compare(case.expected.loss, side.numpy(value), compute_dtype, compute_dtype, tail),
        load.compare(case.expected.grad_logits, side.numpy(gradient), dtype, compute_dtype, tail),
    ]


def check(cases, dtype, mode, record_verdict):
    failed = {}
    for case, outcome in zip(cases, outcomes(side.values_and_gradients, side.call, cases, dtype, mode), strict=True):
        verdicts = verdicts_of(case, outcome, dtype)
        record_verdict(case, dtype, mode, verdicts)
        if not all(verdict.ok for verdict in verdicts):
            failed[case.id] = [verdict.message for verdict in verdicts]
    assert not failed, failed


def eager_runs():
    for mode in side.eager_modes:
        for case in VALUES:
            for dtype in (dtype for dtype in side.eager_dtypes if dtype in case.dtypes):
                marks = [] if dtype in side.fast_dtypes[mode] else [pytest.mark.slow]
                yield pytest.param(case, dtype, mode, id=f"{case.id}-{dtype}-{mode}", marks=marks)


def chunks(cases):
    cases = list(cases)
    return [cases[first : first + side.group_size] for first in range(0, len(cases), side.group_size)]


def groups(cases):
    """The cases of each loss in groups, each of which is compiled as one function."""
    for loss, of_loss in groupby(cases, lambda case: case.loss):
        for number, group in enumerate(chunks(of_loss)):
            yield f"{loss}-{number}", number == 0 and loss in FAST_COMPILED, group


def compiled_runs():
    for mode in side.compiled_modes:
        for dtype in side.compiled_dtypes:
            for name, is_fast, group in groups([case for case in VALUES if dtype in case.dtypes]):
                marks = [] if is_fast and dtype == "float32" else [pytest.mark.slow]
                yield pytest.param(group, dtype, mode, id=f"{name}-{dtype}-{mode}", marks=marks)


@pytest.mark.parametrize(("case", "dtype", "mode"), list(eager_runs()))
def test_value_and_gradient(case, dtype, mode, record_verdict):
    check([case], dtype, mode, record_verdict)


@pytest.mark.parametrize(("cases", "dtype", "mode"), list(compiled_runs()))
def test_compiled(cases, dtype, mode, record_verdict):
    check(cases, dtype, mode, record_verdict)


def test_group_that_fails_names_its_case():
    cases = VALUES[:11]
    bad = cases[6].inputs["logits"]

    def run(functions, inputs, mode):
        shapes = [tuple(logits.shape) for logits, *_ in inputs]
        if mode == "together" and len(inputs) > 1:
            raise RuntimeError("two are too many")
        if mode == "one" and any(np.array_equal(side.numpy(logits), bad) for logits, *_ in inputs):
            raise RuntimeError("the compiler gives up")
        return shapes

    found = outcomes(run, side.call, cases, "float32", "one")
    wanted = [np.array_equal(case.inputs["logits"], bad) for case in cases]
    assert [isinstance(outcome, RuntimeError) for outcome in found] == wanted
    with pytest.raises(RuntimeError, match="too many"):
        outcomes(run, side.call, cases, "float32", "together")


def parts_runs():
    for name, is_fast, group in groups(WITH_PARTS):
        marks = [] if is_fast or side.parts_mode not in side.compiled_modes else [pytest.mark.slow]
        yield pytest.param(group, id=name, marks=marks)


@pytest.mark.parametrize("cases", list(parts_runs()))
def test_parts(cases):
    for case in cases:
        if case.expected.denominator is None:
            with pytest.raises(ValueError, match="reduction"):
                function, names = positional(case, side.parts)
                tensors = arguments(case, "float32")
                function(*(tensors[name] for name in names))
    cases = [case for case in cases if case.expected.denominator is not None]
    found = outcomes(side.values_of, side.parts, cases, "float32", side.parts_mode)
    for case, outcome in zip(cases, found, strict=True):
        assert not isinstance(outcome, Exception), (case.id, outcome)
        total, denominator = map(side.numpy, outcome)
        assert denominator == pytest.approx(case.expected.denominator, rel=1e-6), case.id
        quotient = total / denominator if denominator else np.zeros(())
        verdict = load.compare(case.expected.loss, quotient, "float32", "float32", "tail" in case.flags)
        assert verdict.ok, (case.id, verdict.message)


def argument_of(case):
    """The name on this side of the argument that an error names."""
    return KERAS_NAMES.get(case.error.argument, case.error.argument) if is_keras else case.error.argument


@pytest.mark.parametrize("case", [case for case in CASES if case.error], ids=lambda case: case.id)
def test_error(case, record_verdict):
    exception = {"ValueError": ValueError, "TypeError": TypeError}[case.error.exception]
    build = getattr(side.package, case.loss)
    with pytest.raises(exception, match=rf"\b{argument_of(case)}\b"):
        side.call(build(**case.config), **arguments(case, case.dtypes[0]))
    record_verdict(case, case.dtypes[0], "error", [])


# A dtype is known while tracing: torch refuses float labels there too, which Keras reads as whole numbers.
TRACED = [case for case in CASES if case.error and case.error.traced and (is_keras or case.error.kind != "dtype")]
# What torch.compile captures is the same for all its backends; inductor takes seconds a case.
TRACES = [
    pytest.param(mode, marks=pytest.mark.slow if mode == "inductor" else [])
    for mode in dict.fromkeys((*side.modes, *side.compiled_modes))
    if mode not in side.eager_modes
]


# Every loss has one such case. Four have more, for the rules that all losses share: these always run.
TRACED_OFTEN = [loss for loss, count in Counter(case.loss for case in TRACED).items() if count > 1]


def traced_groups():
    for is_often in (True, False):
        found = chunks(case for case in TRACED if (case.loss in TRACED_OFTEN) == is_often)
        for number, cases in enumerate(found):
            marks = [] if is_often else [pytest.mark.slow]
            yield pytest.param(cases, id=f"{'often' if is_often else 'once'}-{number}", marks=marks)


@pytest.mark.parametrize("mode", TRACES)
@pytest.mark.parametrize("cases", list(traced_groups()))
def test_traced_error(cases, mode):
    """Under a trace nothing can raise: the rows of labels out of range become NaN, value and gradient.

    A graph of TensorFlow raises on the CPU, as eager does.
    """
    can_raise = mode in side.raising_modes
    for part in [[case] for case in cases] if can_raise else [cases]:
        found = outcomes(side.values_and_gradients, side.call, part, "float32", mode)
        for case, outcome in zip(part, found, strict=True):
            if can_raise and isinstance(outcome, Exception):
                assert re.search(rf"\b{argument_of(case)}\b", str(outcome)), (case.id, outcome)
                continue
            assert not isinstance(outcome, Exception), (case.id, outcome)
            assert all(np.isnan(side.numpy(tensor)).any() for tensor in outcome), case.id
