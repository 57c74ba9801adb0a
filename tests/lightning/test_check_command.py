"""`xent check CONFIG.yaml`: each mistake is found, and what a config does not show is said."""

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from shared_specs.command.program import program

pytestmark = [
    # LightningCLI warns of its own use of jsonargparse, and of what it overrides.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

DATA = """
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

LABELS = torch.arange(24) % 3
INPUTS = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))


class Data(LightningDataModule):
    def __init__(self, twice: bool = False, sampled: bool = False, shift: int = 0):
        super().__init__()
        self.twice, self.sampled, self.shift = twice, sampled, shift

    def train_dataloader(self):
        parts = [INPUTS, LABELS + self.shift] + ([1.0 + LABELS] if self.twice else [])
        sampler = WeightedRandomSampler(1.0 + LABELS, 24) if self.sampled else None
        return DataLoader(TensorDataset(*parts), batch_size=12, sampler=sampler)


class Broken(Data):
    def train_dataloader(self):
        raise RuntimeError("the disk is\\nnot there")


class WithSoftmax(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.Softmax(1))


class Own(LightningModule):
    def __init__(self, has_two: bool = False):
        super().__init__()
        self.network, self.criterion = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), nn.CrossEntropyLoss()
        if has_two:
            self.other = nn.BCELoss()

    def forward(self, inputs):
        return self.network(inputs)

    def train_dataloader(self):
        return Data().train_dataloader()


def batch():
    return INPUTS, LABELS


loader = Data().train_dataloader()
"""
LOSS = {"class_path": "lightning_xent.CategoricalCrossEntropy"}
WEIGHTED = {**LOSS, "init_args": {"class_weight": [1, 2, 4]}}
LINEAR = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 4, "out_features": 3}}
SOFTMAX = {"class_path": "for_check.WithSoftmax"}
MODULE = "lightning_xent.module.XentModule"
DOUBLED = "CategoricalCrossEntropy takes logits (from_logits=True) but gets probabilities, those of a softmax"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "for_check.py").write_text(DATA, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(config, *arguments):
    with open("config.yaml", "w", encoding="utf-8") as file:
        yaml.safe_dump(config, file)
    return CliRunner().invoke(program, ["check", "config.yaml", *arguments], prog_name="xent")


def config(network=LINEAR, loss=LOSS, data=None, is_named=True, **trainer):
    model = {"network": network, "loss": loss}
    given = {"model": {"class_path": MODULE, "init_args": model} if is_named else model}
    given |= {} if data is None else {"data": {"class_path": "for_check.Data", "init_args": data}}
    return given | ({"trainer": trainer} if trainer else {})


WEIGHTING = {"class_path": "lightning_xent.callbacks.ClassWeighting", "init_args": {"classes": 3}}
DEFERRED = {**WEIGHTING, "init_args": {"classes": 3, "start_epoch": 2}}
CASES = {
    "nothing wrong": (config(data={}), [], None),
    "softmax": (config(SOFTMAX, data={}), [], DOUBLED),
    "a spec": (config(SOFTMAX, {"loss": "CategoricalCrossEntropy"}, {}), [], DOUBLED),
    "no class of the module": (config(SOFTMAX, data={}, is_named=False), [], DOUBLED),
    "labels": (config(data={"shift": 1}), [], "got 3 at [2]"),
    "class weights twice": (
        config(loss=WEIGHTED, data={"twice": True}),
        [],
        "has class_weight, and the sample weights of the batch weight classes too (1 for label 0, 2 for label 1, ",
    ),
    "weights of a sampler": (config(loss=WEIGHTED, data={"sampled": True}), [], "WeightedRandomSampler draws the rows"),
    "weights of a callback": (
        config(loss=WEIGHTED, data={}, callbacks=[WEIGHTING]),
        [],
        "CategoricalCrossEntropy has class_weight, and the callback ClassWeighting replaces it",
    ),
    "deferred weights": (config(loss=WEIGHTED, data={}, callbacks=[DEFERRED]), [], None),
    "an accelerator that is not here": (config(data={}, accelerator="gpu", devices=8), [], None),
    "settings of a run": ({**config(data={}), "ckpt_path": None, "seed_everything": 3}, [], None),
    "the class of the data": (config(SOFTMAX), ["--data", "for_check:Data"], DOUBLED),
    "a function": (config(SOFTMAX), ["--data", "for_check:batch"], DOUBLED),
    "a loader": (config(SOFTMAX), ["--data", "for_check:loader"], DOUBLED),
    "another module": ({"model": {"class_path": "for_check.Own"}}, [], DOUBLED),
}


@pytest.mark.parametrize("case", CASES)
def test_problems(case):
    given, arguments, message = CASES[case]
    result = run(given, *arguments)
    lines = result.stdout.splitlines()
    assert result.exit_code == (0 if message is None else 1), result.output
    problems = [line for line in lines if line.startswith("problem: ")]
    assert len(problems) == (message is not None), result.output
    assert message is None or message in problems[0]
    assert any(line.startswith("checked: CategoricalCrossEntropy(") for line in lines)
    assert lines[-1] == ("1 problem" if message else "no problem was found")


def test_a_file_of_arrays():
    np.savez("batch.npz", inputs=np.ones((12, 4)), target=np.arange(12) % 4, mask=np.arange(12) % 4 < 3)
    result = run(config(), "--data", "batch.npz")
    assert result.exit_code == 0, result.output
    assert "checked: CategoricalCrossEntropy() of XentModule: batch.npz" in result.output


def test_without_data():
    result = run(config(SOFTMAX))
    lines = result.output.splitlines()
    assert result.exit_code == 1
    assert (
        "not checked: labels, weights and values: the config names no data; name the class by --data MODULE:CLASS"
        in lines
    )
    assert any(DOUBLED in line for line in lines)
    result = run(config())
    assert (result.exit_code, result.output.splitlines()[-1]) == (2, "nothing could be checked")
    assert "not checked: the activation at the end of the network" in result.output


def test_classes_of_the_distribution_lightning():
    pytest.importorskip("lightning.pytorch")
    given = config(SOFTMAX)
    given["model"]["class_path"] = "lightning_xent.lightning.XentModule"
    result = run(given, "--data", "for_check:batch")
    assert result.exit_code == 1, result.output
    assert DOUBLED in result.output


ERRORS = {
    "no config": ({"loss": 3}, [], "config.yaml must be a config of LightningCLI, with a mapping as its model"),
    "no data class": (
        {**config(), "data": {"twice": True}},
        [],
        "data of config.yaml has no class_path: name its class by --data MODULE:CLASS",
    ),
    "keyword": (config(loss={**LOSS, "init_args": {"ignore_class": 0}}), [], "ignore_class"),
    "value": (
        config(loss={**LOSS, "init_args": {"label_smoothing": 2}}),
        [],
        "label_smoothing must be a number in [0, 1]",
    ),
    "data": ({**config(), "data": {"class_path": "for_check.Broken"}}, [], "RuntimeError: the disk is not there"),
    "two losses": (
        {"model": {"class_path": "for_check.Own", "init_args": {"has_two": True}}},
        [],
        "Own must have one loss of lightning_xent or torch.nn as an attribute, got criterion, other",
    ),
    "loss": (config(), ["--loss", "BinaryHinge"], "--loss is for models of Keras"),
    "no name": (config(), ["--data", "for_check:nothing"], "--data: the module for_check has no 'nothing'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_one_line(case):
    given, arguments, message = ERRORS[case]
    result = run(given, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("xent")]) == 1
    assert not result.stdout
