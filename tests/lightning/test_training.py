"""XentModule in situations of users: memory, process groups, other batches, checkpoints. Named after found faults."""

import importlib
import sys

import pytest
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric

import examples
import lightning_xent
from benchmarks.memory import torch_cpu
from lightning_xent.metrics import EpochMean, Report, predictions
from lightning_xent.module import XentModule

PACKAGES = {"pytorch_lightning": "lightning_xent.module", "lightning.pytorch": "lightning_xent.lightning"}
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(20, 3, generator=GENERATOR)
TARGET = torch.randint(-1, 3, (20,), generator=GENERATOR)
LOSS = {"loss": "CategoricalCrossEntropy", "config": {"ignore_index": -1}}


@pytest.fixture(params=PACKAGES)
def package(request):
    """One of the two packages."""
    return importlib.import_module(request.param)


def module_class(package):
    return importlib.import_module(PACKAGES[package.__name__]).XentModule


def module_of(package, loss=LOSS, outputs=3, **keywords):
    torch.manual_seed(0)
    return module_class(package)(torch.nn.Linear(3, outputs), loss, **keywords)


def trainer_of(package, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return package.Trainer(accelerator="cpu", **{**quiet, "enable_model_summary": False, **options})


def loader(rows=slice(None), batch=4):
    return DataLoader(TensorDataset(INPUTS[rows], TARGET[rows]), batch_size=batch)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)


@pytest.mark.parametrize("name", examples.CLASSES)
def test_predictions_are_those_of_probabilities(name):
    loss = examples.build(name, **({} if name == "ArcFaceCrossEntropy" else {"temperature": 2.0}))
    logits, target = (torch.tensor(array) for array in examples.inputs(name))
    wanted, found = loss.probabilities(logits), predictions(loss, logits, target)
    if not examples.is_binary(name):
        wanted, predicted = wanted.max(-1)
        assert found.predicted.tolist() == predicted.tolist()
    torch.testing.assert_close(found.confidence, wanted)


