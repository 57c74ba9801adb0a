"""The side under test, named by the environment variable XENT_SIDE; a run without a name is refused.

A side has `package`, `dtypes` that bind there, `modes` (eager and compiled), `tensor(array, dtype)`, and
`value_and_gradient(function, logits, mode)`: the value of `function(logits)` and the gradient of its sum, with
the names of their dtypes. TensorFlow and torch in one process can crash, so only the side named is imported.
"""

import importlib
import os

SIDES = ("keras-tensorflow", "keras-jax", "keras-torch", "lightning")

name = os.environ.get("XENT_SIDE")
if name not in SIDES:
    raise RuntimeError(f"XENT_SIDE must be one of {', '.join(SIDES)}, got {name!r}")
is_keras = name.startswith("keras")
if is_keras:
    os.environ["KERAS_BACKEND"] = name.removeprefix("keras-")

side = importlib.import_module(f"sides.{name.replace('-', '_')}")
