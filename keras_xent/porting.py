"""Losses that equal those of Keras and of torch, value and gradient; and the spec of a loss."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_xent.base import Loss
from keras_xent.spec import get, spec_of
from shared_specs.common import porting
from shared_specs.common.spec import LossSpec


def from_keras(loss: keras.losses.Loss, *, classes: int | None = None) -> Loss:
    """Return the loss that equals one of Keras in value and gradient.

    Losses of probabilities are equal from 1e-7 to 1 - 1e-7, and their gradients at the logits of a softmax.

    >>> loss = from_keras(keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True))
    >>> type(loss).__name__, loss.gamma, loss.alpha
    ('BinaryFocalCrossEntropy', 2.0, 0.25)

    Args:
        loss: A loss of keras.losses.
        classes: Number of classes, which only a `CategoricalFocalCrossentropy` needs: its `alpha` is a factor for all.

    Raises:
        TypeError: What is no loss of keras.losses.
        ValueError: A loss, or an argument of it, that has no equal here. The message says why.
    """
    name = type(loss).__name__
    if not isinstance(loss, keras.losses.Loss) or type(loss) is not getattr(keras.losses, name, None):
        raise TypeError(
            f"loss must be a loss of keras.losses, such as SparseCategoricalCrossentropy(), got {loss!r:.80}"
        )
    if loss.dtype in ("bfloat16", "float16"):
        raise porting.refused(f"{name}(dtype={loss.dtype!r})", "it rounds labels and logits; here losses are float32")
    return get(porting.of_keras(name, loss.get_config(), classes))


def from_torch_config(config: Mapping[str, Any], *, targets: porting.Targets = "indices") -> Loss:
    """Return the loss that equals one of torch.nn in value and gradient, given its class and arguments.

    It differs where torch gives NaN: a batch in which every label is ignored, or has weight 0, is 0 here. `BCELoss` is
    equal for probabilities from 1e-7 to 1 - 1e-7.

    Args:
        config: `{"class_path": "torch.nn.CrossEntropyLoss", "init_args": {...}}`, as in a YAML config of Lightning, or
            `{"class_name": ..., "config": {...}}`.
        targets: What a `CrossEntropyLoss` gets as targets, "indices" or "probabilities", because its mean with weights
            divides by the weights of indices, and by the number of rows for probabilities.

    Raises:
        TypeError: A keyword that the loss of torch does not have.
        ValueError: A loss, or a keyword of it, that has no equal here. The message says why.
    """
    return get(porting.of_torch(*porting.named(config), targets=targets))


def to_spec(loss: Loss) -> LossSpec:
    """Return the spec `{"loss": CLASS, "config": {...}}` from which both packages build this loss.

    Raises:
        TypeError: What is no loss of keras_xent, or is a class of another package.
    """
    found = spec_of(loss) if isinstance(loss, Loss) else None
    if found is None:
        raise TypeError(f"loss must be a loss of keras_xent, got {loss!r:.80}")
    return found
