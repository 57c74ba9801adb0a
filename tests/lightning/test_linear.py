"""What torch alone asks of the loss of the last layer: autograd, autocast, memory, traces; `LinearLoss`."""

import functools

import pytest
import torch
from pytorch_lightning.cli import LightningCLI
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lightning_xent
from lightning_xent import LinearLoss, kernels
from lightning_xent.kernels import linear_traced
from lightning_xent.kernels.linear import Limits
from lightning_xent.metrics import predictions, predictions_of_layer
from lightning_xent.module import XentModule
from memory import peak_of
from sides.lightning import trainer
from sides.torch_gradient import prepared

LOSSES = {
    "cross-entropy": lightning_xent.CategoricalCrossEntropy(ignore_index=-100),
    "smoothed-focal": lightning_xent.CategoricalFocalCrossEntropy(label_smoothing=0.1, ignore_index=-100),
    "none": lightning_xent.CategoricalCrossEntropy(reduction="none"),
    "hardest": lightning_xent.CategoricalCrossEntropy(hard_fraction=0.5),
}

modes = pytest.mark.parametrize("mode", ["eager", "aot"])
pytestmark = pytest.mark.filterwarnings("ignore:.*cannot look at labels:UserWarning")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setitem(kernels.linear.LIMITS, "cpu", Limits(200, 200, 0, 200))


def layer(rows=7, features=4, classes=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(size, features, generator=generator, dtype=dtype) for size in (rows, classes))
    bias = torch.randn(classes, generator=generator, dtype=dtype)
    target = torch.randint(0, classes, (rows,), generator=generator)
    return [each.requires_grad_() for each in (hidden, weight, bias)], target


def dense(loss, hidden, weight, bias, target):
    return loss(F.linear(hidden, weight, bias), target)


def fused(loss, hidden, weight, bias, target):
    return loss.linear(hidden, weight, target, bias)


@pytest.mark.parametrize("name", LOSSES)
def test_a_graph_gives_its_gradient_again(name):
    tensors, target = layer()
    value = fused(LOSSES[name], *tensors, target).sum()
    first = torch.autograd.grad(3 * value, tensors, retain_graph=True)
    again = torch.autograd.grad(value, tensors, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(again, torch.autograd.grad(value, tensors), strict=True))
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, 3 * b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, tensors)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivative(name):
    tensors, target = layer()

    def penalty(call):
        gradients = torch.autograd.grad(call(LOSSES[name], *tensors, target).sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum((each**2).sum() for each in gradients), tensors)

    for got, want in zip(penalty(fused), penalty(dense), strict=True):
        torch.testing.assert_close(got, want)


@modes
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])
@pytest.mark.parametrize("name", LOSSES)
def test_only_the_gradients_that_are_wanted(name, wanted, mode):
    tensors, target = layer()
    tensors = [tensor.detach().requires_grad_(is_wanted) for tensor, is_wanted in zip(tensors, wanted, strict=True)]
    with prepared(functools.partial(fused, LOSSES[name]), mode) as call:
        value, whole = call(*tensors, target), dense(LOSSES[name], *tensors, target)
    torch.testing.assert_close(value, whole)
    assert value.requires_grad == any(wanted)
    if any(wanted):
        value.sum().backward()
        got = [tensor.grad for tensor in tensors if tensor.requires_grad]
        wants = torch.autograd.grad(whole.sum(), [tensor for tensor in tensors if tensor.requires_grad])
        torch.testing.assert_close(got, list(wants))


@modes
def test_gradient_of_sample_weights_and_soft_targets(mode):
    tensors, target = layer()
    weights = torch.rand(7, dtype=torch.float64, requires_grad=True)
    soft = torch.rand(7, 9, dtype=torch.float64, requires_grad=True)
    loss = LOSSES["cross-entropy"]
    for given, extra, leaf in ((target, {"sample_weight": weights}, weights), (soft, {}, soft)):
        with prepared(loss.linear, mode) as call:
            (got,) = torch.autograd.grad(call(tensors[0], tensors[1], given, tensors[2], **extra), leaf)
        (want,) = torch.autograd.grad(loss(F.linear(*tensors), given, **extra), leaf)
        torch.testing.assert_close(got, want)


@modes
@pytest.mark.parametrize("name", LOSSES)
def test_no_grad(name, mode):
    tensors, target = layer()
    with torch.no_grad(), prepared(functools.partial(fused, LOSSES[name]), mode) as call:
        value = call(*tensors, target)
    assert not value.requires_grad
    torch.testing.assert_close(value, dense(LOSSES[name], *tensors, target).detach())


