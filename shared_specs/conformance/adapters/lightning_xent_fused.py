"""lightning_xent's loss of a last layer whose weight is the identity: the hidden rows are the logits of a case."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

import lightning_xent
from lightning_xent import targets
from shared_specs.conformance.offers import Offer
from shared_specs.load import Case

DISTRIBUTION, REQUIREMENTS = "crossent", ("torch",)
# Layers are computed in chunks by eager code.
MODES = ("eager",)


def offer(case: Case) -> Offer | str:
    loss = getattr(lightning_xent, case.loss)(**case.config)
    if not hasattr(loss, "linear"):
        return "linear() is a method of categorical losses"
    if not loss.reads_one_logits:
        return f"linear() has one layer, and {case.loss} compares several logits of a row"
    if not loss.from_logits:
        return "linear() gives logits, not probabilities"
    axis = targets.class_axis(torch.from_numpy(case.inputs["logits"]), loss.axis)
    if not _has_finite_rows(case, axis, loss.ignore_index):
        return "a layer gives no infinite logits: 0 * infinity is NaN"

    def call(logits: Tensor, target: Tensor, **others: Any) -> Tensor:
        hidden = logits.movedim(axis, -1)
        target = target.movedim(axis, -1) if target.ndim == logits.ndim else target
        weight = torch.eye(hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
        return loss.linear(hidden, weight, target, **others)

    return Offer(call)


def _has_finite_rows(case: Case, axis: int, ignore_index: float | None) -> bool:
    """Whether all rows that count are finite."""
    rows = np.isfinite(case.inputs["logits"]).all(axis)
    target = case.inputs["target"]
    if ignore_index is not None and target.size == rows.size:
        rows |= target.reshape(rows.shape) == ignore_index
    for name in ("mask", "sample_weight"):
        if name in case.inputs:
            counts = case.inputs[name].astype(bool)
            rows |= ~counts.reshape(counts.shape[: rows.ndim] + (1,) * (rows.ndim - counts.ndim))
    return bool(rows.all())
