"""`xent` with a framework: what it shows, draws, converts and runs, and its errors."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples import CLASSES
from shared_specs import curves
from shared_specs.command.program import program
from shared_specs.command.texts import plotted
from shared_specs.common.spec import public_classes
from shared_specs.curves import Drawn
from sides import is_keras, side
from sides import name as side_name

ROOT = Path(__file__).parents[2]
SIDE = "keras" if is_keras else "lightning"
TARGET = f"keras_xent-{side_name.removeprefix('keras-')}" if is_keras else "lightning_xent"


def run(*arguments, **more):
    if arguments[0] in ("show", "curves", "convert"):
        arguments = (*arguments, "--side", SIDE)
    return CliRunner().invoke(program, arguments, prog_name="xent", **more)


# ---- show


# JAX compiles each loss for its curve.
@pytest.mark.parametrize(
    "name", CLASSES if side_name != "keras-jax" else ["CategoricalTaylorCrossEntropy", "Distillation"]
)
def test_losses_are_shown_with_their_keywords(name):
    result = run("show", name)
    assert result.exit_code == 0, result.output
    head, about = result.output.splitlines()[:2]
    assert head == name and len(about) > 20
    assert "Reference: " in result.output
    keywords = json.loads(run("show", name, "--json").output)["keywords"]
    assert sorted(keyword["name"] for keyword in keywords) == sorted(
        f.name for f in fields(getattr(side.package, name))
    )
    for keyword in keywords:
        assert keyword["range"] and keyword["meaning"]
        default = f"default {keyword['default']!r}" if "default" in keyword else "required"
        assert f"  {keyword['name']}: {default}; {keyword['range']}\n" in result.output
    drawn = ("(its pull (minus the slope)" in result.output) != ("No curve: " in result.output)
    assert drawn


RANGES = {
    ("CategoricalFocalCrossEntropy", "gamma"): "[0, inf) or 'flsd53'",
    ("BinaryFocalCrossEntropy", "alpha"): "[0, 1] or None",
    ("LDAMCrossEntropy", "class_counts"): "numbers in (0, inf)",
    ("BinaryCrossEntropy", "pos_weight"): "number or numbers in [0, inf) or None",
    ("JensenShannonConsistency", "views"): "integer >= 2",
    ("CategoricalCrossEntropy", "ignore_index"): "integer or None",
    ("CategoricalCrossEntropy", "reduction"): "'none' or 'sum' or 'mean' or 'weighted_mean'",
}


@pytest.mark.parametrize(("name", "keyword"), RANGES)
def test_ranges_are_those_that_the_checks_accept(name, keyword):
    found = {each["name"]: each for each in json.loads(run("show", name, "--json").output)["keywords"]}
    assert found[keyword]["range"] == RANGES[name, keyword]


def test_given_keywords_are_shown_and_drawn():
    plain, given = run("show", "BinaryFocalCrossEntropy").output, run("show", "BinaryFocalCrossEntropy:gamma=5").output
    assert "  gamma: here 5; default 2.0; [0, inf) or 'flsd53'\n" in given
    assert plain.partition("Reference")[2] != given.partition("Reference")[2]


def test_the_curve_in_the_terminal_falls_as_the_loss_does():
    places = [index / 10 - 6 for index in range(121)]
    lines = list(plotted(Drawn(places, [6 - place for place in places], places, False)))
    assert lines[0] == "(loss of one row) ^"
    rows = [line.partition("|")[2] for line in lines if "|" in line]
    assert len(rows) >= 12
    first = [len(row) - len(row.lstrip("\u2800 ")) for row in rows[:12]]
    assert any("log-odds of the label" in line for line in lines)
    assert first == sorted(first)


# ---- convert: what a source becomes

SPEC = {"loss": "CategoricalCrossEntropy", "config": {"axis": 1, "ignore_index": -100, "label_smoothing": 0.1}}
LINE = "CategoricalCrossEntropy({})".format(
    ", ".join(f"{keyword}={SPEC['config'][keyword]}" for keyword in ("label_smoothing", "ignore_index", "axis"))
)
FOCAL = {"loss": "CategoricalFocalCrossEntropy", "config": {"gamma": 3.0}}
WEIGHTED = {
    "loss": "CategoricalCrossEntropy",
    "config": {"axis": 1, "class_weight": [1.0, 3.0], "ignore_index": -100, "reduction": "weighted_mean"},
}
BINARY = {"loss": "BinaryCrossEntropy", "config": {}}
SERIALISED = {
    "module": "keras.losses",
    "class_name": "BinaryCrossentropy",
    "config": {"name": "binary_crossentropy", "reduction": "sum_over_batch_size", "from_logits": True, "axis": -1},
    "registered_name": None,
}
SOURCES = {
    "call": ("torch.nn.CrossEntropyLoss(label_smoothing=0.1)", SPEC),
    "alias": ("nn.CrossEntropyLoss(label_smoothing=1e-1)", SPEC),
    "bare name": ("CrossEntropyLoss(label_smoothing=0.1)", SPEC),
    "tensor": ("nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))", WEIGHTED),
    "Keras": ("keras.losses.BinaryCrossentropy(from_logits=True)", BINARY),
    "tf.keras": ("tf.keras.losses.BinaryCrossentropy(from_logits=True)", BINARY),
    "ours": ("keras_xent.CategoricalFocalCrossEntropy(gamma=3)", FOCAL),
    "ours, bare": ("CategoricalFocalCrossEntropy(gamma=3.0)", FOCAL),
    "spec as text": ("CategoricalFocalCrossEntropy:gamma=3", FOCAL),
    "spec as JSON": (json.dumps(FOCAL), FOCAL),
    "serialised": (json.dumps(SERIALISED), BINARY),
    "class path": ('{"class_path": "torch.nn.BCEWithLogitsLoss"}', BINARY),
    "ours by class path": (
        '{"class_path": "lightning_xent.CategoricalFocalCrossEntropy", "init_args": {"gamma": "3"}}',
        FOCAL,
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_convert_to_a_spec(case, tmp_path):
    source, want = SOURCES[case]
    assert json.loads(run("convert", source).output) == want
    assert json.loads(run("convert", "-", input=source).output) == want


FILES = {
    "serialised.json": (json.dumps(SERIALISED), BINARY),
    "loss.yaml": ("class_path: torch.nn.CrossEntropyLoss\ninit_args: {label_smoothing: 0.1}\n", SPEC),
    "text.yml": ("loss: CategoricalFocalCrossEntropy\nconfig: {gamma: 3e0}\n", FOCAL),
    "whole.yaml": (
        "trainer: {max_epochs: 3}\nmodel:\n  class_path: lightning_xent.module.XentModule\n  init_args:\n    loss:\n"
        "      class_path: lightning_xent.CategoricalFocalCrossEntropy\n      init_args: {gamma: 3}\n",
        FOCAL,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_convert_a_file(name, tmp_path):
    text, want = FILES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert json.loads(run("convert", str(tmp_path / name)).output) == want


def test_options_of_native_losses():
    weighted = "nn.CrossEntropyLoss(weight=[1, 3])"
    assert "weighted_mean" not in run("convert", weighted, "--targets", "probabilities").output
    config = json.loads(run("convert", "keras.losses.CategoricalFocalCrossentropy()", "--classes", "2").output)[
        "config"
    ]
    assert config["class_weight"] == [0.25, 0.25]


def test_each_form_reads_back(tmp_path):
    source = "nn.CrossEntropyLoss(weight=[1.0, 3.0], label_smoothing=0.00001)"
    spec = json.loads(run("convert", source).output)
    for form in ("keras", "lightning", "yaml"):
        text = run("convert", source, "--to", form).output
        assert text.startswith({"yaml": "model:\n  loss:\n"}.get(form, f"{form}_xent.CategoricalCrossEntropy("))
        assert json.loads(run("convert", "-", input=text).output) == spec
        if form == SIDE:
            loss = eval(text, {side.package.__name__: side.package})
            assert side.package.to_spec(loss) == spec


NO_LOSS = 'a loss must be a call, such as "torch.nn.CrossEntropyLoss(label_smoothing=0.1)"'
ERRORS = {
    "no equal": (["convert", "torch.nn.NLLLoss()"], "NLLLoss has no equal here: it takes log-probabilities: leave"),
    "argument without equal": (
        ["convert", "torch.nn.BCEWithLogitsLoss(weight=[1.0, 2.0])"],
        "BCEWithLogitsLoss(weight=...) has no equal here: a weight of each element is the sample_weight of the call",
    ),
    "misspelt native loss": (["convert", "torch.nn.CrossEntropyLos()"], "did you mean 'CrossEntropyLoss'?\n"),
    "misspelt native keyword": (
        ["convert", "torch.nn.CrossEntropyLoss(lable_smoothing=1)"],
        "CrossEntropyLoss got an unexpected keyword argument 'lable_smoothing': did you mean 'label_smoothing'?",
    ),
    "bad native value": (["convert", "nn.CrossEntropyLoss(label_smoothing=2)"], "label_smoothing must be a number in "),
    "another library": (
        ["convert", "timm.loss.LabelSmoothingCrossEntropy(smoothing=0.1)"],
        "is not a loss of torch.nn or keras.losses, which are converted: here it is CategoricalCrossEntropy",
    ),
    "function": (
        ["convert", "F.cross_entropy(label_smoothing=0.1)"],
        "F.cross_entropy is a function: pass the call of a class, such as torch.nn.CrossEntropyLoss()",
    ),
    "two owners": (["convert", "KLDivergence()"], "write keras.losses.KLDivergence or keras_xent.KLDivergence"),
    "code": (
        ["convert", "nn.CrossEntropyLoss(weight=torch.load('w.pt'))"],
        "weight must be plain numbers or text, or torch.tensor([...]), got torch.load('w.pt'): write its value, noth",
    ),
    "computed": (["convert", "nn.CrossEntropyLoss(label_smoothing=1/3)"], "got 1 / 3: write its value, nothing"),
    "position": (
        ["convert", "nn.CrossEntropyLoss([1, 2])"],
        "arguments of nn.CrossEntropyLoss must be given by keyword",
    ),
    "no call": (["convert", "import os; os.system('ls')"], NO_LOSS),
    "method of a call": (["convert", "nn.CrossEntropyLoss().forward(a=1)"], NO_LOSS),
    "no file": (["convert", "no.yaml"], "there is no file no.yaml"),
    "no JSON or YAML": (["convert", "{a: [}"], "is neither JSON nor YAML"),
    "no config": (["convert", "[1]"], "xent"),
    "no loss in a config": (["convert", '{"model": {}}'], "must have model.loss or model.init_args.loss"),
    "loss": (["show", "CategoricalFocalLoss"], "'CategoricalFocalLoss': did you mean 'CategoricalFocalCrossEntropy'?"),
    "loss elsewhere": (["show", "brier_loss"], "got 'brier_loss': here it is CategoricalSquaredError"),
    "keyword": (["show", "BinaryFocalCrossEntropy:gama=2"], "did you mean 'gamma'?"),
    "keyword of Keras": (
        ["show", "CategoricalCrossEntropy:ignore_class=0"],
        "ignore_class of Keras is ignore_index here",
    ),
    "keyword of Liger": (
        ["curves", "CategoricalCrossEntropy:lse_square_scale=1"],
        "lse_square_scale of Liger and flash-a",
    ),
    "value": (["show", "BinaryFocalCrossEntropy:gamma=-1"], "gamma must be a number in [0, inf) or 'flsd53', got -1"),
    "label": (["show", "CategoricalHinge", "--label", "5"], "label must be one of 2 classes or more, got label 5"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_one_line(case):
    arguments, message = ERRORS[case]
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("xent")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not result.stdout


# ---- run


def test_run_own_target(tmp_path):
    path = tmp_path / "results.jsonl"
    result = run("run", TARGET, "--cases", "binary-hinge/hard*", "--json", str(path))
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{TARGET}: ")
    first, *_, last = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (first["kind"], last["kind"], last["wrong"]) == ("header", "footer", 0)
    assert re.search(rf"^BinaryHinge +{last['equal']} +\. +\. +\. +\d\.\d\d$", result.output, flags=re.MULTILINE)


def test_package_is_that_of_the_side():
    assert curves.package_of(SIDE) is side.package
    assert set(public_classes(side.package)) == set(CLASSES)


def test_the_program_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "shared_specs.command", "convert", "-", "--to", SIDE, "--side", SIDE]
    result = subprocess.run(
        command, input=json.dumps(SPEC), cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert result.stdout == f"{SIDE}_xent.{LINE}\n"


# ---- The page

PAGE = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
COMMANDS = [
    (command, tuple(said.splitlines()))
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    for command, said in re.findall(r"^\$ xent (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
]


def code(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return found


def test_the_page_has_every_command():
    assert {command.split()[0] for command, _ in COMMANDS} == {*program.commands, "lst"}


@pytest.mark.parametrize(("command", "said"), [pair for pair in COMMANDS if (".keras" in pair[0]) == is_keras])
@pytest.mark.filterwarnings("ignore")  # LightningCLI warns of its own use of jsonargparse
def test_the_page_says_what_the_program_prints(command, said, tmp_path, monkeypatch):
    """A line of dots stands for any lines."""
    if command.startswith("curves"):
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    if is_keras:
        exec(compile(code("command_line.md", "python"), "block", "exec"), {})
    (tmp_path / "train.py").write_text(code("lightning_cli.md", "python"), encoding="utf-8")
    (tmp_path / "config.yaml").write_text(code("lightning_cli.md", "yaml"), encoding="utf-8")
    result = CliRunner().invoke(program, shlex.split(command), prog_name="xent")
    printed = result.stdout + "".join(line for line in result.stderr.splitlines(True) if line.startswith("xent"))
    pattern = "".join(r"(?:.*\n)*" if line == "..." else re.escape(line) + r"\n" for line in said)
    assert re.fullmatch(pattern, printed.rstrip("\n") + "\n"), printed
