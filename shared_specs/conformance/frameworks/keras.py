"""Keras, by the framework that is its backend; compiled as `fit` compiles, so with XLA on TensorFlow."""

import functools
import importlib
from typing import Any

import keras

from shared_specs.conformance.evaluate import Found

BACKEND = keras.backend.backend()
FRAMEWORK = importlib.import_module(f"shared_specs.conformance.frameworks.{BACKEND}")

# Keras drops float64 to float32 inside some ops of the other backends.
DTYPES: tuple[str, ...] = FRAMEWORK.DTYPES if BACKEND == "tensorflow" else ("float32", "bfloat16", "float16")
MODES: tuple[str, ...] = FRAMEWORK.MODES
DEVICES: tuple[str, ...] = FRAMEWORK.DEVICES
VERSIONS: tuple[str, ...] = ("keras", *FRAMEWORK.VERSIONS)


def require(device: str) -> None:
    """Raise if the device is not there."""
    FRAMEWORK.require(device)


def evaluate(*given: Any) -> Found:
    """Value and gradient of a call."""
    return run(*given)


run = functools.partial(FRAMEWORK.evaluate, **({"jit_compile": True} if BACKEND == "tensorflow" else {}))
