"""Means in trainers: how far the gradient of one step is from that of all its rows at once.

Each trainer takes the step of `trainers.step` in a process of its own, once with its native loss and once with ours.
The results are written to docs/conformance/means.json, and from there to docs/training_means.md.
"""

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from shared_specs.conformance.environments import ROOT, environment

MEASURED, PAGE = ROOT / "docs/conformance/means.json", ROOT / "docs/training_means.md"
FORMAT = 1
TOLERANCE = 1e-5
"""How far the factor of ours may be from 1, and its deviation from 0."""
MOST_SECONDS = 900
"""A run that takes longer is one whose processes wait for each other."""


class Trainer(NamedTuple):
    """A module of `trainers`, and where it runs."""

    module: str
    modules: tuple[str, ...]
    """What it imports beside our packages."""
    requirements: tuple[str, ...]
    """What its environment needs."""
    devices: tuple[int, ...] = (1, 2)
    backend: str = ""
    """That of Keras."""


OF_TORCH = ("torch", "lightning", "transformers", "accelerate")
TRAINERS = (
    Trainer("torch_loop", ("torch",), OF_TORCH),
    Trainer("lightning_trainer", ("torch", "lightning"), OF_TORCH),
    Trainer("fabric_loop", ("torch", "lightning"), OF_TORCH),
    Trainer("accelerate_loop", ("torch", "accelerate"), OF_TORCH),
    Trainer("transformers_trainer", ("torch", "transformers", "accelerate"), OF_TORCH),
    Trainer("keras_fit", ("keras", "tensorflow"), ("keras", "tensorflow-cpu"), backend="tensorflow"),
    Trainer("keras_fit", ("keras", "jax"), ("keras", "jax"), backend="jax"),
    Trainer("keras_fit", ("keras", "torch"), ("keras", "torch"), (1,), "torch"),
)


def measured(trainer: Trainer, devices: int, python: Path = Path(sys.executable)) -> list[dict[str, Any]]:
    """Run a trainer on some devices of the CPU, and return its rows.

    Raises:
        RuntimeError: The program failed.
        subprocess.TimeoutExpired: It did not end within `MOST_SECONDS`.
    """
    program = ["-m", f"{__package__}.trainers", trainer.module]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    if trainer.backend:
        variables |= {"KERAS_BACKEND": trainer.backend, "TF_CPP_MIN_LOG_LEVEL": "3", "WORLD_SIZE": str(devices)}
        variables |= {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    elif devices > 1:
        program = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}", *program]
    command = [str(python), *program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables, timeout=MOST_SECONDS)
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"trainer"')]
    if run.returncode != 0 or not rows:
        raise RuntimeError(f"{' '.join(command)} failed with exit status {run.returncode}:\n{run.stderr[-3000:]}")
    return [{"module": trainer.module, "backend": trainer.backend, **row} for row in rows]


def is_installed(trainer: Trainer) -> bool:
    """Whether this environment has what a trainer imports."""
    return all(importlib.util.find_spec(module) for module in trainer.modules)


def error(result: dict[str, Any]) -> float:
    """How far a gradient is from that of the whole batch: in its factor or off its direction, the larger of both."""
    return max(abs(float(result["factor"]) - 1), float(result["deviation"]))


def check(rows: Sequence[dict[str, Any]]) -> None:
    """Raise if the gradient of ours is not that of the whole batch.

    Raises:
        ValueError: It is not, in a row and a scenario that the message names.
    """
    for row in rows:
        for scenario, result in row["ours"].items():
            if not error(result) <= TOLERANCE:
                where = f"{row['trainer']} on {row['devices']} devices, {scenario}"
                raise ValueError(f"{where}: factor must be 1 and deviation 0, to {TOLERANCE:g}, got {result}")


# ---- The page.

BEGINNING = """# Means in trainers

Written by `python -m shared_specs.conformance.means` from `docs/conformance/means.json`; do not edit.

A step of training has several micro-batches, or several devices, or both. Its gradient should be that of all its rows
at once. Here is the gradient of one step in each trainer, with its native loss and with ours. A step has three
micro-batches of eight rows. With two devices, each has half of the rows of every micro-batch.

- **all rows**: every row counts.
- **uneven**: some labels are ignored, as those of padding are. Seven, two and three rows of the micro-batches count.
- **gap**: the same, but all labels of the second micro-batch are ignored.

A cell has two numbers. The gradient is the **factor** times the right one, by least squares: 1 is right, and 3 acts on
SGD as a learning rate that is three times too large. Adam divides a constant factor out; gradient clipping does not.
The **percentage** is the length of the rest that no factor explains,
relative to the gradient: at more than 0 % the step also goes in another direction, because a row counts more in a
small micro-batch than in a large one.

The last column is the largest error of our losses, in factor and direction, over the three kinds of steps.

"""

HEAD = "| trainer | devices | micro-batches | native loss | all rows | uneven | gap | ours |"

