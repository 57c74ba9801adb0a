"""`xent` without a framework: the list of losses, help, and what is missing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shared_specs.command import program as module
from shared_specs.command.program import program
from shared_specs.common.docstrings import families
from shared_specs.conformance import results

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(program.commands)


def run(*arguments, **more):
    return CliRunner().invoke(program, arguments, prog_name="xent", **more)


def test_list_has_a_line_for_each_loss_below_its_family():
    lines = run("list").output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(families())
    named = {name: line for name, _, line in (line.strip().partition(" ") for line in lines) if name.isidentifier()}
    for name, text in (pair for losses in families().values() for pair in losses.items()):
        assert named[name].strip() == text
    assert json.loads(run("list", "--json").output) == families()


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=["xent", *COMMANDS])
def test_help(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: {' '.join(['xent', *command])} ")
    options = re.findall(r"^  (-.*)$", result.output, flags=re.MULTILINE)
    assert options
    assert all(re.search(r"\S {2,}\S", line) or line.count("  ") == 0 for line in options)
    if not command:
        assert "Exit codes: 0 " in result.output
        assert all(re.search(rf"^  {name} ", result.output, flags=re.MULTILINE) for name in COMMANDS)


def test_version():
    assert run("--version").output == f"xent, version {module.version()}\n"


ERRORS = {
    "command": (["lst"], "xent: No such command 'lst'. Did you mean 'list'?"),
    "option": (["list", "--jsn"], "xent list: No such option '--jsn'. Did you mean '--json'?"),
    "no argument": (["convert"], "xent convert: Missing argument 'SOURCE'."),
    "side": (["show", "BinaryHinge", "--side", "jax"], "xent show: Invalid value for '--side': 'jax' is not one of"),
    "no framework": (["show", "BinaryHinge"], "xent: torch or keras is not installed: the losses need it"),
    "no model": (["check", "no.keras"], "xent check: Invalid value for 'MODEL.keras|CONFIG.yaml': File 'no.keras' do"),
    "no target": (["run"], "xent: one of target and adapter must be given, got None and None"),
    "target": (["run", "keras_xent-jaxx"], "xent: target must be "),
    "no library": (
        ["run", "keras_xent-jax"],
        "xent: target 'keras_xent-jax' needs the module 'keras', which is not installed here",
    ),
    "cases": (["run", "keras_xent-jax", "--cases", "BinaryHing"], "xent: cases must match an id such as "),
    "dtype": (["run", "keras_xent-jax", "--dtype", "int8"], "xent: dtype must be one of float64, float32, "),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_one_line(case, monkeypatch):
    arguments, message = ERRORS[case]
    monkeypatch.setattr("shared_specs.curves.util.find_spec", lambda name: None)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not result.stdout


def test_traceback_shows_where_an_error_came_from():
    result = run("--traceback", "run")
    assert isinstance(result.exception, ValueError)


ADAPTER = """
import numpy as np
from shared_specs.conformance.offers import Offer

FRAMEWORK = "numpy"


def offer(case, factor=1.0):
    if case.config or set(case.inputs) != {"logits", "target"}:
        return "options are not offered"

    def value(logits, target):
        return factor * np.mean(target * np.logaddexp(0, -logits) + (1 - target) * np.logaddexp(0, logits))

    def doubled(logits, target):
        return 2 * value(logits, target)

    return Offer(doubled, "the loss is doubled", value)


def wrong(case):
    return offer(case, 1.01)
"""


@pytest.mark.parametrize(("name", "code"), [("offer", 0), ("wrong", 1)])
def test_run_an_adapter(name, code, tmp_path, monkeypatch):
    (tmp_path / "my_numpy_losses.py").write_text(ADAPTER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    case = "binary-cross-entropy/hard-labels"
    result = run("run", "--adapter", f"my_numpy_losses:{name}", "--cases", f"{case}*", "--json", "results.jsonl")
    assert result.exit_code == code, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(f"my_numpy_losses:{name}: ")
    footer = results.read("results.jsonl").footer
    counts = [str(footer[outcome] or ".") for outcome in results.OUTCOMES]
    assert [line.split()[1:5] for line in lines if line.startswith("all ")] == [counts]
    assert counts[2:0:-1] == ([".", "1"] if code == 0 else ["1", "."])
    assert ("differs: the loss is doubled (1 case)" in lines) == (code == 0)
    wrong = [line for line in lines if line.startswith(f"wrong: {case}: ")]
    assert len(wrong) == code and all("want " in line and "got " in line for line in wrong)


def shell(*arguments, code=None):
    command = [sys.executable, *(["-c", code] if code else ["-m", "shared_specs.command"]), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_module_is_the_program():
    result = shell("list", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == families()
    result = shell("lst")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "xent: No such command 'lst'. Did you mean 'list'?\n"


def test_without_click_the_extra_is_named():
    code = "import sys; sys.modules['click'] = None; import shared_specs.command as c; c.main()"
    result = shell(code=code)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == 'xent: click is not installed: pip install click, or the extra "cli"\n'


def test_help_and_completion_import_no_framework():
    code = (
        "import sys; from shared_specs.command.program import program, completion, targets; "
        "program(['--help'], standalone_mode=False); assert len(list(targets())) > 5; "
        "print({'torch', 'keras', 'jax', 'tensorflow'} & set(sys.modules))"
    )
    assert shell(code=code).stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("words", "found"),
    [("xent sh", ["show"]), ("xent show BinaryH", ["BinaryHinge"]), ("xent run keras_xent-j", ["keras_xent-jax"])],
)
def test_names_are_completed(words, found):
    environment = {"_XENT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = run(env=environment)
    assert [line.split(",")[1] for line in result.output.splitlines()] == found
