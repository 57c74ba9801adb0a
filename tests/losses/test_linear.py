"""The loss of the last linear layer, in chunks: the vectors by a layer that is the identity, and random layers."""

import numpy as np
import pytest

from shared_specs import load
from sides import side

CATEGORICAL = [case for case in load.cases() if case.expected and hasattr(getattr(side.package, case.loss), "linear")]


def is_reached(case):
    """Whether a layer can give these logits: a product of infinity and 0 is NaN, so only ignored rows may have it."""
    loss = side.package.get({"loss": case.loss, "config": case.config})
    if not (loss.reads_one_logits and loss.from_logits):
        return False
    rows = np.isfinite(np.moveaxis(case.inputs["logits"], side.class_axis(loss, case.inputs["logits"]), -1)).all(-1)
    target, mask, weight = (case.inputs.get(name) for name in ("target", "mask", "sample_weight"))
    if loss.ignore_index is not None and target.size == rows.size:
        rows = rows | (target.reshape(rows.shape) == loss.ignore_index)
    for counts in (mask, None if weight is None else weight != 0):
        if counts is not None:
            counts = np.asarray(counts, bool)
            rows = rows | ~counts.reshape(counts.shape + (1,) * (rows.ndim - counts.ndim))
    return bool(rows.all())


CASES = [case for case in CATEGORICAL if is_reached(case)]


@pytest.mark.parametrize("plan", side.linear_plans)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_vectors(case, plan):
    for dtype in [dtype for dtype in side.linear_dtypes if dtype in case.dtypes]:
        loss = side.package.get({"loss": case.loss, "config": case.config})
        axis = side.class_axis(loss, case.inputs["logits"])
        is_distribution = case.inputs["target"].ndim == case.inputs["logits"].ndim
        inputs = {
            name: np.moveaxis(array, axis, -1) if name == "logits" or (name == "target" and is_distribution) else array
            for name, array in case.inputs.items()
        }
        tensors = {
            name: side.tensor(array, dtype if array.dtype.kind == "f" else None) for name, array in inputs.items()
        }
        hidden = tensors.pop("logits")
        weight = side.tensor(np.eye(hidden.shape[-1]), dtype)
        with side.planned(plan):
            value, *gradients = side.linear(loss, hidden, weight, None, **tensors)
        compute_dtype = "float64" if dtype == "float64" else "float32"
        want = case.expected.grad_logits
        gradient = np.moveaxis(side.numpy(gradients[0]), -1, axis)
        tail = "tail" in case.flags
        verdicts = [
            load.compare(case.expected.loss, side.numpy(value), compute_dtype, compute_dtype, tail),
            load.compare(want, gradient, dtype, compute_dtype, tail),
        ]
        assert all(verdict.ok for verdict in verdicts), (dtype, [verdict.message for verdict in verdicts])
