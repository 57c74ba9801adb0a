"""What only torch and Lightning have: modules, configs, transforms of torch.func, inductor."""

import ast
import copy
import itertools
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from pytorch_lightning.cli import LightningCLI
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from torch.utils.data import DataLoader, TensorDataset

import examples
import lightning_xent
from examples import CLASSES
from lightning_xent.kernels import blocks, labels
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


@pytest.mark.parametrize("block", [5, 2**18])
@pytest.mark.parametrize("name", CLASSES)
def test_second_derivative(monkeypatch, name, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    logits, target = inputs_of(name)
    options = {} if name == "ArcFaceCrossEntropy" else {"temperature": 1.5}
    if not examples.is_binary(name) and name != "OrdinalCrossEntropy":
        options |= {"z_loss": 0.25}
    loss = build(name, label_smoothing=0.1, entropy_penalty=0.1, **options)
    assert torch.autograd.gradgradcheck(lambda logits: loss(logits, target), logits)


@pytest.mark.parametrize("block", [5, 2**18])
@pytest.mark.parametrize("kind", ["labels", "smoothed", "soft"])
def test_a_second_gradient_of_a_graph_is_the_first(monkeypatch, kind, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    logits, target = inputs_of("CategoricalCrossEntropy", torch.float32)
    target = torch.softmax(logits.detach().flip(0), -1) if kind == "soft" else target
    loss = build("CategoricalCrossEntropy", label_smoothing=0.1 if kind == "smoothed" else 0.0)(logits, target)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0].clone() for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", CLASSES)
def test_transforms_of_torch_func(name):
    logits, target = inputs_of(name)
    loss = build(name)
    (want,) = torch.autograd.grad(loss(logits, target), logits)
    # Under a transform the kernel is plain operations, in another order.
    torch.testing.assert_close(torch.func.grad(loss)(logits, target), want, rtol=2e-15, atol=2e-15)
    rows = torch.func.vmap(loss)(logits.unsqueeze(1), target.unsqueeze(1))
    torch.testing.assert_close(rows.mean(), loss(logits, target))
    jacobian = torch.func.jacrev(build(name, reduction="none"))(logits, target)
    torch.testing.assert_close(jacobian.flatten(0, -3).sum(0) / jacobian[..., 0, 0].numel(), want)


@pytest.mark.parametrize("block", [5, 2**18])
@pytest.mark.parametrize("name", CLASSES)
def test_transforms_of_something_else_than_the_logits(name, block, monkeypatch):
    """Logits that train stand outside of the transform: it shows in no tensor that the loss gets."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    logits, target = inputs_of(name)
    loss, factors = build(name), torch.tensor([1.0, 3.0], dtype=torch.float64)
    value = loss(logits, target)
    torch.testing.assert_close(torch.func.vmap(lambda factor: factor * loss(logits, target))(factors), factors * value)
    rows = build(name, reduction="none")(logits, target)
    weights = torch.ones_like(rows, requires_grad=True)
    (want,) = torch.autograd.grad(loss(logits, target, sample_weight=weights), weights)
    # A new loss looks at its first input.
    of_weights = torch.func.grad(lambda weights: build(name)(logits, target, sample_weight=weights))(weights.detach())
    torch.testing.assert_close(of_weights, want)


# What torch.func.linearize does itself.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "SquaredEarthMoverDistance", "BinaryFocalCrossEntropy"])
def test_linearize(name):
    logits, target = inputs_of(name)
    loss = build(name)
    (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    value, slope = torch.func.linearize(lambda logits: loss(logits, target), logits.detach())
    torch.testing.assert_close(value, loss(logits, target).detach())
    torch.testing.assert_close(slope(torch.ones_like(logits)), gradient.sum())


class OfSome(torch.nn.Module):
    """A loss of the rows that a mask picks, whose number no trace knows."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, target, mask):
        return self.loss(logits[mask], target[mask])


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}, {"class_weight": [1, 2, 3]}])
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "CategoricalFocalCrossEntropy", "BinaryCrossEntropy"])
def test_export_of_an_unknown_number_of_rows(name, options):
    is_binary = examples.is_binary(name)
    if is_binary and "class_weight" in options:
        options = {"pos_weight": 2.0}
    logits, mask = torch.randn(8, 3), torch.arange(8) % 3 > 0
    target = torch.randint(0, 2, (8, 3)) if is_binary else torch.randint(0, 3, (8,))
    loss = build(name, **options)
    exported = torch.export.export(OfSome(loss), (logits, target, mask)).module()
    for chosen in (mask, ~mask):
        torch.testing.assert_close(exported(logits, target, chosen), loss(logits[chosen], target[chosen]))
    assert exported(logits, target, torch.zeros(8, dtype=bool)) == 0


