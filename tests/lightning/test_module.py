"""XentModule on both packages: metrics, the report, schedulers, checkpoints, TensorBoard, torch.compile."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from sklearn import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset

import lightning_xent
from lightning_xent.metrics import EpochMean, Report, predictions, table

PACKAGES = {"pytorch_lightning": "lightning_xent.module", "lightning.pytorch": "lightning_xent.lightning"}


@pytest.fixture(params=PACKAGES)
def package(request):
    """One of the two packages."""
    return importlib.import_module(request.param)


def module_class(package):
    return importlib.import_module(PACKAGES[package.__name__]).XentModule


def trainer_of(package, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return package.Trainer(accelerator="cpu", **{**quiet, "enable_model_summary": False, **options})


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


def drawn(*shape, classes=None):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator) if classes is None else labels(shape, classes, generator)


def labels(shape, classes, generator):
    return torch.randint(0, classes, shape, generator=generator)


def partly(target):
    """Ignore a fifth of the labels."""
    target.view(-1)[::5] = -1
    return target


ADJUSTED = {"class_counts": [4, 3, 2, 1]}
CATEGORICAL = {
    "multi-class": ("CategoricalCrossEntropy", {"ignore_index": -1}, drawn(40, 4), partly(drawn(40, classes=4))),
    "sequence": ("CategoricalCrossEntropy", {"ignore_index": -1}, drawn(9, 4, 6), partly(drawn(9, 6, classes=4))),
    "segmentation": ("CategoricalCrossEntropy", {}, drawn(9, 4, 6, 5), drawn(9, 6, 5, classes=4)),
    "soft targets": ("CategoricalCrossEntropy", {}, drawn(40, 4), drawn(40, 4).flip(0).softmax(-1)),
    "probabilities": (
        "CategoricalCrossEntropy",
        {"from_logits": False},
        drawn(40, 4).softmax(-1),
        drawn(40, classes=4),
    ),
    "another curve": ("CategoricalFocalCrossEntropy", {"temperature": 0.5}, drawn(40, 4), drawn(40, classes=4)),
    "cosines": ("CosFaceCrossEntropy", {"scale": 8.0}, drawn(40, 4).tanh(), drawn(40, classes=4)),
    "adjusted": ("LogitAdjustedCrossEntropy", ADJUSTED, drawn(40, 4), drawn(40, classes=4)),
    "a class that never is": ("CategoricalCrossEntropy", {}, drawn(40, 4), drawn(40, classes=3)),
    "views": ("JensenShannonConsistency", {"views": 2}, drawn(40, 8), drawn(40, classes=4)),
    "distilled": ("Distillation", {"alpha": 1.0}, drawn(40, 4), drawn(40, 4).flip(0)),
}
BINARY = {
    "binary": ("BinaryCrossEntropy", {"ignore_index": -1}, drawn(40), partly(drawn(40, classes=2))),
    "binary in a column": ("BinaryCrossEntropy", {"temperature": 2.0}, drawn(40, 1), drawn(40, classes=2)),
    "a mask of pixels": ("BinaryFocalCrossEntropy", {}, drawn(9, 6, 5), drawn(9, 6, 5, classes=2)),
    "multi-label": ("BinaryCrossEntropy", {"ignore_index": -1}, drawn(40, 3), partly(drawn(40, 3, classes=2)).float()),
    "soft labels": ("BinaryCrossEntropy", {}, drawn(40, 3), 0.1 + 0.8 * drawn(40, 3, classes=2)),
}


def calibration_error(confidence, is_right):
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    gaps = [abs((is_right - confidence)[bins == index].sum()) for index in range(15)]
    return sum(gaps) / len(confidence)


def wanted(name, logits, target, weight):
    """The metrics of a case by scikit-learn, and the means over classes that have a row or a prediction."""
    _, config, *_ = (CATEGORICAL | BINARY)[name]
    x, t = logits.double().numpy(), target.numpy()
    if name in BINARY:
        x = x.reshape(t.shape) / config.get("temperature", 1)
        kept = (t != -1) & (np.reshape(weight, (-1,) + (1,) * (t.ndim - 1)) > 0)
        p, t = 1 / (1 + np.exp(-x)), t >= 0.5
        of_label = [(t[:, i][kept[:, i]], p[:, i][kept[:, i]] > 0.5) for i in range(3)] if t.shape[1:] == (3,) else None
        p, t = p[kept], t[kept]
        found = {"accuracy": metrics.accuracy_score(t, p > 0.5), "nll": metrics.log_loss(t, p)}
        found["ece"] = calibration_error(p, t)  # of label 1, as in torchmetrics
        if of_label:
            scores = [metrics.precision_recall_fscore_support(*pair, average="binary")[:3] for pair in of_label]
            rows = [pair[0].sum() for pair in of_label]
            return found | means(np.array(scores), np.array(rows))
        scores = metrics.precision_recall_fscore_support(t, p > 0.5, average="binary")[:3]
        return found | dict(zip(("precision", "recall", "f1"), scores, strict=True))
    x = np.moveaxis(x, 1, -1)
    kept = np.broadcast_to(np.reshape(weight, (-1,) + (1,) * (x.ndim - 2)) > 0, x.shape[:-1])
    t = t.argmax(-1) if t.dtype.kind == "f" else t
    kept = kept & (t != -1)
    x, t = x[kept][:, :4], t[kept]
    x = np.log(x) if config.get("from_logits") is False else x * config.get("scale", 1) / config.get("temperature", 1)
    p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    found = {"accuracy": metrics.accuracy_score(t, p.argmax(-1)), "nll": metrics.log_loss(t, p, labels=range(4))}
    found["ece"] = calibration_error(p.max(-1), p.argmax(-1) == t)
    *scores, rows = metrics.precision_recall_fscore_support(t, p.argmax(-1), labels=range(4), zero_division=0)
    is_there = (rows > 0) | (np.bincount(p.argmax(-1), minlength=4) > 0)
    return found | means(np.stack(scores, -1), rows, is_there)


def means(scores, rows, is_there=True):
    found = {}
    for name, values in zip(("precision", "recall", "f1"), scores.T, strict=True):
        found |= {
            name: values[np.broadcast_to(is_there, rows.shape)].mean(),
            f"{name}_weighted": values @ rows / rows.sum(),
        }
        found |= {f"{name}_{index}": value for index, value in enumerate(values)}
    return found


@pytest.mark.parametrize("name", CATEGORICAL | BINARY)
def test_metrics_of_an_epoch(package, name):
    """Batches of 8 rows, the last of 1; two rows of weight 0."""
    loss, config, logits, target = (CATEGORICAL | BINARY)[name]
    logits, target = (tensor[: len(tensor) // 8 * 8 + 1] for tensor in (logits, target))
    weight = np.ones(len(logits), "float32")
    weight[[1, 3]] = 0
    module = module_class(package)(torch.nn.Identity(), {"loss": loss, "config": config})
    batches = DataLoader(TensorDataset(logits, target, torch.from_numpy(weight)), batch_size=8)
    (got,) = trainer_of(package).test(module, batches, verbose=False)
    want = {f"test_{key}": value for key, value in wanted(name, logits, target, weight).items()}
    assert {key: value for key, value in got.items() if key != "test_loss"} == pytest.approx(want, rel=2e-6)


def rows(count=20):
    return TensorDataset(drawn(count, 3), drawn(count, classes=3))


def loader(count=20):
    return DataLoader(rows(count), batch_size=8)


def fitted(package, loss=None, **options):
    """A linear model after two epochs, and its trainer."""
    torch.manual_seed(0)
    keywords = {name: options.pop(name) for name in ("scheduler", "scheduler_config", "class_names") if name in options}
    loss = lightning_xent.CategoricalCrossEntropy() if loss is None else loss
    module = module_class(package)(torch.nn.Linear(3, 3), loss, sgd, **keywords)
    trainer = trainer_of(package, max_epochs=2, **options)
    trainer.fit(module, loader(), loader())
    return module, trainer


def test_accuracy_of_training_is_that_of_all_rows(package):
    """With a learning rate of 0 each epoch sees the same network."""
    target = partly(drawn(20, classes=3))
    network = torch.nn.Linear(3, 3)
    module = module_class(package)(
        network,
        {"loss": "CategoricalCrossEntropy", "config": {"ignore_index": -1}},
        lambda p: torch.optim.SGD(p, lr=0.0),
    )
    trainer = trainer_of(package, max_epochs=1)
    trainer.fit(module, DataLoader(TensorDataset(drawn(20, 3), target), batch_size=8), loader())
    is_right = network(drawn(20, 3)).argmax(-1) == target
    assert trainer.callback_metrics["train_accuracy"] == pytest.approx(is_right[target != -1].float().mean().item())


@pytest.mark.parametrize("class_names", [None, ["setosa", "versicolor", "virginica"]])
def test_report_is_printed_when_fit_validate_and_test_end(package, class_names, capsys):
    module, trainer = fitted(package, class_names=class_names)
    printed = [capsys.readouterr().out]
    for stage in (trainer.validate, trainer.test):
        stage(module, loader(), verbose=False)
        printed.append(capsys.readouterr().out)
    names = class_names or ["0", "1", "2"]
    for text in printed:
        lines = [line.split() for line in module.report.splitlines()]
        assert text == module.report + "\n"
        assert [line[0] for line in lines] == ["precision", *names, "macro", "weighted", "accuracy"]
    assert f"val_f1_{names[2]}" in trainer.callback_metrics or f"test_f1_{names[2]}" in trainer.callback_metrics
    predicted = module(drawn(20, 3)).argmax(-1)
    counts = np.bincount(drawn(20, classes=3), minlength=3)
    want = metrics.recall_score(drawn(20, classes=3), predicted, average=None)
    assert [(float(line[2]), int(line[4])) for line in lines[1:4]] == [
        (pytest.approx(recall, abs=1e-4), count) for recall, count in zip(want, counts, strict=True)
    ]


def test_many_classes_are_not_logged_one_by_one(package):
    module = module_class(package)(torch.nn.Linear(3, 21), lightning_xent.CategoricalCrossEntropy())
    (got,) = trainer_of(package).validate(module, loader(), verbose=False)
    assert sorted(got) == sorted(
        f"val_{name}"
        for name in (
            *("loss", "accuracy", "nll", "ece", "precision", "recall", "f1"),
            *("precision_weighted", "recall_weighted", "f1_weighted", "perplexity"),
        )
    )
    assert len(module.report.splitlines()) == 1 + 21 + 3


def test_schedulers(package):
    _, trainer = fitted(package, scheduler=halving)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125
    _, trainer = fitted(package, scheduler=halving, scheduler_config={"interval": "step"})
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5 * 0.5**6

    def on_plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="min", patience=0, threshold=10.0)

    _, trainer = fitted(package, scheduler=on_plateau)
    assert trainer.lr_scheduler_configs[0].monitor == "val_loss"
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)  # no epoch is that much better


BAD = {
    "an unknown key of the scheduler": ({"scheduler_config": {"every": 1}}, "scheduler_config must .* got 'every'"),
    "too few names": ({"class_names": ["a", "b"]}, "class_names must have 3 names .* got 2"),
}


@pytest.mark.parametrize(("keywords", "message"), BAD.values(), ids=BAD)
def test_bad_keywords(package, keywords, message):
    with pytest.raises(ValueError, match=message):
        fitted(package, **keywords)


def test_a_module_goes_with_its_own_package(package):
    """What the packages themselves say of a mixture."""
    (other,) = PACKAGES.keys() - {package.__name__}
    module = importlib.import_module(PACKAGES[other]).XentModule(torch.nn.Linear(3, 3), "CategoricalCrossEntropy")
    with pytest.raises(TypeError, match="must be a `LightningModule`"):
        trainer_of(package, max_epochs=1).fit(module, loader())


WEIGHTED = {"class_weight": [0.1, 1.0, 9.0], "ignore_index": -1, "reduction": "weighted_mean"}


@pytest.mark.parametrize("weights_only", [True, False])
def test_checkpoint_of_plain_python(package, weights_only, tmp_path):
    loss = lightning_xent.CategoricalFocalCrossEntropy(gamma=3.0, **WEIGHTED)
    module, trainer = fitted(package, loss, class_names=["a", "b", "c"], scheduler=halving)
    module.loss.set_class_weight([1.0, 2.0, 3.0])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = module_class(package).load_from_checkpoint(
        tmp_path / "last.ckpt", network=torch.nn.Linear(3, 3), weights_only=weights_only
    )
    assert type(loaded.loss) is lightning_xent.CategoricalFocalCrossEntropy
    assert loaded.loss.get_config() == {"gamma": 3.0, **WEIGHTED, "class_weight": [1.0, 2.0, 3.0]}
    assert loaded.class_names == ["a", "b", "c"]
    for name, parameter in module.state_dict().items():
        assert torch.equal(parameter, loaded.state_dict()[name])


def test_checkpoint_of_a_loss_of_a_user(package, tmp_path):
    class Doubled(lightning_xent.CategoricalCrossEntropy):
        def curve(self, log_odds):
            return 2 * super().curve(log_odds)

    _, trainer = fitted(package, Doubled())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    load = module_class(package).load_from_checkpoint
    given = {"network": torch.nn.Linear(3, 3), "weights_only": True}
    assert isinstance(load(tmp_path / "last.ckpt", loss=Doubled(), **given).loss, Doubled)
    with pytest.raises(ValueError, match=r"no spec of Doubled, .* not a class of lightning_xent: pass loss=\.\.\."):
        load(tmp_path / "last.ckpt", **given)


CONFIG = """
seed_everything: 0
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  default_root_dir: {folder}
model:
  network: {{class_path: torch.nn.Linear, init_args: {{in_features: 3, out_features: 3}}}}
  loss: {{class_path: lightning_xent.CategoricalFocalCrossEntropy, init_args: {{class_weight: [0.5, 1, 2]}}}}
  optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.1}}}}
  scheduler: {{class_path: torch.optim.lr_scheduler.StepLR, init_args: {{step_size: 1}}}}
  class_names: [a, b, c]
