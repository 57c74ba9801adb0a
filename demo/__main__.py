"""Train the same network on the same loss spec in Keras and in Lightning, and compare them epoch by epoch."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from demo import data, plots, report, settings, sides
from demo.result import Result

SPECS = Path(__file__).parent / "specs"
DEFAULT_SPECS = {"digits": "cross_entropy", "breast_cancer": "binary_focal"}
FAILED, BAD_INPUT = 1, 2
"""Exit codes: the sides differ, or the input is wrong. A side that breaks off gives its own."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit code."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        specs = chosen_specs(options.spec, options.data)
        options.output.mkdir(parents=True, exist_ok=True)
        failures = train_and_compare_all(specs, options)
    except ValueError as error:
        parser.error(f"argument --spec: {error}")
    except OSError as error:
        parser.error(f"argument --output: {error}")
    except sides.SideError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    for failure in failures:
        print(f"{parser.prog}: error: {failure}", file=sys.stderr)
    return FAILED if failures else 0


def command_line() -> Parser:
    """Return the parser of the options."""
    bundled = ", ".join(sorted(path.stem for path in SPECS.glob("*.json")))
    defaults = ", ".join(f"{spec} for {name}" for name, spec in DEFAULT_SPECS.items())
    parser = Parser(
        prog="python -m demo",
        description=__doc__,
        epilog=f"Exit code: {FAILED} if the losses differ by more than {report.LIMIT:g} relative in any epoch, are not "
        f"finite or do not fall; {BAD_INPUT} for bad input; that of a side that breaks off.",
    )
    add = parser.add_argument
    add("--data", choices=[*data.OUTPUTS, "all"], default="all", help="data set (default: all that the loss fits)")
    add("--spec", metavar="SPEC", help=f"loss spec: a JSON file, or one of {bundled} (default: {defaults})")
    add("--epochs", type=positive, metavar="N", help="number of epochs (default: that of the config)")
    add("--optimizer", choices=[*settings.OPTIMIZERS, "all"], default="all", help="optimizer (default: all)")
    add("--backend", choices=sides.BACKENDS, default="tensorflow", help="backend of Keras (default: tensorflow)")
    add("--seed", type=natural, metavar="N", help="seed of the split and the weights (default: that of the config)")
    add("--output", type=Path, default="demo/output", metavar="FOLDER", help="output folder (default: %(default)s)")
    return parser


def positive(text: str) -> int:
    """Return a whole number of the command line, at least 1."""
    return _whole_number(text, 1)


def natural(text: str) -> int:
    """Return a whole number of the command line, at least 0."""
    return _whole_number(text, 0)


def chosen_specs(spec: str | None, name: str) -> dict[str, Path]:
    """Return the spec file for each data set to train on.

    Raises:
        ValueError: A file that holds no loss, or one that does not fit the data set.
    """
    names = list(data.OUTPUTS) if name == "all" else [name]
    if spec is None:
        return {name: SPECS / f"{DEFAULT_SPECS[name]}.json" for name in names}
    bundled = SPECS / f"{spec}.json"
    path = bundled if bundled.is_file() else Path(spec)
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


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
