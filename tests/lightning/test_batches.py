"""The batches that XentModule takes: tuples of one to four parts, dictionaries, and what the networks return."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import lightning_xent
from lightning_xent.callbacks import CheckModel, ClassWeighting
from sides.lightning import trainer

PACKAGES = {"pytorch_lightning": "lightning_xent.module", "lightning.pytorch": "lightning_xent.lightning"}
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(12, 3, generator=GENERATOR)
TARGET = torch.randint(0, 3, (12,), generator=GENERATOR)
WEIGHT = torch.rand(12, generator=GENERATOR)
MASK = torch.rand(12, generator=GENERATOR) < 0.6
LOSS = {"loss": "CategoricalCrossEntropy"}


class Rows(Dataset):
    """Rows in the form of a batch, which the collate function of a DataLoader keeps."""

    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        if isinstance(self.parts, dict):
            return {name: part[index] for name, part in self.parts.items()}
        return self.parts[index] if isinstance(self.parts, torch.Tensor) else [part[index] for part in self.parts]


class Output:
    """What a model of Hugging Face returns, in short."""

    def __init__(self, logits):
        self.logits, self.loss = logits, None


class Linear(torch.nn.Module):
    """A linear model with the arguments and the outputs of others."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        torch.manual_seed(0)
        torch.nn.init.normal_(self.linear.weight)


class HuggingFace(Linear):
    def forward(self, input_ids=None, attention_mask=None, labels=None, **others):
        assert labels is None
        assert not others
        return Output(self.linear(input_ids * attention_mask))


class Wrapped(Linear):
    """As wrappers of adapters have it."""

    def forward(self, *given, **named):
        return Output(self.linear(named["input_ids"] * named["attention_mask"]))


class Plain(Linear):
    def forward(self, inputs):
        return self.linear(inputs)


class Torchvision(Linear):
    def forward(self, x):
        return {"out": self.linear(x), "aux": None}


class TwoInputs(Linear):
    def forward(self, left, right):
        return self.linear(left) + self.linear(right)


class Masked(Linear):
    def forward(self, inputs, mask):
        return self.linear(inputs) * mask[:, None]


ONES = torch.ones(12, 1)
HALF = INPUTS / 2

# Network, batch, keywords of the module, and what it must be the same as: weights, mask.
BATCHES = {
    "2": (Plain, (INPUTS, TARGET), {}, None, None),
    "3": (Plain, (INPUTS, TARGET, WEIGHT), {}, WEIGHT, None),
    "4": (Plain, (INPUTS, TARGET, WEIGHT, MASK), {}, WEIGHT, MASK),
    "named": (Plain, {"inputs": INPUTS, "target": TARGET, "sample_weight": WEIGHT, "mask": MASK}, {}, WEIGHT, MASK),
    "Hugging Face": (HuggingFace, {"input_ids": INPUTS, "attention_mask": ONES, "labels": TARGET}, {}, None, None),
    "wrapped": (Wrapped, {"input_ids": INPUTS, "attention_mask": ONES, "labels": TARGET}, {}, None, None),
    "columns that nobody takes": (Plain, {"image": INPUTS, "label": TARGET, "index": TARGET}, {}, None, None),
    "pixel_values of a plain network": (Plain, {"pixel_values": INPUTS, "labels": TARGET}, {}, None, None),
    "torchvision": (Torchvision, {"image": INPUTS, "target": TARGET}, {}, None, None),
    "own keys": (
        Plain,
        {"a": INPUTS, "b": TARGET, "c": WEIGHT, "d": MASK},
        {"input_key": "a", "target_key": "b", "weight_key": "c", "mask_key": "d"},
        WEIGHT,
        MASK,
    ),
    "two inputs by name": (TwoInputs, {"left": HALF, "right": HALF, "y": TARGET}, {}, None, None),
    "two inputs by keys": (
        TwoInputs,
        {"left": HALF, "right": HALF, "y": TARGET, "inputs": MASK},
        {"input_key": ("left", "right")},
        None,
        None,
    ),
    "a mask of the network": (Masked, {"inputs": INPUTS, "mask": ONES[:, 0], "y": TARGET}, {}, None, None),
    "attention as mask": (
        Plain,
        {"inputs": INPUTS, "attention_mask": MASK, "y": TARGET},
        {"mask_key": "attention_mask"},
        None,
        MASK,
    ),
}


