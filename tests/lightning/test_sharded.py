"""Logits that are a DTensor, on one process and on two."""

import numpy as np
import pytest
import torch
import torch.distributed
from torch import multiprocessing
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import examples
from examples import CLASSES
from lightning_xent import check_outputs
from lightning_xent.metrics import ExpectedCalibrationError, predictions

KEYWORDS = {
    "plain": ("CategoricalCrossEntropy", {}),
    "smoothed": ("CategoricalCrossEntropy", {"label_smoothing": 0.25, "class_weight": [0.5, 1.0, 2.0, 3.0]}),
    "ignored": ("CategoricalCrossEntropy", {"ignore_index": 3, "reduction": "weighted_mean"}),
    "regularised": ("CategoricalCrossEntropy", {"z_loss": 0.5, "softcap": 3.0, "entropy_penalty": 0.25}),
    "hard rows": ("CategoricalFocalCrossEntropy", {"hard_fraction": 0.5}),
    "rows": ("CategoricalFocalCrossEntropy", {"reduction": "none"}),
    "sum of elements": ("BinaryFocalCrossEntropy", {"pos_weight": [0.5, 1.0, 2.0, 3.0], "reduction": "sum"}),
}
CASES = {**KEYWORDS, **{name: (name, {}) for name in CLASSES}}


def inputs_of(name):
    logits, target = (torch.from_numpy(np.array(array)) for array in examples.inputs(name, classes=4))
    logits = torch.cat([logits, logits.flip(0)])
    target = torch.cat([target, target.flip(0)])
    return logits.double(), target.double() if target.is_floating_point() else target


def found(name, config, logits, target, **others):
    """The losses of rows, or the loss, and its gradient, for loss weights that differ."""
    value = examples.build(name, classes=4, **config)(logits, target, **others)
    factor = torch.arange(1.0, value.numel() + 1, dtype=value.dtype).reshape(value.shape)
    return value, torch.autograd.grad((factor * value).sum(), logits)[0]


def failures(rank, ranks, port, results):
    """Run every case with every placement; note what differs from the call without DTensor."""
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    mesh, wrong, count = init_device_mesh("cpu", (ranks,)), [], 0
    try:
        for case, (name, config) in CASES.items():
            logits, target = inputs_of(name)
            weight = torch.rand(len(logits), dtype=torch.float64)
            mask = torch.arange(len(logits)) != 1
            mask = mask[:, None].repeat(1, 4) if examples.is_binary(name) else mask
            want = found(name, config, logits.clone().requires_grad_(), target, sample_weight=weight, mask=mask)
            for placement in (Replicate(), Shard(0), Shard(1)):
                for is_plain in (False, True):
                    placed = distribute_tensor(logits, mesh, [placement]).requires_grad_()
                    rest = (target, weight, mask)
                    if not is_plain:
                        spread = Replicate() if placement == Shard(1) else placement
                        rest = tuple(distribute_tensor(value, mesh, [spread]) for value in rest)
                    value, gradient = found(name, config, placed, rest[0], sample_weight=rest[1], mask=rest[2])
                    count += 1
                    is_right = isinstance(gradient, DTensor) and gradient.placements == placed.placements
                    got = (value, gradient.full_tensor() if is_right else gradient)
                    if not is_right or not all(
                        torch.allclose(*pair, rtol=1e-12) for pair in zip(got, want, strict=True)
                    ):
                        wrong.append((case, str(placement), is_plain))
        results[rank] = wrong, count
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, 2])
def test_B5_logits_that_are_a_dtensor(ranks):
    """The labels, weights and masks may be plain tensors of the whole batch, or DTensors."""
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(failures, (ranks, 29_520 + ranks, results), nprocs=ranks)
        assert dict(results) == {rank: ([], 6 * len(CASES)) for rank in range(ranks)}


@pytest.fixture
def mesh():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "BinaryCrossEntropy"])
def test_B5_metrics_and_checks_take_a_dtensor(name, mesh):
    logits, target = inputs_of(name)
    loss = examples.build(name, classes=4)
    placed, labels = (distribute_tensor(value, mesh, [Shard(0)]) for value in (logits, target))
    for got, want in zip(predictions(loss, placed, labels), predictions(loss, logits, target), strict=True):
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(want))
    assert check_outputs(loss, placed, labels) == check_outputs(loss, logits, target)
    assert loss(logits, target, denominator=distribute_tensor(torch.tensor(4.0), mesh, [Replicate()])) == loss(
        logits, target, denominator=4.0
    )


def test_B5_the_calibration_error_takes_a_dtensor(mesh):
    logits, target = inputs_of("CategoricalCrossEntropy")
    error, same = ExpectedCalibrationError(), ExpectedCalibrationError()
    error.update(distribute_tensor(logits, mesh, [Shard(1)]), target)
    same.update(logits, target)
    assert error.compute() == same.compute()