@pytest.mark.parametrize("name", HAVE_LABELS)
def test_label_out_of_range_under_vmap_is_nan(name):
    logits, target = inputs_of(name)
    rows = torch.func.vmap(build(name))(logits.detach().unsqueeze(1), target.unsqueeze(1) + 4)
    assert rows.isnan().all()


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
    ("{loss: CategoricalFocalCrossEntropy, config: {gama: 3}}", "got an unexpected keyword argument 'gama'"),
    ("{loss: FocalLoss}", "loss must be the name of a loss, got 'FocalLoss': here it is Categor"),
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


LAYOUTS = {
    "rows": lambda: torch.randn(40, 7),
    "rows of a transposed tensor": lambda: torch.randn(7, 40).T,
    "class axis second": lambda: torch.randn(3, 5, 7, 4).movedim(2, 1).contiguous().movedim(1, -1),
    "class axis last": lambda: torch.randn(3, 5, 4, 7),
    "a slice": lambda: torch.randn(12, 5, 9)[::2, :, 1:8],
    "one image": lambda: torch.randn(1, 7, 30, 30).movedim(1, -1),
    "one row": lambda: torch.randn(7),
}


@pytest.mark.parametrize("block", [1, 50, 2**18])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_kernel_takes_every_layout_in_blocks(monkeypatch, layout, block, dtype):
    """Under a transform of torch.func there are no blocks."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    torch.manual_seed(0)
    logits = LAYOUTS[layout]().to(dtype)
    target, mask = torch.randint(0, 7, logits.shape[:-1]), torch.rand(logits.shape[:-1]) < 0.75
    logits[~mask] = torch.nan
    logits.requires_grad_()
    weights = [0.5, 0.0, 2.0, 1.0, 0.25, 3.0, 1.0]
    for config in ({}, {"label_smoothing": 0.25}, {"label_smoothing": 0.25, "class_weight": weights}):
        loss = lightning_xent.CategoricalCrossEntropy(axis=-1, reduction="sum", temperature=1.5, **config)
        want, want_value = torch.func.grad_and_value(partial(loss, target=target, mask=mask))(logits.detach())
        value = loss(logits, target, mask=mask)
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        tolerance = {} if dtype == torch.bfloat16 else {"rtol": 1e-13, "atol": 1e-14}
        torch.testing.assert_close(value, want_value)
        torch.testing.assert_close(gradient, want, **tolerance)
        assert gradient.dtype == dtype
        # The first gradient has taken the memory of the exponentials.
        assert torch.equal(torch.autograd.grad(value, logits)[0], gradient)


KERNEL = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.25, "temperature": 1.5},
    "smoothed and weighted": {"label_smoothing": 0.25, "class_weight": [0.5, 0.0, 2.0, 1.0]},
}


@pytest.mark.parametrize("config", KERNEL.values(), ids=KERNEL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_B7_the_passes_of_cuda_give_the_same(monkeypatch, config, dtype):
    """There is one block there, and no exponentials are kept."""
    torch.manual_seed(0)
    logits, target = torch.randn(30, 4).to(dtype).requires_grad_(), torch.randint(0, 4, (30,))
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=3, **config)
    monkeypatch.setattr(blocks, "BLOCK", 5)
    want, (want_gradient,) = (value := loss(logits, target)), torch.autograd.grad(value, logits)
    monkeypatch.setattr(blocks, "is_one_block", lambda x: True)
    statistics, gradient = labels._blockwise_statistics, labels._blockwise_gradient
    monkeypatch.setattr(labels, "_blockwise_statistics", lambda *given: statistics(*given[:4], None))
    monkeypatch.setattr(labels, "_blockwise_gradient", lambda *given: gradient(*given[:6], None))
    value = loss(logits, target)
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], want_gradient)


def test_B7_nothing_calls_a_compiler():
    """Where there is neither Triton nor a C++ compiler, torch.compile raises."""
    folder = Path(lightning_xent.__file__).parent
    sources = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
    assert "labels.py" in sources
    for name, tree in sources.items():
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert not any(call in ("torch.compile", "torch.jit.script") for call in calls), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", KERNEL.values(), ids=KERNEL)
def test_cuda_gives_the_same(config, dtype):
    torch.manual_seed(0)
    logits, target = torch.randn(30, 4).to(dtype), torch.randint(0, 4, (30,))
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=3, **config)
    found = []
    for device in ("cpu", "cuda"):
        leaf = logits.to(device, copy=True).requires_grad_()
        value = loss(leaf, target.to(device))
        found.append((value.cpu(), torch.autograd.grad(value, leaf)[0].cpu()))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


BINARY = {
    "cross-entropy": lambda: lightning_xent.BinaryCrossEntropy(pos_weight=[0.5, 2.0, 1.0]),
    "focal": lambda: lightning_xent.BinaryFocalCrossEntropy(alpha=0.25),
    "focal, gamma 0": lambda: lightning_xent.BinaryFocalCrossEntropy(gamma=0.0),
    "focal, flsd53": lambda: lightning_xent.BinaryFocalCrossEntropy(gamma="flsd53"),
    "poly": lambda: lightning_xent.BinaryPolyCrossEntropy(),
}


@pytest.mark.parametrize("build", BINARY.values(), ids=BINARY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_binary_curves_in_blocks(monkeypatch, build, dtype):
    """A soft target takes both sides of the curve, in one piece and by automatic differentiation."""
    monkeypatch.setattr(blocks, "BLOCK", 100)
    torch.manual_seed(0)
    logits = (6 * torch.randn(50, 3, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, 2, logits.shape)
    almost = torch.cat([target.double(), torch.full((1, 3), 0.5)])
    loss = build()
    loss.reduction = "sum"
    padded = torch.cat([logits, logits.new_zeros(1, 3)])
    want = loss(padded, almost) - loss(padded[50:], almost[50:])
    value = loss(logits, target.to(dtype))
    torch.testing.assert_close(value, want)
    (want_gradient,) = torch.autograd.grad(want, logits)
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    torch.testing.assert_close(gradient, want_gradient, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(torch.autograd.grad(value, logits, retain_graph=True)[0], gradient)
    assert torch.autograd.gradgradcheck(lambda logits: loss(logits, target[:34]), logits[:34].detach().requires_grad_())
    with torch.no_grad():
        assert loss(logits, target) == value


class Steep(lightning_xent.CategoricalPolyCrossEntropy):
    """A curve from outside the package, with a parameter of its own if it is given one."""

    steepness = 1.0

    def curve(self, log_odds):
        return torch.exp(-self.steepness * log_odds.clamp(-9, 9))


class SteepBinary(lightning_xent.BinaryFocalCrossEntropy):
    steepness = 1.0
    curve = Steep.curve


@pytest.mark.parametrize("kind", [Steep, SteepBinary])
def test_a_curve_from_outside_runs_in_blocks(monkeypatch, kind):
    """It keeps the logits, the target and the slopes, one tensor each; inside of a block it keeps small ones."""
    monkeypatch.setattr(blocks, "BLOCK", 100)
    logits, target, kept = torch.randn(60, 4, requires_grad=True), torch.rand(60, 4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        value = kind()(logits, target)
    assert sum(size >= logits.numel() for size in kept) <= 3
    want = kind()(logits.double(), target.double())
    torch.testing.assert_close(value.double(), want)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (value, want)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", [Steep, SteepBinary])
def test_a_parameter_of_a_curve_gets_its_gradient_from_any_number_of_logits(monkeypatch, kind):
    monkeypatch.setattr(blocks, "BLOCK", 100)
    logits, target = torch.randn(60, 4, dtype=torch.float64), torch.rand(60, 4, dtype=torch.float64)
    loss, gradients = kind(reduction="sum"), []
    for part in (slice(None), slice(10), slice(10, None)):
        loss.steepness = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        gradients += torch.autograd.grad(loss(logits[part], target[part]), loss.steepness)
    assert gradients[0] != 0
    small = [
        torch.autograd.grad(loss(row, mass), loss.steepness)[0]
        for row, mass in zip(logits.split(10), target.split(10), strict=True)
    ]
    torch.testing.assert_close(gradients[0], sum(small))
    torch.testing.assert_close(gradients[0], gradients[1] + gradients[2])


# Forward derivatives load decompositions that torch still scripts.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_forward_derivative():
    logits, target = inputs_of("CategoricalCrossEntropy")
    loss = lightning_xent.CategoricalCrossEntropy()
    (want,) = torch.autograd.grad(loss(logits, target), logits)
    direction = torch.ones_like(logits)
    direction[0] = 2.0
    with forward_ad.dual_level():
        value = loss(forward_ad.make_dual(logits.detach(), direction), target)
        torch.testing.assert_close(forward_ad.unpack_dual(value).tangent, (want * direction).sum())


BLOCKWISE = {
    "soft target": (lightning_xent.CategoricalCrossEntropy(), True),
    "regulariser": (lightning_xent.CategoricalCrossEntropy(z_loss=0.1), False),
    "binary": (lightning_xent.BinaryPolyCrossEntropy(), True),
}


@pytest.mark.parametrize(("loss", "is_soft"), BLOCKWISE.values(), ids=BLOCKWISE)
def test_blocks_where_no_gradient_is_wanted(monkeypatch, loss, is_soft):
    monkeypatch.setattr(blocks, "BLOCK", 5)
    logits = torch.randn(6, 4, requires_grad=True)
    target = torch.rand(6, 4) if is_soft else torch.randint(0, 4, (6,))
    want = loss(logits, target)
    with torch.inference_mode():
        assert loss(logits, target) == want
    with torch.no_grad():
        assert loss(logits, target) == want
    with torch.device("meta"):
        (gradient,) = torch.autograd.grad(loss(logits, target), logits)
    assert torch.equal(gradient, torch.autograd.grad(want, logits)[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "CategoricalPolyCrossEntropy", "BinaryCrossEntropy"])
def test_forward_derivative_in_the_target(monkeypatch, name):
    """The losses are linear in it."""
    monkeypatch.setattr(blocks, "BLOCK", 5)
    logits = torch.randn(6, 4, dtype=torch.float64)
    loss, target = build(name), torch.full((6, 4), 0.25, dtype=torch.float64)
    direction = torch.rand(6, 4, dtype=torch.float64) / 4
    with forward_ad.dual_level():
        value = loss(logits, forward_ad.make_dual(target, direction))
        tangent = forward_ad.unpack_dual(value).tangent
    torch.testing.assert_close(tangent, loss(logits, target + direction) - loss(logits, target))


def test_logits_changed_before_the_gradient_are_noticed():
    logits, target = inputs_of("CategoricalCrossEntropy")
    scores = logits * 1
    loss = lightning_xent.CategoricalCrossEntropy()(scores, target)
    scores.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("name", "dtype", "config"),
    [
        ("CategoricalCrossEntropy", torch.float32, {}),
        ("CategoricalCrossEntropy", torch.float32, {"label_smoothing": 0.1}),
        ("CategoricalCrossEntropy", torch.float32, {"ignore_index": 3, "class_weight": [0.5] * 4000}),
        ("CategoricalCrossEntropy", torch.bfloat16, {}),
        ("BinaryCrossEntropy", torch.float32, {}),
        ("BinaryCrossEntropy", torch.float32, {"label_smoothing": 0.1}),
    ],
    ids=["plain", "smoothed", "ignored and weighted", "bfloat16", "binary", "binary, smoothed"],
)
def test_peak_memory_is_that_of_the_gradient(name, dtype, config):
    """In units of the logits, beyond them; F.cross_entropy takes 2."""
    logits = torch.randn(2000, 4000).to(dtype).requires_grad_()
    loss = build(name, **config)
    target = (torch.rand(2000, 4000) < 0.1).float() if examples.is_binary(name) else torch.randint(0, 4000, (2000,))
    loss(logits, target)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.autograd.grad(loss(logits, target), logits)
    held = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(itertools.accumulate(held))
    assert 1.0 <= peak / (logits.numel() * logits.element_size()) <= 1.15


@pytest.mark.parametrize("is_soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"reduction": "sum"},
        {"reduction": "weighted_mean", "pos_weight": 3.0},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.1, "smooth_over": "others", "pos_weight": [1.0, 2.0, 0.0, 0.5]},
        {"temperature": 2.0, "entropy_penalty": 0.1},
        {"hard_fraction": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [name for name in CLASSES if examples.is_binary(name)])
def test_binary_losses_are_added_up_in_blocks(monkeypatch, name, config, is_soft):
    """The sum, the mean, the caller's denominator and the parts are those of the losses of the rows in one block."""
    logits = 4 * torch.randn(9, 4, dtype=torch.float64)
    target = torch.rand(9, 4, dtype=torch.float64) if is_soft else torch.randint(0, 2, (9, 4))
    loss = build(name, **config)
    calls = (loss, partial(loss, denominator=7.0), lambda *given: torch.stack(loss.parts(*given)).prod())

    def found():
        leaf = logits.clone().requires_grad_()
        values = [call(leaf, target) for call in calls]
        return [*values, *(torch.autograd.grad(value, leaf)[0] for value in values)]

    want = found()
    monkeypatch.setattr(blocks, "BLOCK", 5)
    for got, expected in zip(found(), want, strict=True):
        torch.testing.assert_close(got, expected)


