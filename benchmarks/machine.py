"""The machine and the versions that a run is of: no paths, no host names."""

import os
import platform
import shlex
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path


def describe() -> dict[str, str | int]:
    """Return the CPU, its cores that this process may use, and the system."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def has_compiler() -> bool:
    """Return whether there is a C++ compiler, which torch.compile needs on the CPU."""
    return shutil.which(shlex.split(os.environ.get("CXX", "g++"))[0]) is not None


def has_glibc() -> bool:
    """Return whether memory comes from glibc, which variables of the environment can tell to keep it."""
    return platform.libc_ver()[0] == "glibc"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
