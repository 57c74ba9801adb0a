"""The loss of the last linear layer, in chunks: the vectors by a layer that is the identity, and random layers."""

import numpy as np
import pytest

from linear_cases import (
    CLASSES,
    INPUTS,
    LABEL,
    LOSSES,
    REACHED,
    ROWS,
    SOFT,
    built,
    compare,
    identity_of,
    random_layer,
)
from shared_specs import load
from sides import side

# Where a call is slow, all but every n-th case are slow tests, of which CI runs a part in turn.
RUNS = [
    pytest.param(case, id=case.id, marks=[pytest.mark.slow] if place % side.linear_share else [])
    for place, case in enumerate(REACHED)
]


@pytest.mark.parametrize("plan", side.linear_plans)
@pytest.mark.parametrize("case", RUNS)
def test_vectors(case, plan):
    for dtype in [dtype for dtype in side.linear_dtypes if dtype in case.dtypes]:
        loss, axis, tensors = identity_of(case, dtype)
        hidden = tensors.pop("logits")
        weight = side.tensor(np.eye(hidden.shape[-1]), dtype)
        with side.planned(plan):
            value, gradient, _ = side.layer(loss, hidden, weight, None, fused=True, **tensors)
        compute_dtype = "float64" if dtype == "float64" else "float32"
        want = case.expected.grad_logits
        gradient = np.moveaxis(gradient, -1, axis)
        tail = "tail" in case.flags
        verdicts = [
            load.compare(case.expected.loss, value, compute_dtype, compute_dtype, tail),
            load.compare(want, gradient, dtype, compute_dtype, tail),
        ]
        assert all(verdict.ok for verdict in verdicts), (dtype, [verdict.message for verdict in verdicts])


@pytest.mark.parametrize("plan", side.linear_plans)
@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name", LOSSES)
def test_chunks_give_what_all_logits_give(name, inputs, plan):
    loss, kind = built(name)
    layer, target = random_layer(kind, *INPUTS[inputs])
    target = side.given(target) if kind == LABEL else side.tensor(target, side.layer_dtype)
    # The axis of the logits of three axes; a layer has its classes last.
    loss.axis = -1
    mask = side.given(np.arange(15).reshape(ROWS) % 4 != 1)
    weight = side.tensor(np.arange(15).reshape(ROWS) % 3 / 2.0, side.layer_dtype)
    for more in ({}, {"mask": mask, "sample_weight": weight})[:: -side.linear_share]:
        with side.planned(plan):
            fused = side.layer(loss, *layer, target, fused=True, **more)
        compare(fused, side.layer(loss, *layer, target, fused=False, **more), side.layer_tolerance)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", ["everything", "hardest", "none", "soft", "bi-tempered"])
def test_few_rows(name, count):
    loss, kind = built(name)
    loss.axis = -1
    layer, target = random_layer(kind, rows=(count,))
    target = side.given(target) if kind == LABEL else side.tensor(target, side.layer_dtype)
    compare(
        side.layer(loss, *layer, target, fused=True),
        side.layer(loss, *layer, target, fused=False),
        side.layer_tolerance,
    )


@pytest.mark.parametrize("name", ["ignored", "everything", "hardest"])
def test_ignored_rows_give_nothing(name):
    loss, _ = built(name)
    (hidden, weight, bias), _ = random_layer(LABEL)
    target = side.given(np.full(ROWS, 3))
    for found in side.layer(loss, hidden * np.nan, weight, bias, target, fused=True):
        assert (found == 0).all()


