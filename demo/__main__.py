"""Train the same network on the same loss spec in Keras and in Lightning, and compare them epoch by epoch."""

import argparse
import sys
from functools import partial
from pathlib import Path

from demo import data, imbalance, noise, plots, report, settings, sides
from demo.command_line import (
    BAD_INPUT,
    FAILED,
    SPECS,
    Parser,
    bundled_specs,
    errors_in_one_line,
    exit_code,
    spec_path,
    whole_number,
)
from demo.examples import EXAMPLES, driver
from demo.result import Result

DEFAULT_SPECS = {"digits": "cross_entropy", "breast_cancer": "binary_focal"}
EXPERIMENTS = {"noise": noise.main, "imbalance": imbalance.main}
EXPERIMENTS |= {name: partial(driver.main, name) for name in EXAMPLES}
"""Demos of their own, `python -m demo noise`, with options of their own."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo, or the experiment that the first argument names, and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in EXPERIMENTS:
        return EXPERIMENTS[arguments[0]](arguments[1:])
    parser = command_line()
    options = parser.parse_args(arguments)
    with errors_in_one_line(parser, "--spec"):
        specs = chosen_specs(options.spec, options.data)
        options.output.mkdir(parents=True, exist_ok=True)
        failures = train_and_compare_all(specs, options)
    return exit_code(parser, failures)


def command_line() -> Parser:
    """Return the parser of the options."""
    defaults = ", ".join(f"{spec} for {name}" for name, spec in DEFAULT_SPECS.items())
    parser = Parser(
        prog="python -m demo",
        description=__doc__,
        epilog="Two more demos with options of their own: `python -m demo noise --help` on wrong labels, and "
        f"`python -m demo imbalance --help` on rare classes; and an example of each task: {', '.join(EXAMPLES)}. "
        f"Exit code: {FAILED} if the losses differ by more than {report.LIMIT:g} relative in any epoch, are not finite "
        f"or do not fall; {BAD_INPUT} for bad input; that of a side that breaks off.",
    )
    add = parser.add_argument
    add("--data", choices=[*data.OUTPUTS, "all"], default="all", help="data set (default: all that the loss fits)")
    add("--spec", metavar="SPEC", help=f"loss spec: a JSON file, or one of {bundled_specs()} (default: {defaults})")
    add("--epochs", type=whole_number(1), metavar="N", help="number of epochs (default: that of the config)")
    add("--optimizer", choices=[*settings.OPTIMIZERS, "all"], default="all", help="optimizer (default: all)")
    add("--backend", choices=sides.BACKENDS, default="tensorflow", help="backend of Keras (default: tensorflow)")
    add(
        "--seed",
        type=whole_number(0),
        metavar="N",
        help="seed of the split and the weights (default: that of the config)",
    )
    add("--output", type=Path, default="demo/output", metavar="FOLDER", help="output folder (default: %(default)s)")
    return parser


def chosen_specs(spec: str | None, name: str) -> dict[str, Path]:
    """Return the spec file for each data set to train on.

    Raises:
        ValueError: A file that holds no loss, or one that does not fit the data set.
    """
    names = list(data.OUTPUTS) if name == "all" else [name]
    if spec is None:
        return {name: SPECS / f"{DEFAULT_SPECS[name]}.json" for name in names}
    path = spec_path(spec)
    fitting = sides.fitting_data(path)
    if name not in ("all", *fitting):
        raise ValueError(f"{path}: this loss is for the data set {', '.join(fitting)}, got --data {name}")
    return {name: path for name in names if name in fitting}


def train_and_compare_all(specs: dict[str, Path], options: argparse.Namespace) -> list[str]:
    """Train on every data set with every optimizer; return what is wrong with the results."""
    optimizers = settings.OPTIMIZERS if options.optimizer == "all" else (options.optimizer,)
    summary, failures = [], []
    for name, spec in specs.items():
        for optimizer in optimizers:
            title = f"{name}, {spec.stem}, {optimizer}"
            print(f"\n=== {title} ===", flush=True)
            folder = options.output / f"{name}-{spec.stem}-{optimizer}"
            folder.mkdir(parents=True, exist_ok=True)
            config = settings.config_path(name, optimizer)
            run = settings.read(config, max_epochs=options.epochs, seed=options.seed)
            keras = sides.train_keras(run, spec, options.backend, config, folder / "keras.json")
            lightning = sides.train_lightning(run, spec, config, folder / "lightning.json")
            write_comparison(keras, lightning, data.load(name, run.seed), title, folder)
            summary.append(f"{report.worst(keras, lightning):10.1e}  {title}")
            failures += [f"{title}: {problem}" for problem in report.problems(keras, lightning)]
    print(f"\nWorst relative difference of the losses, of which {report.LIMIT:g} is allowed:")
    print("\n".join(summary))
    print(f"Tables, reports and plots: {options.output}")
    return failures


def write_comparison(keras: Result, lightning: Result, split: data.Split, title: str, folder: Path) -> None:
    """Print and write the table and the report of a run, and draw its plots."""
    texts = {"table.txt": report.table(keras, lightning), "report.txt": report.classes(split, keras, lightning)}
    for file_name, text in texts.items():
        print(f"\n{text}")
        (folder / file_name).write_text(f"{text}\n", encoding="utf-8")
    plots.losses(keras, lightning, title, folder / "loss.png")
    plots.curve(keras, lightning, title, folder / "curve.png")


if __name__ == "__main__":
    sys.exit(main())
