"""keras.losses on the backend tensorflow."""

from shared_specs.conformance.offers import keras_on

keras_on("tensorflow")

from shared_specs.conformance.adapters._keras import offer as offer  # noqa: E402

FRAMEWORK = "keras"
REQUIREMENTS = ("keras", "tensorflow-cpu")
DISTRIBUTION = "keras"