def test_nan_in_an_ignored_row_reaches_nothing():
    (hidden, weight, bias), target = layer()
    target[2] = -100
    hidden = hidden.detach().index_fill(0, torch.tensor([2]), torch.nan).requires_grad_()
    LOSSES["cross-entropy"].linear(hidden, weight, target, bias).backward()
    assert (hidden.grad[2] == 0).all()
    assert all(torch.isfinite(each.grad).all() for each in (hidden, weight, bias))


@modes
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_gives_float32(name, mode):
    tensors, target = layer(dtype=torch.float32)
    call = prepared(functools.partial(fused, LOSSES[name]), mode)
    with torch.autocast("cpu", dtype=torch.bfloat16), call as call:
        value, whole = call(*tensors, target), dense(LOSSES[name], *tensors, target)
        got = torch.autograd.grad(value.sum(), tensors)
    want = torch.autograd.grad(whole.sum(), tensors)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, whole, rtol=1e-6, atol=1e-6)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


WEIGHTS = [1.0, 100.3, 0.0, 3.3, 1.0, 2.0, 50.7, 1.0, 0.3]
MANY_NUMBERS = {
    "smoothing and class weights": {"label_smoothing": 0.1, "class_weight": WEIGHTS},
    "entropy": {"entropy_penalty": 0.5, "softcap": 3.0, "z_loss": 0.1},
    "weights of distributions": {"class_weight": WEIGHTS, "reduction": "weighted_mean", "is_soft": True},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", MANY_NUMBERS)
def test_under_autocast_only_the_products_have_its_dtype(case, dtype):
    options = dict(MANY_NUMBERS[case])
    (hidden, weight, bias), target = layer(rows=50, dtype=torch.float32)
    target = torch.rand(50, 9).softmax(-1) if options.pop("is_soft", False) else target
    loss = lightning_xent.CategoricalCrossEntropy(**options)
    with torch.autocast("cpu", dtype=dtype):
        got = loss.linear_parts(hidden, weight, target, bias)
        want = loss.parts(F.linear(hidden, weight, bias), target)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0.0)


