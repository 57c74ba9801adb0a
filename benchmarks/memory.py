"""Peaks of memory, measured: of torch's allocator, or of the process."""

import ctypes
import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SMALLEST_RESIDENT = 2**25
"""Below 32 MiB glibc may serve an allocation from memory that the process already has: no peak of the process then."""


def peak_of(changes: Iterable[int]) -> int:
    """Return the peak of the sum of allocations (> 0) and releases (< 0), in their order."""
    now = peak = 0
    for change in changes:
        now += change
        peak = max(peak, now)
    return peak


def torch_cpu(call: Callable[[], Any]) -> int:
    """Return the peak of torch's CPU allocator during `call`, in bytes: the profiler records each allocation."""
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
        del result
    # The trace is the documented place of the single allocations.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    on_cpu = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0]
    return peak_of(event["args"]["Bytes"] for event in sorted(on_cpu, key=lambda event: event["ts"]))


def torch_cuda(call: Callable[[], Any]) -> int:
    """Return the peak of torch's CUDA allocator during `call`, in bytes."""
    import torch

    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def resident(call: Callable[[], Any], logits_bytes: int) -> int | None:
    """Return how far the resident set of this process rises during `call`, in bytes; None where Linux cannot tell."""
    if logits_bytes < SMALLEST_RESIDENT:
        return None
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is allocated now
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
        before = _status("VmRSS")
        result = call()
        peak = _status("VmHWM")
    except (OSError, AttributeError):
        return None
    del result
    return peak - before


def _status(name: str) -> int:
    for line in Path(f"/proc/{os.getpid()}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in the status of the process")
