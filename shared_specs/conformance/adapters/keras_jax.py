"""keras.losses on the backend jax."""

from shared_specs.conformance.offers import keras_on

keras_on("jax")

from shared_specs.conformance.adapters._keras import offer as offer  # noqa: E402

FRAMEWORK = "keras"
REQUIREMENTS = ("keras", "jax")
DISTRIBUTION = "keras"
# JAX compiles each operation of an eager call for each shape: minutes for all cases.
MODES = ("compiled", "eager")
