"""keras_xent on torch."""

from shared_specs.conformance.adapters._keras_xent import keras_xent_on

FRAMEWORK, DISTRIBUTION, REQUIREMENTS = "keras", "crossent", ("keras", "torch")
ARGUMENTS = {"target": "y_true", "logits": "y_pred"}
offer = keras_xent_on("torch")
