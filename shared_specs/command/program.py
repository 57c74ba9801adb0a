"""The commands of `xent`: what they take, and their exit codes. The work is done elsewhere."""

import json
import sys
from collections.abc import Callable, Iterable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import click

from shared_specs import curves
from shared_specs.command import sources, texts
from shared_specs.common import docstrings
from shared_specs.common.spec import check_name, public_classes

FOUND, BAD_INPUT = 1, 2
"""Exit codes beside 0: something is wrong with what was run or checked; the input is wrong."""
EPILOG = "Exit codes: 0 all is well; 1 `run` or `check` found something wrong; 2 the input is wrong, or `check` could "
EPILOG += "check nothing."


class Program(click.Group):
    """A group of commands whose errors are one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. What it raises for a wrong input becomes an error of one line."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ImportError, OSError, TypeError, ValueError) as error:
            if ctx.params["traceback"]:
                raise
            raise click.UsageError(one_line(error)) from error

    def main(self, *given: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run the program, and exit."""
        run: Any = super().main
        if not standalone_mode:
            return run(*given, standalone_mode=False, **more)
        try:
            code = run(*given, standalone_mode=False, **more)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            click.echo(f"{context.command_path if context else 'xent'}: {error.format_message()}", err=True)
            sys.exit(BAD_INPUT)
        except click.Abort:
            sys.exit(130)
        sys.exit(code)


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def version() -> str:
    """Return the version of the distribution."""
    try:
        return metadata.version("crossent")
    except metadata.PackageNotFoundError:  # run from a clone that is not installed
        return "0+unknown"


