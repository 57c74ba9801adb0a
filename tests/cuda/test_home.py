"""When the Triton home is taken, and what autograd, torch.func and torch.compile see of it."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lightning_xent
from lightning_xent import kernels
from lightning_xent.kernels import cuda

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by the environment triton")

LABEL = torch.tensor([1, 0, 3, 2])
MASSES = torch.tensor([[0.25, 0.5, 0.0, 0.25], [0.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
COUNTS = torch.tensor([True, True, False, True])
WEIGHT = torch.tensor([0.5, 1.0, 0.0, 2.0], dtype=torch.float64)


def logits(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn((4, 4), generator=generator, dtype=dtype).requires_grad_()


def of_labels(x):
    return cuda.of_label(x, LABEL, COUNTS, WEIGHT, 0.625, 2.0, others=True, log_partition=True, entropy=True)


def of_distributions(x):
    return cuda.of_distribution(x, MASSES.to(x.dtype), COUNTS, 0.625)


OPTIONS = {"temperature": 0.625, "softcap": 2.0, "z_loss": 0.25, "entropy_penalty": 0.5, "class_weight": [0.5, 1, 2, 3]}
LOSSES = {
    "label": (lightning_xent.CategoricalCrossEntropy(), LABEL),
    "smoothed": (lightning_xent.CategoricalCrossEntropy(label_smoothing=0.25, class_weight=[0.5, 1, 2, 3]), LABEL),
    "focal": (lightning_xent.CategoricalFocalCrossEntropy(ignore_index=3), LABEL),
    "z-loss": (lightning_xent.CategoricalCrossEntropy(z_loss=0.25), LABEL),
    "entropy": (lightning_xent.CategoricalCrossEntropy(entropy_penalty=0.5, temperature=0.625), LABEL),
    "softcap": (lightning_xent.CategoricalFocalCrossEntropy(softcap=2.0), LABEL),
    "all": (lightning_xent.CategoricalCrossEntropy(label_smoothing=0.25, ignore_index=3, **OPTIONS), LABEL),
    "distribution": (lightning_xent.CategoricalCrossEntropy(temperature=0.5), MASSES),
    "smoothed distribution": (
        lightning_xent.CategoricalCrossEntropy(
            label_smoothing=0.25, class_weight=[0.5, 1, 2, 3], reduction="weighted_mean"
        ),
        MASSES,
    ),
}


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that were launched."""
    names, launch = [], cuda._launch

    def noted(name, *arguments, **options):
        names.append(name)
        launch(name, *arguments, **options)

    monkeypatch.setattr(cuda, "_launch", noted)
    return names


