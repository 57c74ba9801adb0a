"""Logits, and the weight of a last layer, that are a DTensor, on one to four processes.

The processes of a number of ranks start once, run all sections, and return what was wrong.
"""

import copy
import datetime
import functools
import json
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed
from functorch.compile import make_boxed_func
from torch import multiprocessing
from torch._dynamo.backends.common import aot_autograd
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode

import examples
import lightning_xent
import model_parallel
from examples import CLASSES
from lightning_xent import CategoricalCrossEntropy, CategoricalFocalCrossEntropy, LinearLoss, TopK, check_outputs
from lightning_xent.kernels.linear import Head
from lightning_xent.kernels.sharded import Exchange, Part
from lightning_xent.metrics import ExpectedCalibrationError, predictions
from linear_cases import REACHED, identity_of
from ports import free_port
from shared_specs import load
from sides import side

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


# The statistics of a label are enough for these: no rank needs the classes of another.
OF_STATISTICS = {
    "plain": (CategoricalCrossEntropy, {}),
    "weighted": (CategoricalCrossEntropy, {"class_weight": True, "reduction": "weighted_mean", "temperature": 0.5}),
    "smoothed": (CategoricalCrossEntropy, {"label_smoothing": 0.25, "class_weight": True, "softcap": 3.0}),
    "over others": (CategoricalCrossEntropy, {"label_smoothing": 0.25, "smooth_over": "others"}),
    "regularised": (CategoricalCrossEntropy, {"z_loss": 0.5, "softcap": 3.0, "entropy_penalty": 0.25}),
    "focal": (CategoricalFocalCrossEntropy, {"gamma": 1.5, "ignore_index": 2, "entropy_penalty": -0.5}),
    "hard rows": (CategoricalFocalCrossEntropy, {"hard_fraction": 0.5}),
    "rows": (lightning_xent.CategoricalGeneralizedCrossEntropy, {"reduction": "none", "ignore_index": 1}),
    "sum": (lightning_xent.CategoricalPolyCrossEntropy, {"epsilon": 2.0, "reduction": "sum"}),
    "margin of the angle": (lightning_xent.ArcFaceCrossEntropy, {"scale": 3.0, "softcap": 0.9, "z_loss": 0.5}),
    "margin of each class": (
        lightning_xent.LDAMCrossEntropy,
        {"class_counts": True, "scale": 2.0, "temperature": 0.5, "softcap": 3.0, "entropy_penalty": 0.25},
    ),
}
# Each rank gets some rows with all classes for these, as many logits as it had.
OF_ALL_CLASSES = {
    "soft": (CategoricalCrossEntropy, {}),
    "smoothed focal": (CategoricalFocalCrossEntropy, {"label_smoothing": 0.25}),
    "adjusted": (lightning_xent.LogitAdjustedCrossEntropy, {"class_counts": True}),
    "bi-tempered": (lightning_xent.BiTemperedLogistic, {}),
}
FEW = ("plain", "hard rows", "soft")
# These get all logits.
COMPILED_WHOLE = {"elements": (lightning_xent.BinaryCrossEntropy, {})}
# More of them, for `linear`; "top" are the two largest probabilities of "soft".
LAYERS_OF_ALL_CLASSES = {
    **OF_ALL_CLASSES,
    "soft hard rows": (CategoricalCrossEntropy, {"hard_fraction": 0.5}),
    "soft rows": (CategoricalFocalCrossEntropy, {"reduction": "none", "temperature": 0.5}),
    "soft weighted": (CategoricalCrossEntropy, {"class_weight": True, "reduction": "weighted_mean"}),
    "top": (CategoricalCrossEntropy, {"label_smoothing": 0.25, "softcap": 3.0}),
    "smoothed hard rows": (CategoricalFocalCrossEntropy, {"label_smoothing": 0.25, "hard_fraction": 0.5}),
    "margin of distances": (lightning_xent.SquaredEarthMoverDistance, {}),
    "ordinal": (lightning_xent.OrdinalCrossEntropy, {"reduction": "sum"}),
}
VALUES = [case for case in load.cases() if case.expected and not examples.is_binary(case.loss)]
LAYER = ["whole", "rows", "classes"]


def built(kind, config, classes):
    numbers = [0.5 + 0.25 * index for index in range(classes)]
    return kind(**{name: numbers if value is True else value for name, value in config.items()})