EXTREME = [-torch.inf, -3e38, -1e4, -120.0, 0.0, 120.0, 1e4, 3e38, torch.inf, torch.nan]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("name", [name for name in CLASSES if examples.is_binary(name)])
def test_extreme_logits_in_blocks(monkeypatch, name, target, temperature):
    """The number of logits decides whether they go in blocks; it decides nothing of the result."""
    loss, labels = build(name, temperature=temperature, reduction="none"), torch.full((len(EXTREME),), target)

    def found():
        leaf = torch.tensor(EXTREME, requires_grad=True)
        losses = loss(leaf, labels)
        return losses, torch.autograd.grad(losses, leaf, torch.ones_like(losses))[0]

    want = found()
    monkeypatch.setattr(blocks, "BLOCK", 5)
    for got, expected in zip(found(), want, strict=True):
        torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(36,), (1, 36), (36, 1), (3, 4, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["BinaryCrossEntropy", "BinaryFocalCrossEntropy", "BinaryPolyCrossEntropy"])
def test_binary_losses_of_any_shape_in_blocks(monkeypatch, name, dtype, shape):
    logits, target = torch.randn(shape).to(dtype), torch.randint(0, 2, shape)

    def found():
        leaf = logits.clone().requires_grad_()
        value = build(name)(leaf, target)
        return value, torch.autograd.grad(value, leaf)[0]

    want = found()
    monkeypatch.setattr(blocks, "BLOCK", 5)
    for got, expected in zip(found(), want, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_curve_of_a_user_is_not_replaced_by_the_slope_of_its_base(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 5)

    class Doubled(lightning_xent.BinaryCrossEntropy):
        has_slope = True

        def curve(self, log_odds):
            return 2 * super().curve(log_odds)

    class DoubledWithSlope(Doubled):
        has_slope = True

        def with_slope(self, x):
            loss, slope = super().with_slope(x)
            return 2 * loss, 2 * slope

    assert not Doubled.has_slope and DoubledWithSlope.has_slope
    logits, target = torch.randn(4, 3, requires_grad=True), torch.randint(0, 2, (4, 3))
    want = 2 * lightning_xent.BinaryCrossEntropy()(logits, target)
    for loss in (Doubled(), DoubledWithSlope()):
        value = loss(logits, target)
        torch.testing.assert_close(value, want)
        torch.testing.assert_close(*(torch.autograd.grad(each, logits, retain_graph=True) for each in (value, want)))


KEPT = {
    "label": ("CategoricalCrossEntropy", {}),
    "label, smoothed": ("CategoricalCrossEntropy", {"label_smoothing": 0.25}),
    "label, ignored": ("CategoricalCrossEntropy", {"ignore_index": 3}),
    "distribution": ("CategoricalCrossEntropy", {"is_soft": True}),
    "rows": ("CategoricalGeneralizedCrossEntropy", {"z_loss": 0.5}),
    "elements": ("BinaryPolyCrossEntropy", {}),
    "elements with a slope": ("BinaryCrossEntropy", {}),
    "elements with a slope, focal": ("BinaryFocalCrossEntropy", {}),
}


def kept_case(config, dtype=torch.float64, shape=(30, 7)):
    name, options = config
    torch.manual_seed(0)
    logits = torch.randn(shape, dtype=dtype, requires_grad=True)
    options, rows = dict(options), (shape[0], *shape[2:])
    if options.pop("is_soft", False):
        target = torch.softmax(torch.randn(shape, dtype=dtype), 1)
    else:
        target = torch.randint(0, 2, shape) if examples.is_binary(name) else torch.randint(0, shape[1], rows)
    return build(name, **options), logits, target


def without_strides(tensor):
    """A copy as a file, another process or pinned memory gives it back."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


@pytest.mark.parametrize("block", [20, 2**18])
@pytest.mark.parametrize("shape", [(30, 7), (3, 7, 2, 5)], ids=["rows", "image"])
@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT)
def test_B4_saved_tensors_go_through_hooks(monkeypatch, config, shape, block):
    """Copies that hooks unpack, and the same tensor each time: a second gradient is as right as the first."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    loss, logits, target = kept_case(config, shape=shape)
    (want,) = torch.autograd.grad(loss(logits, target), logits)
    for unpack in (torch.clone, without_strides, lambda tensor: tensor):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
            value = loss(logits, target)
        for is_last in (False, False, True):
            (gradient,) = torch.autograd.grad(value, logits, retain_graph=not is_last)
            torch.testing.assert_close(gradient, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("block", [20, 2**18])
@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT)
def test_B4_checkpoints_keep_nothing_and_give_the_same(monkeypatch, config, block):
    monkeypatch.setattr(blocks, "BLOCK", block)
    loss, logits, target = kept_case(config)
    (want,) = torch.autograd.grad(loss(logits, target), logits)
    for stops_early in (True, False):
        with set_checkpoint_early_stop(stops_early):
            value = checkpoint(loss, logits, target, use_reentrant=False)
        torch.testing.assert_close(torch.autograd.grad(value, logits)[0], want, rtol=1e-12, atol=1e-14)
    with torch.autograd.graph.save_on_cpu():
        value = loss(logits, target)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT)
