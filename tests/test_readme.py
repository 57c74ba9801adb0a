"""Every code block of the README runs: Python and YAML here, the commands in CI."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from sides import is_keras, side

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
PYTHON = [block for language, block in BLOCKS if language == "python"]


def test_every_block_is_of_a_known_kind():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "yaml"}
    commands = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
    assert commands == ['python -m pip install "tox>=4.28"', "tox run -e demo", "tox run"]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.search(r"tox run$", script, flags=re.MULTILINE)
    assert re.search(r"^ {4}demo$", (ROOT / "tox.ini").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_version_is_that_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    try:
        installed = importlib.metadata.version(project["name"])
    except importlib.metadata.PackageNotFoundError:
        installed = "0+unknown"
    assert side.package.__version__ == installed
    assert installed in (project["version"], "0+unknown")


@pytest.mark.parametrize("block", [block for block in PYTHON if ("keras_xent" in block) == is_keras])
# The example trains without workers, loggers or a checkpoint folder of its own.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    if "CategoricalExponentialLoss" in names:
        arguments = side.tensor(np.array([[2.0, -1.0, 0.5]])), side.tensor(np.array([0]))
        odds = np.exp(2.0) / (np.exp(-1.0) + np.exp(0.5))
        assert side.numpy(names["CategoricalExponentialLoss"]()(*arguments)) == pytest.approx(odds**-0.5, rel=1e-14)


@pytest.mark.skipif(is_keras, reason="YAML configs are Lightning's")
@pytest.mark.filterwarnings("ignore")  # LightningCLI warns of its own use of jsonargparse
def test_yaml_blocks_build(tmp_path, monkeypatch):
    from pytorch_lightning.cli import LightningCLI

    from lightning_xent.module import XentModule

    monkeypatch.setattr("sys.argv", ["train"])
    for block in (block for language, block in BLOCKS if language == "yaml"):
        path = tmp_path / "config.yaml"
        path.write_text(block, encoding="utf-8")
        cli = LightningCLI(XentModule, args=[f"--config={path}"], run=False, save_config_callback=None)
        assert cli.model.loss.get_config()["class_weight"] == [1.0, 1.0, 2.0, 2.0, 4.0]
        assert cli.trainer.max_epochs == 3
