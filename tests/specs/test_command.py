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
