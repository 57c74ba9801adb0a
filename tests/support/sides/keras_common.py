"""What the Keras backends share."""

import os
from contextlib import contextmanager
from unittest import mock

import keras

import keras_xent as package
from keras_xent import targets

if keras.backend.backend() != os.environ["KERAS_BACKEND"]:
    raise RuntimeError(f"Keras runs on {keras.backend.backend()}, wanted {os.environ['KERAS_BACKEND']}")


def given(values):
    """Values as users pass them."""
    return values


def call(loss, logits, target, **more):
    return loss(target, logits, **more)


def parts(loss, logits, target, **more):
    return loss.parts(target, logits, **more)


def compiled(model, *args, **options):
    """`compile` a model, and make the variables of its optimizer: TensorFlow traces a step that makes some twice."""
    model.compile(*args, **options)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(loss, inputs, target, *, outputs, epochs, sample_weight=None):
    """Train a linear model by `fit`; return the loss of each epoch and the function that it learnt."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(inputs.shape[1:]), keras.layers.Dense(outputs)])
    model = compiled(model, keras.optimizers.SGD(0.5), loss)
    history = model.fit(inputs, target, sample_weight=sample_weight, batch_size=32, epochs=epochs, verbose=0)
    return history.history["loss"], lambda inputs: model.predict(inputs, verbose=0)


def class_axis(loss, logits):
    """The class axis of logits."""
    return targets.class_axis(logits, loss.axis)


def value_of_layer(loss, hidden, kernel, bias, target, *, fused, **more):
    """The loss of a last layer, in chunks or of all logits."""
    if fused:
        return loss.linear(target, hidden, kernel, bias, **more)
    logits = keras.ops.matmul(hidden, kernel)
    return loss(target, logits if bias is None else logits + bias, **more)


def layer_value(loss, hidden, weight, bias, target, **more):
    """The loss of a last layer, in chunks."""
    kernel = keras.ops.transpose(weight) if len(weight.shape) == 2 else weight
    return loss.linear(target, hidden, kernel, bias, **more)


def layer_parts(loss, hidden, weight, bias, target):
    """The sum and the denominator of the loss of a last layer."""
    found = loss.linear_parts(target, hidden, keras.ops.transpose(weight), bias)
    return [float(keras.ops.convert_to_numpy(each)) for each in found]


target_name, weight_name = "y_true", "kernel"
# Everything in one chunk, and few rows in a chunk, the last of which has fewer: 15 rows of 11 classes make 16.
# Least and most bytes of a chunk, and from how many rows on it has all classes.
linear_plans = {"whole": (1 << 23, 1 << 28, 0), "rows": (400, 400, 0), "classes": (400, 400, 1000)}


@contextmanager
def planned(plan):
    """Compute losses of layers in small chunks, and products in small pieces, on TensorFlow and JAX."""
    from keras_xent.kernels import linear

    least, most, rows = linear_plans[plan]
    with mock.patch.multiple(linear, LEAST=least, MOST=most, ROWS=rows, LEAST_FEATURES=1):
        yield