def placements(mesh, rank, ranks):
    """Every case with every placement; what differs from the call without DTensor."""
    wrong = []
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
                is_right = isinstance(gradient, DTensor) and gradient.placements == placed.placements
                got = (value, gradient.full_tensor() if is_right else gradient)
                if not is_right or not all(torch.allclose(*pair, rtol=1e-12) for pair in zip(got, want, strict=True)):
                    wrong.append((case, str(placement), is_plain))
    return wrong


def vectors(mesh, rank, ranks):
    """The shared vectors, with classes, rows or both over the ranks; the values have equal bits on all of them."""
    grid = init_device_mesh("cpu", (2, 2)) if ranks == 4 else None
    checked, found = [], []
    for case in VALUES:
        loss = side.package.get({"loss": case.loss, "config": case.config})
        needs_all = not loss.reads_one_logits
        dtype = "float64" if "float64" in case.dtypes and ranks != 3 else "float32"
        inputs = {
            name: side.tensor(array, dtype if array.dtype.kind == "f" else None) for name, array in case.inputs.items()
        }
        logits = inputs.pop("logits")
        axis = side.class_axis(loss, case.inputs["logits"])
        rows = 1 if axis == 0 else 0
        plans = [] if needs_all else [(axis,)]  # else the logits become whole
        if logits.ndim > 1 and ranks == 2:
            plans.append((rows,))
        if logits.ndim > 1 and ranks == 4 and not needs_all:
            plans = [(rows, axis)]
        for axes in plans:
            devices = mesh if len(axes) == 1 else grid
            local = logits
            for place, at in zip(devices.get_coordinate(), axes, strict=True):
                parts = torch.chunk(local, devices.size() if len(axes) == 1 else 2, at)
                local = parts[place] if place < len(parts) else local.narrow(at, 0, 0)
            whole = {"shape": logits.shape, "stride": logits.stride()}
            placed = DTensor.from_local(local.contiguous(), devices, [Shard(at) for at in axes], **whole)
            value = loss(placed.requires_grad_(), **inputs)
            (gradient,) = torch.autograd.grad(value.sum(), placed)
            checked.append((case, axes, dtype))
            found.append((value.detach(), gradient.to_local()))
    everywhere = [None] * ranks
    torch.distributed.all_gather_object(everywhere, found)  # once, because each exchange waits for all processes
    return [
        (case.id, axes, message)
        for (case, axes, dtype), *results in zip(checked, *everywhere, strict=True)
        for message in differences(case, axes, dtype, results)
    ]


def differences(case, axes, dtype, results):
    """What is wrong with the values of all ranks, and with their gradients, put together."""
    values, parts = zip(*results, strict=True)
    if any(not torch.equal(value.nan_to_num(7.0), values[0].nan_to_num(7.0)) for value in values):
        yield "other bits on another rank"
    if len(axes) == 2:
        parts = [torch.cat(parts[first : first + 2], axes[1]) for first in (0, 2)]
    gradient = torch.cat(parts, axes[0])
    tail = "tail" in case.flags
    for verdict in (
        load.compare(case.expected.loss, side.numpy(values[0]), dtype, dtype, tail),
        load.compare(case.expected.grad_logits, side.numpy(gradient), dtype, dtype, tail),
    ):
        if not verdict.ok:
            yield verdict.message


