"""Sums over an epoch and over devices."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_xent.reduction import quotient


class Sums(Metric):
    """Base of the metrics that are a function of sums over all rows of an epoch, on all devices.

    A sum is kept as two float32 numbers, `sums` and its rounding error `excess`: about 48 bits, on every device. One
    float32 number would stop counting at 2^24 rows (Kahan, 1965), and not every device has float64.

    Args:
        shape: Shape of the sums.
    """

    full_state_update = False
    sums: Tensor
    excess: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        for name in ("sums", "excess"):
            self.add_state(name, torch.zeros(shape), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        """Add the sums of a batch."""
        added = values.detach().to(wide(values)) - self.excess
        after = (self.sums + added).to(self.sums.dtype)
        excess = (after.to(added.dtype) - self.sums) - added
        self.excess = torch.where(after.isfinite(), excess, 0.0).to(self.sums.dtype)
        self.sums = after


def wide(values: Tensor) -> torch.dtype:
    """Return float64 if the device has it, else float32."""
    return torch.float32 if values.device.type == "mps" else torch.float64


class EpochMean(Sums):
    """The mean over all rows of an epoch, on all devices, from the sums and denominators of its batches.

    Args:
        is_sum: Whether the result is the sum, with the denominator 1 for the whole epoch.
    """

    def __init__(self, is_sum: bool = False) -> None:
        super().__init__(2)
        self.is_sum = is_sum

    def update(self, total: Tensor, denominator: Tensor) -> None:
        """Add a batch."""
        self._add(torch.stack([total, denominator]))

    def compute(self) -> Tensor:
        """Return the mean of all rows so far; 0 if none counts."""
        total, denominator = self.sums - self.excess
        return total if self.is_sum else quotient(total, denominator)
