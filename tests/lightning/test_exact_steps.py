"""The gradient of a step of XentModule is that of its loss over all rows of the step: micro-batches and devices."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

import lightning_xent
from lightning_xent.module import XentModule
from sides.lightning import trainer

# How far the network's own rounding takes the gradient, relative to its largest entry.
TOLERANCES = {"32-true": 1e-6, "16-mixed": 2e-3, "bf16-mixed": 2e-2}


@pytest.mark.parametrize("devices", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_gradient_of_a_step_is_that_of_all_its_rows(devices):
    """Processes of gloo, each with batches of its own; the last step of the epoch has one micro-batch of three."""
    script = Path(__file__).parents[1] / "support/exact_steps.py"
    process = subprocess.run([sys.executable, script, str(devices)], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert found.pop("epoch") <= 1e-6
    assert len(found) == 16
    for setting, worst in found.items():
        assert worst <= TOLERANCES[setting.split(", ")[2]], setting


def test_a_strategy_that_accumulates_by_itself_is_refused(monkeypatch):
    monkeypatch.setattr(SingleDeviceStrategy, "handles_gradient_accumulation", True)
    module = XentModule(torch.nn.Linear(3, 3), lightning_xent.CategoricalCrossEntropy())
    batches = [(torch.zeros(2, 3), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match=r"strategy must leave the accumulation .* got SingleDeviceStrategy"):
        trainer(max_steps=1, num_sanity_val_steps=0).fit(module, DataLoader(batches, None), DataLoader(batches, None))


class Interruption(Callback):
    def on_train_batch_end(self, *given):
        raise RuntimeError("interrupted")


def test_an_interrupted_accumulation_leaves_nothing_behind():
    batches = DataLoader([(torch.eye(3), torch.tensor([0, 1, 1]))] * 2, None)

    def fit(module, **options):
        trainer(max_epochs=1, accumulate_grad_batches=2, num_sanity_val_steps=0, **options).fit(
            module, batches, batches
        )

    def module():
        torch.manual_seed(0)
        loss = lightning_xent.CategoricalCrossEntropy()
        return XentModule(torch.nn.Linear(3, 3), loss, lambda parameters: torch.optim.SGD(parameters, 0.5))

    interrupted, whole = module(), module()
    with pytest.raises(RuntimeError, match="interrupted"):
        fit(interrupted, callbacks=[Interruption()])
    fit(interrupted)
    fit(whole)
    assert torch.equal(interrupted.network.weight, whole.network.weight)
