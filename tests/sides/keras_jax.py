"""Keras on JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from sides.keras_common import call, fit, given, package, parts

# JAX has no float64 by default.
dtypes = ("float32", "bfloat16", "float16")
fast_share = 12
compiled_share = 1
modes = ("eager", "jax.jit")
# Without jit, JAX compiles every operation anew for each shape.
slow_modes = modes


def tensor(array, dtype=None):
    array = np.asarray(array)
    narrow = {"float64": "float32", "int64": "int32"}.get(array.dtype.name)
    return jnp.asarray(array, dtype or narrow)


def numpy(value):
    return np.asarray(value, "float64")


def dtype_name(value):
    return value.dtype.name


def value_and_gradient(function, logits, mode, *rest):
    def total(logits, *rest):
        value = function(logits, *rest)
        return value.sum(), value

    step = jax.grad(total, has_aux=True)
    gradient, value = (jax.jit(step) if mode == "jax.jit" else step)(logits, *rest)
    return value, gradient
