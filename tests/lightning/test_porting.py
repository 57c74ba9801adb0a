"""Losses of torch.nn with random arguments have the value and gradient of what `from_torch` makes of them."""

import doctest
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_xent
from lightning_xent import porting

CLASSES = 4
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])
WEIGHTS = st.lists(st.floats(0.125, 8), min_size=CLASSES, max_size=CLASSES).map(lambda w: torch.tensor(w).double())
LABELS = st.fixed_dictionaries(
    {
        "weight": st.none() | WEIGHTS,
        "ignore_index": st.sampled_from([-100, 0, 2]),
        "reduction": REDUCTIONS,
        "label_smoothing": st.sampled_from([0.0, 0.1, 0.7]),
    }
)
POS_WEIGHTS = st.none() | st.floats(0.125, 8).map(lambda w: torch.tensor(w).double()) | WEIGHTS
BINARY = st.fixed_dictionaries({"reduction": REDUCTIONS, "pos_weight": POS_WEIGHTS})
SHAPES = [(6, CLASSES), (2, CLASSES, 3)]


def compare(native, ours, inputs, target):
    found = []
    for loss in (native, ours):
        given_inputs = inputs.clone().requires_grad_()
        value = loss(given_inputs, target)
        found.append((value.detach(), *torch.autograd.grad(value.sum(), given_inputs)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


@settings(max_examples=60, deadline=None, derandomize=True)
@given(LABELS, st.sampled_from(SHAPES), st.integers(0, 999), st.sampled_from(["indices", "probabilities"]))
def test_cross_entropy(arguments, shape, seed, targets):
    if targets == "probabilities":
        arguments = arguments | {"ignore_index": -100}  # torch refuses another one
    native = nn.CrossEntropyLoss(**arguments)
    logits = drawn(seed, *shape)
    if targets == "indices":
        target = drawn(seed + 1, shape[0], *shape[2:]).abs().long() % CLASSES
        target.view(-1)[:2] = torch.tensor([1, native.ignore_index])  # not all are ignored
    else:
        target = drawn(seed + 1, *shape).softmax(1)
    compare(native, lightning_xent.from_torch(native, targets=targets), logits, target)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(BINARY, st.integers(0, 999), st.booleans())
def test_binary_cross_entropy(arguments, seed, is_soft):
    logits, target = drawn(seed, 6, CLASSES), drawn(seed + 1, 6, CLASSES).sigmoid()
    target = target if is_soft else target.round()
    native = nn.BCEWithLogitsLoss(**arguments)
    compare(native, lightning_xent.from_torch(native), logits, target)
    native = nn.BCELoss(reduction=arguments["reduction"])
    compare(native, lightning_xent.from_torch(native), logits.sigmoid(), target)
    native = nn.MultiLabelSoftMarginLoss()
    compare(native, lightning_xent.from_torch(native), logits, target)


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="this torch has no such layer")
@settings(max_examples=20, deadline=None, derandomize=True)
@given(LABELS, st.booleans(), st.booleans())
def test_a_layer_shares_its_weight(arguments, has_bias, ignores):
    ignored = arguments.pop("ignore_index") if ignores else arguments.pop("ignore_index") and None
    native = nn.LinearCrossEntropyLoss(3, CLASSES, bias=has_bias, ignore_index=ignored, **arguments).double()
    layer = lightning_xent.from_torch(native)
    assert layer.weight is native.linear.weight
    assert layer.bias is native.linear.bias
    compare(native, layer, drawn(0, 5, 3), torch.tensor([0, 1, 2, 3, 1]))
    if ignored is None:
        layer = lightning_xent.from_torch(native, targets="probabilities")
        compare(native, layer, drawn(0, 5, 3), drawn(1, 5, CLASSES).softmax(1))


REFUSED = {
    "weights of elements": (nn.BCEWithLogitsLoss(weight=torch.ones(4)), r"BCEWithLogitsLoss\(weight.*sample_weight"),
    "weights of probabilities": (nn.BCELoss(weight=torch.ones(4)), r"BCELoss\(weight.*sample_weight"),
    "weights of labels": (nn.MultiLabelSoftMarginLoss(torch.ones(4)), "MultiLabelSoftMarginLoss.*sample_weight"),
    "sum of means": (nn.MultiLabelSoftMarginLoss(reduction="sum"), "reduction='sum'.*mean over the classes"),
    "log-probabilities": (nn.NLLLoss(), "NLLLoss has no equal.*log_softmax.*CategoricalCrossEntropy"),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), "KLDivLoss.*KLDivergence"),
    "signs": (nn.SoftMarginLoss(), r"SoftMarginLoss.*\(label \+ 1\) / 2"),
    "rivals": (nn.MultiMarginLoss(), "MultiMarginLoss.*CategoricalHinge"),
    "pairs": (nn.MultiLabelMarginLoss(), "MultiLabelMarginLoss.*every"),
    "groups": (nn.AdaptiveLogSoftmaxWithLoss(4, 8, [2]), "AdaptiveLogSoftmaxWithLoss.*LinearLoss"),
    "no cross-entropy": (nn.MSELoss(), "MSELoss.*those of torch.nn are CrossEntropyLoss"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_equal_says_why(case):
    native, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        lightning_xent.from_torch(native)


class Own(nn.CrossEntropyLoss):
    def forward(self, logits, target):
        return 2 * super().forward(logits, target)


@pytest.mark.parametrize("given_loss", [Own(), nn.functional.cross_entropy, nn.CrossEntropyLoss, None])
def test_what_is_no_loss_of_torch(given_loss):
    with pytest.raises(TypeError, match=r"loss must be a loss of torch\.nn"):
        lightning_xent.from_torch(given_loss)


def test_a_batch_without_labels_is_0_where_torch_gives_nan():
    native, labels = nn.CrossEntropyLoss(), torch.full((2,), -100)
    assert math.isnan(native(torch.zeros(2, 3), labels))
    assert lightning_xent.from_torch(native)(torch.zeros(2, 3), labels) == 0


def test_a_loss_of_keras():
    config = {"class_name": "CategoricalFocalCrossentropy", "config": {"alpha": 0.5, "from_logits": True, "axis": 1}}
    loss = lightning_xent.from_keras_config(config, classes=3)
    want = lightning_xent.CategoricalFocalCrossEntropy(class_weight=[0.5] * 3, axis=1)
    assert lightning_xent.to_spec(loss) == lightning_xent.to_spec(want)
    assert lightning_xent.get(lightning_xent.to_spec(loss)).get_config() == want.get_config()
    with pytest.raises(TypeError, match="loss must be a loss of lightning_xent"):
        lightning_xent.to_spec(nn.CrossEntropyLoss())


def test_examples():
    found = doctest.testmod(porting, extraglobs={"torch": torch})
    assert (found.failed, found.attempted) == (0, 2)