def test_B4_memory_under_a_checkpoint(config):
    """Between value and gradient nothing of the size of the logits is held."""
    name, options = config
    rows, classes = 500, 2000
    loss = build(name, **{key: value for key, value in options.items() if key != "is_soft"})
    logits = torch.randn(rows, classes, requires_grad=True)
    target = torch.randint(0, classes, (rows,))
    if options.get("is_soft"):
        target = torch.full((rows, classes), 1 / classes)
    elif examples.is_binary(name):
        target = torch.randint(0, 2, (rows, classes))
    loss(logits, target)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        value = checkpoint(loss, logits, target, use_reentrant=False)
    held = sum(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    assert held <= 0.1 * logits.numel() * logits.element_size()
    value.backward()


@pytest.mark.parametrize("block", [20, 2**18])
@pytest.mark.parametrize("config", KEPT.values(), ids=KEPT)
def test_B4_gradients_again_and_changed_in_between(monkeypatch, config, block):
    """The first gradient lies where the saved tensor lay, and belongs to the caller."""
    monkeypatch.setattr(blocks, "BLOCK", block)
    loss, logits, target = kept_case(config)
    value = loss(logits, target)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    want = first.clone()
    first.fill_(torch.nan)
    (second,) = torch.autograd.grad(value, logits, retain_graph=True)
    torch.testing.assert_close(second, want, rtol=1e-12, atol=1e-14)
    (graph,) = torch.autograd.grad(value, logits, create_graph=True)
    torch.testing.assert_close(graph, want, rtol=1e-12, atol=1e-14)
    (last,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(last, want, rtol=1e-12, atol=1e-14)


def test_a_binary_target_with_a_gradient_is_no_label():
    """Its values may be 0 and 1; what torch.func differentiates is not read, and so no label."""
    logits = torch.tensor([2.0, -3.0])
    target = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = lightning_xent.BinaryFocalCrossEntropy(reduction="sum")
    (gradient,) = torch.autograd.grad(loss(logits, target), target)
    torch.testing.assert_close(gradient, torch.func.grad(partial(loss, logits))(target.detach()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", CLASSES)
def test_gradients_in_blocks_in_batches_and_again(monkeypatch, name, smoothing):
    """The first gradient of a graph takes the memory that its loss has kept."""
    monkeypatch.setattr(blocks, "BLOCK", 5)
    logits, target = inputs_of(name)
    losses = build(name, reduction="none", label_smoothing=smoothing)(logits, target)
    directions = torch.eye(losses.numel(), dtype=torch.float64).reshape(-1, *losses.shape)
    wanted = [torch.autograd.grad(losses, logits, direction, retain_graph=True)[0] for direction in directions]
    (got,) = torch.autograd.grad(losses, logits, directions, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(got, torch.stack(wanted))
    fresh = build(name, reduction="none", label_smoothing=smoothing)(logits, target)
    torch.testing.assert_close(torch.autograd.grad(fresh, logits, directions[-1])[0], wanted[-1])
    assert not any(gradient.requires_grad for gradient in wanted)


def test_a_curve_of_a_user_may_have_parameters_and_broadcast(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 5)
    rates = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)

    class Rated(lightning_xent.BinaryCrossEntropy):
        def curve(self, log_odds):
            return super().curve(rates * log_odds)

    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 2, (4, 3))
    value = Rated()(logits, target)
    want = lightning_xent.BinaryCrossEntropy()(rates * logits, target)
    torch.testing.assert_close(value, want)
    for got, expected in zip(
        torch.autograd.grad(value, (logits, rates)), torch.autograd.grad(want, (logits, rates)), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "CategoricalFocalCrossEntropy", "BinaryCrossEntropy"])
def test_A11_a_trace_says_that_it_cannot_look_at_labels(name):
    logits = torch.zeros(4, 3)
    target = torch.full((4, 3), 7.0) if examples.is_binary(name) else torch.tensor([0, 7, 1, 2])
    says = "cannot look at labels under a trace.*check_model"
    counter = torch._dynamo.testing.CompileCounter()
    loss = getattr(lightning_xent, name)()
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    with pytest.warns(UserWarning, match=f"{name} {says}"):
        assert compiled(logits, target).isnan()
    assert compiled(logits, target).isnan()
    assert counter.frame_count == 1  # what was said is no reason to compile again
    with pytest.warns(UserWarning, match=f"{name} {says}"):
        torch.func.grad(loss)(logits, target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.func.grad(loss)(logits, target)  # once
        torch.func.grad(getattr(lightning_xent, name)(check_labels=False))(logits, target)
