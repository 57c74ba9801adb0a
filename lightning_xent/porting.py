"""Losses that equal those of torch and of Keras, value and gradient; and the spec of a loss."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_xent.base import Loss
from lightning_xent.layers import LinearLoss
from lightning_xent.spec import get, spec_of
from shared_specs.common import porting
from shared_specs.common.spec import LossSpec


def from_torch(loss: nn.Module, *, targets: porting.Targets = "indices") -> Loss | LinearLoss:
    """Return the loss that equals one of torch.nn in value and gradient.

    It differs where torch gives NaN: a batch in which every label is ignored, or has weight 0, is 0 here. `BCELoss` is
    equal for probabilities from 1e-7 to 1 - 1e-7. A `LinearCrossEntropyLoss` becomes a `LinearLoss`, which shares its
    weight and bias.

    >>> loss = from_torch(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]), label_smoothing=0.1))
    >>> loss.class_weight, loss.reduction, loss.axis
    ((1.0, 3.0), 'weighted_mean', 1)

    Args:
        loss: A loss of torch.nn.
        targets: What a `CrossEntropyLoss` or the layer gets as targets, "indices" or "probabilities", because its mean
            with weights divides by the weights of indices, and by the number of rows for probabilities.

    Raises:
        TypeError: What is no loss of torch.nn.
        ValueError: A loss, or an argument of it, that has no equal here. The message says why.
    """
    name = type(loss).__name__
    if not isinstance(loss, nn.Module) or type(loss) is not getattr(nn, name, None):
        raise TypeError(f"loss must be a loss of torch.nn, such as nn.CrossEntropyLoss(), got {loss!r:.80}")
    if name == "LinearCrossEntropyLoss":
        return _layer(loss, targets)
    known = porting.TORCH[name].defaults if name in porting.TORCH else ()
    return get(porting.of_torch(name, {keyword: getattr(loss, keyword) for keyword in known}, targets))


def from_keras_config(config: Mapping[str, Any], *, classes: int | None = None) -> Loss:
    """Return the loss that equals one of Keras in value and gradient, given its serialised form.

    Losses of probabilities are equal from 1e-7 to 1 - 1e-7, and their gradients at the logits of a softmax.

    Args:
        config: `keras.losses.serialize(loss)`: `{"class_name": ..., "config": {...}}`.
        classes: Number of classes, which only a `CategoricalFocalCrossentropy` needs: its `alpha` is a factor for all.

    Raises:
        TypeError: A keyword that the loss of Keras does not have.
        ValueError: A loss, or a keyword of it, that has no equal here. The message says why.
    """
    return get(porting.of_keras(*porting.named(config), classes=classes))


def to_spec(loss: Loss) -> LossSpec:
    """Return the spec `{"loss": CLASS, "config": {...}}` from which both packages build this loss.

    Raises:
        TypeError: What is no loss of lightning_xent, or is a class of another package.
    """
    found = spec_of(loss) if isinstance(loss, Loss) else None
    if found is None:
        raise TypeError(f"loss must be a loss of lightning_xent, got {loss!r:.80}")
    return found


def _layer(native: nn.Module, targets: porting.Targets) -> LinearLoss:
    """Return the layer with the weight and bias of torch's; its classes are on the last axis."""
    if native.out_features:
        raise porting.refused("LinearCrossEntropyLoss(out_features=...)", "a layer has one axis of classes")
    ignored = native.ignore_index
    given = {"weight": native.weight, "ignore_index": ignored, "reduction": native.reduction}
    spec = porting.of_torch("CrossEntropyLoss", given | {"label_smoothing": native.label_smoothing}, targets)
    spec["config"]["axis"] = -1
    linear: Any = native.linear
    classes: Any = native.num_classes
    layer = LinearLoss(linear.in_features, classes, spec, linear.bias is not None, device="meta")
    layer.weight, layer.bias = linear.weight, linear.bias
    return layer