"""
# LightningCLI itself calls what jsonargparse deprecates.
from_lightning_cli = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


def cli_of(package, monkeypatch, *arguments, **options):
    monkeypatch.setattr(sys, "argv", ["train"])
    cli = importlib.import_module(f"{package.__name__}.cli").LightningCLI
    return cli(module_class(package), args=list(arguments), **options)


@from_lightning_cli
def test_checkpoint_and_tensorboard_of_a_config(package, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    cli = cli_of(package, monkeypatch, f"--config={tmp_path / 'config.yaml'}", run=False)
    cli.trainer.fit(cli.model, loader(), loader())
    assert cli.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    loaded = module_class(package).load_from_checkpoint(checkpoint, weights_only=True)
    assert loaded.loss.get_config() == {"class_weight": [0.5, 1.0, 2.0]}
    assert torch.equal(loaded.network.weight, cli.model.network.weight)
    assert loaded.class_names == ["a", "b", "c"]
    optimizer = loaded.optimizer(loaded.parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    assert isinstance(loaded.scheduler(optimizer), torch.optim.lr_scheduler.StepLR)
    (events,) = tmp_path.rglob("events.out.*")
    found = EventAccumulator(str(Path(events).parent))
    found.Reload()
    scalars = found.Tags()["scalars"]
    assert {"train_loss", "train_accuracy", "val_loss", "val_f1", "val_f1_weighted", "val_f1_b"} <= set(scalars)
    assert found.Tags()["tensors"] == ["val_report/text_summary"]


@from_lightning_cli
def test_help_says_what_every_keyword_is(package, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        cli_of(package, monkeypatch, "fit", "--help")
    text = capsys.readouterr().out
    for keyword in ("network", "loss", "optimizer", "scheduler", "scheduler_config", "class_names"):
        assert f"--model.{keyword} " in text
    assert "Maps inputs to the input of the loss" in " ".join(text.split())
    with pytest.raises(SystemExit):
        cli_of(package, monkeypatch, "fit", "--model.loss.help=lightning_xent.CategoricalFocalCrossEntropy")
    text = capsys.readouterr().out
    assert "--model.loss.gamma" in text
    assert "Rows with this label are ignored" in " ".join(text.split())


# Dynamo asks the logits, which are no leaf, for their gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_network_and_loss(package):
    torch._dynamo.reset()
    torch.manual_seed(0)
    network, loss = torch.nn.Linear(3, 3), lightning_xent.CategoricalCrossEntropy(ignore_index=1)
    counters = [torch._dynamo.testing.CompileCounterWithBackend("aot_eager") for _ in range(2)]
    network = torch.compile(network, backend=counters[0], fullgraph=True)
    loss.parts = torch.compile(loss.parts, backend=counters[1], fullgraph=True)
    compiled = trainer_of(package, max_epochs=2)
    compiled.fit(module_class(package)(network, loss, sgd), loader(), loader())
    assert all(counter.frame_count > 0 for counter in counters)
    _, plain = fitted(package, lightning_xent.CategoricalCrossEntropy(ignore_index=1))
    for name in ("train_loss", "val_loss", "val_nll"):
        assert compiled.callback_metrics[name] == pytest.approx(plain.callback_metrics[name].item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(40,), (20, 2)])
def test_nan_of_an_ignored_row_spoils_no_metric(package, shape):
    logits, target = drawn(*shape), drawn(*shape, classes=2)
    spoilt, ignoring = logits.clone(), target.clone()
    spoilt[3], ignoring[3] = torch.nan, -1
    rest = torch.arange(len(logits)) != 3
    module = module_class(package)(torch.nn.Identity(), lightning_xent.BinaryCrossEntropy(ignore_index=-1))
    (got,) = trainer_of(package).validate(module, DataLoader(TensorDataset(spoilt, ignoring), 40), verbose=False)
    (want,) = trainer_of(package).validate(
        module, DataLoader(TensorDataset(logits[rest], target[rest]), 40), verbose=False
    )
    assert got == pytest.approx(want, rel=1e-6)


def test_an_epoch_that_failed_leaves_nothing_to_the_next(package):
    loss = {"loss": "CategoricalCrossEntropy"}
    bad = DataLoader(TensorDataset(drawn(20, 3), drawn(20, classes=3).index_fill(0, torch.tensor([19]), 7)), 8)
    torch.manual_seed(0)
    module = module_class(package)(torch.nn.Linear(3, 3), loss, lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    for run in (trainer_of(package).validate, trainer_of(package).test):
        (want,) = run(module, loader(), verbose=False)
        with pytest.raises(ValueError, match="target must hold"):
            run(module, bad, verbose=False)
        assert run(module, loader(), verbose=False) == [want]
    module.train()
    with pytest.raises(ValueError, match="target must hold"):
        trainer_of(package, max_epochs=1, num_sanity_val_steps=0).fit(module, bad, loader())
    trainer = trainer_of(package, max_epochs=1)
    trainer.fit(module, loader(), loader())
    for name in ("loss", "accuracy"):
        assert trainer.callback_metrics[f"train_{name}"].item() == pytest.approx(want[f"test_{name}"], rel=1e-6)


def test_an_epoch_of_many_rows_keeps_count():
    """float32 alone would stop at 2^24."""
    mean = EpochMean()
    mean.update(torch.tensor(2.0**25), torch.tensor(2.0**25))
    for _ in range(1000):
        mean.update(torch.tensor(3.0), torch.tensor(1.0))
    assert mean.compute().item() == pytest.approx((2**25 + 3000) / (2**25 + 1000), rel=1e-7)


def test_subclasses(package, tmp_path):
    """One with a training step of its own and a `loss` of another kind."""

    class Own(module_class(package)):
        def __init__(self, loss="plain"):
            super().__init__(torch.nn.Linear(3, 3), {"loss": "CategoricalCrossEntropy"}, sgd)
            self.save_hyperparameters()

        def training_step(self, batch, batch_index):
            inputs, target = batch
            return self.loss(self(inputs), target)

    torch.manual_seed(0)
    trainer = trainer_of(package, max_epochs=2)
    trainer.fit(Own(), loader(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = Own.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.hparams["loss"] == "plain"


def test_a_vocabulary_is_not_told_word_by_word():
    logits, target = drawn(40, 1001), drawn(40, classes=1001)
    target[::3] = logits[::3].argmax(1)
    target[:10] = -1
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=-1)
    report = Report(is_binary=False, classes=1001)
    report.update(predictions(loss, logits, target))
    values = report.compute()
    assert set(values) == {"accuracy", "nll", "ece"}
    assert values["accuracy"].item() == pytest.approx((logits.argmax(1) == target)[10:].float().mean().item())
    assert values["nll"].item() == pytest.approx(loss(logits, target).item())
    assert table(values).startswith("accuracy ")
    assert "\n" not in table(values)


# Lightning and torch deprecate TorchScript; networks are still deployed by it. It looks at all attributes of a metric.
SCRIPTING = "ignore:.*TorchScript is deprecated", "ignore:`torch.jit:DeprecationWarning"
SCRIPTING += ("ignore:This property will be removed in 2.0.0:DeprecationWarning",)


@pytest.mark.filterwarnings(*SCRIPTING)
def test_B14_a_module_is_traced_or_says_why_it_is_not_scripted(package, tmp_path):
    module = module_class(package)(torch.nn.Linear(3, 4), lightning_xent.CategoricalCrossEntropy())
    inputs = drawn(5, 3)
    for options in ({}, {"method": "script"}, {"file_path": tmp_path / "network.pt"}):
        with pytest.raises(ValueError, match=r'^method must be "trace", .*got "script".*torch.export.export\('):
            module.to_torchscript(**options)
    traced = module.to_torchscript(tmp_path / "network.pt", method="trace", example_inputs=inputs)
    loaded = torch.jit.load(tmp_path / "network.pt")
    exported = torch.export.export(module, (inputs,)).module()
    for each in (traced, loaded, torch.jit.script(module.network), exported):
        assert torch.equal(each(inputs), module(inputs))
    with pytest.raises(ValueError, match="example_inputs"):
        module.to_torchscript(method="trace")


@pytest.mark.filterwarnings(*SCRIPTING)
def test_B14_a_module_with_a_forward_of_its_own_is_scripted():
    from lightning_xent.module import XentModule

    class Module(XentModule):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.network(inputs)

    module = Module(torch.nn.Linear(3, 4), lightning_xent.CategoricalCrossEntropy())
    assert torch.equal(module.to_torchscript()(drawn(5, 3)), module(drawn(5, 3)))
