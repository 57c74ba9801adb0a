"""What a loss says once of its input: probabilities for logits or the reverse, one class, labels that nobody checks."""

import inspect
import math
from typing import Any

import keras
from keras import KerasTensor as Tensor

from keras_xent import reading, reduction
from keras_xent.reduction import Rows
from shared_specs.common import guard
from shared_specs.common.guard import Kind


class Watch:
    """What a loss has looked at and said."""

    def __init__(self) -> None:
        self.has_looked, self.has_warned, self.has_said, self.has_warned_of_fit = False, False, False, False

    def look(self, kind: Kind, logits: Any, rows: Rows | None) -> None:
        """Warn of the first input that seems wrong; read only values that cost no wait."""
        has_looked, doubt = True, doubt_of_shape(kind, reading.checked_logits(logits))
        if doubt is None:
            if reading.is_compiling():
                return
            has_looked, doubt = doubt_of(kind, logits, rows, None)
        if doubt is not None:
            reading.now(guard.warn, f"{kind.name} {doubt}")
        if not reading.is_compiling():  # there, Python's warning filters show a warning once
            self.has_looked, self.has_warned = has_looked, self.has_warned or doubt is not None

    def look_at_fit(self, name: str, own: str | None) -> None:
        """Warn once of class weights of `fit` that multiply those of the loss, which are in its keyword `own`.

        Keras turns them into sample weights. That they are class weights shows only in the arguments of `fit` or
        `train_on_batch`, which are read from the stack. If another thread calls the loss, there is no warning.
        """
        frame = None if own is None else inspect.currentframe()
        while frame is not None:
            is_fit = frame.f_code.co_name in ("fit", "train_on_batch")
            if is_fit and isinstance(frame.f_locals.get("self"), keras.Model) and frame.f_locals.get("class_weight"):
                self.has_warned_of_fit = True
                guard.warn(
                    f"{name} has {own}, and class_weight of {frame.f_code.co_name}() multiplies its losses once more: "
                    "leave one of the two out"
                )
                return
            frame = frame.f_back

    def hear(self, doubts: list[str]) -> None:
        """Take doubts as said, by someone else."""
        self.has_looked |= bool(doubts)

    def say_unchecked(self, name: str, losses: Tensor, check_labels: bool | None) -> None:
        """Warn once that a trace cannot report labels out of range."""
        if not reading.is_unwatched(losses, check_labels):
            return
        # An attribute that changes makes Dynamo compile again. There, Python's warning filters show the warning once.
        is_compiling = reading.is_compiling()
        if is_compiling or not self.has_said:
            reading.now(guard.warn, f"{name} {guard.UNWATCHED}")
        if not is_compiling:
            self.has_said = True


def doubt_of(kind: Kind, logits: Any, rows: Rows | None, check: bool | None) -> tuple[bool, str | None]:
    """Return whether a call showed enough to decide, and what seems wrong with its input (None: nothing).

    Values are read as `reading.read` does with `check`.
    """
    activation, logits = reading.activation_of(logits), reading.checked_logits(logits)
    doubt = doubt_of_shape(kind, logits) or guard.of_activation(activation, **kind.form)
    size = 1 if kind.axis is None else logits.shape[kind.axis]
    shape = tuple(logits.shape)
    is_known = all(isinstance(length, int) for length in shape)
    has_rows = is_known and kind.axis is not None and math.prod(shape) >= guard.ROWS * size
    can_tell = is_known and (not kind.from_logits or has_rows or kind.takes_cosines)
    values = reading.read(logits, check, kind.axis) if can_tell and doubt is None else None
    if values is None:
        return doubt is not None, doubt
    counted = None if rows is None else reduction.counted(rows)
    counts = None if counted is None else reading.read(counted, check)
    if counted is not None and counts is None:
        return False, None
    dtype = keras.backend.standardize_dtype(logits.dtype)
    doubt = guard.of_cosines(values, counts, dtype, kind.temperature) if kind.takes_cosines else None
    return True, doubt or guard.of_values(values, counts, dtype, kind.views, **kind.form)


def doubt_of_shape(kind: Kind, logits: Tensor) -> str | None:
    """Return what is wrong with logits of this shape, which a trace knows too; None if nothing is."""
    is_alone = kind.axis is not None and kind.classes == 1
    return guard.of_one_class(tuple(logits.shape), kind.axis) if is_alone else None
