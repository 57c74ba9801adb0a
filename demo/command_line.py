"""What the command lines of the demo share: errors of one line, and numbers in their range."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from demo import sides

SPECS = Path(__file__).parent / "specs"
FAILED, BAD_INPUT = 1, 2
"""Exit codes: the sides differ, or the input is wrong. A side that breaks off gives its own."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


@contextmanager
def errors_in_one_line(parser: Parser, losses: str) -> Iterator[None]:
    """Exit where the input is wrong or a side breaks off; `losses` is the option that names the losses."""
    try:
        yield
    except ValueError as error:
        parser.error(f"argument {losses}: {error}")
    except OSError as error:
        parser.error(f"argument --output: {error}")
    except sides.SideError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")


def exit_code(parser: Parser, failures: list[str]) -> int:
    """Print what is wrong with the results, a line each, and return the exit code."""
    for failure in failures:
        print(f"{parser.prog}: error: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def bundled_specs() -> str:
    """Return the names of the specs in `SPECS`."""
    return ", ".join(sorted(path.stem for path in SPECS.glob("*.json")))


def spec_path(spec: str) -> Path:
    """Return the file of a spec, which is named by its path, or by its stem if it is in `SPECS`."""
    bundled = SPECS / f"{spec}.json"
    return bundled if bundled.is_file() else Path(spec)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return what reads a whole number of the command line, from `least` to `most`."""
    wanted = f"at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"must be a whole number, {wanted}, got {text!r}")
        return int(text)

    return read
