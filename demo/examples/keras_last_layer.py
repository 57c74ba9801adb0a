"""The Keras side where the last layer has the loss: its models, and the same steps and memory with all logits."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

import keras_xent
from benchmarks import memory
from demo.data import Split
from demo.examples import EXAMPLES
from demo.examples.keras_networks import NETWORKS
from demo.examples.recording import FIRST_STEPS, IN_CHUNKS, WHOLE
from demo.examples.settings import ExampleSettings
from demo.keras_side import optimizer
from keras_xent.layers import LinearLoss


class StepLosses(keras.callbacks.Callback):
    """Collects the losses of the first steps, from their running mean, which is what Keras tells."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self._total = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if len(self.losses) < FIRST_STEPS:
            total = float(logs["loss"]) * (batch + 1)
            self.losses.append(total - self._total)
            self._total = total


class Models(NamedTuple):
    """What shares one network and one last layer."""

    network: keras.Model
    """Returns hidden states."""
    layer: LinearLoss
    trained: keras.Model
    """Of inputs and targets, with the loss."""
    predicting: keras.Model
    """Returns logits."""


def models(run: ExampleSettings, split: Split) -> Models:
    """Return the models of an example before training."""
    network, kernel = _network_and_kernel(run)
    layer = LinearLoss(kernel.shape[1], keras_xent.get(run.loss), use_bias=run.layer["bias"])
    inputs, hidden = network.input, network.output
    target = keras.Input(split.train_target.shape[1:], dtype="int32")
    trained = keras.Model([inputs, target], layer(hidden, target))
    layer.kernel.assign(kernel)
    return Models(network, layer, trained, keras.Model(inputs, layer(hidden)))


def steps_of_all_logits(run: ExampleSettings, split: Split) -> list[float]:
    """Return the loss of each of the first steps, by the loss of all logits."""
    network, kernel = _network_and_kernel(run)
    last, steps = layers.Dense(kernel.shape[1], use_bias=run.layer["bias"]), StepLosses()
    model = keras.Model(network.input, last(network.output))
    last.kernel.assign(kernel)
    model.compile(optimizer(run.optimizer, run.optimizer_arguments), keras_xent.get(run.loss))
    rows = slice(0, FIRST_STEPS * run.batch_size)
    options = {"batch_size": run.batch_size, "shuffle": False, "verbose": 0, "callbacks": [steps]}
    model.fit(split.train_inputs[rows], split.train_target[rows], **options)
    return steps.losses


def memory_of(run: ExampleSettings, network: keras.Model, layer: LinearLoss, split: Split) -> dict[str, int | None]:
    """Return the most memory that loss and gradients of the last layer take, for the first batch."""
    target = ops.convert_to_tensor(split.train_target[: run.batch_size], "int32")
    hidden = network.predict_on_batch(split.train_inputs[: run.batch_size])
    tensors = [ops.convert_to_tensor(each) for each in (hidden, *layer.get_weights())]
    # The labels are right; unchecked, a trace says nothing of them.
    loss = keras_xent.get({**run.loss, "config": {**run.loss["config"], "check_labels": False}})

    def in_chunks(hidden: Any, kernel: Any, bias: Any = None) -> Any:
        return loss.linear(target, hidden, kernel, bias)

    def whole(hidden: Any, kernel: Any, bias: Any = None) -> Any:
        logits = ops.matmul(hidden, kernel)
        return loss(target, logits if bias is None else logits + bias)

    logits = 4 * int(np.prod(hidden.shape[:-1])) * layer.units
    peak_of = PEAKS[keras.backend.backend()]
    return {IN_CHUNKS: peak_of(in_chunks, tensors, logits), WHOLE: peak_of(whole, tensors, logits)}


def _network_and_kernel(run: ExampleSettings) -> tuple[keras.Model, NDArray]:
    size = run.layer["in_features"], run.layer["classes"]
    return NETWORKS[run.network](**run.network_arguments), EXAMPLES[run.name].last_kernel(size, run.seed)


def _tensorflow(loss: Callable[..., Any], tensors: list[Any], logits: int) -> int | None:
    """By the resident set of the process."""
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def step(*tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        return value, tape.gradient(value, tensors)

    step(*tensors)  # compiles
    return memory.resident(lambda: step(*tensors), logits)


def _jax(loss: Callable[..., Any], tensors: list[Any], logits: int) -> int | None:
    """By what XLA allocates for the compiled step."""
    import jax

    step = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(tensors)))))
    found = step.lower(*tensors).compile().memory_analysis()
    return None if found is None else found.temp_size_in_bytes + found.output_size_in_bytes


def _torch(loss: Callable[..., Any], tensors: list[Any], logits: int) -> int | None:
    """By torch's allocator."""
    import torch

    wanted = [each.detach().requires_grad_() for each in tensors]
    return memory.torch_cpu(lambda: torch.autograd.grad(loss(*wanted), wanted))


PEAKS: dict[str, Callable[..., int | None]] = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
"""How each backend measures a peak of memory."""