def layers(mesh, rank, ranks):
    """A last layer whose classes are over the ranks, beside the loss of its logits; 5 classes leave a rank without."""
    wrong = []
    for case, (kind, config) in {**OF_STATISTICS, **LAYERS_OF_ALL_CLASSES}.items():
        for classes in (5, 13):
            loss, generator = built(kind, config, classes), torch.Generator().manual_seed(classes)
            random = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
            layer = random(2, 6, 3), 3 * random(classes, 3), random(classes)
            target = of_logits = torch.randint(0, classes, (2, 6), generator=generator)
            if case.startswith("soft"):
                target = random(2, 6, classes).softmax(-1)
                of_logits = target.movedim(-1, 1)
            elif case == "top":
                best = random(2, 6, classes).softmax(-1).topk(2)
                target = TopK(best.indices, best.values, rest="spread")
                of_logits = target.dense(classes, torch.float64).movedim(-1, 1)
            weight = torch.rand(2, 6, generator=generator, dtype=torch.float64)
            weight[0, 2] = 0.0
            options = {"sample_weight": weight, "mask": torch.arange(12).reshape(2, 6) != 4}
            plain = [tensor.clone().requires_grad_() for tensor in layer]
            logits = torch.nn.functional.linear(*plain).movedim(-1, 1)
            want = gradients_of(loss(logits, of_logits, **options), plain)
            for plan in LAYER:
                hidden = layer[0].clone().requires_grad_()
                placed = [distribute_tensor(tensor, mesh, [Shard(0)]).requires_grad_() for tensor in layer[1:]]
                if plan == "rows":  # the bias need not be placed
                    placed[1] = layer[2].clone().requires_grad_()
                with side.planned(plan):
                    value = loss.linear(replicated(hidden, mesh), placed[0], target, placed[1], **options)
                    got = gradients_of(value, [hidden, *placed], retain_graph=True)
                    again = gradients_of(value, [hidden, *placed])
                    with torch.no_grad():
                        alone = loss.linear(replicated(hidden, mesh), placed[0], target, placed[1], **options)
                is_placed = got[2].placements == (Shard(0),)
                got, again = (
                    [each.full_tensor() if isinstance(each, DTensor) else each for each in given]
                    for given in (got, again)
                )
                if not is_placed or not all(
                    torch.allclose(*pair, rtol=1e-9, atol=1e-13)
                    for pair in zip([*got, *again, alone], [*want, *want, want[0]], strict=True)
                ):
                    wrong.append((case, classes, plan))
    return wrong


def vectors_of_layers(mesh, rank, ranks):
    """The shared vectors by a layer that is the identity, whose classes are over the ranks, in chunks of rows."""
    wrong = []
    for case in REACHED:
        dtype = "float64" if "float64" in case.dtypes else "float32"
        loss, axis, inputs = identity_of(case, dtype)
        hidden = inputs.pop("logits").requires_grad_()
        weight = distribute_tensor(side.tensor(np.eye(hidden.shape[-1]), dtype), mesh, [Shard(0)]).requires_grad_()
        with side.planned("rows"):
            value = loss.linear(replicated(hidden, mesh), weight, **inputs)
            (gradient,) = torch.autograd.grad(value.sum(), hidden)
        want, tail = case.expected, "tail" in case.flags
        for expected, got in ((want.loss, value), (want.grad_logits, gradient.movedim(-1, axis))):
            verdict = load.compare(expected, side.numpy(got), dtype, dtype, tail)
            wrong += [] if verdict.ok else [(case.id, verdict.message)]
    return wrong


def not_finite(mesh, rank, ranks):
    """A row of weight 0 may hold NaN, also where rows are ranked; there it takes a place by the loss that it has."""
    wrong = []
    for case, (kind, config) in OF_STATISTICS.items():
        for entry in (torch.nan, 9.0, -9.0):
            loss, target = built(kind, config, 7), torch.tensor([0, 6, 2, 3, 5])
            logits = torch.linspace(-2.0, 2.0, 35, dtype=torch.float64).sin().reshape(5, 7)
            logits[3, 3 if entry == entry else 2], weight = entry, torch.tensor([1.0, 2.0, 0.5, 0.0, 1.0])
            plain = logits.clone().requires_grad_()
            want = gradients_of(loss(plain, target, weight), [plain])
            placed = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
            value, gradient = gradients_of(loss(placed, target, weight), [placed])
            got = value, gradient.full_tensor()
            if not all(torch.allclose(*pair, rtol=1e-12) for pair in zip(got, want, strict=True)):
                wrong.append((case, entry))
    return wrong


def predicted(mesh, rank, ranks):
    """Predictions of sharded logits, from one gather of four numbers for each row."""
    wrong, grid = [], init_device_mesh("cpu", (2, 2)) if ranks == 4 else None
    for case, (kind, config) in OF_STATISTICS.items():
        for classes in (5, 13):
            loss, generator = built(kind, config, classes), torch.Generator().manual_seed(classes)
            logits = 3 * torch.randn(4, classes, 6, generator=generator, dtype=torch.float64)
            logits[0, 3] = -torch.inf
            logits[1, :, 2] = -torch.inf
            target = torch.randint(0, classes, (4, 6), generator=generator)
            given = target, torch.rand(4, 6, generator=generator), torch.arange(24).reshape(4, 6) != 4
            plans = {"classes": (mesh, [Shard(1)])} | ({} if grid is None else {"both": (grid, [Shard(2), Shard(1)])})
            for plan, (devices, places) in plans.items():
                placed = distribute_tensor(logits, devices, places)
                with CommDebugMode() as mode:
                    got = predictions(loss, placed, *given)
                want = predictions(loss, logits, *given)
                if not all(
                    torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-12, equal_nan=True)
                    for a, b in zip(got, want, strict=True)
                ):
                    wrong.append((case, classes, plan))
                if mode.get_total_counts() != len(places):
                    wrong.append((case, plan, mode.get_comm_counts()))
    return wrong


