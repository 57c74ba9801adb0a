"""Time our losses beside their peers, and measure the memory: loss + gradient with respect to the logits.

Each peer is first checked for the same value and gradient; then ours and the peer are timed in turn.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import machine, plots, report
from benchmarks.settings import (
    BACKENDS,
    DEFAULT_BACKENDS,
    DEFAULT_DTYPES,
    DEFAULT_SIZES,
    DTYPES,
    LOSSES,
    REUSED,
    Plan,
    Size,
)

FAILED, BAD_INPUT = 1, 2
"""Exit codes: a peer does not agree or a backend broke off, or the input is wrong."""

ENVIRONMENT = {
    # Both report on stderr what they find at every start.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "KINETO_LOG_LEVEL": "6",
}
REUSED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(8 * 2**30), "MALLOC_TRIM_THRESHOLD_": str(16 * 2**30)}
"""glibc keeps what is freed, up to so many bytes, and asks the system for no fresh pages for large tensors."""
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    check(parser, options)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        if options.read is None:
            results = measure_all(parser, options)
            (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        parser.error(f"argument --output: {error}")
    try:
        results = report.read(options.read or options.output / "results.json")
    except ValueError as error:
        parser.error(f"argument --read: {error}")
    write(results, options.output)
    failures = report.problems(results)
    for failure in failures:
        print(f"{parser.prog}: error: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def command_line() -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"Exit code: {FAILED} if a peer has neither our value and gradient nor a convention that is named, or "
        f"if a backend breaks off; {BAD_INPUT} for bad input.",
    )
    add = parser.add_argument
    add("--backend", type=some_of(BACKENDS), metavar="A,B", help=f"of {', '.join(BACKENDS)} (default: all)")
    sizes = f"shapes of the logits, classes last (default: {','.join(DEFAULT_SIZES['cpu'])})"
    add("--sizes", type=sizes_of, metavar="NxC,BxTxC", help=sizes)
    add("--losses", type=some_of(LOSSES), default=LOSSES, metavar="A,B", help=f"of {', '.join(LOSSES)} (default: all)")
    add("--dtype", type=some_of(tuple(DTYPES)), metavar="A,B", help=f"of {', '.join(DTYPES)} (default: float32)")
    device = "cuda: torch alone, by default also in bfloat16 and at 8192x128256, with the bandwidth (default: cpu)"
    add("--device", choices=tuple(DEFAULT_SIZES), default="cpu", help=device)
    add("--repeat", type=whole_number(1), default=7, metavar="N", help="rounds of each comparison (default: 7)")
    scaling = "logits of the run from 1e3 to 1e6 classes, 0 for none (default: %(default)s)"
    add("--scaling-elements", type=whole_number(0), default=8_000_000, metavar="N", help=scaling)
    add("--profile", action="store_true", help="print where the time goes at 128x10 (torch)")
    add("--read", type=Path, metavar="FILE", help="measure nothing: report the results.json of an earlier run")
    output = "output folder; `--output benchmarks` renews the results in the repository (default: %(default)s)"
    add("--output", type=Path, default=Path("benchmarks/output"), metavar="FOLDER", help=output)
    return parser


def check(parser: Parser, options: argparse.Namespace) -> None:
    """Fill in the defaults that hang on the device; exit where options do not go together."""
    options.backend = options.backend or DEFAULT_BACKENDS[options.device]
    options.sizes = options.sizes or DEFAULT_SIZES[options.device]
    options.dtype = options.dtype or DEFAULT_DTYPES[options.device]
    if options.device == "cuda" and options.backend != ("torch",):
        parser.error(
            f"argument --device: cuda is for the backend torch alone, got --backend {','.join(options.backend)}"
        )
    if options.profile and "torch" not in options.backend:
        parser.error(f"argument --profile: is for the backend torch, got --backend {','.join(options.backend)}")
    if not any(plan_of(options, backend).settings() for backend in options.backend):
        sizes, backends = ", ".join(options.sizes), ", ".join(options.backend)
        parser.error(f"argument --losses: none of {', '.join(options.losses)} is measured at {sizes} on {backends}")


def plan_of(options: argparse.Namespace, backend: str) -> Plan:
    """Return what the process of a backend measures."""
    scaling_elements = options.scaling_elements if "cross_entropy" in options.losses else 0
    return Plan(
        backend,
        options.device,
        options.losses,
        options.sizes,
        options.dtype,
        options.repeat,
        scaling_elements,
        options.profile,
    )


def measure_all(parser: Parser, options: argparse.Namespace) -> dict[str, Any]:
    """Measure each backend in a process of its own: TensorFlow and torch can crash in one."""
    backends = {}
    for backend in options.backend:
        plan = plan_of(options, backend)
        if not plan.settings():
            continue
        backends[backend] = measure(parser, plan)
    settings = asdict(plan_of(options, ""))
    del settings["backend"], settings["profile"], settings["memory_only"]
    return {"machine": machine.describe(), "options": settings, "backends": backends}


def measure(parser: Parser, plan: Plan) -> dict[str, Any]:
    """Measure one backend; some of it in a second process, which gets memory in another way.

    torch on the CPU is timed with fresh pages and with reused memory. TensorFlow's memory is measured without oneDNN,
    which keeps what it has taken.
    """
    result = run_side(parser, plan)
    if plan.backend == "torch" and plan.device == "cpu" and machine.has_glibc() and not result.get("problem"):
        second = run_side(parser, replace(plan, scaling_elements=0, profile=False), **REUSED_MEMORY)
        result["rows"] += [row | {"mode": f"{row['mode']}, {REUSED}"} for row in second["rows"]]
        result |= {name: value for name, value in second.items() if name == "problem"}
    if plan.backend == "keras-tensorflow" and not result.get("problem"):
        alone = replace(plan, memory_only=True, scaling_elements=0)
        second = run_side(parser, alone, TF_ENABLE_ONEDNN_OPTS="0")
        measured = {key_of(row): row for row in second["rows"]}
        for row in result["rows"]:
            if not row["scaling"] and key_of(row) in measured:
                row |= {name: measured[key_of(row)][name] for name in ("ours_memory", "peer_memory")}
        result |= {name: value for name, value in second.items() if name == "problem"}
    return result


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return what tells the comparisons of a backend apart."""
    return tuple(row[name] for name in ("mode", "loss", "size", "dtype", "peer"))