def module_of(network, loss=LOSS, package="pytorch_lightning", rate=0.5, **keywords):
    torch.manual_seed(0)
    kind = importlib.import_module(PACKAGES[package]).XentModule
    return kind(network(), loss, lambda parameters: torch.optim.SGD(parameters, rate), **keywords)


def quiet(package, **options):
    options |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return importlib.import_module(package).Trainer(accelerator="cpu", enable_model_summary=False, **options)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", BATCHES)
def test_B2_batches_of_every_form(name, package):
    """A step, a validation and a prediction, against the loss on the parts."""
    network, batch, keywords, weight, mask = BATCHES[name]
    module = module_of(network, package=package, **keywords)
    before = torch.nn.functional.linear(INPUTS, module.network.linear.weight, module.network.linear.bias)
    if network is TwoInputs:
        before = before + module.network.linear.bias
    want = lightning_xent.get(LOSS)(before, TARGET, weight, mask).item()
    loader = DataLoader(Rows(batch), batch_size=12)
    (found,) = quiet(package).validate(module, loader, verbose=False)
    assert found["val_loss"] == pytest.approx(want, rel=1e-5)
    kept = torch.ones(12, dtype=torch.bool) if mask is None else mask
    assert found["val_accuracy"] == pytest.approx((before.argmax(1) == TARGET)[kept].double().mean().item())
    (predicted,) = quiet(package).predict(module, loader)
    torch.testing.assert_close(predicted, before.detach(), rtol=1e-5, atol=1e-6)
    run = quiet(package, max_epochs=1, num_sanity_val_steps=0)
    run.fit(module, loader, loader)
    assert run.callback_metrics["train_loss"].item() == pytest.approx(want, rel=1e-5)


INPUTS_ALONE = {
    "tensor": INPUTS,
    "1": (INPUTS,),
    "dictionary": {"inputs": INPUTS},
    "with a target": (INPUTS, TARGET),
    "all": (INPUTS, TARGET, WEIGHT, MASK),
}


@pytest.mark.parametrize("name", INPUTS_ALONE)
@pytest.mark.parametrize("package", PACKAGES)
def test_B1_predict(package, name):
    module = module_of(Plain, package=package)
    found = quiet(package).predict(module, DataLoader(Rows(INPUTS_ALONE[name]), batch_size=5))
    assert [len(part) for part in found] == [5, 5, 2]
    torch.testing.assert_close(torch.cat(found), module(INPUTS).detach())


# LightningCLI itself calls what jsonargparse deprecates.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize("package", PACKAGES)
def test_B1_predict_of_the_command_line(package, monkeypatch):
    lightning = importlib.import_module(package)

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(Rows((INPUTS, TARGET)), batch_size=4)

        predict_dataloader = train_dataloader

    monkeypatch.setattr(sys, "argv", ["train"])
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    network = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 3}}
    loss = {"class_path": "lightning_xent.CategoricalCrossEntropy"}
    config = {
        "seed_everything": 0,
        "trainer": options,
        "model": {"network": network, "loss": loss, "input_key": ["a", "b"]},
    }
    cli = importlib.import_module(f"{package}.cli").LightningCLI
    kind = importlib.import_module(PACKAGES[package]).XentModule
    found = cli(kind, Data, args={"subcommand": "predict", "predict": config}, save_config_callback=None)
    assert found.model.batch_keys.input == ["a", "b"]


