"""Both sides take the same steps: the loss of each one, and the weights at the end. Runs in the demo environment."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demo.sides import ENVIRONMENT
from trajectories import RUNS, SETUPS, STEPS

ROOT = Path(__file__).parents[2]

LIMITS = {"float32": 1e-5, "float64": 1e-10}


def trained(script, folder):
    """Run the script of a side in a process of its own: TensorFlow and torch can crash in one."""
    path = folder / f"{script}.json"
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, str(ROOT / "tests/support" / f"{script}.py"), str(path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600)
    assert process.returncode == 0, process.stderr
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trajectories")
    return [trained(script, folder) for script in ("keras_trajectories", "lightning_trajectories")]


def test_every_loss_is_trained(sides):
    for side in sides:
        different = set(side["classes"]) ^ set(SETUPS)
        assert not different, f"SETUPS in tests/support/trajectories.py has to hold every public loss: {different}"
        assert side["classes"] == list(SETUPS), "SETUPS in tests/support/trajectories.py is not sorted as __all__ is"


def test_the_optimizers_go_different_ways(sides):
    """Networks that learn nothing would agree, too."""
    losses = {run: np.array(found["losses"]) for run, found in zip(RUNS, sides[0]["runs"], strict=True)}
    for run in RUNS:
        sgd, adamw = (losses[replace(run, optimizer=optimizer)] for optimizer in ("SGD", "AdamW"))
        assert sgd[0] == adamw[0]
        assert np.abs(sgd / adamw - 1).max() > 0.02, run


@pytest.mark.parametrize("position", range(len(RUNS)), ids=[f"{run.name}-{run.dtype}-{run.optimizer}" for run in RUNS])
def test_every_step_agrees(sides, position):
    """The loss of each step relative to itself, as none comes near 0; the weights relative to the largest."""
    limit = LIMITS[RUNS[position].dtype]
    keras, lightning = ({key: np.array(side["runs"][position][key]) for key in ("losses", "weights")} for side in sides)
    assert keras["losses"].shape == lightning["losses"].shape == (STEPS,)
    np.testing.assert_allclose(keras["losses"], lightning["losses"], rtol=limit)
    np.testing.assert_allclose(
        keras["weights"], lightning["weights"], rtol=0, atol=limit * np.abs(lightning["weights"]).max()
    )
