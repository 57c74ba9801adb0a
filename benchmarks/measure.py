"""The measurement, whatever the framework: first that two losses agree, then their times in alternation."""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

ROUND_SECONDS = 0.02
"""A round repeats its call until it lasts this long: the clock and the scheduler then weigh less than 1 %."""

WARM_UP_CALLS = 3


@dataclass(frozen=True)
class Contender:
    """A loss with its inputs."""

    name: str
    call: Callable[[], tuple[Any, Any]]
    """Returns loss and gradient, computed when it returns (on CUDA: after `synchronise`)."""

    peak: Callable[[], int | None] = lambda: None
    """Returns the peak of the memory of one call in bytes, beyond its inputs; None where it cannot be measured."""

    note: str = ""
    """What was set for it to agree, or why it need not."""

    same: bool = True
    """Whether it must agree with ours; if not, `note` names the other convention."""


@dataclass(frozen=True)
class Setting:
    """Our loss and its peers, on the same inputs."""

    loss: str
    mode: str
    ours: Contender
    peers: list[Contender]
    missing: list[str] = field(default_factory=list)
    """Peers that are not installed."""


@dataclass
class Row:
    """One comparison: seconds of each round, and memory as a multiple of the logits."""

    backend: str
    mode: str
    loss: str
    size: str
    dtype: str
    ours: str
    peer: str
    note: str = ""
    same: bool = True
    scaling: bool = False
    value_difference: float | None = None
    gradient_difference: float | None = None
    ours_seconds: list[float] = field(default_factory=list)
    peer_seconds: list[float] = field(default_factory=list)
    ours_memory: float | None = None
    peer_memory: float | None = None
    bandwidth: float | None = None
    """Achieved bandwidth as a share of that of a copy on the device (CUDA only)."""
    problem: str = ""

    @property
    def ours_median(self) -> float | None:
        return median(self.ours_seconds) if self.ours_seconds else None

    @property
    def peer_median(self) -> float | None:
        return median(self.peer_seconds) if self.peer_seconds else None

    @property
    def ratio(self) -> float | None:
        """Peer / ours: larger is better for us."""
        if self.ours_median is None or self.peer_median is None:
            return None
        return self.peer_median / self.ours_median


def relative_difference(first: Any, second: Any) -> float:
    """Return the larger of two relative distances of NumPy arrays or tensors: in the largest element, and in the sum.

    Among 128256 classes the gradient of the true one is 1e5 times that of any other: the largest element alone would
    not see a wrong softmax, the sum alone not a single wrong element.
    """
    distance, scale = abs(first - second), abs(second)
    largest, total = float(scale.max()), float(scale.sum())
    distances = float(distance.max()) / (largest or 1.0), float(distance.sum()) / (total or 1.0)
    return math.nan if any(map(math.isnan, distances)) else max(distances)


def disagreement(row: Row, tolerance: float) -> str:
    """Return what is wrong with a peer that should agree with ours: nothing, if it does."""
    differences = {"value": row.value_difference, "gradient": row.gradient_difference}
    wrong = [
        f"its {name} differs by {difference:.1e} relative"
        for name, difference in differences.items()
        if difference is None or not difference <= tolerance  # NaN is no agreement
    ]
    return f"{', '.join(wrong)}, more than {tolerance:g}" if wrong and row.same else ""


def seconds_per_call(call: Callable[[], Any], calls: int, synchronise: Callable[[], None]) -> float:
    """Return the seconds that one of `calls` calls takes."""
    synchronise()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronise()
    return (time.perf_counter() - start) / calls


def alternating(
    calls: list[Callable[[], Any]], repeat: int, synchronise: Callable[[], None] = lambda: None
) -> list[list[float]]:
    """Return the seconds per call in each of `repeat` rounds, for all calls in turn, after warming up each."""
    lengths = []
    for call in calls:
        seconds_per_call(call, WARM_UP_CALLS - 1, synchronise)
        lengths.append(max(1, math.ceil(ROUND_SECONDS / seconds_per_call(call, 1, synchronise))))
    rounds: list[list[float]] = [[] for _ in calls]
    gc.collect()
    gc.disable()  # as timeit does: collections would fall into whichever round is running
    try:
        for _ in range(repeat):
            for call, length, times in zip(calls, lengths, rounds, strict=True):
                times.append(seconds_per_call(call, length, synchronise))
    finally:
        gc.enable()
    return rounds
