"""Keras on torch."""

from sides.keras_common import call, fit, given, package, parts
from sides.torch_gradient import dtype_name, modes, numpy, slow_modes, tensor, value_and_gradient

# Keras' torch backend drops float64 to float32 inside some ops.
dtypes = ("float32", "bfloat16", "float16")
# Dynamo traces through all of Keras, a second a case; the torch side has every case.
fast_share = 16
compiled_share = 4
