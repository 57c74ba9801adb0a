"""Keras on torch."""

from sides.keras_common import call, fit, given, package, parts
from sides.torch_gradient import (
    compiled_modes,
    dtype_name,
    eager_modes,
    group_size,
    modes,
    numpy,
    parts_mode,
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
