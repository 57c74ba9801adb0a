"""An ordinary call of any public loss: what it needs, and inputs that fit it."""

from dataclasses import fields

import numpy as np

from shared_specs.common.spec import public_classes
from sides import side

CLASSES = list(public_classes(side.package))


def is_binary(name):
    return issubclass(getattr(side.package, name), side.package.binary.BinaryLoss)


def required(name, classes=3):
    """The keywords without a default."""
    if all(field.name != "class_counts" for field in fields(getattr(side.package, name))):
        return {}
    return {"class_counts": [float(max(1, 60 // (index + 1))) for index in range(classes)]}


def build(name, /, *, classes=3, **config):
    return getattr(side.package, name)(**{**required(name, classes), **config})


def inputs(name, rows=6, classes=3):
    """Logits [rows, ...] within +-1, which may be cosines, and targets, as arrays."""
    rng = np.random.default_rng(0)
    entries = {"OrdinalCrossEntropy": classes - 1, "JensenShannonConsistency": 3 * classes}.get(name, classes)
    logits = rng.uniform(-0.95, 0.95, (rows, entries)).astype("float32")
    if is_binary(name):
        return logits, rng.uniform(size=(rows, classes)).astype("float32")
    if name == "Distillation":
        return logits, rng.normal(size=(rows, classes)).astype("float32")
    return logits, rng.integers(0, classes, rows)
