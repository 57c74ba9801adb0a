"""keras_xent on JAX."""

from shared_specs.conformance.adapters._keras_xent import keras_xent_on

FRAMEWORK, DISTRIBUTION, REQUIREMENTS = "keras", "crossent", ("keras", "jax")
ARGUMENTS = {"target": "y_true", "logits": "y_pred"}
offer = keras_xent_on("jax")