def fully_sharded(mesh, rank, ranks):
    """A LinearLoss under FSDP: each rank has rows of its own, and the gradient is the mean over the ranks."""
    torch.manual_seed(0)
    layer, generator = LinearLoss(3, 7, "CategoricalCrossEntropy").double(), torch.Generator().manual_seed(1)
    hidden = torch.randn(ranks, 4, 3, generator=generator, dtype=torch.float64)
    target, want = torch.randint(0, 7, (ranks, 4), generator=generator), copy.deepcopy(layer)
    want(hidden, target).backward()  # as many rows on each rank: the mean over all is that of the means
    fully_shard(layer, mesh=mesh)
    try:
        layer.loss.linear(hidden[rank], layer.weight, target[rank])
        wrong = ["no error"]
    except ValueError as error:
        wrong = [] if "FSDP" in str(error) else [str(error)]
    total, denominator = layer.parts(hidden[rank], target[rank])
    (total / denominator).backward()
    for got, expected in zip(layer.parameters(), want.parameters(), strict=True):
        if not torch.allclose(got.grad.full_tensor(), expected.grad, rtol=1e-12):
            wrong.append("gradient")
    if not torch.allclose(layer.logits(hidden[rank]), want.logits(hidden[rank])):
        wrong.append("logits")
    return wrong


def of_replicated(loss, mesh, weight, target, hidden):
    return loss.linear(replicated(hidden, mesh), weight, target)


def replicated(tensor, mesh):
    return DTensor.from_local(tensor, mesh, [Replicate()])


def gradients_of(value, tensors, **options):
    """A value, and the gradients of its sum with weights that differ."""
    factor = torch.arange(1.0, value.numel() + 1, dtype=value.dtype).reshape(value.shape)
    return [value, *torch.autograd.grad((factor * value).sum(), tensors, **options)]


def second_derivatives(mesh, rank, ranks):
    """In logits, in hidden states, and in a weight."""
    wrong = []
    for case, (kind, config) in {**OF_STATISTICS, **OF_ALL_CLASSES}.items():
        loss = built(kind, config, 7)
        logits = torch.linspace(-2.0, 2.0, 35, dtype=torch.float64).sin().reshape(5, 7)
        weight, target = torch.eye(7, dtype=torch.float64), torch.tensor([0, 6, 2, 3, 5])

        want = second_derivative(loss, logits, target)
        target = torch.softmax(logits.flip(0), 1) if case == "soft" else target
        want = second_derivative(loss, logits, target)
        placed = distribute_tensor(weight, mesh, [Shard(0)])
        of_layer = second_derivative(functools.partial(of_replicated, loss, mesh, placed, target), logits)
        if not torch.allclose(of_layer, want, atol=1e-13):
            wrong.append((case, "hidden"))

        def of_weight(weight, loss=loss, logits=logits, target=target):
            return loss.linear(replicated(logits, mesh), weight, target)

        def of_plain(weight, loss=loss, logits=logits, target=target):
            return loss(logits @ weight.T, target)

        if not torch.allclose(second_derivative(of_weight, placed), second_derivative(of_plain, weight), atol=1e-13):
            wrong.append((case, "weight"))
        if case in OF_STATISTICS:
            got = second_derivative(loss, distribute_tensor(logits, mesh, [Shard(1)]), target)
            if not torch.allclose(got, want, atol=1e-13):
                wrong.append((case, "logits"))
    return wrong


def second_derivative(function, tensor, *others):
    tensor = tensor.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(tensor, *others).sum(), tensor, create_graph=True)
    gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    (second,) = torch.autograd.grad(gradient.sin().sum(), tensor)
    return second.full_tensor() if isinstance(second, DTensor) else second


