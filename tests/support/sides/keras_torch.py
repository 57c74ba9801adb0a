"""Keras on torch."""

import torch

from sides.keras_common import (
    call,
    class_axis,
    fit,
    given,
    layer_parts,
    layer_value,
    package,
    parts,
    target_name,
    value_of_layer,
    weight_name,
)
from sides.torch_gradient import (
    compiled_modes,
    dtype_name,
    eager_modes,
    group_size,
    linear_plans,
    modes,
    numpy,
    parts_mode,
    planned,
    tensor,
    value_and_gradient,
    values_and_gradients,
    values_of,
)

# Keras' torch backend drops float64 to float32 inside some ops.
dtypes = ("float32", "bfloat16", "float16")
fast_share = 16
eager_dtypes, compiled_dtypes = dtypes, ("float32",)
fast_dtypes = {"eager": dtypes, "blocks": ("float32",)}
raising_modes = ()


def layer(loss, hidden, weight, bias, target, *, fused, **more):
    """The loss of a last layer, in chunks or of all logits, and the gradients of hidden, weight and bias of its sum."""
    hidden, weight, bias = (None if each is None else each.clone().requires_grad_() for each in (hidden, weight, bias))
    value = value_of_layer(loss, hidden, weight.t(), bias, target, fused=fused, **more)
    wanted = [each for each in (hidden, weight, bias) if each is not None]
    return [numpy(each) for each in (value, *torch.autograd.grad(value.sum(), wanted))]


# The kernels are those of the side "lightning", which has the other dtypes.
linear_share = 1
linear_dtypes = ("float32",)
layer_dtype, layer_tolerance = "float32", 1e-5
