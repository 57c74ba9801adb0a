"""Our losses and their peers in Keras, on the backend that KERAS_BACKEND names, on the CPU."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

import keras_xent
from benchmarks import machine, memory
from benchmarks.measure import Contender, Setting
from benchmarks.settings import Size

PACKAGES = {
    "tensorflow": ("keras", "tensorflow-cpu", "tensorflow", "numpy"),
    "jax": ("keras", "jax", "jaxlib", "optax", "numpy"),
    "torch": ("keras", "torch", "numpy"),
}
MODES = {"tensorflow": ("graph", "XLA"), "jax": ("jit",), "torch": ("eager",)}
GAMMA = 2.0

Function = Callable[[Any, Any], Any]
"""labels, logits -> loss."""


class KerasSide:
    """The Keras losses; `settings` gives one after the other, for the inputs of a size are large."""

    def __init__(self) -> None:
        self.backend = keras.backend.backend()

    def versions(self) -> dict[str, str]:
        return machine.versions(PACKAGES[self.backend])

    def synchronise(self) -> None:
        """Nothing: each call waits for its result."""

    def copy_seconds_per_byte(self, size: Size, dtype: str) -> None:
        return None

    def array(self, value: Any) -> NDArray[np.float32]:
        """Return what `measure.relative_difference` compares."""
        return np.asarray(keras.ops.convert_to_numpy(value)).astype(np.float32)

    def settings(self, size: Size, dtype: str, losses: list[str]) -> Iterator[Setting]:
        generator = np.random.default_rng(0)
        logits = keras.ops.cast(generator.standard_normal(size.shape, np.float32), dtype)
        labels = generator.integers(0, size.classes, size.shape[:-1])
        indices = keras.ops.convert_to_tensor(labels)
        for loss in losses:
            if loss == "focal":
                one_hot = keras.ops.cast(_one_hot(labels, size.classes), dtype)
            for mode in MODES[self.backend]:
                missing: list[str] = []
                if loss == "cross_entropy":
                    ours = keras_xent.SparseCategoricalCrossEntropy()
                    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                    peers = [_contender("Keras SparseCategoricalCrossentropy", theirs, indices, logits, mode)]
                    if self.backend == "jax":
                        try:
                            name = "optax softmax_cross_entropy_with_integer_labels"
                            peers.append(_contender(name, _optax(), indices, logits, mode))
                        except ImportError:
                            missing.append("optax")
                else:
                    ours = keras_xent.CategoricalFocalCrossEntropy(gamma=GAMMA)
                    theirs = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=GAMMA, from_logits=True)
                    name, note = "Keras CategoricalFocalCrossentropy", "alpha=1; its one-hot labels are given to it"
                    peers = [_contender(name, theirs, one_hot, logits, mode, note)]
                yield Setting(loss, mode, _contender(type(ours).__name__, ours, indices, logits, mode), peers, missing)


def _one_hot(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    one_hot = np.zeros((*labels.shape, classes), np.float32)
    np.put_along_axis(one_hot, labels[..., None], 1.0, -1)
    return one_hot


def _optax() -> Function:
    import optax

    return lambda labels, logits: optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _contender(name: str, function: Function, labels: Any, logits: Any, mode: str, note: str = "") -> Contender:
    step = {"graph": _tensorflow, "XLA": _tensorflow, "jit": _jax, "eager": _torch}[mode]
    call, peak = step(function, labels, logits, mode)
    return Contender(name, call, peak, note)


def _tensorflow(function: Function, labels: Any, logits: Any, mode: str) -> tuple[Callable, Callable]:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it warns of functions made in a loop: each is traced once

    @tf.function(jit_compile=mode == "XLA", autograph=False)
    def step(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = function(labels, logits)
        return value, tape.gradient(value, logits)

    def call() -> tuple[Any, Any]:
        return step(labels, logits)

    logits_bytes = logits.dtype.size * int(np.prod(logits.shape))
    # oneDNN's allocator keeps what it has once taken: a second process measures the memory without it.
    is_told = os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0"
    return call, lambda: memory.resident(call, logits_bytes) if is_told else None


def _jax(function: Function, labels: Any, logits: Any, mode: str) -> tuple[Callable, Callable]:
    import jax

    step = jax.jit(jax.value_and_grad(lambda logits, labels: function(labels, logits)))

    def call() -> tuple[Any, Any]:
        return jax.block_until_ready(step(logits, labels))

    def peak() -> int | None:
        # What XLA allocates for the compiled call: the process would show its arena, not the call.
        analysis = step.lower(logits, labels).compile().memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes + analysis.output_size_in_bytes

    return call, peak


def _torch(function: Function, labels: Any, logits: Any, mode: str) -> tuple[Callable, Callable]:
    import torch

    logits = logits.detach().requires_grad_()

    def call() -> tuple[Any, Any]:
        value = function(labels, logits)
        (gradient,) = torch.autograd.grad(value, logits)
        return value, gradient

    return call, lambda: memory.torch_cpu(call)