def collectives(mesh, rank, ranks):
    """How often the ranks exchange something, and that it is a few numbers for each row."""
    wrong = []
    logits, target = torch.randn(6, 40), torch.arange(6)
    for case, (kind, config) in OF_STATISTICS.items():
        loss = built(kind, config, 40)
        for placement in (Shard(0), Shard(1), Replicate()):
            placed = distribute_tensor(logits, mesh, [placement]).requires_grad_()
            counts = counted(loss, placed, target)
            if counts != [{} if placement == Replicate() else {"allgather_": 1}, {}]:
                wrong.append((case, str(placement), counts))
        weight = distribute_tensor(torch.randn(40, 3), mesh, [Shard(0)]).requires_grad_()
        hidden = torch.randn(6, 3, requires_grad=True)
        counts = counted(loss.linear, replicated(hidden, mesh), weight, target)
        # Statistics, and whether a rank has failed since.
        if counts != [{"allgather_": 2}, {"allreduce_": 1}]:
            wrong.append((case, "linear", counts))
        if "reduction" not in config and "hard_fraction" not in config:
            with side.planned("rows"), mock.patch.object(Head, "logits", autospec=True, side_effect=Head.logits) as spy:
                counts = counted(loss.linear, replicated(hidden, mesh), weight, target)
            if spy.call_count != counts[0]["allgather_"] - 1 or spy.call_count < 2 or counts[1] != {"allreduce_": 1}:
                wrong.append((case, "linear computes logits once", spy.call_count, counts))
    for reads, columns in (
        ({}, 3),
        ({"label_smoothing": 0.1}, 5),
        ({"label_smoothing": 0.1, "entropy_penalty": 1.0}, 6),
    ):
        sent = []

        def spy(into, tensor, group, gather=torch.distributed.all_gather, sent=sent):
            sent.append(tensor.numel())
            gather(into, tensor, group=group)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed, "all_gather", spy)
            CategoricalCrossEntropy(**reads)(distribute_tensor(logits, mesh, [Shard(1)]), target)
        if sent != [columns * 6 + 1]:
            wrong.append((reads, sent))
    for case, (kind, config) in OF_ALL_CLASSES.items():
        seen, placed = [], distribute_tensor(logits, mesh, [Shard(1)])

        def spied(loss, local, *given, rows_of=kind._rows, seen=seen):
            seen.append(tuple(local.shape))
            return rows_of(loss, local, *given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "_rows", spied)
            built(kind, config, 40)(placed, torch.softmax(logits, 1) if case == "soft" else target)
        if seen != [(len(logits.chunk(ranks)[rank]), 40)]:
            wrong.append((case, seen))
        # No weight is gathered: logits go to their rows, gradients come back, and the losses are gathered.
        weight = distribute_tensor(torch.randn(40, 3), mesh, [Shard(0)]).requires_grad_()
        hidden, loss = replicated(torch.randn(6, 3, requires_grad=True), mesh), built(kind, config, 40)
        counts = counted(loss.linear, hidden, weight, torch.softmax(logits, 1) if case == "soft" else target)
        if counts != [{"alltoall_base_": 2, "allgather_": 1}, {"allreduce_": 1}]:
            wrong.append((case, "linear", counts))
    exchange, part = Exchange(), Part(40, mesh, 0, ranks, rank)
    exchange.swap(part, (64,), torch.zeros(()), lambda sent: None)
    exchange.gather(part, (64,), torch.zeros(()), lambda: torch.zeros(64))
    if max(flags.untyped_storage().nbytes() for flags in exchange.flags) > 4 * ranks:
        wrong.append("the flags keep what was exchanged")
    return wrong


def counted(call, *given):
    """The collectives of a call, and of its gradient."""
    with CommDebugMode() as forward:
        value = call(*given)
    with CommDebugMode() as backward:
        value.sum().backward()
    return [
        {str(name).split(".")[-1].rstrip("'>)"): count for name, count in mode.get_comm_counts().items()}
        for mode in (forward, backward)
    ]


class Raises(CategoricalCrossEntropy):
    """Has a curve that raises on one rank."""

    def curve(self, log_odds):
        if torch.distributed.get_rank() == 1:
            raise ArithmeticError("this curve raises")
        return super().curve(log_odds)


class RaisesLater(CategoricalCrossEntropy):
    """Has a curve that raises on one rank in its second call: after the last exchange of one chunk."""

    calls = 0

    def curve(self, log_odds):
        self.calls += 1
        if torch.distributed.get_rank() == 1 and self.calls == 2:
            raise ArithmeticError("this curve raises")
        return super().curve(log_odds)


