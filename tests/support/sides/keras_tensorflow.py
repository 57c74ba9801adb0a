"""Keras on TensorFlow."""

import tensorflow as tf

from sides.keras_common import (
    call,
    class_axis,
    fit,
    given,
    layer_parts,
    layer_value,
    linear_plans,
    package,
    parts,
    planned,
    target_name,
    value_of_layer,
    weight_name,
)

dtypes = ("float64", "float32", "bfloat16", "float16")
eager_modes = ("eager",)
compiled_modes = ("tf.function", "tf.function(jit_compile=True)")
modes = (*eager_modes, *compiled_modes)
group_size = 24
parts_mode = "eager"
fast_share = 8
eager_dtypes, compiled_dtypes = dtypes, ("float32",)
fast_dtypes = {"eager": ("float32", "bfloat16")}
raising_modes = ("tf.function",)


def tensor(array, dtype=None):
    array = tf.convert_to_tensor(array)
    return array if dtype is None else tf.cast(array, dtype)


def numpy(value):
    return tf.cast(value, "float64").numpy()


def dtype_name(value):
    return value.dtype.name


def values_of(functions, inputs, mode):
    """The values of functions, each of its own inputs; a compiled mode compiles all of them as one function."""

    def of_all(inputs):
        return [function(*of_one) for function, of_one in zip(functions, inputs, strict=True)]

    return prepared(of_all, mode)(inputs)


def values_and_gradients(functions, inputs, mode):
    """`values_of`, each with the gradient of its sum in its first input."""

    def step(inputs):
        logits = [first for first, *_ in inputs]
        with tf.GradientTape() as tape:
            tape.watch(logits)
            found = [function(*of_one) for function, of_one in zip(functions, inputs, strict=True)]
            totals = [tf.reduce_sum(value) for value in found]
        return list(zip(found, tape.gradient(totals, logits), strict=True))

    return prepared(step, mode)(inputs)


def value_and_gradient(function, logits, mode, *rest):
    (result,) = values_and_gradients([function], [(logits, *rest)], mode)
    return result


def prepared(function, mode):
    """`function` as the mode runs it."""
    return tf.function(function, jit_compile="jit" in mode) if mode in compiled_modes else function


def layer(loss, hidden, weight, bias, target, *, fused, **more):
    """The loss of a last layer, in chunks or of all logits, and the gradients of hidden, weight and bias of its sum."""
    wanted = [each for each in (hidden, weight, bias) if each is not None]
    with tf.GradientTape() as tape:
        tape.watch(wanted)
        value = value_of_layer(loss, hidden, tf.transpose(weight), bias, target, fused=fused, **more)
        total = tf.reduce_sum(value)
    return [numpy(each) for each in (value, *tape.gradient(total, wanted))]


# One case of so many: each dtype takes a tenth of a second.
linear_share = 12
linear_dtypes = dtypes
layer_dtype, layer_tolerance = "float64", 1e-12
