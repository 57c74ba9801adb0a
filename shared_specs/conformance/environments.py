"""Environments of their own for the targets of the matrix."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

_HERE = Path.cwd()
ROOT = next((folder for folder in (_HERE, *_HERE.parents) if (folder / "shared_specs/conformance").is_dir()), _HERE)
"""The checkout: the folder in which a command runs, or one above it. The packages may be those of an environment."""
# What the runner needs, beside the libraries of a target.
RUNNER = ("numpy", "mpmath", "tqdm")


class InstallError(RuntimeError):
    """A library that could not be installed; its text is the last line of pip."""


@contextmanager
def environment(requirements: Sequence[str], folder: Path, keep: bool = False) -> Iterator[Path]:
    """Install requirements beside what the runner needs, in versions of constraints.txt, and yield the Python of it.

    Programs find this checkout if they run in its folder: see `run`.

    Args:
        folder: Made, and removed at the end.
        keep: Leave the folder; one that is there already is used as it is.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        if not (keep and python.exists()):
            rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            _install(python, requirements)
        yield python.absolute()
    finally:
        if not keep:
            rmtree(folder, ignore_errors=True)


def run(python: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in an environment, in the folder of this checkout; its messages pass through."""
    ours = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    command = [str(python), *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | ours, stdout=subprocess.PIPE, text=True, check=False)


def _install(python: Path, requirements: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(ROOT / "constraints.txt"), *RUNNER, *requirements]
    installed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if installed.returncode:
        lines = [line for line in installed.stdout.splitlines() if line.strip()]
        raise InstallError(lines[-1] if lines else f"pip ended with {installed.returncode}")
