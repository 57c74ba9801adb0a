"""Finds problems of a network and its loss on one batch, before training."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_xent import batches, reading, reduction, targets, watch
from lightning_xent.base import Loss
from lightning_xent.binary import BinaryLoss
from lightning_xent.categorical import CategoricalLoss
from shared_specs.common import guard

ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.Softmax: "softmax",
    nn.Softmax2d: "softmax",
    nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.LogSoftmax: "log_softmax",
    nn.LogSigmoid: "log_sigmoid",
}


def check_model(model: nn.Module, loss: Loss, batch: Any) -> list[str]:
    """Return the problems of a network and its loss on one batch, in plain words; an empty list if there are none.

    It runs the network once, in evaluation mode. It changes nothing, and reads values on every device. It finds:
    probabilities that are taken for logits, and the reverse, by the activation at the end of the network or by the
    values (those of a sigmoid prove nothing, because logits may also lie in [0, 1]); a sigmoid before a categorical
    loss; logits of one class; shapes that do not fit, or leave the class axis open; labels out of range; soft targets
    that do not sum to 1; class weights and sample weights that both weight the classes; the first output or loss that
    is not finite; cosines beyond [-1, 1].

    Args:
        model: Maps inputs to the input of the loss.
        loss: The loss.
        batch: (inputs, target[, sample_weight[, mask]]) or a dictionary, as for `XentModule`, on the model's device.

    Raises:
        ValueError: A batch of another form.
    """
    doubts, others = problems_of_model(model, loss, batch)
    return doubts + others


def check_outputs(loss: Loss, outputs: Any, target: Any, sample_weight: Any = None, mask: Any = None) -> list[str]:
    """Return what `check_model` finds in the outputs of a network; an empty list if nothing is wrong.

    Args:
        loss: The loss.
        outputs: The outputs of the network for a batch.
        target: The batch's target.
        sample_weight: Its weights.
        mask: Its mask.
    """
    doubts, others = problems(loss, outputs, target, sample_weight, mask, None)
    return doubts + others


def problems(
    loss: Loss, outputs: Any, target: Any, sample_weight: Any, mask: Any, activation: str | None
) -> tuple[list[str], list[str]]:
    """Return two lists: doubts about the kind of the outputs, and other problems. `activation` made the outputs."""
    if not isinstance(loss, Loss):
        raise TypeError(
            f"loss must be a loss of lightning_xent, got {type(loss).__name__}: of a LinearLoss, check layer.loss with "
            "a network that returns logits"
        )
    name, others = type(loss).__name__, []
    outputs, target, sample_weight, mask = map(reading.whole, (outputs, target, sample_weight, mask))
    kind = rows = doubt = None
    try:
        outputs = reading.checked_logits(outputs)
        kind = loss._kind(outputs)
        with torch.no_grad():
            rows = loss._counted(outputs, target, sample_weight, mask, True)
    except (TypeError, ValueError) as error:
        others.append(f"does not take this batch: {error}")
    if kind is not None:
        axis = kind.axis
        doubt = guard.of_activation(activation, **kind.form) or watch.doubt_of(kind, outputs, rows, True)[1]
        if axis is not None and getattr(loss, "axis", None) is None:
            others += guard.of_axes(tuple(outputs.shape), axis)
        if (
            isinstance(loss, BinaryLoss)
            and isinstance(loss.pos_weight, tuple)
            and loss.axis is None
            and rows is not None
        ):
            is_flat = not isinstance(loss.pos_weight[0], tuple)
            others += (
                guard.of_axes(tuple(outputs.shape), len(outputs.shape) - 1, "labels of pos_weight") if is_flat else []
            )
        if rows is not None:
            counted, values = reduction.counted(rows), outputs if axis is None else outputs.movedim(axis, -1)
            counts = None if counted is None else reading.array(counted)
            # Logits in place of probabilities give NaN, which the doubt explains already.
            losses = None if doubt else reading.array(reduction.weighted_losses(rows))
            others += guard.of_infinities(reading.array(values), counts, losses, **kind.form)
            keyword = loss._weight_of_classes()
            if keyword is not None and rows.sample_weight is not None:
                weights = reading.array(rows.sample_weight.expand(rows.losses.shape))
                others += guard.of_weights(keyword, reading.array(torch.as_tensor(target)), weights, counts)
            others += _sums(loss, outputs, target, counts)
    return [f"{name} {doubt}"] if doubt else [], [f"{name} {problem}" for problem in others]


def _sums(loss: Loss, logits: Tensor, target: Any, counts: NDArray[Any] | None) -> list[str]:
    """Say which row of a soft target does not sum to 1; rows of integers may hold any number of ones."""
    if not isinstance(loss, CategoricalLoss) or not loss.takes_distributions:
        return []
    axis = targets.class_axis(logits, loss.axis)
    classes = loss.count_classes(logits.shape[axis])
    given, is_labels = targets.labels_or_distribution(target, logits, axis, classes, labels_only=loss.labels_only)
    values = reading.array(given)
    dtype = reading.dtype_name(target)
    if is_labels or values.dtype.kind != "f" or dtype == "bool":
        return []
    return guard.of_sums(values.sum(-1), counts, dtype)


def problems_of_model(model: nn.Module, loss: Loss, batch: Any) -> tuple[list[str], list[str]]:
    """Return the `problems` of a network's outputs for a batch."""
    parts = batches.split(model, batch)
    outputs, activation = _run(model, parts)
    return problems(loss, outputs, parts.target, parts.sample_weight, parts.mask, activation)


def _run(model: nn.Module, batch: batches.Batch) -> tuple[Any, str | None]:
    """Return the outputs of a network in evaluation mode, and the activation that made them (None: no known one)."""
    last: list[tuple[str, Any]] = []

    def note(module: nn.Module, _: Any, outputs: Any) -> None:
        last[:] = [(ACTIVATIONS[type(module)], outputs)]

    modules = list(model.modules())
    modes = [module.training for module in modules]
    hooks = [module.register_forward_hook(note) for module in modules if type(module) in ACTIVATIONS]
    try:
        model.eval()
        with torch.enable_grad():  # the record of autograd names the activation
            outputs = batches.logits_of(model(*batch.inputs, **batch.named_inputs))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
    return outputs, next((name for name, output in last if output is outputs), None)
