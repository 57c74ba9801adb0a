"""Keras on JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from sides.keras_common import call, fit, given, package, parts

# JAX has no float64 by default.
dtypes = ("float32", "bfloat16", "float16")
eager_modes = ("eager",)
compiled_modes = ("jax.jit",)
modes = (*eager_modes, *compiled_modes)
group_size = 24
# Without jit, JAX compiles every operation anew for each shape.
parts_mode = "jax.jit"
fast_share = 12
eager_dtypes, compiled_dtypes = ("float32",), dtypes
fast_dtypes = {"eager": ()}
raising_modes = ()


def tensor(array, dtype=None):
    array = np.asarray(array)
    narrow = {"float64": "float32", "int64": "int32"}.get(array.dtype.name)
    return jnp.asarray(array, dtype or narrow)


def numpy(value):
    return np.asarray(value, "float64")


def dtype_name(value):
    return value.dtype.name


def values_of(functions, inputs, mode):
    """The values of functions, each of its own inputs; a compiled mode compiles all of them as one function."""

    def of_all(inputs):
        return [function(*of_one) for function, of_one in zip(functions, inputs, strict=True)]

    return (jax.jit(of_all) if mode in compiled_modes else of_all)(inputs)


def values_and_gradients(functions, inputs, mode):
    """`values_of`, each with the gradient of its sum in its first input."""

    def total(logits, rest):
        found = [function(first, *more) for function, first, more in zip(functions, logits, rest, strict=True)]
        return sum(value.sum() for value in found), found

    step = jax.grad(total, has_aux=True)
    logits, rest = [first for first, *_ in inputs], [more for _, *more in inputs]
    gradients, found = (jax.jit(step) if mode in compiled_modes else step)(logits, rest)
    return list(zip(found, gradients, strict=True))


def value_and_gradient(function, logits, mode, *rest):
    (result,) = values_and_gradients([function], [(logits, *rest)], mode)
    return result