CLASSES = 20_000
LOSSES = {
    "labels": lightning_xent.CategoricalCrossEntropy(),
    "tokens": lightning_xent.CategoricalCrossEntropy(axis=-1),
    "focal, bounded": lightning_xent.CategoricalFocalCrossEntropy(temperature=2.0, softcap=30.0),
    "smoothed": lightning_xent.CategoricalCrossEntropy(label_smoothing=0.1, ignore_index=3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_C3_memory_of_a_validation_batch(name):
    """Beside its logits: parts of them, never all as exponentials, probabilities or in another dtype."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 16, CLASSES) if name == "tokens" else (64, CLASSES)
    logits = torch.randn(shape, generator=generator)
    target = torch.randint(0, CLASSES, shape[:-1], generator=generator)
    module = XentModule(torch.nn.Identity(), LOSSES[name]).eval()
    with torch.no_grad():
        module.validation_step((logits, target), 0)
        peak = torch_cpu(lambda: module.validation_step((logits, target), 0))
    assert peak <= 0.3 * logits.numel() * logits.element_size()


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("classes", [1, 3, 1001])
def test_A2_every_state_is_a_sum_on_the_device(is_binary, classes):
    """NCCL gathers neither lists that lie on the CPU nor parts of different sizes."""
    metrics = [each for each in Report(is_binary, classes).modules() if isinstance(each, Metric)]
    assert len(metrics) >= 3
    for metric in metrics:
        assert not metric.compute_on_cpu
        for state in metric.metric_state.values():
            assert isinstance(state, torch.Tensor)


def gathered(rank, port, results):
    """Two reports on one GPU whose group has no backend for tensors on the CPU, as that of NCCL."""
    torch.distributed.init_process_group("cuda:gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    report = Report(False, 2).to("cuda")
    logits = torch.tensor([[3.0, 0.0], [60.0, 0.0], [60.0, 0.0]], device="cuda")[rank::2]
    report.update(predictions(LOSSES["labels"], logits, torch.tensor([0, 1, 0], device="cuda")[rank::2]))
    results[rank] = report.compute()["ece"].item()
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a group for CUDA tensors alone needs such tensors")
def test_A2_a_process_group_for_cuda_tensors_alone():
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(gathered, (29_511, results), nprocs=2)
        assert dict(results) == {0: pytest.approx(0.317525, abs=1e-6), 1: pytest.approx(0.317525, abs=1e-6)}


def test_A2_a_report_by_hand():
    """Two hits, confidences of sigmoid(3) + 2, all in the last bin."""
    report = Report(False, 2)
    logits, target = torch.tensor([[3.0, 0.0], [60.0, 0.0], [60.0, 0.0]]), torch.tensor([0, 1, 0])
    report.update(predictions(LOSSES["labels"], logits, target))
    assert report.compute()["ece"].item() == pytest.approx((torch.tensor(3.0).sigmoid().item() + 2 - 2) / 3, abs=1e-6)


def test_A2_means_of_many_rows_keep_count():
    mean = EpochMean()
    for total, denominator in ((2.0**24, 2.0**24), (0.0, 1.0), (0.0, 1.0), (3.0, 1.0)):
        mean.update(torch.tensor(total), torch.tensor(denominator))
    assert mean.compute().item() == pytest.approx((2**24 + 3) / (2**24 + 3), rel=1e-7)


def test_A2_tails_of_the_report():
    """-log p of 1 - 1e-10 and of 1e-10, which a softmax in float32 would round to 0 and lose."""
    m = torch.tensor(23.0, dtype=torch.float64)
    logits, target = torch.tensor([[23.0, 0.0], [23.0, 0.0]]), torch.tensor([0, 1])
    for row in (0, 1):
        report = Report(False, 2)
        report.update(predictions(LOSSES["labels"], logits[row : row + 1], target[row : row + 1]))
        want = torch.nn.functional.softplus(-m if row == 0 else m).item()
        assert report.compute()["nll"].item() == pytest.approx(want, rel=1e-6)


class Kept:
    """A logger's scalars."""

    def __init__(self):
        self.scalars = []

    def __call__(self, metrics, step=None):
        self.scalars.append((step, dict(metrics)))


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_C2_the_loss_of_each_step_is_that_of_all_its_rows(package, accumulate, reduction, tmp_path):
    """With a learning rate of 0; the last step of the epoch has fewer micro-batches."""
    config = {**LOSS["config"], "class_weight": [1, 2, 4], "reduction": reduction}
    module = module_of(package, {**LOSS, "config": config}, optimizer=lambda given: torch.optim.SGD(given, lr=0.0))
    csv = importlib.import_module(f"{package.__name__}.loggers").CSVLogger(tmp_path)
    options = {"logger": csv, "log_every_n_steps": 1, "accumulate_grad_batches": accumulate, "max_epochs": 1}
    seen, logged = Kept(), csv.log_metrics
    csv.log_metrics = lambda metrics, step=None: (seen(metrics, step), logged(metrics, step))
    run = trainer_of(package, num_sanity_val_steps=0, **options)
    run.fit(module, loader(), loader())
    got = [metrics["train_loss_step"] for _, metrics in seen.scalars if "train_loss_step" in metrics]
    rows = 4 * accumulate
    want = [
        module.loss(module.network(INPUTS[start : start + rows]), TARGET[start : start + rows]).item()
        for start in range(0, 20, rows)
    ]
    assert got == pytest.approx(want, rel=1e-5)
    whole = module.loss(module.network(INPUTS), TARGET).item()
    assert run.callback_metrics["train_loss"].item() == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
def test_C4_every_loader_has_its_own_values(package, stage, capsys):
    parts = [slice(0, 7), slice(7, 20), slice(0, 20)]
    module = module_of(package, optimizer=lambda given: torch.optim.SGD(given, lr=0.0))
    loaders = [loader(part) for part in parts]
    if stage == "fit":
        run = trainer_of(package, max_epochs=2)
        run.fit(module, loader(), loaders)
        found = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("val")}
        capsys.readouterr()
        prefix = "val"
    else:
        results = getattr(trainer_of(package), stage)(module, loaders)
        printed = capsys.readouterr().out
        # Each dictionary holds the values of its loader alone, and so does each column that Lightning prints.
        prefix = {"validate": "val", "test": "test"}[stage]
        for index, result in enumerate(results):
            assert all(name.endswith(f"/dataloader_idx_{index}") for name in result)
            assert module.report.split("\n\n")[index] in printed
        found = {name: value for result in results for name, value in result.items()}
    want = {}
    for index, part in enumerate(parts):
        one = trainer_of(package)
        (values,) = getattr(one, "test" if prefix == "test" else "validate")(module, loader(part), verbose=False)
        want |= {f"{name}/dataloader_idx_{index}": value for name, value in values.items()}
    assert len(want) == 3 * len(values)
    assert found == pytest.approx(want, rel=1e-5)
    assert found[f"{prefix}_loss/dataloader_idx_0"] != found[f"{prefix}_loss/dataloader_idx_1"]


def test_C4_callbacks_monitor_a_loader(package):
    stop = package.callbacks.EarlyStopping("val_nll/dataloader_idx_1")
    run = trainer_of(package, max_epochs=1, callbacks=[stop])
    run.fit(module_of(package), loader(), [loader(slice(0, 7)), loader(slice(7, 20))])
    assert stop.best_score == run.callback_metrics["val_nll/dataloader_idx_1"]


class Doubled(lightning_xent.CategoricalCrossEntropy):
    """A loss of a user."""

    def curve(self, log_odds):
        return 2 * super().curve(log_odds)


def saved(package, folder, **keywords):
    """The path of a checkpoint of a module after an epoch."""
    run = trainer_of(package, max_epochs=1)
    run.fit(module_of(package, **keywords), loader(), loader())
    run.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_C9_a_loss_class_of_a_user(package, tmp_path):
    path = saved(package, tmp_path, loss=Doubled(ignore_index=-1))
    load, given = module_class(package).load_from_checkpoint, {"network": torch.nn.Linear(3, 3), "weights_only": True}
    with pytest.raises(ValueError, match=r"no spec of Doubled, which is not a class of lightning_xent: pass loss="):
        load(path, **given)
    assert isinstance(load(path, loss=Doubled(), **given).loss, Doubled)


# LightningCLI itself calls what jsonargparse deprecates.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize("by_path", [False, True], ids=["XentModule", "class_path"])
def test_C9_a_loss_class_of_a_user_in_a_config(package, tmp_path, monkeypatch, by_path):
    """A config has the path of the class, and so has its checkpoint; a callback may have set the weights."""
    network = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 3}}
    model = {"network": network, "loss": {"class_path": f"{__name__}.Doubled", "init_args": {"ignore_index": -1}}}
    options = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False}
    config = {"seed_everything": 0, "trainer": {**options, "default_root_dir": str(tmp_path)}, "model": model}
    monkeypatch.setattr(sys, "argv", ["train"])
    cli = importlib.import_module(f"{package.__name__}.cli").LightningCLI
    kind = module_class(package)
    if by_path:
        config["model"] = {"class_path": f"{PACKAGES[package.__name__]}.XentModule", "init_args": model}
        run = cli(args=config, run=False, save_config_callback=None)
    else:
        run = cli(kind, args=config, run=False, save_config_callback=None)
    run.model.loss.set_class_weight([1.0, 2.0, 3.0])
    run.trainer.fit(run.model, loader(), loader())
    run.trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = kind.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert isinstance(loaded.loss, Doubled)
    assert loaded.loss.get_config() == {"ignore_index": -1, "class_weight": [1.0, 2.0, 3.0]}