@modes
def test_weight_gradient_is_summed_in_float32(mode):
    """4096 rows, of which each adds 1/2: in bfloat16 the sum would stop at 256 of them."""
    rows = 4096
    hidden = torch.ones(rows, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    with prepared(lightning_xent.CategoricalCrossEntropy(reduction="sum").linear, mode) as call:
        call(hidden, weight, torch.zeros(rows, dtype=int)).backward()
    assert weight.grad.tolist() == [[-rows / 2], [rows / 2]]


@pytest.mark.parametrize("name", LOSSES)
def test_traces_give_the_same(name):
    tensors, target = layer()
    want = dense(LOSSES[name], *tensors, target)
    with prepared(functools.partial(fused, LOSSES[name]), "torch.compile") as compiled:
        torch.testing.assert_close(compiled(*tensors, target), want)
    found = torch.func.grad(lambda hidden: fused(LOSSES[name], hidden, *tensors[1:], target).sum())(tensors[0])
    torch.testing.assert_close(found, *torch.autograd.grad(want.sum(), tensors[0]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("is_inside", [True, False])
def test_a_checkpoint_and_a_compiler(name, is_inside):
    """Inside a compiled function Dynamo shows a checkpoint in its stack alone; `has_hooks` looks for it."""

    def checkpointed(call):
        return functools.partial(checkpoint, call, use_reentrant=False)

    tensors, target = layer()
    plain = functools.partial(fused, LOSSES[name])
    want = dense(LOSSES[name], *tensors, target)
    with prepared(checkpointed(plain) if is_inside else plain, "aot") as compiled:
        got = (compiled if is_inside else checkpointed(compiled))(*tensors, target)
        torch.testing.assert_close(got, want)
        pair = (torch.autograd.grad(each.sum(), tensors) for each in (got, want))
        torch.testing.assert_close(*pair)


@modes
@pytest.mark.parametrize("case", ["soft", "hardest"])
def test_nan_in_a_row_of_weight_0_reaches_nothing(case, mode):
    if case == "hardest" and mode == "aot" and not linear_traced.TRACES_BACKWARD:
        pytest.skip("this version of torch computes all logits, where a NaN in hidden states reaches the weight")
    (hidden, weight, bias), target = layer()
    weights = torch.ones(7, dtype=torch.float64).index_fill(0, torch.tensor([2]), 0.0)
    loss = LOSSES["hardest" if case == "hardest" else "cross-entropy"]
    if case == "soft":
        target = torch.rand(7, 9, dtype=torch.float64).softmax(-1).index_fill(0, torch.tensor([2]), torch.nan)
    else:
        hidden = hidden.detach().index_fill(0, torch.tensor([2]), torch.nan).requires_grad_()
    with prepared(loss.linear, mode) as call:
        value = call(hidden, weight, target, bias, sample_weight=weights)
        gradients = torch.autograd.grad(value, (hidden, weight, bias))
    assert all(torch.isfinite(each).all() for each in (value, *gradients))


def test_few_graphs_serve_training_and_evaluation():
    graphs = []

    def backend(module, _):
        graphs.append(module)
        return module.forward

    torch.compiler.reset()
    compiled = torch.compile(functools.partial(fused, LOSSES["cross-entropy"]), backend=backend, fullgraph=True)
    for rows in (3, 5, 40, 90, 200, 7, 1000):
        for trains in (True, False):
            with torch.set_grad_enabled(trains):
                tensors, target = layer(rows)
                compiled(*tensors, target)
    # With and without gradients: of the first size, of few rows, and of many, whose last chunk is as large or larger.
    # torch.compile keeps as many.
    assert len(graphs) <= 8


@pytest.mark.parametrize("rows", [64, 1])
def test_memory_of_the_logits_is_never_taken(rows):
    """Beyond the gradients a call needs a chunk; all logits are 64 or 128 times as large."""
    classes, features = 2**16 * 64 // rows // 8, 4
    (hidden, weight, bias), target = layer(rows, features, classes, torch.float32)
    chunk = 4 * rows * classes // 64
    limits = Limits(chunk, chunk, 64 if rows == 1 else 0, chunk)
    kernels.linear.LIMITS["cpu"] = limits
    gradients = 4 * (features * (rows + classes) + classes)
    taken = peak_of(lambda: fused(LOSSES["cross-entropy"], hidden, weight, bias, target).backward())
    assert taken - gradients < 4 * rows * classes / 8


class Scaled(lightning_xent.CategoricalCrossEntropy):
    """A curve with a parameter of its own."""

    def curve(self, log_odds):
        return self.scale * F.softplus(-log_odds)


class Learned(lightning_xent.CategoricalCrossEntropy):
    """A temperature that is learned."""

    def softmax_input(self, inputs):
        return lightning_xent.categorical.Softmax(inputs * self.scale, 1.0)


@modes
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("kind", [Scaled, Learned])
def test_parameters_of_a_loss_get_their_gradient(kind, reduction, mode):
    loss = kind(reduction=reduction)
    loss.scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    tensors, target = layer()
    inputs = [*tensors, loss.scale]
    with prepared(functools.partial(fused, loss), mode) as call:
        got = torch.autograd.grad(call(*tensors, target).sum(), inputs)
        torch.testing.assert_close(got, torch.autograd.grad(dense(loss, *tensors, target).sum(), inputs))
        frozen = [tensor.detach() for tensor in tensors]
        assert call(*frozen, target).requires_grad


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
def test_second_derivative_of_sample_weights(reduction):
    (hidden, weight, bias), target = layer()
    loss = lightning_xent.CategoricalCrossEntropy(reduction=reduction)
    weights = torch.rand(7, dtype=torch.float64, requires_grad=True)

    def penalty(value):
        gradients = torch.autograd.grad(value, (hidden, weights), create_graph=True)
        return torch.autograd.grad(sum((each**2).sum() for each in gradients), (hidden, weight, weights))

    got = penalty(loss.linear(hidden, weight, target, bias, sample_weight=weights))
    torch.testing.assert_close(got, penalty(loss(F.linear(hidden, weight, bias), target, sample_weight=weights)))


@pytest.mark.parametrize("name", LOSSES)
def test_batched_gradients(name):
    tensors, target = layer()
    jacobian = functools.partial(torch.autograd.functional.jacobian, inputs=tensors[0], vectorize=True)
    got = jacobian(lambda hidden: fused(LOSSES[name], hidden, *tensors[1:], target))
    torch.testing.assert_close(got, jacobian(lambda hidden: dense(LOSSES[name], hidden, *tensors[1:], target)))


def test_ignored_rows_under_a_trace_with_a_forbidden_class():
    (hidden, weight, bias), target = layer()
    bias = bias.detach().index_fill(0, torch.tensor([0]), -torch.inf).requires_grad_()
    target = target.clamp(min=1).index_fill(0, torch.tensor([2]), -100)
    want = fused(LOSSES["cross-entropy"], hidden, weight, bias, target)
    with prepared(functools.partial(fused, LOSSES["cross-entropy"]), "torch.compile") as compiled:
        got = compiled(hidden, weight, bias, target)
    torch.testing.assert_close(got, want)
    for a, b in zip(*(torch.autograd.grad(each, (hidden, weight, bias)) for each in (got, want)), strict=True):
        torch.testing.assert_close(a, b)


def test_targets_as_users_write_them():
    (hidden, weight, bias), _ = layer(2)
    loss = lightning_xent.CategoricalCrossEntropy()
    want = loss(F.linear(hidden, weight, bias), torch.tensor([1, 2]))
    for target in ((1, 2), [1, 2], torch.tensor([1, 2], dtype=torch.uint8)):
        torch.testing.assert_close(loss.linear(hidden, weight, target, bias), want)
    top = lightning_xent.TopK([[1], [2]], [[1.0], [1.0]])
    torch.testing.assert_close(loss.linear(hidden, weight, top, bias), want)
    with pytest.raises(ValueError, match="probabilities must have the shape of indices"):
        lightning_xent.TopK(torch.zeros(2, 0, dtype=int), torch.zeros(2, 0))


def test_tensors_without_values():
    (hidden, weight, bias), target = layer()
    meta = [each.to("meta") for each in (hidden, weight, bias, target)]
    assert fused(LOSSES["cross-entropy"], *meta).shape == ()


def test_logits_that_are_no_cosines_warn():
    tensors, target = layer(rows=20)
    with pytest.warns(UserWarning, match="cosines"):
        fused(lightning_xent.ArcFaceCrossEntropy(), *tensors, target)


# ---- LinearLoss


class Normalised(LinearLoss):
    """A layer that normalises its hidden states."""

    def forward(self, hidden, *given, **options):
        return super().forward(F.normalize(hidden, dim=-1), *given, **options)


def test_predictions_of_a_layer_with_a_forward_of_its_own():
    head, hidden = Normalised(4, 9, "CategoricalCrossEntropy"), torch.randn(7, 4)
    found = predictions_of_layer(head, hidden, torch.zeros(7, dtype=int))
    confidence, predicted = head.logits(hidden).softmax(-1).max(-1)
    torch.testing.assert_close(found.confidence, confidence)
    assert torch.equal(found.predicted, predicted)
    module = XentModule(torch.nn.Linear(4, 4), head)
    assert module.hparams["loss"] == {"own_loss": "Normalised"}


def test_layer_holds_its_loss_with_the_class_axis_last():
    loss = lightning_xent.CategoricalCrossEntropy()
    head = LinearLoss(4, 9, loss)
    assert (loss.axis, head.loss.axis) == (None, -1)
    assert LinearLoss(4, 9, head.loss).loss is head.loss
    with pytest.raises(TypeError, match=r"check layer\.loss"):
        lightning_xent.check_outputs(head, torch.zeros(2, 9), torch.zeros(2, dtype=int))


def test_layer_is_its_loss():
    head = LinearLoss(4, 9, {"loss": "CategoricalFocalCrossEntropy", "config": {"ignore_index": 2}})
    hidden, target = torch.randn(3, 5, 4), torch.arange(15).reshape(3, 5) % 9
    logits = head.logits(hidden)
    assert logits.shape == (3, 5, 9)
    want = lightning_xent.CategoricalFocalCrossEntropy(ignore_index=2, axis=-1)
    torch.testing.assert_close(head(hidden, target), want(logits, target))
    total, denominator = head.parts(hidden, target)
    torch.testing.assert_close(total / denominator, want(logits, target))
    torch.testing.assert_close(head.probabilities(hidden), logits.softmax(-1))


def test_layer_is_made_where_and_as_it_is_wanted():
    layer = LinearLoss(3, 5, "CategoricalCrossEntropy", device="meta", dtype=torch.bfloat16)
    assert [(tensor.device.type, tensor.dtype) for tensor in layer.parameters()] == [("meta", torch.bfloat16)] * 2


def test_layer_shares_the_weight_of_an_embedding():
    embedding = torch.nn.Embedding(9, 4)
    head = LinearLoss(4, 9, "CategoricalCrossEntropy", bias=False)
    head.weight = embedding.weight
    tokens = torch.arange(6)
    head(embedding(tokens), tokens).backward()
    want = embedding.weight.detach().clone().requires_grad_()
    F.cross_entropy(F.embedding(tokens, want) @ want.T, tokens).backward()
    torch.testing.assert_close(embedding.weight.grad, want.grad)


@pytest.mark.parametrize(
    ("arguments", "kind", "word"),
    [
        ((0, 9, "CategoricalCrossEntropy"), ValueError, "in_features"),
        ((4, 0, "CategoricalCrossEntropy"), ValueError, "classes"),
        ((4, 9, "BinaryCrossEntropy"), TypeError, "categorical"),
        ((4, 9, "Distillation"), ValueError, "one tensor of logits"),
        ((4, 9, {"loss": "CategoricalCrossEntropy", "config": {"axis": 1}}), ValueError, "axis"),
    ],
)
def test_layer_error(arguments, kind, word):
    with pytest.raises(kind, match=word):
        LinearLoss(*arguments)


@pytest.mark.parametrize("kind", ["label", "soft", "top"])
def test_predictions_are_those_of_the_logits(kind):
    (hidden, weight, bias), target = layer(dtype=torch.float32)
    head = LinearLoss(4, 9, lightning_xent.CategoricalCrossEntropy(ignore_index=3))
    head.weight.data, head.bias.data = weight.detach(), bias.detach()
    soft = torch.rand(7, 9).softmax(-1)
    given = {"label": target, "soft": soft, "top": lightning_xent.TopK(*reversed(soft.topk(2)))}[kind]
    mask = torch.arange(7) % 3 != 0
    got = predictions_of_layer(head, hidden, given, mask=mask)
    want = predictions(head.loss, head.logits(hidden), soft if kind == "top" else given, mask=mask)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def batches(count=6, rows=8):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count * rows, 5, 4, generator=generator)
    labels = torch.randint(0, 9, (count * rows, 5), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 3
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=rows)


def module_of(is_fused):
    torch.manual_seed(0)
    loss = lightning_xent.CategoricalCrossEntropy(ignore_index=3, axis=-1)
    body, head = torch.nn.Linear(4, 6), LinearLoss(6, 9, loss)
    optimizer = functools.partial(torch.optim.SGD, lr=0.5)
    if is_fused:
        return XentModule(body, head, optimizer)
    last = torch.nn.Linear(6, 9)
    last.load_state_dict({"weight": head.weight, "bias": head.bias})
    return XentModule(torch.nn.Sequential(body, last), loss, optimizer)


def test_module_trains_a_layer_as_it_does_logits(tmp_path):
    found = []
    for is_fused in (True, False):
        module, fit = module_of(is_fused), trainer(max_epochs=2, accumulate_grad_batches=4)
        fit.fit(module, batches(), batches())
        predicted = torch.cat(fit.predict(module, batches()))
        found.append(({name: float(value) for name, value in fit.callback_metrics.items()}, predicted))
        if is_fused:
            fit.save_checkpoint(tmp_path / "a.ckpt")
    (fused_metrics, fused_logits), (metrics, logits) = found
    assert fused_metrics == pytest.approx(metrics, rel=1e-5)
    torch.testing.assert_close(fused_logits, logits)
    loaded = XentModule.load_from_checkpoint(tmp_path / "a.ckpt", network=torch.nn.Linear(4, 6), weights_only=True)
    assert isinstance(loaded.head, LinearLoss)
    torch.testing.assert_close(loaded(next(iter(batches()))[0]), fused_logits[:8])


class Trained(lightning_xent.CategoricalCrossEntropy):
    """A loss with a parameter of its own."""

    def __post_init__(self):
        super().__post_init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def curve(self, log_odds):
        return self.scale * super().curve(log_odds)


ROWS, CLASSES = Limits(200, 200, 0, 200), Limits(100, 100, 1000, 100)
BEST = {
    "statistics, all classes": (lightning_xent.CategoricalCrossEntropy(ignore_index=3, softcap=2.0), ROWS),
    "statistics, parts of the classes": (lightning_xent.CategoricalCrossEntropy(ignore_index=3), CLASSES),
    "rows": (lightning_xent.CategoricalFocalCrossEntropy(label_smoothing=0.1), ROWS),
    "a margin": (lightning_xent.ArcFaceCrossEntropy(softcap=2.0), CLASSES),
    "a softmax of its own": (lightning_xent.LogitAdjustedCrossEntropy(class_counts=[1.0 + c for c in range(9)]), ROWS),
    "hardest rows": (lightning_xent.CategoricalCrossEntropy(hard_fraction=0.5), ROWS),
    "parameters of its own": (Trained(), ROWS),
}


@modes
@pytest.mark.parametrize("case", BEST)
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.filterwarnings("ignore:.*cosines")
def test_predictions_come_with_the_loss(case, trains, mode, monkeypatch):
    loss, limits = BEST[case]
    monkeypatch.setitem(kernels.linear.LIMITS, "cpu", limits)
    head = LinearLoss(4, 9, loss)
    hidden, target, mask = torch.randn(3, 5, 4), torch.arange(15).reshape(3, 5) % 9, torch.arange(3) != 1
    hidden[1] = torch.nan
    with torch.set_grad_enabled(trains), prepared(head.parts_and_predictions, mode) as call:
        *parts, predicted = call(hidden, target, mask=mask)
        want = head.parts(hidden, target, mask=mask)
    torch.testing.assert_close(parts, list(want))
    is_seen = case not in ("a softmax of its own", "hardest rows") and (case != "parameters of its own" or not trains)
    assert (predicted is not None) == is_seen
    if is_seen:
        counts = mask.repeat_interleave(5) & (target.reshape(-1) != loss.ignore_index)
        best = head.logits(hidden).argmax(-1).reshape(-1)
        assert torch.equal(predicted[counts], best[counts])
        found = predictions_of_layer(head, hidden, target, mask=mask, has_probabilities=False, predicted=predicted)
        assert torch.equal(found.predicted[counts], best[counts])


def test_a_training_step_computes_no_logits_again(monkeypatch):
    monkeypatch.setattr(LinearLoss, "logits", lambda *_: pytest.fail("the accuracy multiplies once more"))
    module = XentModule(torch.nn.Identity(), LinearLoss(4, 9, "CategoricalCrossEntropy"))
    module.log, module._unit = lambda *_, **options: None, 1.0
    module.training_step((torch.randn(8, 4, requires_grad=True), torch.arange(8)), 0).backward()
    assert module.train_accuracy.compute().isfinite()


def test_module_takes_a_layer_as_a_spec():
    spec = {"loss": "CategoricalCrossEntropy", "config": {}, "linear": {"in_features": 6, "classes": 9}}
    module = XentModule(torch.nn.Linear(4, 6), spec)
    assert module(torch.zeros(2, 4)).shape == (2, 9)
    with pytest.raises(ValueError, match="linear must have the keys"):
        XentModule(torch.nn.Linear(4, 6), {**spec, "linear": {"classes": 9}})


class OwnLoss(lightning_xent.CategoricalCrossEntropy):
    """A class that is not of the package."""


CONFIG = """
seed_everything: 0
model:
  network: {{class_path: torch.nn.Linear, init_args: {{in_features: 4, out_features: 6}}}}
  loss: {loss}
trainer: {{max_epochs: 1, accelerator: cpu, logger: false, enable_checkpointing: false, enable_progress_bar: false,
  enable_model_summary: false}}
"""
SIZE, INNER = "in_features: 6, classes: 9", "init_args: {ignore_index: 3}"
LAYERS = {
    "spec": f"{{loss: CategoricalCrossEntropy, config: {{ignore_index: 3}}, linear: {{{SIZE}}}}}",
    "class": f"{{class_path: lightning_xent.LinearLoss, init_args: {{{SIZE}, loss: "
    f"{{class_path: lightning_xent.CategoricalCrossEntropy, {INNER}}}}}}}",
    "own loss": f"{{class_path: lightning_xent.LinearLoss, init_args: {{{SIZE}, loss: "
    f"{{class_path: {OwnLoss.__module__}.OwnLoss, {INNER}}}}}}}",
}


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:pytorch_lightning.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("loss", LAYERS)
def test_config_and_checkpoint_of_a_layer(loss, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train"])
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(loss=LAYERS[loss]), encoding="utf-8")
    cli = LightningCLI(XentModule, args=[f"--config={path}"], run=False, save_config_callback=None)
    assert isinstance(cli.model.head, LinearLoss)
    cli.model.loss.set_class_weight([1.0 + c for c in range(9)])
    cli.trainer.fit(cli.model, batches(1))
    cli.trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = XentModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert type(loaded.loss) is type(cli.model.loss)
    assert loaded.loss.get_config() == cli.model.loss.get_config()
    assert torch.equal(loaded.head.weight, cli.model.head.weight)
