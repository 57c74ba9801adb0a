"""`xent check MODEL.keras`: what `check_model` finds in a saved model and the losses that it was compiled with."""

from pathlib import Path
from typing import Any

import keras

import keras_xent
from keras_xent.base import Loss
from keras_xent.check import problems_of_model
from shared_specs.command import report
from shared_specs.command.report import Report
from shared_specs.common import porting
from shared_specs.common.spec import LossSpec


def check(path: Path, data: str | None, spec: LossSpec | None) -> Report:
    """Return what was found.

    Args:
        path: The saved model.
        data: An NPZ file, or the MODULE:NAME of a batch, of data, or of a function that returns one of them.
        spec: The loss, in place of those that the model was compiled with.
    """
    report.see_working_directory()
    model, found = keras.models.load_model(path), Report()
    given = getattr(model, "loss", None) if spec is None else keras_xent.get(spec)
    if given is None:
        raise ValueError(f"{path} has no loss: its model was saved before compile(); name the loss by --loss")
    losses = _each(given, found)
    batch = None if data is None else _batch(data)
    if batch is None:
        found.unchecked.append("labels, weights and values: no data was given (--data)")
    seen = list(problems_of_model(model, losses, batch))
    for own, doubts, others in seen:
        of = "the batch" if batch is not None else "the activation before it and the shape of its input"
        found.checked.append(f"{own!r}: {of}")
        found.problems += doubts + others
        if own._weight_of_classes() is not None:
            found.unchecked.append(f"class_weight of fit(), which would multiply {own._weight_of_classes()} once more")
    if not seen and batch is None:
        found.unchecked.append("the activation: only models of the functional API and Sequential models show it")
    return found


def _each(given: Any, found: Report) -> Any:
    """Return the losses of all outputs, those of Keras as ours."""
    if isinstance(given, dict):
        return {name: _each(loss, found) for name, loss in given.items()}
    if isinstance(given, list | tuple):
        return [_each(loss, found) for loss in given]
    return given if given is None or isinstance(given, Loss) else _ours(given, found)


def _ours(given: Any, found: Report) -> Any:
    """Return our loss that equals one of Keras, an object, a function or a name; note why if there is none."""
    name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
    classes = {known.lower(): known for known in porting.KERAS}
    known = None if isinstance(given, keras.losses.Loss) else classes.get(name.replace("_", "").lower())
    try:
        return keras_xent.from_keras(given if known is None else getattr(keras.losses, known)())
    except (TypeError, ValueError) as error:
        found.unchecked.append(f"the loss {name}: {error}")
        return None


def _batch(data: str) -> Any:
    """Return the first batch (inputs, target[, sample_weight]) of the data."""
    if data.endswith(".npz"):
        arrays = report.arrays_of(Path(data))
        if "mask" in arrays:
            raise ValueError(f"{data} must have no mask: batches of Keras have none, use sample_weight")
        return tuple(arrays[name] for name in report.PARTS if name in arrays)
    given = report.named_object("--data", data)
    given = given() if callable(given) else given
    if isinstance(given, keras.utils.PyDataset):
        return given[0]
    return given if isinstance(given, tuple) else next(iter(given))
