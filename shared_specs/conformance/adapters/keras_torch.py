"""keras.losses on the backend torch."""

from shared_specs.conformance.offers import keras_on

keras_on("torch")

from shared_specs.conformance.adapters._keras import offer as offer  # noqa: E402

FRAMEWORK = "keras"
REQUIREMENTS = ("keras", "torch")
DISTRIBUTION = "keras"