ONWARD = {
    "another optimizer": ({"optimizer": sgd}, {}, r"optimizer must be passed .* SGD \(lr=0\.5\), .* optimizer=\.\.\."),
    "its defaults": ({"optimizer": lambda given: torch.optim.AdamW(given, lr=0.1)}, {}, r"AdamW \(lr=0\.1\)"),
    "a scheduler": (
        {"optimizer": sgd, "scheduler": halving},
        {},
        "optimizer and scheduler must be .* SGD .* and StepLR, .* pass optimizer=... and scheduler=...",
    ),
    "a scheduler alone": ({"optimizer": sgd, "scheduler": halving}, {"optimizer": sgd}, "scheduler must .* StepLR"),
    "none was given": ({}, {}, None),
    "both again": ({"optimizer": sgd, "scheduler": halving}, {"optimizer": sgd, "scheduler": halving}, None),
}


@pytest.mark.parametrize("name", ONWARD)
@pytest.mark.parametrize("resumes", [False, True], ids=["loaded", "resumed"])
def test_A12_training_goes_on_with_the_optimizer_or_says_so(package, tmp_path, name, resumes):
    before, after, message = ONWARD[name]
    path = saved(package, tmp_path, **before)
    if resumes:
        module, keywords = module_of(package, **after), {"ckpt_path": path}
    else:
        module, keywords = module_class(package).load_from_checkpoint(path, network=torch.nn.Linear(3, 3), **after), {}
    run = trainer_of(package, max_epochs=1 if resumes else 2)
    if message is None:
        run.fit(module, loader(), loader(), **keywords)
        return
    with pytest.warns(UserWarning, match=message):
        run.fit(module, loader(), loader(), **keywords)


