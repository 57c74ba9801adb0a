"""What the experiments share: options, the trainings of both sides, the files that they leave."""

import argparse
from dataclasses import replace
from pathlib import Path

from demo import comparison, plots, sides
from demo.command_line import BAD_INPUT, FAILED, Parser, whole_number
from demo.comparison import Columns
from demo.plan import Plan
from demo.report import LIMIT
from demo.settings import Settings


def parser_of(name: str, description: str, settings: Settings, seeds: int) -> Parser:
    """Return a parser with the options that all experiments have, and the defaults of this one."""
    parser = Parser(
        prog=f"python -m demo {name}",
        description=description,
        epilog=f"Exit code: {FAILED} if a loss is not finite, if losses after the first epoch differ by more than "
        f"{LIMIT:g} relative, or mean scores by more than {comparison.SCORE_LIMIT:g}; {BAD_INPUT} for bad input; that "
        "of a side that breaks off.",
    )
    add = parser.add_argument
    number = "number of seeds, from 0 on (default: %(default)s)"
    add("--seeds", type=whole_number(1, 100), default=seeds, metavar="N", help=number)
    epochs = settings.max_epochs
    add("--epochs", type=whole_number(1), default=epochs, metavar="N", help="number of epochs (default: %(default)s)")
    add("--backend", choices=sides.BACKENDS, default="tensorflow", help="backend of Keras (default: %(default)s)")
    output = f"demo/output/{name}"
    add("--output", type=Path, default=output, metavar="FOLDER", help="output folder (default: %(default)s)")
    return parser


def run(plan: Plan, options: argparse.Namespace, columns: Columns, title: str, progress: str) -> list[str]:
    """Train, print and write the table, draw the plots, and return what is wrong with the results.

    Args:
        plan: What to train.
        options: The command line.
        columns: The table: what it says of an outcome.
        title: Its title, and that of its plot.
        progress: Title of the plot of the scores after each epoch.
    """
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    keras, lightning = sides.train_plan(plan, options.backend, folder)
    values = [comparison.collect(plan, side, columns) for side in (keras, lightning)]
    over = f"mean +- standard deviation over {options.seeds} seeds" if options.seeds > 1 else "1 seed"
    heading = f"{title}, after epoch {options.epochs}: {over}"
    text = f"{comparison.table(heading, *values)}\n{comparison.agreement(plan, keras, lightning)}"
    print(f"\n{text}")
    (folder / "table.txt").write_text(f"{text}\n", encoding="utf-8")
    frameworks = keras.framework, lightning.framework
    plots.scores(*values, frameworks, heading, folder / "scores.png")
    plots.epochs(plan, keras, lightning, progress, folder / "epochs.png")
    print(f"Table and plots: {folder}")
    return comparison.problems(plan, keras, lightning)


def with_epochs(settings: Settings, options: argparse.Namespace) -> Settings:
    """Return `settings` with the epochs of the command line."""
    return replace(settings, max_epochs=options.epochs)