def completion(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Return what completes names in a shell."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator of several options."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


LOSS = "A LOSS is a name, a name with keywords, as in BinaryFocalCrossEntropy:gamma=2,alpha=0.25, or a spec in JSON."
side: Callable[[Any], Any] = click.option(
    "--side", type=click.Choice(list(curves.SIDES)), help="The package; by default the first installed."
)
row = options(
    side,
    click.option("--target", type=float, default=1.0, show_default=True, help="Share of the label in a soft target."),
    click.option("--classes", type=int, help="Number of classes, the others with equal logits (2)."),
    click.option("--label", type=int, help="The class whose log-odds are the axis (the last)."),
    click.option("--reach", type=float, help="End of the axis (6 log-odds, or 1 for cosines)."),
)


@click.group(cls=Program, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--traceback", is_flag=True, help="Show where an error came from.")
@click.version_option(version(), prog_name="xent")
def program(traceback: bool) -> None:
    """Cross-entropy losses: what they are, their curves, porting, test vectors, checks."""


@program.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> None:
    """List all losses by family."""
    if as_json:
        click.echo(json.dumps(docstrings.families(), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(texts.listed()))


@program.command(epilog=LOSS)
@click.argument("loss", shell_complete=completion(texts.names))
@row
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw into this PNG, SVG or PDF instead.")
@click.option("--json", "as_json", is_flag=True, help="Print what is known of the keywords as JSON, without a curve.")
def show(
    loss: str,
    side: str | None,
    target: float,
    classes: int | None,
    label: int | None,
    reach: float | None,
    png: Path | None,
    as_json: bool,
) -> None:
    """Show a LOSS: formula, keywords, reference, curve."""
    given = curves.read(loss)
    line = curves.Line(given.loss, given.config, target=target, classes=classes, label=label)
    package = curves.package_of(side)
    known = public_classes(package)
    check_name(line.loss, list(known))
    description = texts.described(known[line.loss], line.config)
    if line.config:
        curves.loss_of(line, package)
    if as_json:
        click.echo(json.dumps(description, indent=1, ensure_ascii=False))
        return
    lines = [*texts.shown(description), ""]
    if png is None:
        try:
            lines += texts.plotted(curves.evaluate(line, package, reach))
        except ValueError as error:
            if line != curves.Line(line.loss):
                raise
            lines.append(f"No curve: {error}")
    else:
        curves.draw([line], png, package, reach=reach)
        lines.append(f"The curve is in {png}")
    click.echo("\n".join(lines))


@program.command("curves", epilog=LOSS)
@click.argument("losses", metavar="LOSS...", nargs=-1, required=True, shell_complete=completion(texts.names))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("curves.png"),
    show_default=True,
    help="PNG, SVG or PDF file.",
)
@row
def curves_(
    losses: tuple[str, ...],
    output: Path,
    side: str | None,
    target: float,
    classes: int | None,
    label: int | None,
    reach: float | None,
) -> None:
    """Draw losses, and how strongly they pull, side by side."""
    given = [curves.read(text) for text in losses]
    lines = [curves.Line(line.loss, line.config, target=target, classes=classes, label=label) for line in given]
    curves.draw(lines, output, curves.package_of(side), reach=reach)
    click.echo(f"{output}: {', '.join(line.legend for line in lines)}")


@program.command()
@click.argument("source")
@click.option(
    "--to",
    "form",
    type=click.Choice(sources.FORMS),
    default="spec",
    show_default=True,
    help="JSON spec, line of Keras, line of Lightning, or config of LightningCLI.",
)
@click.option(
    "--targets",
    type=click.Choice(["indices", "probabilities"]),
    default="indices",
    show_default=True,
    help="What torch's CrossEntropyLoss gets, because its mean with weights depends on it.",
)
@click.option("--classes", type=int, help="Number of classes, for the alpha of Keras' CategoricalFocalCrossentropy.")
@side
def convert(source: str, form: str, targets: Any, classes: int | None, side: str | None) -> None:
    """Convert a loss of torch, Keras or this project.

    It becomes the loss here that has the same value and gradient.

    SOURCE is a call in quotes, such as "torch.nn.CrossEntropyLoss(label_smoothing=0.1)", which is read but not run; a
    JSON or YAML file with a config or a spec; "-" for the standard input; or a spec as for `xent show`.
    """
    found = sources.read(source, sys.stdin.read)
    package = curves.package_of(side)
    spec = sources.spec_of(found, targets=targets, classes=classes)
    click.echo(sources.written(package.to_spec(package.get(spec)), form))


def targets() -> Iterable[str]:
    """Return the names of all targets of `xent run`."""
    return import_module("shared_specs.conformance.offers").targets()


@program.command()
@click.argument("target", required=False, shell_complete=completion(targets))
@click.option("--targets", "is_list", is_flag=True, help="List the targets.")
@click.option("--adapter", metavar="MODULE:FUNCTION", help="A loss of your own, in place of a TARGET.")
@click.option("--cases", metavar="GLOB", default="*", help="Ids or losses, as in 'categorical-focal/*' (all).")
@click.option("--dtype", default="float32", show_default=True, help="float64, float32, bfloat16 or float16.")
@click.option("--mode", help="eager or compiled (the first of the target).")
@click.option("--device", default="cpu", show_default=True, help="cpu, or for torch cuda.")
@click.option(
    "--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Write all results, as JSON lines."
)
def run(
    target: str | None,
    is_list: bool,
    adapter: str | None,
    cases: str,
    dtype: str,
    mode: str | None,
    device: str,
    path: Path | None,
) -> int:
    """Run the test vectors against a library's losses.

    Each case is equal, differs by a convention, is wrong, or is not offered. `xent run --targets` lists the targets.
    """
    if is_list:
        click.echo("\n".join(targets()))
        return 0
    runner = import_module("shared_specs.conformance.runner")
    given = {"adapter": adapter, "cases": cases, "dtype": dtype, "mode": mode, "device": device, "json": path}
    found = runner.run(target, **given)
    click.echo("\n".join(texts.summary(found)))
    return FOUND if found.footer["wrong"] else 0


@program.command()
@click.argument("path", metavar="MODEL.keras|CONFIG.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data",
    help="A batch to check: an NPZ file with inputs, target and perhaps sample_weight, or MODULE:NAME of a batch, of "
    "data or of a function that returns them; of a LightningDataModule class that a config does not name.",
)
@click.option("--loss", help="A LOSS in place of the one that the model was compiled with.")
def check(path: Path, data: str | None, loss: str | None) -> int:
    """Look for mistakes in a model and its loss.

    They are those of check_model: a double softmax, class weights given twice, a class axis that is ambiguous, labels
    out of range, and more. A model of Keras is loaded, and a config of LightningCLI is built, which runs their code.
    """
    is_config = path.suffix in (".yaml", ".yml")
    if is_config and loss is not None:
        raise ValueError("--loss is for models of Keras: a config names its loss")
    if not is_config and path.suffix != ".keras":
        raise ValueError(f"a model has the suffix .keras, and a config .yaml, got {path}")
    try:
        if is_config:
            report = import_module("shared_specs.command.lightning_check").check(path, data)
        else:
            spec = None if loss is None else sources.spec_of(sources.read(loss, str))
            report = import_module("shared_specs.command.keras_check").check(path, data, spec)
    except (ImportError, OSError, TypeError, ValueError):
        raise
    except Exception as error:  # from the user's network or data
        raise ValueError(f"{type(error).__name__}: {one_line(error)}") from error
    click.echo("\n".join(report.lines()))
    if not report.checked and not report.problems:
        return BAD_INPUT
    return FOUND if report.problems else 0