def raising(mesh, rank, ranks):
    """What each rank raises where one of them fails; the call after it is right on all of them."""
    logits, label = torch.linspace(-1.0, 1.0, 24).sin().reshape(4, 6), torch.tensor([0, 5, 2, 3])
    weight, wrong = torch.eye(6), []
    alone = torch.where(torch.tensor(rank == 1), label + 9, label)
    short = label[:3] if rank == 1 else label
    mesh2 = init_device_mesh("cpu", (2, ranks // 2)) if ranks == 4 else None
    loss, raises = CategoricalCrossEntropy(), Raises(label_smoothing=0.0)
    meshes = {"classes": (mesh, [Shard(1)]), "rows": (mesh, [Shard(0)])}
    if mesh2 is not None:
        meshes["both"] = (mesh2, [Shard(0), Shard(1)])

    def of_layer(target, loss=loss, *, learns=False):
        placed = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_(learns)
        return loss.linear(replicated(logits, mesh), placed, target)

    calls = {}
    for plan, (devices, places) in meshes.items():
        placed = distribute_tensor(logits, devices, places)
        uneven = placed.to_local()[: -1 if rank == 1 else None]
        uneven = DTensor.from_local(uneven, devices, places, shape=placed.shape, stride=placed.stride())
        calls |= {
            f"{plan}: label everywhere": (functools.partial(loss, placed, label + 9), ValueError, ValueError),
            f"{plan}: label": (functools.partial(loss, placed, alone), ValueError, RuntimeError),
            f"{plan}: shape": (functools.partial(loss, placed, short), ValueError, RuntimeError),
            f"{plan}: logits": (functools.partial(loss, uneven, label), ValueError, RuntimeError),
            f"{plan}: unchecked": (
                functools.partial(CategoricalCrossEntropy(check_labels=False), placed, short), ValueError, None
            ),
            f"{plan}: right": (functools.partial(loss, placed, label), None, None),
        }  # fmt: skip
        if plan == "classes":
            other = lightning_xent.LogitAdjustedCrossEntropy(class_counts=[7.0] * 6)
            calls |= {
                f"{plan}: label, all classes": (functools.partial(other, placed, alone), ValueError, RuntimeError),
                f"{plan}: logits, all classes": (functools.partial(other, uneven, label), ValueError, RuntimeError),
                f"{plan}: right, all classes": (functools.partial(other, placed, label), None, None),
            }
        if plan == "rows":  # after the last gather nobody waits for anybody, and nobody is told
            calls[f"{plan}: curve"] = (functools.partial(raises, placed, label), ArithmeticError, RuntimeError)

    def of_uneven(name):
        """A layer of which rank 1 has a class too few."""
        placed = [distribute_tensor(each, mesh, [Shard(0)]) for each in (weight, weight[0])]
        place = ("weight", "bias").index(name)
        local = placed[place].to_local()[: -1 if rank == 1 else None]
        given = {"shape": placed[place].shape, "stride": placed[place].stride()}
        placed[place] = DTensor.from_local(local, mesh, [Shard(0)], **given)
        return loss.linear(replicated(logits, mesh), placed[0], label, placed[1])

    def with_bias(bias):
        return loss.linear(replicated(logits, mesh), distribute_tensor(weight, mesh, [Shard(0)]), label, bias)

    def in_chunks(target, loss=raises):
        with side.planned("rows"):
            return of_layer(target, loss)

    adjusted = lightning_xent.LogitAdjustedCrossEntropy(class_counts=[7.0] * 6)
    calls |= {
        "layer: label, all classes": (functools.partial(of_layer, alone, adjusted), ValueError, RuntimeError),
        "layer: gradient, all classes": (
            functools.partial(of_layer, alone, adjusted, learns=True), ValueError, RuntimeError
        ),
        "layer: curve": (functools.partial(in_chunks, label), ArithmeticError, RuntimeError),
        "layer: curve, all classes": (
            functools.partial(in_chunks, torch.softmax(logits, 1), Raises()), ArithmeticError, RuntimeError
        ),
        "layer: curve, at the end": (
            functools.partial(of_layer, label, RaisesLater(), learns=True), ArithmeticError, RuntimeError
        ),
        "layer: weight": (functools.partial(of_uneven, "weight"), ValueError, RuntimeError),
        "layer: bias": (functools.partial(of_uneven, "bias"), ValueError, RuntimeError),
        "layer: bias everywhere": (functools.partial(with_bias, [0.0] * 6), TypeError, TypeError),
        "layer: bias of integers": (
            functools.partial(with_bias, weight[0].long() if rank == 1 else weight[0]), TypeError, RuntimeError
        ),
        "layer: right, all classes": (functools.partial(of_layer, label, adjusted), None, None),
    }  # fmt: skip
    calls |= {
        "layer: label": (functools.partial(of_layer, alone), ValueError, RuntimeError),
        "layer: shape": (functools.partial(of_layer, short), ValueError, RuntimeError),
        "layer: right": (functools.partial(of_layer, label), None, None),
    }
    want = loss(logits, label)
    for name, (call, own, others) in calls.items():
        wanted, error = own if rank == 1 else others, None
        try:
            value = call()
        except Exception as raised:
            error = raised
        is_silent = wanted is RuntimeError and "on another rank" not in str(error)
        if type(error) is not (wanted or type(None)) or is_silent:
            wrong.append((name, repr(error)))
        elif error is None and not (torch.isclose(value, want) if "right" in name else value.isnan()):
            wrong.append((name, value.item()))
    return wrong


class Learned(CategoricalCrossEntropy):
    """A loss with a parameter, by which its curve is multiplied."""

    def __post_init__(self):
        super().__post_init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def curve(self, log_odds):
        return self.factor * super().curve(log_odds)


def parameters(mesh, rank, ranks):
    """The gradient of a parameter of the loss is that of all rows, on each rank."""
    wrong, loss = [], Learned()
    logits, label = torch.linspace(-2.0, 2.0, 40, dtype=torch.float64).sin().reshape(5, 8), torch.arange(5)
    for target in (label, torch.softmax(logits, 1)):
        (want,) = torch.autograd.grad(loss(logits, target), loss.factor)
        for placement in (Shard(0), Shard(1)):
            value = loss(distribute_tensor(logits, mesh, [placement]), target)
            (got,) = torch.autograd.grad(value, loss.factor)
            if not torch.allclose(got, want, rtol=1e-12):
                wrong.append((tuple(target.shape), str(placement), got.item(), want.item()))
    return wrong


def compiled(mesh, rank, ranks):
    """Logits and layers under torch.compile: value, gradient and its placement; what the graph gathers for a row.

    Four ranks share 5 classes, so that one has none, for a few cases: compiling takes long.
    """
    classes, wrong = 5 if ranks == 4 else 13, []
    random = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hidden, weight, bias, logits = random(2, 5, 3), random(classes, 3), random(classes), 2 * random(10, classes)
    sample_weight = random(10).abs()
    logits[2], sample_weight[3] = torch.nan, 0.0
    for case, (kind, config) in {**OF_STATISTICS, **OF_ALL_CLASSES, **COMPILED_WHOLE}.items():
        if ranks == 4 and case not in FEW:
            continue
        loss, target = built(kind, config, classes), torch.arange(10) % 5
        mask = torch.arange(10) != 2
        if case in ("soft", "elements"):
            target = torch.softmax(logits.nan_to_num().flip(0), 1)
        if case == "elements":
            mask = mask[:, None].repeat(1, classes)
        plain = logits.clone().requires_grad_()
        want = gradients_of(loss(plain, target, sample_weight, mask), [plain])
        for placement in (Shard(1), Shard(0)) if case in FEW else (Shard(1),):
            torch._dynamo.reset()
            placed, gathers = distribute_tensor(logits, mesh, [placement]).requires_grad_(), []
            call = torch.compile(loss, backend=seen_by(gathers), fullgraph=True)
            value, gradient = gradients_of(call(placed, target, sample_weight, mask), [placed])
            is_placed = gradient.placements == placed.placements
            if not is_placed or not are_close([value, gradient.full_tensor()], want):
                wrong.append((case, str(placement)))
            if case in OF_STATISTICS and not 0 < max(gathers) <= ranks * 6 * len(logits):
                wrong.append((case, str(placement), gathers))
        if case not in COMPILED_WHOLE:
            wrong += [(case, "linear", *message) for message in compiled_layer(mesh, loss, case, hidden, weight, bias)]
    return wrong


def compiled_layer(mesh, loss, case, hidden, weight, bias):
    """What is wrong with a layer under torch.compile, whose hidden states become a DTensor in the compiled function."""
    target = torch.arange(10).reshape(2, 5) % 5
    target = torch.softmax(torch.sin(hidden @ weight.T), -1) if case == "soft" else target
    mask = torch.arange(10).reshape(2, 5) != 4

    def call(hidden, weight, bias):
        return loss.linear(replicated(hidden, mesh), weight, target, bias, mask=mask)

    hidden = hidden.clone()
    hidden[0, 4] = torch.nan
    plain = [each.clone().requires_grad_() for each in (hidden, weight, bias)]
    want = gradients_of(loss.linear(*plain[:2], target, plain[2], mask=mask), plain)
    torch._dynamo.reset()
    placed, gathers = [distribute_tensor(each, mesh, [Shard(0)]).requires_grad_() for each in (weight, bias)], []
    hidden = hidden.clone().requires_grad_()
    given = [hidden, placed[0], plain[2] if case == "smoothed" else placed[1]]  # the bias need not be placed
    found = gradients_of(torch.compile(call, backend=seen_by(gathers), fullgraph=True)(*given), given)
    if not are_close([each.full_tensor() if isinstance(each, DTensor) else each for each in found], want):
        yield ("values",)
    if found[2].placements != placed[0].placements:
        yield ("placements",)
    if case in OF_STATISTICS and not 0 < max(gathers) <= mesh.size() * 6 * 10:
        yield ("gathered", gathers)
    if case == "plain":
        try:
            torch.compile(loss.linear, backend="eager")(hidden.detach(), placed[0], target)
        except ValueError as error:
            assert "FSDP" in str(error)
        else:
            yield ("no error for hidden states of each rank",)


def are_close(found, want):
    return all(torch.allclose(*pair, rtol=1e-9, atol=1e-13) for pair in zip(found, want, strict=True))


def seen_by(gathers):
    """A backend of torch.compile that notes how many numbers each gather of its graphs gives."""

    def see(graph, inputs):
        gathers.extend(
            node.meta["val"].numel()
            for node in graph.graph.nodes
            if node.target is torch.ops._c10d_functional.all_gather_into_tensor.default
        )
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=see)


SECTIONS = [placements, vectors, layers, not_finite, predicted, fully_sharded, second_derivatives, collectives, raising]
SECTIONS += [parameters, compiled, vectors_of_layers]
RANKS = {
    "placements": [1, 2],
    "vectors": [2, 3, 4],
    "layers": [1, 2, 3, 4],
    "not_finite": [2, 3],
    "predicted": [1, 2, 3, 4],
    "fully_sharded": [2, 3],
    "second_derivatives": [2, 3],
    "collectives": [1, 2, 3],
    "raising": [2, 4],
    "parameters": [2],
    "compiled": [2, 4],
    "vectors_of_layers": [2, 3],
}


def run(rank, ranks, port, results):
    """Run the sections of this number of ranks; note what was wrong in each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=120),
    )
    mesh, wrong = init_device_mesh("cpu", (ranks,)), {}
    try:
        for section in SECTIONS:
            if ranks in RANKS[section.__name__]:
                wrong[section.__name__] = section(mesh, rank, ranks)
        results[rank] = wrong
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_B5_on_several_ranks(ranks):
    """The labels, weights and masks may be plain tensors of the whole batch, or DTensors."""
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(run, (ranks, free_port(), results), nprocs=ranks)
        right = {section: [] for section, many in RANKS.items() if ranks in many}
        assert dict(results) == dict.fromkeys(range(ranks), right)


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


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning")
def test_a_module_whose_classes_are_over_two_processes_trains_alike(tmp_path):
    """By Lightning's ModelParallelStrategy: with sharded logits, and with a LinearLoss whose weight is sharded."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": str(free_port())}
    command = [sys.executable, model_parallel.__file__, str(tmp_path / "found.json")]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    for kind, (weights, logged) in zip(("logits", "linear"), found, strict=True):
        alone, wanted = model_parallel.train(1, kind)
        assert logged == pytest.approx(wanted, abs=1e-5)
        assert {"train_loss", "val_loss", "val_accuracy", "train_accuracy"} <= set(logged)
        for weight, want in zip(weights, alone, strict=True):
            np.testing.assert_allclose(weight, want, atol=1e-6, rtol=0)
