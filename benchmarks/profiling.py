"""Where the time of a small call goes, in torch's operators and in Python."""

import cProfile
import pstats
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.settings import Size

SIZE, CALLS, LINES = Size((128, 10)), 1000, 12


def show(side: Any) -> None:
    """Print two breakdowns for cross-entropy at 128x10, of ours and of its first peer."""
    setting = next(side.settings(SIZE, "float32", ["cross_entropy"]))
    for contender in (setting.ours, setting.peers[0]):
        for _ in range(CALLS):
            contender.call()
        print(f"\n=== {contender.name}, {SIZE}, {CALLS} calls: operators ===")
        with profile(activities=[ProfilerActivity.CPU]) as operators:
            for _ in range(CALLS):
                contender.call()
        averages = operators.key_averages()
        print(averages.table(sort_by="self_cpu_time_total", row_limit=LINES, max_name_column_width=40))
        print(f"=== {contender.name}, {SIZE}, {CALLS} calls: Python functions ===")
        functions = cProfile.Profile()
        functions.enable()
        for _ in range(CALLS):
            contender.call()
        functions.disable()
        pstats.Stats(functions).strip_dirs().sort_stats("tottime").print_stats(LINES)
