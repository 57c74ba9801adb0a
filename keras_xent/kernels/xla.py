"""The kernel for class indices on TensorFlow and JAX: one pass over the logits for the loss, one for the gradient."""

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent.kernels.passes import compute_dtype

if keras.backend.backend() == "tensorflow":
    from keras_xent.kernels.linear_of_tensorflow import losses, total
    from keras_xent.kernels.of_tensorflow import kernel
else:
    from keras_xent.kernels.linear_of_jax import losses, total
    from keras_xent.kernels.of_jax import kernel

__all__ = ["applies", "losses", "of_label", "of_label_and_others", "total"]


def applies(logits: Tensor, *constants: Tensor | None) -> bool:
    """Whether the kernel accepts these logits: neither symbolic ones, which need no gradient, nor an empty batch."""
    return not isinstance(logits, Tensor) and 0 not in logits.shape


def of_label(logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C], in float32 or float64.

    Where `counts` [...] is False they are 0, with gradient 0, for any logits.
    """
    return kernel(logits, label, counts, None, temperature)[0]


def of_label_and_others(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    if class_weight is None:
        class_weight = ops.ones((1,), dtype=compute_dtype(logits))
    log_odds, others = kernel(logits, label, counts, class_weight, temperature)
    return log_odds, others
