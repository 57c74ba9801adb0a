"""Finds problems of a network and its loss on one batch, before training."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops
from numpy.typing import NDArray

from keras_xent import reading, reduction, targets, watch
from keras_xent.base import Loss
from keras_xent.binary import BinaryLoss
from keras_xent.categorical import CategoricalLoss
from shared_specs.common import guard

SAME_VALUES = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute, keras.layers.Dropout)


def check_model(model: keras.Model, loss: Any, batch: Any) -> list[str]:
    """Return the problems of a network and its loss on one batch, in plain words; an empty list if there are none.

    It runs the network once, in evaluation mode. It changes nothing, and reads values on every device. It finds:
    probabilities that are taken for logits, and the reverse, by the activation at the end of the network or by the
    values (those of a sigmoid prove nothing, because logits may also lie in [0, 1]); a sigmoid before a categorical
    loss; logits of one class; shapes that do not fit, or leave the class axis open; labels out of range; soft targets
    that do not sum to 1; class weights and sample weights that both weight the classes; the first output or loss that
    is not finite; cosines beyond [-1, 1].

    Args:
        model: Maps inputs to the input of the loss.
        loss: The loss; for several outputs a list or dictionary, as in `compile`. Losses of other packages are skipped.
        batch: (inputs, target[, sample_weight]).

    Raises:
        ValueError: A batch of another form.
    """
    found = problems_of_model(model, loss, batch)
    return [problem for _, doubts, others in found for problem in doubts + others]


def check_outputs(loss: Loss, outputs: Any, target: Any, sample_weight: Any = None) -> list[str]:
    """Return what `check_model` finds in the outputs of a network; an empty list if nothing is wrong.

    Args:
        loss: The loss.
        outputs: The outputs of the network for a batch.
        target: The batch's target.
        sample_weight: Its weights.
    """
    doubts, others = problems(loss, outputs, target, sample_weight, None)
    return doubts + others


def problems(
    loss: Loss, outputs: Any, target: Any, sample_weight: Any, activation: str | None
) -> tuple[list[str], list[str]]:
    """Return two lists: doubts about the kind of the outputs, and other problems. `activation` made the outputs."""
    name, others = type(loss).__name__, []
    outputs, target, sample_weight = map(reading.whole, (outputs, target, sample_weight))
    kind = rows = doubt = None
    try:
        logits = reading.checked_logits(outputs)
        kind = loss._kind(logits)
        rows = loss._counted(outputs, target, sample_weight, None, True)
    except (TypeError, ValueError) as error:
        others.append(f"does not take this batch: {error}")
    if kind is not None:
        axis = kind.axis
        doubt = guard.of_activation(activation, **kind.form) or watch.doubt_of(kind, outputs, rows, True)[1]
        if axis is not None and getattr(loss, "axis", None) is None:
            others += guard.of_axes(tuple(logits.shape), axis)
        if (
            isinstance(loss, BinaryLoss)
            and isinstance(loss.pos_weight, tuple)
            and loss.axis is None
            and rows is not None
        ):
            is_flat = not isinstance(loss.pos_weight[0], tuple)
            others += (
                guard.of_axes(tuple(logits.shape), len(logits.shape) - 1, "labels of pos_weight") if is_flat else []
            )
        if rows is not None:
            counted, values = reduction.counted(rows), logits if axis is None else ops.moveaxis(logits, axis, -1)
            counts = None if counted is None else reading.array(counted)
            # Logits in place of probabilities give NaN, which the doubt explains already.
            losses = None if doubt else reading.array(reduction.weighted_losses(rows))
            others += guard.of_infinities(reading.array(values), counts, losses, **kind.form)
            keyword = loss._weight_of_classes()
            if keyword is not None and rows.sample_weight is not None:
                weights = reading.array(ops.broadcast_to(rows.sample_weight, rows.losses.shape))
                others += guard.of_weights(keyword, reading.array(ops.convert_to_tensor(target)), weights, counts)
            others += _sums(loss, logits, target, counts)
    return [f"{name} {doubt}"] if doubt else [], [f"{name} {problem}" for problem in others]


def _without_batch(loss: Loss, outputs: Tensor, activation: str | None) -> tuple[list[str], list[str]]:
    """Return what `problems` returns, as far as the activation and the shape of symbolic outputs show it."""
    name, shape, others = type(loss).__name__, tuple(outputs.shape), []
    has_classes = isinstance(loss, CategoricalLoss)
    doubt = guard.of_activation(activation, has_classes=has_classes, from_logits=loss.from_logits)
    if has_classes:
        doubt = watch.doubt_of_shape(loss._kind(outputs), outputs) or doubt
        others += guard.of_axes(shape, len(shape) - 1) if loss.axis is None and None not in shape[1:] else []
    return [f"{name} {doubt}"] if doubt else [], [f"{name} {problem}" for problem in others]


def _sums(loss: Loss, logits: Tensor, target: Any, counts: NDArray[Any] | None) -> list[str]:
    """Say which row of a soft target does not sum to 1; rows of integers may hold any number of ones."""
    if not isinstance(loss, CategoricalLoss) or not loss.takes_distributions:
        return []
    axis = targets.class_axis(logits, loss.axis)
    classes = loss.count_classes(logits.shape[axis])
    rows, shape = targets.rows_of(logits, axis), tuple(logits.shape)
    given, is_labels = targets.labels_or_distribution(target, rows, shape, axis, classes, labels_only=loss.labels_only)
    values = reading.array(given)
    dtype = reading.dtype_name(target)
    if is_labels or values.dtype.kind != "f" or dtype == "bool":
        return []
    return guard.of_sums(values.sum(-1), counts, dtype)


def problems_of_model(model: keras.Model, loss: Any, batch: Any) -> Iterator[tuple[Loss, list[str], list[str]]]:
    """Yield each output's loss of this package with its `problems`; without a batch, those of activation and shape."""
    if batch is None:
        symbolic = _symbolic(model)
        outputs: Any = symbolic[0] if len(symbolic) == 1 else symbolic
        if len(symbolic) > 1 and isinstance(model.output, Mapping):  # its keys may be others than the layers' names
            outputs = model.output
        target = sample_weight = None
    else:
        inputs, target, sample_weight = guard.parts_of(batch)
        outputs = model(inputs, training=False)
        symbolic = _symbolic(model, inputs)
    named = _named(model, outputs)
    # Keras flattens dictionaries by their sorted keys.
    order = sorted(named) if isinstance(outputs, Mapping) else list(named)
    for place, name in enumerate(order):
        own = _part(loss, name, place)
        if not isinstance(own, Loss):
            continue
        activation = _activation(symbolic[place]) if len(symbolic) == len(named) else None
        if batch is None:
            yield own, *_without_batch(own, named[name], activation)
        else:
            weight = _part(sample_weight, name, place)
            yield own, *problems(own, named[name], _part(target, name, place), weight, activation)