def test_A12_a_loaded_module_that_does_not_train_is_silent(package, tmp_path):
    path = saved(package, tmp_path, optimizer=sgd)
    module = module_class(package).load_from_checkpoint(path, network=torch.nn.Linear(3, 3), weights_only=True)
    trainer_of(package).validate(module, loader(), verbose=False)
    trainer_of(package).predict(module, loader())


NO_FUNCTIONS = {
    "a name": (
        {"optimizer": "adam"},
        r"optimizer must be a function of the parameters, .*AdamW, lr=1e-3\), got 'adam'",
    ),
    "an optimizer": (
        {"optimizer": sgd([torch.zeros(1)])},
        "optimizer must be a function of the parameters, .* got SGD",
    ),
    "a scheduler's name": ({"scheduler": "step"}, "scheduler must be a function of the optimizer, got 'step'"),
    "another loss": (
        {"loss": torch.nn.CrossEntropyLoss()},
        r"loss must be a loss of lightning_xent.* got CrossEntropyLoss\(\)",
    ),
    "a function": (
        {"loss": torch.nn.functional.cross_entropy},
        "loss must be a loss of lightning_xent, its spec or its name, got <function cross_entropy",
    ),
    "a class": ({"loss": torch.nn.CrossEntropyLoss}, "got the class CrossEntropyLoss: call it"),
    "a network that is a function": (
        {"network": len},
        r"network must be a torch\.nn\.Module, got <built-in function len>",
    ),
}


@pytest.mark.parametrize("name", NO_FUNCTIONS)
def test_C9_arguments_that_are_no_functions(package, name):
    keywords, message = NO_FUNCTIONS[name]
    with pytest.raises(TypeError, match=message):
        module_class(package)(**{"network": torch.nn.Linear(3, 3), "loss": LOSS} | keywords)


def test_C9_an_optimizer_that_is_none(package):
    module = module_of(package, optimizer=lambda parameters: list(parameters))
    with pytest.raises(TypeError, match="optimizer must be a function of the parameters that returns an optimizer"):
        trainer_of(package, max_epochs=1).fit(module, loader(), loader())


@pytest.mark.parametrize(("classes", "lines"), [(3, 3), (20, 20), (21, 0), (1001, None)])
def test_what_is_printed_of_many_classes(package, classes, lines, capsys):
    """Up to 20 classes have a line, the logger has all; with more, there is the perplexity."""
    module = module_of(package, outputs=classes)
    (found,) = trainer_of(package).validate(module, loader(), verbose=False)
    printed = capsys.readouterr().out.splitlines()
    if lines is None:
        assert len(printed) == 1
    if classes > 20:
        assert found["val_perplexity"] == pytest.approx(torch.tensor(found["val_nll"]).exp().item(), rel=1e-6)
    else:
        assert "val_perplexity" not in found
    if lines is None:
        return
    assert len(printed) == 1 + lines + 3 + (lines == 0)
    assert len(module.report.splitlines()) == 1 + classes + 3
