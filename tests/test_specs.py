"""Every case of the shared vectors x dtype x mode: value, gradient and denominator, or the error."""

import itertools
from zlib import crc32

import numpy as np
import pytest

from shared_specs import load
from sides import is_keras, side

CASES = load.cases()
KERAS_NAMES = {"target": "y_true", "logits": "y_pred"}


def arguments(case, dtype):
    """The inputs of a case as tensors; floats in the dtype under test."""
    return {name: side.tensor(array, dtype if array.dtype.kind == "f" else None) for name, array in case.inputs.items()}


def evaluate(loss, case, dtype, mode):
    inputs = arguments(case, dtype)
    names = [name for name in inputs if name != "logits"]
    return side.value_and_gradient(
        lambda logits, *rest: side.call(loss, logits, **dict(zip(names, rest, strict=True))),
        inputs["logits"],
        mode,
        *(inputs[name] for name in names),
    )


def is_fast(case):
    return crc32(case.id.encode()) % side.fast_share == 0


def runs():
    """Every case x dtype, eager, and each `side.compiled_share`-th case compiled, in one dtype and one mode in turn.

    "blocks", of torch alone, is eager too, in the dtype of the turn.

    Compiling takes most of the time; JAX compiles without jit too, for each operation, so there eager takes its turn
    like a mode. Fast are the eager runs in float32 and the dtype of the turn, and of the compiled ones those of each
    `side.fast_share`-th case; the others are slow, for CI alone.
    """
    result = []
    for case in (case for case in CASES if case.expected):
        dtypes = [dtype for dtype in case.dtypes if dtype in side.dtypes]
        number = crc32(case.id.encode())
        dtype_of_turn = dtypes[number // 1000 % len(dtypes)]
        mode_of_turn = side.slow_modes[number // 100_000 % len(side.slow_modes)]
        for dtype, mode in itertools.product(dtypes, side.modes):
            compiles = mode in side.slow_modes
            if mode == "blocks" and dtype != dtype_of_turn:
                continue
            if compiles and ((dtype, mode) != (dtype_of_turn, mode_of_turn) or number % side.compiled_share):
                continue
            marks = [] if (is_fast(case) if compiles else dtype in (dtype_of_turn, "float32")) else [pytest.mark.slow]
            result.append(pytest.param(case, dtype, mode, id=f"{case.id}-{dtype}-{mode}", marks=marks))
    return result


@pytest.mark.parametrize(("case", "dtype", "mode"), runs())
def test_value_and_gradient(case, dtype, mode, record_verdict):
    loss = side.package.get({"loss": case.loss, "config": case.config})
    value, gradient = evaluate(loss, case, dtype, mode)
    compute_dtype = "float64" if dtype == "float64" else "float32"
    assert (side.dtype_name(value), side.dtype_name(gradient)) == (compute_dtype, dtype)
    tail = "tail" in case.flags
    verdicts = [
        load.compare(case.expected.loss, side.numpy(value), compute_dtype, compute_dtype, tail),
        load.compare(case.expected.grad_logits, side.numpy(gradient), dtype, compute_dtype, tail),
    ]
    record_verdict(case, dtype, mode, verdicts)
    assert all(verdict.ok for verdict in verdicts), [verdict.message for verdict in verdicts]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.id, marks=[] if is_fast(case) or "eager" not in side.slow_modes else pytest.mark.slow
        )
        for case in CASES
        if case.expected and "denominator" not in case.inputs
    ],
)
def test_parts(case):
    loss = side.package.get({"loss": case.loss, "config": case.config})
    inputs = arguments(case, "float32")
    if case.expected.denominator is None:
        with pytest.raises(ValueError, match="reduction"):
            side.parts(loss, **inputs)
        return
    total, denominator = (side.numpy(part) for part in side.parts(loss, **inputs))
    assert denominator == pytest.approx(case.expected.denominator, rel=1e-6)
    quotient = total / denominator if denominator else np.zeros(())
    tail = "tail" in case.flags
    assert load.compare(case.expected.loss, quotient, "float32", "float32", tail).ok


@pytest.mark.parametrize("case", [case for case in CASES if case.error], ids=lambda case: case.id)
def test_error(case, record_verdict):
    name = KERAS_NAMES.get(case.error.argument, case.error.argument) if is_keras else case.error.argument
    exception = {"ValueError": ValueError, "TypeError": TypeError}[case.error.exception]
    build = getattr(side.package, case.loss)
    with pytest.raises(exception, match=rf"\b{name}\b"):
        side.call(build(**case.config), **arguments(case, case.dtypes[0]))
    record_verdict(case, case.dtypes[0], "error", [])


# A dtype is known while tracing: torch refuses float labels there too, which Keras reads as whole numbers.
TRACED = [case for case in CASES if case.error and case.error.traced and (is_keras or case.error.kind != "dtype")]


@pytest.mark.parametrize("mode", [mode for mode in side.modes if mode not in ("eager", "blocks")])
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.id, marks=[] if is_fast(case) else [pytest.mark.slow]) for case in TRACED],
)
def test_traced_error(case, mode):
    """Under a trace nothing can raise: the rows of labels out of range become NaN, value and gradient."""
    loss = side.package.get({"loss": case.loss, "config": case.config})
    value, gradient = evaluate(loss, case, case.dtypes[0], mode)
    assert np.isnan(side.numpy(value)).any()
    assert np.isnan(side.numpy(gradient)).any()
