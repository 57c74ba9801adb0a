"""Train on digits of which most classes have few rows, by several methods in Keras and in Lightning."""

import argparse
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import recall_score

from demo import data, experiment
from demo.command_line import Parser, errors_in_one_line, exit_code, whole_number
from demo.plan import Job, Outcome, Plan, changed_split, seed_jobs
from demo.settings import Settings

SETTINGS = Settings(
    "digits",
    batch_size=64,
    seed=0,
    sizes=[64, 64, 10],
    max_epochs=60,
    optimizer="torch.optim.SGD",
    optimizer_arguments={"lr": 0.02, "momentum": 0.9},
)
METHODS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
"""By name: loss spec, where `class_counts` "training" stands for the counts of the training rows; whether the last
layer gives cosines; and the keywords of `ClassWeighting`, with `start` the share of the epochs before the weights."""

RATIO, LARGEST_RATIO = 100, 130
SEEDS = 5
EXTREME = 3
"""Number of classes that count as the largest, and as the smallest."""


def main(arguments: list[str]) -> int:
    """Run the experiment and return its exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    with errors_in_one_line(parser, "--methods"):
        plan = Plan("imbalance", experiment.with_epochs(SETTINGS, options), jobs(options))
        title = f"Test rows, imbalance ratio {options.ratio}"
        progress = f"Balanced accuracy on the test rows, imbalance ratio {options.ratio}"
        failures = experiment.run(plan, options, columns, title, progress)
    return exit_code(parser, failures)


def command_line() -> Parser:
    """Return the parser of the options."""
    parser = experiment.parser_of("imbalance", __doc__, SETTINGS, SEEDS)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="METHOD",
        help=f"some of {', '.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--ratio",
        type=whole_number(1, LARGEST_RATIO),
        default=RATIO,
        metavar="N",
        help="rows of the most frequent class for one of the rarest (default: %(default)s)",
    )
    return parser


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return every method, for every seed."""

    def jobs_of(seed: int) -> Iterator[Job]:
        counts = data.class_counts(_split(options.ratio, seed)).tolist()
        for name in dict.fromkeys(options.methods):
            method = METHODS[name]
            weighting = _weighting(options.epochs, **method["weighting"]) if "weighting" in method else None
            spec = _with_counts(method["spec"], counts)
            yield Job(name, options.ratio, seed, spec, method.get("cosine", False), weighting)

    return seed_jobs(options.seeds, jobs_of)


def columns(job: Job, outcome: Outcome) -> dict[str, float]:
    """Return the mean of the recalls: of all classes, of those with the most and with the fewest training rows."""
    split = _split(job.level, job.seed)
    by_size = np.argsort(-data.class_counts(split), kind="stable").tolist()
    groups = {
        "balanced accuracy": by_size,
        f"recall, {EXTREME} largest classes": by_size[:EXTREME],
        f"recall, {EXTREME} smallest classes": by_size[-EXTREME:],
    }
    return {
        group: float(recall_score(split.test_target, outcome.predictions, labels=labels, average="macro"))
        for group, labels in groups.items()
    }


@cache
def _split(ratio: float, seed: int) -> data.Split:
    return changed_split("imbalance", ratio, seed)


def _with_counts(spec: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    config = spec.get("config", {})
    if config.get("class_counts") != "training":
        return spec
    return spec | {"config": config | {"class_counts": counts}}


def _weighting(epochs: int, start: float = 0.0, **keywords: Any) -> dict[str, Any]:
    return keywords | {"start_epoch": round(start * epochs)}
