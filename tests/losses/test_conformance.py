"""Our own losses as targets of the conformance runner, and the page that shows how others run it."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sides
from shared_specs.conformance import offers, results, runner
from sides import is_keras

PAGE = (Path(__file__).parents[2] / "docs/conformance_runner.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
TARGETS = {
    "lightning": ["lightning_xent", "lightning_xent-fused", "lightning_xent-compiled"],
    **{name: [name.replace("keras-", "keras_xent-")] for name in sides.SIDES if name.startswith("keras")},
}[sides.name]
# The cases, and how many are equal at least. Few, because JAX compiles each operation and torch.compile each case.
FEW = {
    "eager": {
        "categorical-taylor/order-t*": 3,
        "binary-hinge/h*": 3,
        "binary-hinge/rejects-*": 5,
        "distillation/te*": 4,
    },
    "compiled": {"binary-hinge/hard-labels": 1, "binary-hinge/rejects-target-above-one": 1},
}


def runs():
    for target in TARGETS:
        modes = ["compiled"] if target.endswith("compiled") else ["eager"]
        modes += ["compiled"] if is_keras else []
        for mode in modes:
            for glob, least in FEW[mode].items():
                yield target, mode, glob, least


@pytest.mark.parametrize(("target", "mode", "glob", "least"), list(runs()))
def test_own_losses_are_equal(target, mode, glob, least):
    found = runner.run(target, cases=glob, mode=mode)
    assert found.header["target"] == target and found.header["mode"] == mode
    wrong = {case["id"]: case["message"] for case in found.cases if case["outcome"] == "wrong"}
    assert not wrong and found.footer["differs"] == 0
    if target.endswith("fused"):  # it is for some losses, and says so of the others
        assert all(case.get("message") for case in found.cases if case["outcome"] == "not offered")
    else:
        assert found.footer["equal"] >= least and found.footer["not offered"] == 0


# ---- The page.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the adapter of the page."""
    (tmp_path / "my_losses.py").write_text(BLOCKS[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_losses", None)
    sys.modules.pop("with_weights", None)


@pytest.mark.skipif(is_keras, reason="the losses of the page are of torch")
def test_page_shows_what_its_adapter_gives(folder, capsys):
    exec(compile(BLOCKS[1], "block", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed == re.findall(r"^# (.*)$", BLOCKS[1], flags=re.MULTILINE)
    assert results.read("focal.jsonl").header["target"] == "my_losses:offer"


@pytest.mark.skipif(is_keras, reason="the losses of the page are of torch")
def test_page_shows_a_convention(folder):
    (folder / "with_weights.py").write_text(BLOCKS[2], encoding="utf-8")
    found = runner.run(adapter="with_weights:offer", cases="categorical-cross-entropy/*")
    (line,) = (case for case in found.cases if case["outcome"] != "not offered")
    assert (line["outcome"], line["convention"]) == (
        "differs", "mean divides by the sum of the weights of the targets"
    )  # fmt: skip


@pytest.mark.skipif(is_keras, reason="the losses of the page are of torch")
def test_command_of_the_page_runs_in_pytest(folder):
    (command,) = re.findall(r"^pytest (--xent-adapter .* -k .*)$", PAGE, flags=re.MULTILINE)
    plugin = "shared_specs.conformance.pytest_plugin"
    loaded = [] if importlib.metadata.entry_points(group="pytest11", name="xent") else ["-p", plugin]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *loaded, *shlex.split(command)], capture_output=True, text=True
    )
    assert re.search(r"^\d+ failed, \d+ passed, \d+ skipped, \d+ deselected in", run.stdout, flags=re.MULTILINE)


def test_every_target_of_the_page_is_one():
    said = re.findall(r"`((?:keras|lightning)_xent(?:-\w+)?)`[,|]? ", PAGE.split("## The targets of this project")[1])
    assert set(said) - {"keras_xent"} == {name for name in offers.targets() if "_xent" in name}