REFUSED = {
    "a bare tensor": (Plain, INPUTS, {}, r"batch must be \(inputs, target.* dictionary, got Tensor"),
    "no target": (Plain, (INPUTS,), {}, "batch must .* with a target, got the inputs alone"),
    "five parts": (Plain, (INPUTS, TARGET, WEIGHT, MASK, MASK), {}, "batch must .* got list of 5"),
    "no target key": (Plain, {"inputs": INPUTS, "answer": TARGET}, {}, "keys 'inputs', 'answer': set target_key"),
    "no input key": (Plain, {"features": INPUTS, "y": TARGET}, {}, "got the keys 'features', 'y': set input_key"),
    "two targets": (Plain, {"x": INPUTS, "label": TARGET, "labels": TARGET}, {}, "target_key must be set .* 'labels'"),
    "a mask that is the target": (Plain, {"image": INPUTS, "mask": TARGET}, {}, "'image', 'mask': set target_key"),
    "another key": (Plain, {"x": INPUTS, "y": TARGET}, {"weight_key": "w"}, "weight_key must be a key .* got 'w' for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_B2_what_a_batch_must_be(name):
    network, batch, keywords, message = REFUSED[name]
    run = trainer(max_epochs=1, num_sanity_val_steps=0)
    loader = DataLoader(Rows(batch), batch_size=12)
    with pytest.raises(ValueError, match=message):
        run.fit(module_of(network, **keywords), loader, loader)


@pytest.mark.parametrize("keywords", [{"input_key": 1}, {"input_key": [1]}, {"target_key": ["y"]}, {"mask_key": 2}])
def test_B2_keys_are_strings(keywords):
    with pytest.raises(TypeError, match=f"{next(iter(keywords))} must be a string"):
        module_of(Plain, **keywords)


@pytest.mark.parametrize("name", ["3", "4", "Hugging Face", "own keys"])
def test_B2_callbacks_and_check_model(name):
    network, batch, keywords, *_ = BATCHES[name]
    module = module_of(network, lightning_xent.CategoricalCrossEntropy(), **keywords)
    run = trainer(max_epochs=1, callbacks=[ClassWeighting(classes=3), CheckModel()], num_sanity_val_steps=0)
    loader = DataLoader(Rows(batch), batch_size=4)
    run.fit(module, loader, loader)
    counted = TARGET[MASK] if name in ("4", "own keys") else TARGET  # masked rows count nowhere
    assert module.loss.class_weight == pytest.approx(lightning_xent.class_weights(counted, classes=3))
    whole = next(iter(DataLoader(Rows(batch), batch_size=12)))
    assert lightning_xent.check_model(module, module.loss, whole) == []
    bad = lightning_xent.CategoricalCrossEntropy(from_logits=False)
    assert lightning_xent.check_model(module, bad, whole) != []


def test_B2_a_plain_network_with_a_dictionary():
    batch = {"input_ids": INPUTS, "attention_mask": ONES, "labels": TARGET}
    assert lightning_xent.check_model(HuggingFace(), lightning_xent.CategoricalCrossEntropy(), batch) == []


def test_B2_masked_rows_may_hold_anything():
    spoilt = torch.where(MASK[:, None], INPUTS, torch.nan)
    loss = lightning_xent.CategoricalCrossEntropy()
    batch = (spoilt, TARGET, None, MASK)
    assert lightning_xent.check_model(torch.nn.Identity(), loss, batch) == []
    assert lightning_xent.check_outputs(loss, spoilt, TARGET, mask=MASK) == []
    module = module_of(torch.nn.Identity)
    module.log, module.trainer = lambda *given, **options: None, SimpleNamespace()
    want = loss(INPUTS[MASK], TARGET[MASK])
    torch.testing.assert_close(module.validation_step(batch, 0), want)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "names",
    [np.array(["a", "b", "c"]), ("a", "b", "c"), {"a": 0, "b": 1, "c": 2}.keys()],
    ids=["array", "tuple", "keys"],
)
def test_B3_checkpoints_with_any_names_load_with_weights_only(tmp_path, names, package):
    module = module_of(Plain, package=package, class_names=names, input_key=("inputs",), target_key=np.str_("labels"))
    run = quiet(package, max_epochs=1, num_sanity_val_steps=0)
    loader = DataLoader(Rows({"inputs": INPUTS, "labels": TARGET}), batch_size=4)
    run.fit(module, loader, loader)
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = type(module).load_from_checkpoint(tmp_path / "last.ckpt", network=Plain(), weights_only=True)
    assert loaded.class_names == ["a", "b", "c"]
    assert {type(name) for name in loaded.class_names} == {str}
    assert loaded.batch_keys == module.batch_keys
    assert loaded.batch_keys.input == ["inputs"]