@pytest.mark.parametrize("rest", ["drop", "spread"])
@pytest.mark.parametrize("name", ["soft", "soft-weighted"])
def test_top_k_is_a_distribution(name, rest):
    loss, _ = built(name)
    loss.axis = -1
    layer, _ = random_layer(SOFT)
    rng = np.random.default_rng(0)
    indices = np.argsort(rng.normal(size=(*ROWS, CLASSES)), -1)[..., :3]
    probabilities = rng.dirichlet(np.ones(4), ROWS)[..., :3]
    share = (1 - probabilities.sum(-1, keepdims=True)) / (CLASSES - 3) if rest == "spread" else np.zeros((*ROWS, 1))
    whole = np.broadcast_to(share, (*ROWS, CLASSES)).copy()
    np.put_along_axis(whole, indices, probabilities, -1)
    pair = side.given(indices), side.tensor(probabilities, side.layer_dtype)
    top = side.package.TopK(*pair, rest=rest)
    wanted = side.layer(loss, *layer, side.tensor(whole, side.layer_dtype), fused=False)
    compare(side.layer(loss, *layer, top, fused=True), wanted, side.layer_tolerance)
    if rest == "drop":
        compare(side.layer(loss, *layer, pair, fused=True), wanted, side.layer_tolerance)
    for loss.ignore_index in (0, 1):  # of labels alone
        compare(side.layer(loss, *layer, top, fused=True), wanted, side.layer_tolerance)


def test_top_k_in_a_call_says_where_it_is_accepted():
    loss, _ = built("soft")
    top = side.package.TopK(side.given(np.zeros((2, 1), "int64")), side.given(np.ones((2, 1), "float32")))
    with pytest.raises(TypeError, match=r"TopK: linear\(\) accepts it; elsewhere pass its .dense"):
        side.call(loss, side.tensor(np.zeros((2, 5), "float32")), top)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["ignored", "none", "hardest"])
def test_weights_of_ignored_rows_may_be_nan(name, fused):
    loss, _ = built(name)
    layer, target = random_layer(LABEL)
    loss.axis = -1
    mask = np.arange(15).reshape(ROWS) % 4 != 1
    weight = 0.5 + np.arange(15).reshape(ROWS) % 3
    is_left_out = ~mask if loss.ignore_index is None else ~mask | (target == loss.ignore_index)
    assert is_left_out.sum() > (~mask).sum() or name == "none"
    found, wanted = (
        side.layer(
            loss, *layer, side.given(target), fused=fused,
            mask=side.given(mask), sample_weight=side.tensor(each, side.layer_dtype),
        )
        for each in (np.where(is_left_out, np.nan, weight), weight)
    )  # fmt: skip
    compare(found, wanted, side.layer_tolerance)


def test_denominator_and_parts():
    loss, _ = built("ignored")
    layer, target = random_layer(LABEL)
    target, loss.axis = side.given(target), -1
    fused, whole = (side.layer(loss, *layer, target, fused=is_fused, denominator=7) for is_fused in (True, False))
    compare(fused, whole, side.layer_tolerance)
    total, denominator = side.layer_parts(loss, *layer, target)
    assert total / denominator == pytest.approx(float(side.layer(loss, *layer, target, fused=False)[0]), rel=1e-6)


REFUSED = {
    "teacher": ("Distillation", {}, "Distillation"),
    "views": ("JensenShannonConsistency", {}, "JensenShannonConsistency"),
    "probabilities": ("CategoricalCrossEntropy", {"from_logits": False}, "from_logits"),
    "label": ("CategoricalCrossEntropy", {}, side.target_name),
}


@pytest.mark.parametrize("name", REFUSED)
def test_error(name):
    loss, config, word = REFUSED[name]
    loss = side.package.get({"loss": loss, "config": config})
    layer, target = random_layer(LABEL)
    with pytest.raises(ValueError, match=word):
        side.layer_value(loss, *layer, side.given(target + CLASSES))


@pytest.mark.parametrize("shapes", [((2, 4), (3, 5), None), ((2, 4), (0, 4), None), ((2, 4), (3, 4), (4,))])
def test_shapes_that_do_not_fit(shapes):
    layer = [None if shape is None else side.tensor(np.zeros(shape), side.layer_dtype) for shape in shapes]
    with pytest.raises(ValueError, match=side.weight_name if shapes[2] is None else "bias"):
        side.layer_value(built("plain")[0], *layer, side.given(np.zeros(2, int)))