class Whole(TorchDispatchMode):
    """Notes the dtypes of new tensors in the shape of the logits, outside of launches."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.dtypes = shape, []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        memories = {x.untyped_storage().data_ptr() for x in tree_leaves(arguments) if isinstance(x, torch.Tensor)}
        for tensor in tree_leaves(result):
            is_new = isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in memories
            if is_new and tensor.shape == self.shape:
                self.dtypes.append(tensor.dtype)
        return result


@pytest.fixture
def whole(monkeypatch, launched):
    """A function that calls a loss and its gradient, and returns the dtypes of the whole tensors that they make."""

    def dtypes(function, x):
        mode, launch = Whole(x.shape), cuda._launch
        with monkeypatch.context() as patch, mode:
            patch.setattr(cuda, "_launch", lambda *arguments, **options: _outside(mode, launch, arguments, options))
            (gradient,) = torch.autograd.grad(function(x), x)
        assert gradient.dtype == x.dtype
        return mode.dtypes

    return dtypes


def _outside(mode, launch, arguments, options):
    """Launch; what the interpreter copies is not noted."""
    shape, mode.shape = mode.shape, None
    launch(*arguments, **options)
    mode.shape = shape


def value_and_gradient(function, x):
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_the_kernels(name, launched, monkeypatch):
    loss, target = LOSSES[name]
    found = value_and_gradient(lambda x: loss(x, target), logits())
    kind = "distribution" if target is MASSES else "label"
    assert launched == [f"{kind}_forward", f"{kind}_backward"]
    monkeypatch.setattr(cuda, "runs_on", lambda device: False)
    for value, want in zip(found, value_and_gradient(lambda x: loss(x, target), logits()), strict=True):
        torch.testing.assert_close(value, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_only_whole_tensor(name, dtype, whole):
    """No copy of the logits, of any dtype; masses are made anew by class weights and smoothing alone."""
    loss, target = LOSSES[name]
    mask = torch.tensor([True, True, False, True])
    target = MASSES.to(dtype) if target is MASSES else target
    x = logits().detach().to(dtype)
    x[2] = torch.nan
    x, target, mask = (torch.cat([tensor, tensor]) for tensor in (x, target, mask))  # statistics are [4, rows]
    loss(x, target, mask=mask)  # the first call looks at some logits
    found = whole(lambda x: loss(x, target, mask=mask), x.requires_grad_())
    assert found[-1] == dtype
    assert len(found) == 1 or name == "smoothed distribution"


def textbook(x, label, smoothing, options):
    """The losses of rows and their gradients, in extended precision: values, and sums of the sizes of their terms."""
    wide = np.longdouble
    temperature, cap = wide(options["temperature"]), wide(options["softcap"])
    weight, classes = np.array(options["class_weight"], wide), x.shape[-1]
    t = np.tanh(x.detach().double().numpy().astype(wide) / (cap * temperature))
    z = cap * t
    total = np.log(np.exp(z).sum(-1, keepdims=True))
    log_p = z - total
    p, own = np.exp(log_p), np.eye(classes)[label.numpy()]
    shares = weight * ((1 - smoothing) * own + wide(smoothing) / classes)
    entropy = -(p * log_p).sum(-1, keepdims=True)
    value = (
        -(shares * log_p).sum(-1) + options["z_loss"] * total[:, 0] ** 2 - options["entropy_penalty"] * entropy[:, 0]
    )
    slope = shares.sum(-1, keepdims=True) * p - shares + 2 * options["z_loss"] * total * p
    slope += options["entropy_penalty"] * p * (log_p + entropy)
    return value, slope * (1 - t**2) / temperature


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_all_options_in_extended_precision(smoothing, dtype):
    """Ignored rows of NaN are exactly 0."""
    loss = lightning_xent.CategoricalCrossEntropy(
        label_smoothing=smoothing, ignore_index=-100, reduction="none", **OPTIONS
    )
    x = 4 * torch.randn((50, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.arange(50) % 4
    ignored = torch.arange(50) % 3 == 0
    label[ignored], x[ignored] = -100, torch.nan
    x = x.to(dtype).requires_grad_()
    values = loss(x, label)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert gradient.dtype == dtype
    assert (values[ignored] == 0).all() and (gradient[ignored] == 0).all()
    eps = torch.finfo(values.dtype).eps
    want = textbook(x[~ignored], label[~ignored], smoothing, OPTIONS)
    for found, expected, rounding in zip((values, gradient), want, (0, torch.finfo(dtype).eps), strict=True):
        found = found[~ignored].detach().double().numpy()
        np.testing.assert_allclose(found, expected.astype(float), rtol=64 * eps + rounding, atol=64 * eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_masked_distributions(dtype):
    """Rows that do not count may hold NaN, in logits and in targets; they and rows of weight 0 get a gradient of 0."""
    loss = lightning_xent.CategoricalCrossEntropy(reduction="weighted_mean", class_weight=[0.5, 1, 2, 3])
    x, masses = logits().detach().to(dtype), MASSES.to(dtype, copy=True)
    mask, weight = torch.tensor([True, False, True, True]), torch.tensor([1.0, 2.0, 0.0, 3.0])
    counts = mask & (weight != 0)
    want, of_counted = value_and_gradient(
        lambda x: loss(x, masses[counts].double(), sample_weight=weight[counts]),
        x[counts].double().requires_grad_(),
    )
    x[~counts], masses[~counts] = torch.nan, torch.nan
    value, gradient = value_and_gradient(lambda x: loss(x, masses, sample_weight=weight, mask=mask), x.requires_grad_())
    torch.testing.assert_close(value, want.float())
    torch.testing.assert_close(gradient[counts], of_counted.to(dtype))
    assert (gradient[~counts] == 0).all()


# torch.func.hessian compiles its formulas by TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives(name):
    loss, target = LOSSES[name]
    x = logits(torch.float64)
    of_x = lambda x: loss(x, target)  # noqa: E731
    torch.testing.assert_close(torch.autograd.functional.hessian(of_x, x), torch.func.hessian(of_x)(x.detach()))


@pytest.mark.parametrize("method", ["regulariser", "softmax_input", "capped", "margin_in"])
def test_overridden_methods_are_called(method, launched):
    """A loss with a regulariser or a softmax of its own gets them."""
    loss, called = lightning_xent.CategoricalCrossEntropy(**OPTIONS), []
    inherited = getattr(lightning_xent.CategoricalCrossEntropy, method)

    def overridden(self, *given):
        called.append(method)
        return inherited(self, *given)

    own = type("Own", (lightning_xent.CategoricalCrossEntropy,), {method: overridden})(**OPTIONS)
    found = value_and_gradient(lambda x: own(x, LABEL), logits())
    assert called
    for value, want in zip(found, value_and_gradient(lambda x: loss(x, LABEL), logits()), strict=True):
        torch.testing.assert_close(value, want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("function", [of_labels, of_distributions])
def test_derivatives(function):
    """First, batched and second derivatives are those of finite differences."""
    x = logits(torch.float64)
    assert torch.autograd.gradcheck(function, x, check_batched_grad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


# torch.func.jvp compiles its formulas by TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", LOSSES)
def test_transforms_take_plain_operations(name, launched):
    loss, target = LOSSES[name]
    x = logits(torch.float64)
    want = value_and_gradient(lambda x: loss(x, target), x)[1]
    launched.clear()
    of_x = lambda x: loss(x, target)  # noqa: E731
    direction = torch.ones_like(x).tril()
    torch.testing.assert_close(torch.func.grad(of_x)(x.detach()), want)
    torch.testing.assert_close(torch.func.jvp(of_x, (x.detach(),), (direction,))[1], (want * direction).sum())
    rows = lambda x, t: lightning_xent.CategoricalCrossEntropy()(x[None], t[None])  # noqa: E731
    assert torch.func.vmap(torch.func.grad(rows))(x.detach(), target).shape == x.shape
    assert torch.func.hessian(of_x)(x.detach()).isfinite().all()
    assert not launched


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", LOSSES)
def test_compiled_without_a_break(name, backend, launched):
    """Under torch.compile each launch is one operation of the graph."""
    loss, target = LOSSES[name]
    want = value_and_gradient(lambda x: loss(x, target), logits())
    launched.clear()
    torch.compiler.reset()
    compiled = torch.compile(lambda x: loss(x, target), fullgraph=True, backend=backend)
    found = value_and_gradient(compiled, logits())
    assert [name.partition("_")[2] for name in launched] == ["forward", "backward"]
    for value, expected in zip(found, want, strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("target", [LABEL, MASSES], ids=["label", "distribution"])
def test_compiled_transforms_take_plain_operations(target, launched):
    x = logits().detach()
    loss = lightning_xent.CategoricalCrossEntropy()
    by_row = torch.func.vmap(torch.func.grad(lambda x, t: loss(x[None], t[None])))
    torch.compiler.reset()
    found = torch.compile(by_row, fullgraph=True, backend="aot_eager")(x, target)
    torch.testing.assert_close(found, by_row(x, target))
    assert not launched


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 6)])
@pytest.mark.parametrize("is_second", [False, True])
def test_operations_keep_their_promises(shape, is_second):
    """Shapes, dtypes and strides are those that torch.compile was told, for sizes known at run time only, too."""
    x = torch.randn(shape).movedim(1, -1) if is_second else torch.randn(shape)
    label = torch.zeros(x.shape[:-1], dtype=torch.long)
    options = (None, None, 1.0, None, True, True, True)
    *found, statistics = outputs = torch.ops.crossent.label_forward(x, label, *options)
    masses = torch.rand_like(x)
    losses, sums = torch.ops.crossent.distribution_forward(x, masses, None, 1.0)
    for operation, arguments in [
        (torch.ops.crossent.label_forward, (x, label, *options)),
        (torch.ops.crossent.label_backward, (found, x, label, *options, outputs[0], statistics)),
        (torch.ops.crossent.distribution_forward, (x, masses, None, 1.0)),
        (torch.ops.crossent.distribution_backward, (losses, x, masses, None, 1.0, sums)),
    ]:
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        torch.library.opcheck(operation.default, arguments, test_utils=tests)


@pytest.mark.parametrize("function", [lambda x: of_labels(x)[0].sum(), lambda x: of_distributions(x).sum()])
def test_saved_tensors(function):
    """What the gradient needs is seen by hooks, and gone after a backward: torch says how to keep it."""
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: packed.append(tensor) or tensor, lambda tensor: tensor
    ):
        loss = function(logits())
    assert len(packed) >= 3
    loss.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        loss.backward()
    x = logits()
    loss = function(x)
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


DEVICE = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("hip", "triton", "capability", "error", "runs"),
    [
        (None, True, (9, 0), None, True),
        (None, True, (7, 5), None, False),
        ("6.0", True, (9, 0), None, False),
        (None, False, (9, 0), None, False),
        (None, True, (9, 0), RuntimeError("no C compiler"), False),
    ],
    ids=["runs", "old card", "ROCm", "no Triton", "the launch fails"],
)
def test_where_triton_runs(monkeypatch, hip, triton, capability, error, runs, recwarn):
    """A card is asked once; a launch that fails warns once."""
    asked = []

    def launch(*arguments):
        asked.append(arguments)
        if error is not None:
            raise error

    find_spec = cuda.importlib.util.find_spec
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch, "zeros", lambda *sizes, device, **more: torch.ones(*sizes, **more))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(cuda, "launch_label_forward", launch)
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: find_spec(name) if triton else None)
    cuda.launches.cache_clear()
    try:
        assert [cuda.runs_on(DEVICE) for _ in range(2)] == [runs, runs]
    finally:
        cuda.launches.cache_clear()
    is_asked = capability >= (8, 0) and hip is None and triton
    assert len(asked) == (is_asked and (2 if error is None else 1))
    messages = [str(warning.message) for warning in recwarn]
    assert len(messages) == (error is not None)
    assert all("plain operations: no C compiler" in message for message in messages)


def test_other_devices_take_plain_operations():
    assert not any(cuda.runs_on(torch.device(name)) for name in ("mps", "xpu", "meta"))


def test_triton_is_only_imported_where_it_runs():
    """Without Triton all is as it was; torch._dynamo imports Triton itself, so its absence is played."""
    code = """
import sys
sys.modules["triton"] = None
import lightning_xent, torch
lightning_xent.CategoricalCrossEntropy()(torch.zeros(2, 3), torch.tensor([0, 1]))
assert "lightning_xent.kernels.triton_code" not in sys.modules
"""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_constants_get_no_gradient():
    """Weights with a gradient of their own take plain operations."""
    assert kernels.applies(logits(), MASSES)
    assert not kernels.applies(logits(), MASSES.clone().requires_grad_())
