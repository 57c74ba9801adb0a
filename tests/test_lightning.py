"""What only torch and Lightning have: modules, configs, transforms of torch.func, inductor."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import DataLoader, TensorDataset

import examples
import lightning_xent
from examples import CLASSES
from lightning_xent.module import XentModule
from sides.lightning import EpochLosses, trainer

HAVE_LABELS = [name for name in CLASSES if name != "Distillation"]


def build(name, **config):
    return examples.build(name, classes=4, **config)


def inputs_of(name, dtype=torch.float64):
    logits, target = (torch.from_numpy(array) for array in examples.inputs(name, classes=4))
    target = target.to(dtype) if target.is_floating_point() else target
    return logits.to(dtype).requires_grad_(), target


@pytest.mark.parametrize("name", CLASSES)
def test_state_dict_is_empty_and_to_works(name):
    weights = {"pos_weight" if examples.is_binary(name) else "class_weight": [0.1, 1, 2, 3]}
    loss = build(name, **weights)
    want = loss(*inputs_of(name))
    assert loss.state_dict() == {}
    loss.load_state_dict({})
    for moved in (loss.to(torch.bfloat16), copy.deepcopy(loss).half(), loss.to("cpu", torch.float64)):
        # A float32 buffer would round the weight 0.1.
        assert moved(*inputs_of(name)) == want


@pytest.mark.parametrize("name", CLASSES)
def test_second_derivative(name):
    logits, target = inputs_of(name)
    loss = build(name, label_smoothing=0.1, **({} if name == "ArcFaceCrossEntropy" else {"temperature": 1.5}))
    assert torch.autograd.gradgradcheck(lambda logits: loss(logits, target), logits)


@pytest.mark.parametrize("name", CLASSES)
def test_transforms_of_torch_func(name):
    logits, target = inputs_of(name)
    loss = build(name)
    (want,) = torch.autograd.grad(loss(logits, target), logits)
    assert torch.equal(torch.func.grad(loss)(logits, target), want)
    rows = torch.func.vmap(loss)(logits.unsqueeze(1), target.unsqueeze(1))
    torch.testing.assert_close(rows.mean(), loss(logits, target))
    jacobian = torch.func.jacrev(build(name, reduction="none"))(logits, target)
    torch.testing.assert_close(jacobian.flatten(0, -3).sum(0) / jacobian[..., 0, 0].numel(), want)


@pytest.mark.parametrize("name", HAVE_LABELS)
def test_label_out_of_range_under_vmap_is_nan(name):
    logits, target = inputs_of(name)
    rows = torch.func.vmap(build(name))(logits.detach().unsqueeze(1), target.unsqueeze(1) + 4)
    assert rows.isnan().all()


FOCAL = [name for name in CLASSES if "Focal" in name]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FOCAL else [pytest.mark.slow]) for name in CLASSES]
)
def test_inductor_gives_the_same(name):
    loss = build(name, ignore_index=1, hard_fraction=0.75)
    logits, target = inputs_of(name, torch.float32)
    (want,) = torch.autograd.grad(loss(logits, target), logits)
    torch._dynamo.reset()
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(logits, target), logits)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_any_number_of_classes_compiles_once():
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    loss = torch.compile(lightning_xent.CategoricalCrossEntropy(), fullgraph=True, backend=counter)
    for classes in range(3, 20):
        loss(torch.randn(8, classes), torch.randint(0, classes, (8,)))
    assert counter.frame_count <= 2


def test_traced_module_gives_nan_for_labels_it_did_not_see():
    loss = lightning_xent.CategoricalCrossEntropy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and warns of every Python value
        traced = torch.jit.trace(loss, (torch.zeros(2, 3), torch.tensor([0, 1])))
    assert traced(torch.zeros(2, 3), torch.tensor([0, 7])).isnan()


def test_ignored_rows_hide_their_nan_from_every_gradient():
    logits = torch.tensor([[0.5, 1.0], [torch.nan, -torch.inf]], requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    target = torch.full((2, 2), 0.5, requires_grad=True)
    loss = lightning_xent.CategoricalFocalCrossEntropy()
    with torch.autograd.set_detect_anomaly(True, check_nan=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anomaly detection says that it is on
        loss(logits, target, sample_weight=weight, mask=torch.tensor([True, False])).backward()
    for tensor in (logits, weight, target):
        assert tensor.grad.isfinite().all()
        assert (tensor.grad[1] == 0).all()


def test_global_default_dtype_does_not_matter():
    torch.set_default_dtype(torch.float64)
    try:
        loss = lightning_xent.CategoricalCrossEntropy(check_labels=False)
        assert loss(torch.zeros(2, 3, dtype=torch.float32), torch.tensor([0, 1])).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_autocast_computes_in_float32():
    logits, target = inputs_of("CategoricalCrossEntropy", torch.bfloat16)
    loss = lightning_xent.CategoricalCrossEntropy()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(logits, target)
    assert inside.dtype == torch.float32
    assert inside == loss(logits, target)


def test_class_axis_is_torchs_own():
    logits = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        lightning_xent.CategoricalCrossEntropy()(logits, target), torch.nn.functional.cross_entropy(logits, target)
    )


def data(rows=20):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 3, generator=generator), torch.randint(0, 3, (rows,), generator=generator)


def loader():
    return DataLoader(TensorDataset(*data()), batch_size=8)


def test_epoch_loss_is_the_weighted_mean_of_all_rows():
    """Batches of 8, 8 and 4 rows with unequal class weights: the mean of the batches' losses is another number."""
    inputs, target = data()
    loss = lightning_xent.CategoricalCrossEntropy(class_weight=[0.1, 1, 9], reduction="weighted_mean", ignore_index=1)
    torch.manual_seed(0)
    module = XentModule(torch.nn.Linear(3, 3), loss, lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    losses = EpochLosses()
    trainer(max_epochs=1, callbacks=[losses]).fit(module, loader(), loader())
    want = loss(module(inputs), target).item()
    means = np.mean([loss(module(inputs[i : i + 8]), target[i : i + 8]).item() for i in (0, 8, 16)])
    assert losses.values == pytest.approx([want], rel=1e-6)
    assert losses.values != pytest.approx([means], rel=1e-3)


@pytest.mark.parametrize(
    ("config", "want"),
    [({"reduction": "sum"}, 20 * np.log(3)), ({"ignore_index": 9}, 0.0), ({"check_labels": False}, np.nan)],
    ids=["sum", "all ignored", "a label out of range"],
)
def test_epoch_loss_of_any_batches(config, want):
    module = XentModule(torch.nn.Linear(3, 3), lightning_xent.CategoricalCrossEntropy(**config))
    torch.nn.init.zeros_(module.network.weight)
    torch.nn.init.zeros_(module.network.bias)
    inputs, target = data()
    target = target if config == {"reduction": "sum"} else torch.full_like(target, 9)
    batches = DataLoader(TensorDataset(inputs, target), batch_size=8)
    got = trainer().validate(module, batches, verbose=False)[0]["val_loss"]
    assert got == pytest.approx(want, rel=1e-6, nan_ok=True)


def test_module_refuses_a_loss_that_does_not_reduce():
    with pytest.raises(ValueError, match=r'loss must have the reduction .* got "none"'):
        XentModule(torch.nn.Linear(3, 3), lightning_xent.CategoricalCrossEntropy(reduction="none"))


CONFIG = """
seed_everything: 0
trainer: {{max_epochs: 1, accelerator: cpu, logger: false, enable_checkpointing: false, enable_progress_bar: false,
  enable_model_summary: false}}
model:
  network: {{class_path: torch.nn.Linear, init_args: {{in_features: 3, out_features: 3}}}}
  loss: {loss}
  optimizer: {{class_path: torch.optim.SGD, init_args: {{lr: 0.1}}}}
"""
GOOD = [
    "{class_path: lightning_xent.CategoricalFocalCrossEntropy, init_args: {gamma: 3, class_weight: [1, 2, 3]}}",
    "{loss: CategoricalFocalCrossEntropy, config: {gamma: 3, class_weight: [1, 2, 3]}}",
]
BAD = [
    ("{class_path: lightning_xent.CategoricalFocalCrossEntropy, init_args: {gama: 3}}", "gama"),
    ("{class_path: lightning_xent.CategoricalFocalCrossEntropy, init_args: {gamma: much}}", "gamma"),
    ("{loss: CategoricalFocalCrossEntropy, config: {gama: 3}}", "'gama' is no keyword"),
    ("{loss: FocalLoss}", "loss must be one of"),
]


def run_cli(loss, folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train"])
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(loss=loss), encoding="utf-8")
    return LightningCLI(XentModule, args=[f"--config={path}"], run=False, save_config_callback=None)


# LightningCLI itself calls what jsonargparse deprecates.
from_lightning_cli = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@from_lightning_cli
@pytest.mark.parametrize("loss", GOOD, ids=["class_path", "spec"])
def test_cli_builds_and_trains_from_yaml(loss, tmp_path, monkeypatch):
    cli = run_cli(loss, tmp_path, monkeypatch)
    assert cli.model.loss.get_config() == {"gamma": 3.0, "class_weight": [1.0, 2.0, 3.0]}
    cli.trainer.fit(cli.model, loader(), loader())
    assert torch.isfinite(cli.trainer.callback_metrics["train_loss"])


@from_lightning_cli
@pytest.mark.parametrize(("loss", "message"), BAD)
def test_cli_refuses_a_wrong_loss_before_training(loss, message, tmp_path, monkeypatch, capsys):
    with pytest.raises((SystemExit, ValueError, TypeError)) as caught:
        run_cli(loss, tmp_path, monkeypatch)
    assert message in str(caught.value) + capsys.readouterr().err
