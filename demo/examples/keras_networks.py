"""The networks of the examples in Keras: the layers of torch_networks.py, channels last."""

from typing import Any

import keras
from keras import layers, ops

from demo import data, keras_side


class Embedding(layers.Embedding):
    """An embedding whose gradient is one matrix on TensorFlow too.

    There the gradient of a lookup is a list of rows, one for each time that a word occurs. Adam squares them one by one
    before it adds them up, so a frequent word takes other steps than on the other backends.
    """

    def call(self, inputs: Any) -> Any:
        return ops.take(self.embeddings * 1.0, inputs, axis=0)  # the product's gradient is no such list


def image_classifier(channels: int, classes: int, seed: int = 0) -> keras.Model:
    """Images [N, H, W, 1] to logits [N, C]."""
    inputs = keras.Input((None, None, 1))
    hidden = layers.Conv2D(channels, 3, padding="same", activation="relu")(inputs)  # [N, H, W, channels]
    hidden = layers.Conv2D(channels, 3, padding="same", activation="relu")(hidden)
    hidden = layers.MaxPooling2D(2)(hidden)  # [N, H/2, W/2, channels]
    hidden = layers.Conv2D(2 * channels, 3, padding="same", activation="relu")(hidden)
    hidden = layers.GlobalMaxPooling2D()(hidden)  # [N, 2 channels]
    return initialised(keras.Model(inputs, layers.Dense(classes)(hidden)), seed)


def token_classifier(vocabulary: int, size: int, classes: int, seed: int = 0) -> keras.Model:
    """Word numbers [N, T] to logits [N, T, C]: each word sees four words before it and four after it."""
    inputs = keras.Input((None,), dtype="int32")
    hidden = Embedding(vocabulary, size)(inputs)  # [N, T, size]
    hidden = layers.Conv1D(size, 5, padding="same", activation="relu")(hidden)
    hidden = layers.Conv1D(size, 5, padding="same", activation="relu")(hidden)
    return initialised(keras.Model(inputs, layers.Conv1D(classes, 1)(hidden)), seed)


def segmenter(channels: int, classes: int, seed: int = 0) -> keras.Model:
    """Images [N, H, W, 1] to logits [N, H, W, C]."""
    inputs = keras.Input((None, None, 1))
    fine = layers.Conv2D(channels, 3, padding="same", activation="relu")(inputs)  # [N, H, W, channels]
    hidden = layers.MaxPooling2D(2)(fine)  # [N, H/2, W/2, channels]
    hidden = layers.Conv2D(2 * channels, 3, padding="same", activation="relu")(hidden)
    hidden = layers.Conv2D(2 * channels, 3, padding="same", activation="relu")(hidden)
    hidden = layers.Conv2D(2 * channels, 3, padding="same", activation="relu")(hidden)
    hidden = layers.UpSampling2D(2)(hidden)  # [N, H, W, 2 channels]
    hidden = layers.Concatenate()([fine, hidden])  # [N, H, W, 3 channels]
    hidden = layers.Conv2D(channels, 3, padding="same", activation="relu")(hidden)
    return initialised(keras.Model(inputs, layers.Conv2D(classes, 1)(hidden)), seed)


def language_model(vocabulary: int, size: int, seed: int = 0) -> keras.Model:
    """Word numbers [N, T] to hidden states [N, T, size] for the next word: each sees the last five words."""
    inputs = keras.Input((None,), dtype="int32")
    hidden = Embedding(vocabulary, size)(inputs)  # [N, T, size]
    hidden = layers.Conv1D(size, 3, padding="causal", activation="relu")(hidden)
    hidden = layers.Conv1D(size, 3, padding="causal", activation="relu")(hidden)
    return initialised(keras.Model(inputs, hidden), seed)


def embedder(hidden: int, size: int, scale: float, seed: int = 0) -> keras.Model:
    """Images [N, 64] to embeddings [N, size] of the length `scale`."""
    inputs = keras.Input((64,))
    found = layers.Dense(size)(layers.Dense(hidden, activation="tanh")(inputs))
    return initialised(keras.Model(inputs, scale * ops.normalize(found, axis=-1)), seed)


def initialised(model: keras.Model, seed: int) -> keras.Model:
    """Return `model` with kernels from NumPy, the same as on the other side; biases are 0 already."""
    kernels = [layer.weights[0] for layer in model.layers if layer.weights]
    values = data.initial_kernels([tuple(kernel.shape) for kernel in kernels], seed)
    for kernel, value in zip(kernels, values, strict=True):
        kernel.assign(value)
    return model


NETWORKS: dict[str, Any] = {
    "demo.lightning_parts.Perceptron": keras_side.network,
    "demo.examples.torch_networks.ImageClassifier": image_classifier,
    "demo.examples.torch_networks.TokenClassifier": token_classifier,
    "demo.examples.torch_networks.Segmenter": segmenter,
    "demo.examples.torch_networks.LanguageModel": language_model,
    "demo.examples.torch_networks.Embedder": embedder,
}
"""What stands here for a network that a config names."""
