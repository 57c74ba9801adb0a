"""Keras on JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from keras_xent.kernels import linear
from sides.keras_common import (
    call,
    class_axis,
    fit,
    given,
    layer_parts,
    layer_value,
    package,
    parts,
    planned,
    target_name,
    value_of_layer,
    weight_name,
)

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


def layer(loss, hidden, weight, bias, target, *, fused, **more):
    """The loss of a last layer, in chunks or of all logits, and the gradients of hidden, weight and bias of its sum."""

    rest = target.rest if isinstance(target, package.TopK) else None
    target = target if rest is None else (target.indices, target.probabilities)

    def total(layer, target, more):
        hidden, weight, bias = layer
        target = target if rest is None else package.TopK(*target, rest)
        value = value_of_layer(loss, hidden, weight.T, bias, target, fused=fused, **more)
        return value.sum(), value

    # A function with the same key is the same function, which is compiled once.
    key = type(loss).__name__, repr(loss.get_config()), fused, linear.LEAST, linear.ROWS, rest, *more
    step = STEPS.setdefault(key, jax.jit(jax.grad(total, has_aux=True)))
    gradients, value = step((hidden, weight, bias), target, more)
    return [numpy(each) for each in (value, *gradients) if each is not None]


STEPS = {}
# One case of so many, because JAX compiles each.
linear_share = 24
linear_dtypes = ("float32",)
layer_dtype, layer_tolerance = "float32", 1e-5
linear_plans = {"rows": (400, 400, 0), "classes": (400, 400, 1000)}
