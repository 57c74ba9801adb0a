"""Train on digits with wrong labels, on several losses in Keras and in Lightning, and test on rows with right ones."""

import argparse
from collections.abc import Iterator
from typing import Any

from demo import experiment, sides
from demo.command_line import Parser, bundled_specs, errors_in_one_line, exit_code, spec_path, whole_number
from demo.plan import Job, Outcome, Plan, read_spec, seed_jobs
from demo.settings import Settings

SETTINGS = Settings(
    "digits",
    batch_size=128,
    seed=0,
    sizes=[64, 256, 10],
    max_epochs=40,
    optimizer="torch.optim.SGD",
    optimizer_arguments={"lr": 0.06, "momentum": 0.9},
)
"""Enough weights and epochs to learn wrong labels by heart; no weight decay."""

LOSSES = ["cross_entropy", "smoothing", "focal", "poly", "generalized", "symmetric", "mean_absolute_error"]
PERCENT = [0, 40, 60]
SEEDS = 3


def main(arguments: list[str]) -> int:
    """Run the experiment and return its exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    with errors_in_one_line(parser, "--losses"):
        specs = read_specs(options.losses)
        plan = Plan("noise", experiment.with_epochs(SETTINGS, options), jobs(specs, options))
        title = "Accuracy on the test rows, whose labels are right"
        progress = f"Accuracy on the test rows, {max(options.noise)} % wrong labels in the training rows"
        failures = experiment.run(plan, options, columns, title, progress)
    return exit_code(parser, failures)


def command_line() -> Parser:
    """Return the parser of the options."""
    parser = experiment.parser_of("noise", __doc__, SETTINGS, SEEDS)
    parser.add_argument(
        "--losses",
        nargs="+",
        default=LOSSES,
        metavar="SPEC",
        help=f"loss specs: JSON files, or some of {bundled_specs()} (default: {' '.join(LOSSES)})",
    )
    parser.add_argument(
        "--noise",
        nargs="+",
        type=whole_number(0, 100),
        default=PERCENT,
        metavar="PERCENT",
        help=f"shares of the training rows that get a wrong label, in %% (default: {' '.join(map(str, PERCENT))})",
    )
    return parser


def read_specs(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the specs by the stems of their files, checked.

    Raises:
        ValueError: A file that holds no loss for digits, or two files of one name.
    """
    paths = list(dict.fromkeys(map(spec_path, names)))
    stems = [path.stem for path in paths]
    repeated = [stem for stem in stems if stems.count(stem) > 1]
    if repeated:
        raise ValueError(f"file names must differ, got {repeated[0]} more than once")
    for path, fitting in zip(paths, sides.fitting_data_of_all(paths), strict=True):
        if SETTINGS.name not in fitting:
            raise ValueError(f"{path}: this loss is for the data set {', '.join(fitting)}, not for {SETTINGS.name}")
    return {path.stem: read_spec(path) for path in paths}


def jobs(specs: dict[str, dict[str, Any]], options: argparse.Namespace) -> list[Job]:
    """Return every loss at every share of wrong labels, for every seed."""
    shares = [percent / 100 for percent in sorted(set(options.noise))]

    def jobs_of(seed: int) -> Iterator[Job]:
        for share in shares:
            for name, spec in specs.items():
                yield Job(name, share, seed, spec)

    return seed_jobs(options.seeds, jobs_of)


def columns(job: Job, outcome: Outcome) -> dict[str, float]:
    """Return the accuracy after the last epoch, in the column of its share of wrong labels."""
    return {f"{100 * job.level:.0f} % wrong labels": outcome.scores[-1]}
