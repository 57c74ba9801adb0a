"""Time `linear`, the loss of the last layer, and measure its memory: beside all logits, and with more and more classes.

Writes layers.json and, with --page, the tables of docs/scaling.md. Each layer is measured in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.__main__ import CPU_ONLY, ENVIRONMENT, FAILED, REUSED_MEMORY, Parser, some_of, whole_number
from benchmarks.layers import page

SIZES = ((1024, 128, 16384), (2048, 512, 32000), (512, 512, 128256))
KERAS_SIZES = SIZES[:2]
BACKENDS = ("torch", "keras-jax", "keras-tensorflow")
CLASSES, KERAS_CLASSES = (10**3, 10**4, 10**5, 10**6, 10**7), (10**6, 10**7)
SCALE_ROWS, SCALE_FEATURES = 1024, 64
RANKS, RANK_CLASSES = (1, 2, 4), 2**20
WHOLE_UP_TO = 10**6
"""Classes of the largest layer whose logits are also computed whole: 4 GB, and as much again for their gradient."""


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    parser = Parser(prog="python -m benchmarks.layers", description=__doc__)
    add = parser.add_argument
    add("--backend", type=some_of(BACKENDS), default=BACKENDS, metavar="A,B", help=f"of {', '.join(BACKENDS)}")
    add("--repeat", type=whole_number(1), default=5, metavar="N", help="rounds of each comparison (default: 5)")
    most = "largest number of classes of the scaling run, 0 for none (default: %(default)s; needs 8 GB)"
    add("--most-classes", type=whole_number(0), default=CLASSES[-1], metavar="N", help=most)
    add("--size", type=_size, metavar="NxDxC", help="rows x features x classes, in place of the usual sizes")
    output = "file of the results (default: benchmarks/output/layers.json)"
    add("--output", type=Path, default=Path("benchmarks/output/layers.json"), metavar="FILE", help=output)
    add("--page", action="store_true", help="renew the tables of docs/scaling.md")
    options = parser.parse_args(arguments)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        results = measure(options)
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        parser.error(f"argument --output: {error}")
    if options.page:
        page.PAGE.write_text(page.renewed(page.PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(page.as_text(results))
    return (
        FAILED if any(row.get("problem") for row in [*results["layers"], *results["scaling"], *results["ranks"]]) else 0
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all layers, one after the other."""
    layers, scaling = [], []
    for backend in options.backend:
        sizes = [options.size] if options.size else SIZES if backend == "torch" else KERAS_SIZES
        for size in sizes:
            plan = {"kind": "compare", "backend": backend, "size": size, "repeat": options.repeat}
            is_told = backend != "keras-tensorflow"
            row = plan | {"reused": False} | run(plan | {"has_memory": is_told})
            if not is_told:
                row |= memory_of_tensorflow(plan | {"has_memory": True, "repeat": 1})
            layers.append(row)
            if backend == "torch" and machine.has_glibc():
                layers.append(plan | {"reused": True} | run(plan | {"has_memory": False}, **REUSED_MEMORY))
    steps = [("torch", classes, True) for classes in CLASSES]
    steps += [("torch", classes, False) for classes in CLASSES if classes <= WHOLE_UP_TO]
    steps += [(backend, classes, True) for backend in BACKENDS[1:] for classes in KERAS_CLASSES]
    for backend, classes, is_fused in sorted(steps, key=lambda step: step[1]):
        if classes <= options.most_classes and backend in options.backend:
            size = SCALE_ROWS, SCALE_FEATURES, classes
            plan = {"kind": "scale", "backend": backend, "size": size, "fused": is_fused}
            row = plan | run(plan)
            if backend == "keras-tensorflow":
                row |= memory_of_tensorflow(plan)
            scaling.append(row)
    over = []
    for ranks in RANKS if options.most_classes >= RANK_CLASSES and "torch" in options.backend else ():
        plan = {"kind": "ranks", "backend": "torch", "size": (SCALE_ROWS, SCALE_FEATURES, RANK_CLASSES), "ranks": ranks}
        over.append(plan | run(plan))
    return {"machine": machine.describe(), "layers": layers, "scaling": scaling, "ranks": over}


def memory_of_tensorflow(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the memory, by a process of its own: the allocator of oneDNN keeps what it has taken."""
    found = run(plan, TF_ENABLE_ONEDNN_OPTS="0")
    return {name: found[name] for name in ("memory", "problem") if name in found}


def run(plan: dict[str, Any], **variables: str) -> dict[str, Any]:
    """Run a process that measures; one that breaks off has told why on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        plan_file, result_file = Path(folder) / "plan.json", Path(folder) / "result.json"
        plan_file.write_text(json.dumps(plan), encoding="utf-8")
        # Idle processes of the compiler would wait for the cores.
        environment = dict(os.environ) | ENVIRONMENT | CPU_ONLY | {"TORCHINDUCTOR_COMPILE_THREADS": "1"} | variables
        environment["KERAS_BACKEND"] = plan["backend"].removeprefix("keras-")
        command = [sys.executable, "-m", "benchmarks.layers.work", str(plan_file), str(result_file)]
        code = subprocess.run(command, env=environment).returncode
        if code == 0:
            found = json.loads(result_file.read_text(encoding="utf-8"))
            print(plan["backend"], "x".join(map(str, plan["size"])), found, flush=True)
            return found
    return {"problem": f"broke off with exit code {code}"}


def _size(text: str) -> tuple[int, ...]:
    numbers = text.split("x")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"must be rows x features x classes, as 1024x128x16384, got {text!r}")
    return tuple(map(int, numbers))


if __name__ == "__main__":
    sys.exit(main())
