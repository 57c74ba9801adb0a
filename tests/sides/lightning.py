"""torch, through lightning_xent."""

import lightning_xent as package
from sides.torch_gradient import dtype_name, modes, numpy, slow_modes, tensor, value_and_gradient

dtypes = ("float64", "float32", "bfloat16", "float16")


def call(loss, logits, target, sample_weight=None, mask=None):
    return loss(logits, target, sample_weight=sample_weight, mask=mask)


def parts(loss, logits, target, sample_weight=None, mask=None):
    return loss.parts(logits, target, sample_weight=sample_weight, mask=mask)
