"""Keras on TensorFlow."""

import tensorflow as tf

from sides.keras_common import call, fit, given, package, parts

dtypes = ("float64", "float32", "bfloat16", "float16")
fast_share = 8
compiled_share = 2
modes = ("eager", "tf.function", "tf.function(jit_compile=True)")
slow_modes = modes[1:]


def tensor(array, dtype=None):
    array = tf.convert_to_tensor(array)
    return array if dtype is None else tf.cast(array, dtype)


def numpy(value):
    return tf.cast(value, "float64").numpy()


def dtype_name(value):
    return value.dtype.name


def value_and_gradient(function, logits, mode, *rest):
    def step(logits, *rest):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = function(logits, *rest)
            total = tf.reduce_sum(value)
        return value, tape.gradient(total, logits)

    if mode != "eager":
        step = tf.function(step, jit_compile="jit" in mode)
    return step(logits, *rest)
