"""Run an example: both sides from its one config, the table of their losses and scores, its report and its plots."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from demo import plots, sides
from demo.command_line import BAD_INPUT, FAILED, Parser, errors_in_one_line, exit_code, whole_number
from demo.data import Split
from demo.examples import EXAMPLES, pictures, settings
from demo.examples.example import Example
from demo.examples.recording import IN_CHUNKS, WHOLE, Record
from demo.examples.settings import ExampleSettings
from demo.report import LIMIT, relative_differences
from demo.settings import CONFIGS

PICTURES: dict[str, Callable[[Split, list[Record], Path], None]] = {
    "image_classification": pictures.confusion,
    "imbalanced_binary": pictures.precision_recall,
    "multi_label": pictures.labelled_images,
    "token_classification": pictures.confusion,
    "segmentation": pictures.masks,
    "language_modelling": pictures.perplexities,
    "many_classes": pictures.recalls,
}
"""What each example draws beside its losses."""

LAST_LAYER_HELP = (
    f"or if the first steps in chunks of the logits give other losses than those of all logits, by {LIMIT:g} relative; "
)


def main(name: str, arguments: list[str]) -> int:
    """Run the example `name` and return the exit code."""
    example, config = EXAMPLES[name], CONFIGS / f"{name}.yaml"
    parser = command_line(name, example, settings.read(config))
    options = parser.parse_args(arguments)
    with errors_in_one_line(parser, "--output"):
        options.output.mkdir(parents=True, exist_ok=True)
        failures = train_and_judge(example, config, options)
    return exit_code(parser, failures)


def command_line(name: str, example: Example, run: ExampleSettings) -> Parser:
    """Return the parser of the options."""
    parser = Parser(
        prog=f"python -m demo {name}",
        description=f"Train in Keras and in Lightning on {example.about}",
        epilog=f"Exit code: {FAILED} if a loss is not finite or does not fall, if the {example.score_name} on the test "
        f"rows is not {example.margin:g} above a baseline (from {run.epochs} epochs on), or if both sides differ: "
        f"the losses of the initial weights by more than {LIMIT:g} relative, the scores by more than "
        f"{example.tolerance:g}; "
        + LAST_LAYER_HELP
        * (run.layer is not None)
        + f"{BAD_INPUT} for bad input; that of a side that breaks off. Network, loss and optimizer are those of "
        f"demo/configs/{name}.yaml.",
    )
    add = parser.add_argument
    epochs, seed = "number of epochs (default: %(default)s)", "seed of rows and weights (default: %(default)s)"
    add("--epochs", type=whole_number(1), default=run.epochs, metavar="N", help=epochs)
    add("--backend", choices=sides.BACKENDS, default="tensorflow", help="backend of Keras (default: %(default)s)")
    add("--seed", type=whole_number(0), default=run.seed, metavar="N", help=seed)
    output = f"demo/output/{name}"
    add("--output", type=Path, default=output, metavar="FOLDER", help="output folder (default: %(default)s)")
    return parser


def train_and_judge(example: Example, config: Path, options: argparse.Namespace) -> list[str]:
    """Train on both sides, print and write the table and the reports, draw; return what is wrong, on one line."""
    run = settings.read(config, options.epochs, options.seed)
    print(f"=== {run.name}: {example.about} ===\n{run.loss}")
    files = options.output / "keras.json", options.output / "lightning.json"
    sides.train_example(run, config, options.backend, *files)
    records = list(map(Record.read, files))
    split = example.load(run.seed)
    scores = [example.result(split, record.observed) for record in records]
    texts = {"table.txt": table(example, split, records, scores)}
    for file, record in zip(files, records, strict=True):
        report = f"{record.framework}, on the test rows:\n{example.report(split, record.observed)}"
        texts[f"report_{file.stem}.txt"] = report
    for file_name, text in texts.items():
        print(f"\n{text}")
        (options.output / file_name).write_text(f"{text}\n", encoding="utf-8")
    planned = settings.read(config).epochs
    if run.epochs < planned:
        print(f"\nThe score is not judged after {run.epochs} epochs: the bar is for {planned}.")
    found = problems(example, split, records, scores, has_bar=run.epochs >= planned)
    if all(map(_is_finite, records)):
        title = run.name.replace("_", " ")
        plots.histories({record.framework: record for record in records}, title, options.output / "losses.png")
        PICTURES[run.name](split, records, options.output)
    print(f"\nTable, reports and plots: {options.output}")
    return ["; ".join(found)] if found else []


def table(example: Example, split: Split, records: list[Record], scores: list[float]) -> str:
    """Return the losses of both sides epoch by epoch, and their scores beside the bar."""
    width = max(len(record.framework) for record in records) + 2
    lines = [" " * 9 + "".join(f"{record.framework:>{width}}" for record in records)]
    lines.append(f"{'epoch':9}" + f"{'training':>{width - 12}}{'test loss':>12}" * len(records))
    for epoch in range(len(records[0].test_losses)):
        cells = ""
        for record in records:
            training = f"{record.train_losses[epoch - 1]:.5f}" if epoch else ""
            cells += f"{training:>{width - 12}}{record.test_losses[epoch]:12.5f}"
        lines.append(f"{epoch or 'initial':<9}{cells}")
    baseline = example.baseline(split)
    told = ", ".join(f"{score:.4f} ({record.framework})" for score, record in zip(scores, records, strict=True))
    lines.append(f"{example.score_name} on the test rows: {told}; baseline {baseline:.4f}, ")
    lines[-1] += f"at least {baseline + example.margin:.4f} is wanted."
    return "\n".join([*lines, *last_layer_table(records)])


def last_layer_table(records: list[Record]) -> list[str]:
    """Return the first steps and the memory of a last layer that has the loss, in chunks and by all logits."""
    lines = []
    for record in (record for record in records if record.first_steps):
        lines.append(f"{record.framework}, the last layer in chunks and by all logits:")
        for name, losses in record.first_steps.items():
            taken = record.memory[name]
            told = "not measured" if taken is None else f"{taken / 1e6:.0f} MB"
            steps = "".join(f"{loss:11.6f}" for loss in losses)
            lines.append(f"  {name:10}  losses of the first steps {steps}  memory of loss and gradients {told}")
        lines.append(f"  the losses differ by {_worst_step(record):.1e} relative at most")
    return lines


def problems(
    example: Example, split: Split, records: list[Record], scores: list[float], *, has_bar: bool = True
) -> list[str]:
    """Return what makes an example fail: a side that learns nothing or diverges, or sides that differ."""
    found = []
    wanted = example.baseline(split) + example.margin
    for record, score in zip(records, scores, strict=True):
        train, test = record.train_losses, record.test_losses
        if not _is_finite(record):
            found.append(f"{record.framework}: a loss is not finite")
            continue
        if min(test) >= test[0] or (len(train) > 1 and train[-1] >= train[0]):
            found.append(f"{record.framework}: nothing was learnt: the loss does not fall")
        if has_bar and score < wanted:
            found.append(f"{record.framework}: {example.score_name} {score:.4f} is below {wanted:.4f}")
    if found:
        return found
    for record in records:
        if not _worst_step(record) <= LIMIT:
            found.append(f"{record.framework}: in chunks the first steps differ by {_worst_step(record):.1e} relative")
    first, second = (record.test_losses[:1] for record in records)
    difference = relative_differences(first, second)[0]
    if difference > LIMIT:
        found.append(f"the losses of the initial weights differ by {difference:.1e} relative, more than {LIMIT:g}")
    if abs(scores[0] - scores[1]) > example.tolerance:
        told = " and ".join(f"{score:.4f}" for score in scores)
        found.append(f"{example.score_name} {told} differ by more than {example.tolerance:g}")
    return found


def _worst_step(record: Record) -> float:
    """Return how far the first steps in chunks are from those of all logits; 0 without such steps."""
    if not record.first_steps:
        return 0.0
    differences = relative_differences(record.first_steps[IN_CHUNKS], record.first_steps[WHOLE])
    return max(differences, key=lambda difference: (math.isnan(difference), difference))


def _is_finite(record: Record) -> bool:
    return all(map(math.isfinite, record.train_losses + record.test_losses))