ENDING = """
`CrossEntropyLoss` is that of `torch.nn` with `ignore_index=-100`. `SparseCategoricalCrossentropy` is that of Keras with
`from_logits=True, ignore_class=-100`. The programs are in
[shared_specs/conformance/trainers](../shared_specs/conformance/trainers/__init__.py); each uses a trainer as its own
guide does. Tests run them and want our losses to be right. The numbers of the native losses are those of the versions
below; upstream may mend them.

## Why the native numbers are off

- **Means of means.** A loss divides by the rows of its own micro-batch, and the trainer averages over micro-batches and
  devices. That is right if every micro-batch on every device has as many rows that count. Lightning, Accelerate, Keras
  and the usual loop of torch do this.
- **Sums of means.** The guide of Fabric to gradient accumulation adds up the gradients of the means. The factor is the
  number of micro-batches.
- **The Trainer of Transformers** counts the labels of the whole step, passes the number to the model, and divides no
  more. Llama and GPT-2 divide by it: they are right. But many heads, such as the classifiers of BERT and its masked
  language model, and T5, take the number and do not use it. Their gradient is the sum of means, times the number of
  devices: six times too large for three micro-batches on two devices, even if all rows count. The logged loss is as
  many times too large: an [issue](https://github.com/huggingface/transformers/issues/47688) of Transformers says so.
- **MirroredStrategy** of TensorFlow gives every replica the mean of its own rows, and Keras averages them.
- **A micro-batch without labels** counts as one of the three, with a gradient of 0. Its loss is NaN in torch.
- **Keras with `gradient_accumulation_steps` under MirroredStrategy** raises an error.

On JAX, Keras' DataParallel computes one mean over the batch of all devices, so it needs nothing from us.

## What to do

| you train with | use |
|---|---|
| Lightning's Trainer | [`XentModule`](lightning.md#the-gradient-of-the-whole-step) |
| the Trainer of Transformers | [`compute_loss`](training_loops.md#transformers) |
| Keras' fit on several devices | our loss in `compile` |
| Keras' fit with micro-batches | our [`train_step`](training_loops.md#a-train_step-of-keras) in place of theirs |
| a loop of torch, Fabric or Accelerate | [`denominator=`](training_loops.md): the rows of the whole step |

`python -m shared_specs.conformance.means` measures the trainers that are installed, and writes this page.
"""


def page(content: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [HEAD, re.sub(r"[^|]+", "---", HEAD)]
    for row in content["rows"]:
        cells = [row["trainer"], str(row["devices"]), str(row["micro_batches"]), row["loss"]]
        cells += [shown(result) for result in row["native"].values()]
        cells += [f"{max(error(result) for result in row['ours'].values()):.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return BEGINNING + "\n".join(lines) + "\n" + ENDING + versions(content["rows"])


def shown(result: dict[str, Any]) -> str:
    """A cell: the factor, and how far off the direction is; or the type of the error."""
    if "error" in result:
        return f"`{result['error'].partition(':')[0]}`"
    return f"{float(result['factor']):.2f}, {100 * float(result['deviation']):.0f} %"


def versions(rows: Sequence[dict[str, Any]]) -> str:
    """The versions of everything, sorted."""
    found = sorted({f"{name} {version}" for row in rows for name, version in row["versions"].items()})
    return f"\nVersions: {', '.join(found)}.\n"


# ---- The program.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 1 if a step with ours is not exact."""
    parser = argparse.ArgumentParser(
        prog="python -m shared_specs.conformance.means", description="Measure the step of each trainer; write the page."
    )
    parser.add_argument(
        "--environments",
        type=Path,
        metavar="FOLDER",
        help="measure all trainers, in environments that are made in this folder (default: measure those whose "
        "packages are installed here, and keep the other rows)",
    )
    parser.add_argument("--keep", action="store_true", help="leave the environments, and use those that are there")
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page from the JSON file")
    options = parser.parse_args(arguments)
    if not PAGE.parent.is_dir():
        parser.error(f"{PAGE.parent} must be a folder, but is not there: run this in a checkout of the repository")
    groups: dict[tuple[str, ...], list[Trainer]] = {}
    for trainer in () if options.page else TRAINERS:
        if options.environments or is_installed(trainer):
            groups.setdefault(trainer.requirements, []).append(trainer)
    rows = [] if options.environments and groups else read()
    with tqdm(total=sum(len(trainer.devices) for group in groups.values() for trainer in group), unit="run") as bar:
        for requirements, group in groups.items():
            folder = options.environments and options.environments / "-".join(requirements)
            with environment(requirements, folder, options.keep) if folder else nullcontext(Path(sys.executable)) as at:
                for trainer in group:
                    for devices in trainer.devices:
                        found = measured(trainer, devices, at)
                        rows = [row for row in rows if place(row) != place(found[0])] + found
                        bar.update()
    order = [(trainer.module, trainer.backend, devices) for trainer in TRAINERS for devices in trainer.devices]
    rows = sorted((row for row in rows if place(row) in order), key=lambda row: order.index(place(row)))
    MEASURED.parent.mkdir(exist_ok=True)
    content = {"format": FORMAT, "rows": rows}
    MEASURED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(content), encoding="utf-8")
    try:
        check(rows)
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


def read() -> list[dict[str, Any]]:
    """The rows of the JSON file, if there is one."""
    return json.loads(MEASURED.read_text(encoding="utf-8"))["rows"] if MEASURED.exists() else []


def place(row: dict[str, Any]) -> tuple[str, str, int]:
    """The run that a row is from."""
    return row["module"], row["backend"], row["devices"]


if __name__ == "__main__":
    sys.exit(main())
