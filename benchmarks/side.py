"""Measure one backend: python -m benchmarks.side plan.json result.json, in a process of its own."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Contender, Row, Setting, alternating, disagreement, relative_difference
from benchmarks.settings import DTYPES, Plan, Size

BAD_INPUT = 2
BYTES = {"float32": 4, "bfloat16": 2}


def main(arguments: list[str]) -> int:
    plan = Plan.read(Path(arguments[0]))
    try:
        side = open_side(plan)
    except ValueError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    rows, missing = [], set()
    for dtype, size, losses in plan.settings():
        copy_seconds = side.copy_seconds_per_byte(size, dtype)
        for setting in side.settings(size, dtype, losses):
            missing |= set(setting.missing)
            for row in compare(side, setting, plan, size, dtype):
                rows.append(with_bandwidth(row, copy_seconds, size))
                announce(row)
    for size in plan.scaling_sizes():
        for setting in side.settings(size, plan.dtypes[0], ["cross_entropy"]):
            first = Setting(setting.loss, setting.mode, setting.ours, setting.peers[:1])
            for row in compare(side, first, plan, size, plan.dtypes[0]):
                row.scaling = True
                rows.append(row)
                announce(row)
    result = {"versions": side.versions(), "missing": sorted(missing), "rows": [asdict(row) for row in rows]}
    Path(arguments[1]).write_text(json.dumps(result), encoding="utf-8")
    if plan.profile and plan.backend == "torch":
        from benchmarks import profiling

        profiling.show(side)
    return 0


def open_side(plan: Plan) -> Any:
    """Return the side of the plan; only now its framework is imported."""
    if plan.backend == "torch":
        from benchmarks.torch_side import TorchSide

        return TorchSide(plan.device)
    from benchmarks.keras_side import KerasSide

    return KerasSide()


def compare(side: Any, setting: Setting, plan: Plan, size: Size, dtype: str) -> Iterator[Row]:
    """Check each peer of a setting, then time it; one that does not agree is not timed."""
    logits_bytes = size.elements * BYTES[dtype]
    ours_memory = multiple(setting.ours, logits_bytes)
    for peer in setting.peers:
        row = Row(plan.backend, setting.mode, setting.loss, str(size), dtype, setting.ours.name, peer.name)
        row.note, row.same, row.ours_memory = peer.note, peer.same, ours_memory
        try:
            check(side, setting.ours, peer, row, DTYPES[dtype])
            if not row.problem:
                row.peer_memory = multiple(peer, logits_bytes)
                if not plan.memory_only:
                    calls = [setting.ours.call, peer.call]
                    row.ours_seconds, row.peer_seconds = alternating(calls, plan.repeat, side.synchronise)
        except Exception as error:  # of any peer: the others are still worth their time
            first_line = (str(error).splitlines() or [""])[0]
            row.problem = f"{type(error).__name__}: {first_line}"
        yield row


def check(side: Any, ours: Contender, peer: Contender, row: Row, tolerance: float) -> None:
    """Compare value and gradient; write the differences, and what is wrong, into the row."""
    (our_value, our_gradient), (value, gradient) = ours.call(), peer.call()
    row.value_difference = relative_difference(side.array(value), side.array(our_value))
    row.gradient_difference = relative_difference(side.array(gradient), side.array(our_gradient))
    row.problem = disagreement(row, tolerance)


def multiple(contender: Contender, logits_bytes: int) -> float | None:
    """Return the peak of a call as a multiple of the logits."""
    contender.call()  # what is compiled or cached once is no cost of a call
    peak = contender.peak()
    return None if peak is None else peak / logits_bytes


def with_bandwidth(row: Row, copy_seconds_per_byte: float | None, size: Size) -> Row:
    """Return the row with our bandwidth as a share of the copy's: logits read twice, gradient written once."""
    if copy_seconds_per_byte is not None and row.ours_median is not None:
        row.bandwidth = 3 * size.elements * BYTES[row.dtype] * copy_seconds_per_byte / row.ours_median
    return row


def announce(row: Row) -> None:
    """Print the progress."""
    if row.problem:
        outcome = f"{row.peer}: {row.problem}"
    elif row.ours_seconds:
        outcome = f"{1e3 * row.ours_median:.4g} ms, {row.peer}: {1e3 * row.peer_median:.4g} ms"
    elif row.ours_memory is not None:
        outcome = f"{row.ours_memory:.2f} times the logits, {row.peer}: {row.peer_memory:.2f}"
    else:
        return
    print(f"{row.backend}, {row.mode}: {row.loss}, {row.size}, {row.dtype}: {outcome}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
