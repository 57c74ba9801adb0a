"""The files for the hosting site say what this repository does. Their form is checked by `tox run -e lint`."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_workflow_runs_ci_on_every_supported_python():
    supported = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    # The first is python3, which .ci/run takes for tox and for the environments of one version.
    assert re.findall(r"\"(3\.\d+)\"", WORKFLOW) == supported
    assert re.findall(r"^ {8}run: (\.\S+)$", WORKFLOW, flags=re.MULTILINE) == [".ci/run"]
    assert "timeout-minutes: 90" in WORKFLOW


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("number", ["library", "version", "input", "expected", "got", "source"]),
        ("bug", ["program", "got", "expected", "version"]),
    ],
)
def test_forms_ask_for_what_an_answer_needs(form, wanted):
    text = (ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text(encoding="utf-8")
    questions = {re.search(r"^    id: (\w+)$", part, flags=re.MULTILINE): part for part in text.split("  - type: ")[1:]}
    required = [found[1] for found, part in questions.items() if found and "required: true" in part]
    assert required == wanted
    for page in re.findall(r"\]\(\.\./blob/main/([^)]*)\)", text):
        assert (ROOT / page).is_file(), page
