"""The curve of a loss: rows of logits that have chosen log-odds, for either side to call its loss on."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

LossType = TypeVar("LossType")

LOG_ODDS = np.linspace(-8, 8, 161, dtype=np.float32)
"""Log-odds m of the true class; p = sigmoid(m) runs from 0.0003 to 0.9997."""

CURVE = "curve"
"""Name of phi(m) itself, without the keywords that all losses share."""

ROW_BY_ROW = {"reduction": "none", "hard_fraction": 1.0, "ignore_index": None}


@dataclass(frozen=True)
class Line:
    """Rows whose true label has the log-odds `LOG_ODDS`, and the same probability for all other labels."""

    name: str
    logits: NDArray[np.float32]
    target: NDArray[np.int64]
    column: int
    sign: int
    """m is sign * logits[:, column] + constant: the slope over m is sign * gradient[:, column]."""


def lines(config: dict[str, Any], outputs: int) -> list[Line]:
    """Return the rows to draw for a loss with `config`: both labels, or the classes of least and largest weight."""
    if outputs == 1:
        return [_binary_line(1), _binary_line(0)]
    weights = config.get("class_weight")
    if weights is None:
        return [_categorical_line("any class", 0, outputs)]
    labels = sorted({int(np.argmin(weights)), int(np.argmax(weights))})
    return [_categorical_line(f"class {label}", label, outputs) for label in labels]


def row_by_row(loss: LossType) -> LossType:
    """Return `loss` of either side without its reduction."""
    return type(loss)(**(loss.get_config() | ROW_BY_ROW))  # type: ignore[attr-defined]


def _binary_line(label: int) -> Line:
    sign = 1 if label == 1 else -1
    logits = sign * LOG_ODDS[:, None]  # [M, 1]
    return Line(f"label {label}", logits, np.full(logits.shape, label, np.int64), 0, sign)


def _categorical_line(name: str, label: int, classes: int) -> Line:
    logits = np.zeros((len(LOG_ODDS), classes), np.float32)  # [M, C]
    logits[:, label] = LOG_ODDS + np.log(classes - 1)
    return Line(name, logits, np.full(len(LOG_ODDS), label, np.int64), label, 1)