def _named(model: keras.Model, outputs: Any) -> dict[Any, Any]:
    """Return outputs by their names; a single output has the name None."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if not isinstance(outputs, list | tuple):
        return {None: outputs}
    names = getattr(model, "output_names", None) or range(len(outputs))
    return dict(zip(names, outputs, strict=True))


def _part(tree: Any, name: Any, place: int) -> Any:
    """Return the part for one output of a structure of losses, targets or weights."""
    if isinstance(tree, Mapping):
        return next(iter(tree.values()), None) if name is None else tree.get(name)
    # One output's own target may be a list.
    is_sequence = isinstance(tree, list | tuple) and len(tree) > 0
    is_alone = is_sequence and len(tree) == 1 and hasattr(tree[0], "shape")
    is_of_outputs = is_sequence and (name is not None or is_alone or isinstance(tree[0], Loss))
    return tree[place] if is_of_outputs else tree


def _symbolic(model: keras.Model, inputs: Any = None) -> list[Any]:
    """Return the symbolic outputs of a model, which know what made them; an empty list if it has none."""
    outputs = getattr(model, "outputs", None)
    if outputs is None and inputs is not None:
        try:
            outputs = model.call(keras.tree.map_structure(_symbol, inputs))
        except Exception:  # the user's code may accept real tensors only
            return []
    flat = [] if outputs is None else keras.tree.flatten(outputs)
    return flat if all(isinstance(output, keras.KerasTensor) for output in flat) else []


def _symbol(value: Any) -> keras.KerasTensor:
    tensor = ops.convert_to_tensor(value)
    return keras.KerasTensor(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))


def _activation(output: Any) -> str | None:
    """Return the name of the activation that made a symbolic output, "linear" for a layer without one, or None."""
    history = getattr(output, "_keras_history", None)
    if history is None:
        return None
    operation = history.operation
    if isinstance(operation, keras.Model):
        inner = _symbolic(operation)
        return _activation(inner[history.tensor_index]) if inner else None
    is_cast = isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear
    if is_cast or isinstance(operation, SAME_VALUES):
        return _activation(operation.input)
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    activation = None if isinstance(operation, keras.layers.RNN) else getattr(operation, "activation", None)
    name = getattr(activation, "__name__", None) or type(operation).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