def run_side(parser: Parser, plan: Plan, **variables: str) -> dict[str, Any]:
    """Run a process that measures; one that breaks off has told why on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        plan_file, result_file = Path(folder) / "plan.json", Path(folder) / "result.json"
        plan.write(plan_file)
        environment = dict(os.environ) | ENVIRONMENT | (CPU_ONLY if plan.device == "cpu" else {}) | variables
        environment["KERAS_BACKEND"] = plan.backend.removeprefix("keras-")
        command = [sys.executable, "-m", "benchmarks.side", str(plan_file), str(result_file)]
        code = subprocess.run(command, env=environment).returncode
        if code == BAD_INPUT:
            parser.exit(BAD_INPUT)
        if code == 0:
            return json.loads(result_file.read_text(encoding="utf-8"))
    return {"versions": {}, "missing": [], "rows": [], "problem": f"broke off with exit code {code}"}


def write(results: dict[str, Any], folder: Path) -> None:
    """Write RESULTS.md and the plots; print the tables."""
    (folder / "RESULTS.md").write_text(report.markdown(results), encoding="utf-8")
    rows = report.rows_of(results)
    if any(row.ratio is not None and not row.scaling for row in rows):
        plots.ratios(rows, folder / "ratios.png")
    if any(row.ratio is not None and row.scaling for row in rows):
        plots.scaling(rows, folder / "scaling.png")
    report.show(results)
    print(f"Results, tables and plots: {folder}")


def some_of(choices: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Return what reads one or more of `choices`, with commas between them."""

    def read(text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(text.split(",")))
        if unknown := [name for name in names if name not in choices]:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(choices)}, got {unknown[0]!r}")
        return names

    return read


def sizes_of(text: str) -> tuple[str, ...]:
    """Read one or more sizes, with commas between them."""
    try:
        return tuple(dict.fromkeys(str(Size.parse(size)) for size in text.split(",")))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def whole_number(least: int) -> Callable[[str], int]:
    """Return what reads a whole number of the command line, from `least` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, got {text!r}")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main())
