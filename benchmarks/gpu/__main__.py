"""Check the losses on one NVIDIA GPU, in less than 8 minutes: first the values, then the speed of the kernels.

Needs torch 2.6 or newer with Triton, NumPy, and this folder. Exit code: 0; 1 if a value is wrong or a target is missed;
2 if there is nothing to check here.
"""

import argparse
import importlib.util
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.gpu.results import Clock, Results
from benchmarks.gpu.vectors import SIDES

WRONG, NOT_HERE = 1, 2
SECONDS = {
    "card": 5,
    "compile": 75,
    "values": 130,
    "sanitizer": 40,
    "timing": 115,
    "layers": 30,
    "sweep": 35,
    "options": 25,
}
"""The budget of each step, after which it starts nothing new; together 455 s."""
GRACE = 20.0
"""Seconds after all of them, when a run that hangs is ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    # Before torch and Triton are imported: without the first, deterministic products raise.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if options.dry_run and importlib.util.find_spec("triton") is not None:
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import torch

    if not options.dry_run and (reason := refusal()):
        print(reason, file=sys.stderr)
        return NOT_HERE
    about = machine.describe() | machine.versions(("torch", "triton", "numpy", "keras", "jax", "liger-kernel"))
    about["card"] = "none: a dry run on the CPU, without times" if options.dry_run else torch.cuda.get_device_name()
    about["cuda"] = torch.version.cuda or "none"
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    results = Results(options.output, about)
    timer = threading.Timer(options.seconds + GRACE, stop, [results])
    timer.daemon = True
    timer.start()
    try:
        run(options, results)
    finally:
        timer.cancel()
    results.print_verdict()
    return WRONG if results.wrong or results.missed else 0


def run(options: argparse.Namespace, results: Results) -> None:
    """Run the steps in their order; after a wrong value none is timed."""
    from benchmarks.gpu import layers, speed, values

    whole, is_dry, device = Clock(options.seconds), options.dry_run, "cpu" if options.dry_run else "cuda"
    bench = speed.Bench(device, is_dry=is_dry)

    def timing(clock: Clock) -> None:
        speed.time_kernels(results, clock, bench)
        speed.time_losses(results, clock, bench)

    steps: dict[str, Callable[[Clock], None]] = {
        "card": lambda clock: speed.measure_card(results, bench),
        "compile": lambda clock: values.compile_kernels(results, clock, device, is_dry),
        "values": lambda clock: values.check_values(results, clock, device, is_dry, options.sides),
        "sanitizer": lambda clock: values.sanitize(results, clock, is_dry),
        "timing": timing,
        "layers": lambda clock: layers.check_and_time(results, clock, bench),
        "sweep": lambda clock: speed.sweep(results, clock, bench),
        "options": lambda clock: speed.try_options(results, clock, bench),
    }
    scale = min(1.0, options.seconds / sum(SECONDS[step] for step in options.steps))
    are_wrong = False
    for step in options.steps:
        start = time.monotonic()
        results.start(step)
        try:
            if whole.left < 0:
                results.not_run.append(f"{step}: time was up")
            elif are_wrong:
                results.not_run.append(f"{step}: values are wrong")
            else:
                steps[step](Clock(whole.left if is_dry else min(scale * SECONDS[step], whole.left)))
        except Exception as error:
            traceback.print_exc()
            results.wrong.append(f"{step} broke off: {type(error).__name__}: {error}")
        are_wrong |= bool(results.wrong) and step in ("values", "sanitizer")
        results.write()
        results.print_step(step, time.monotonic() - start)


def stop(results: Results) -> None:
    """End a run that hangs."""
    results.not_run.append("the rest: a step did not end in time")
    results.write()
    results.print_verdict()
    os._exit(WRONG)


def refusal() -> str | None:
    """What is missing here for a check, in a sentence."""
    import torch

    if not torch.cuda.is_available():
        return "benchmarks.gpu needs an NVIDIA GPU, and torch sees none here; --dry-run tries the program on the CPU."
    from lightning_xent.kernels import cuda

    if not cuda.runs_on(torch.device("cuda", torch.cuda.current_device())):
        card = torch.cuda.get_device_name()
        return f"benchmarks.gpu checks Triton's kernels, and Triton does not run on {card} here."
    return None


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    folder = Path(__file__).parents[1] / "output" / "gpu"
    parser.add_argument("--output", type=Path, default=folder, help="folder of results.json (default: %(default)s)")
    parser.add_argument("--steps", default=",".join(SECONDS), help="some of %(default)s")
    parser.add_argument("--sides", default=",".join(SIDES), help="whose vectors: some of %(default)s")
    parser.add_argument("--seconds", type=float, default=float(sum(SECONDS.values())), help="for all (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="try this program on the CPU, without times")
    options = parser.parse_args(arguments)
    for name, known in (("steps", tuple(SECONDS)), ("sides", SIDES)):
        given = getattr(options, name).split(",")
        if unknown := [entry for entry in given if entry not in known]:
            parser.error(f"argument --{name}: must be some of {', '.join(known)}, got {', '.join(unknown)}")
        setattr(options, name, tuple(entry for entry in known if entry in given))
    if not options.seconds > 0:
        parser.error(f"argument --seconds: must be above 0, got {options.seconds:g}")
    return options


if __name__ == "__main__":
    sys.exit(main())
