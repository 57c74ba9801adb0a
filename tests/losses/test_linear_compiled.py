"""Under torch.compile the loss of the last layer is computed in chunks too, in one graph."""

import numpy as np
import pytest
import torch

from lightning_xent import kernels
from lightning_xent.kernels import linear_traced
from lightning_xent.kernels.linear import Limits
from linear_cases import CLASSES, LABEL, LOSSES, ROWS, built, compare, random_layer
from memory import peak_of
from sides import name as side_name
from sides import side
from sides.torch_gradient import prepared

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot look at labels:UserWarning")

# The compilers take seconds, and on Keras twice as many.
OFTEN = ("ignored", "everything-smoothed", "hardest") if side_name == "lightning" else ("ignored",)


def limited(monkeypatch, chunk):
    """Make chunks of about so many bytes, of any number of rows."""
    monkeypatch.setitem(kernels.linear.LIMITS, "cpu", Limits(chunk, chunk, 0, chunk))


def both(loss, layer, target, mode, **more):
    """[value, gradient, ...] of the compiled loss in chunks, and of all logits."""
    layer = [each.detach().clone().requires_grad_() for each in layer]

    def function(hidden, weight, bias):
        return side.layer_value(loss, hidden, weight, bias, target, **more)

    with prepared(function, mode) as compiled:
        value = compiled(*layer)
        gradients = torch.autograd.grad((2 * value).sum(), layer)
    found = [value, *(gradient / 2 for gradient in gradients)]
    return [side.numpy(each) for each in found], side.layer(loss, *layer, target, fused=False, **more)


@pytest.mark.parametrize("mode", ["aot", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in OFTEN else pytest.mark.slow) for n in LOSSES])
def test_chunks_in_a_graph_give_what_all_logits_give(name, mode, monkeypatch):
    limited(monkeypatch, 15 * CLASSES * 8 // 4)
    loss, kind = built(name)
    loss.axis = -1
    layer, target = random_layer(kind)
    target = side.tensor(target, None if kind == LABEL else side.layer_dtype)
    more = {
        "mask": side.tensor(np.arange(15).reshape(ROWS) % 4 != 1),
        "sample_weight": side.tensor(np.arange(15).reshape(ROWS) % 3 / 2.0, side.layer_dtype),
    }
    compare(*both(loss, layer, target, mode, **more), max(1e-6, side.layer_tolerance))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_one_graph_serves_every_number_of_rows(reduction, monkeypatch):
    limited(monkeypatch, 4 * 2 * CLASSES)
    loss = side.package.get({"loss": "CategoricalCrossEntropy", "config": {"reduction": reduction}})
    torch.compiler.reset()

    def function(hidden, weight, bias, target):
        return side.layer_value(loss, hidden, weight, bias, target)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (25, 29, 38):
        layer, target = random_layer(LABEL, rows=(rows,))
        layer, target = [each.float() for each in layer], side.tensor(target)
        wanted = side.layer(loss, *layer, target, fused=False)
        layer = [each.requires_grad_() for each in layer]
        with torch.compiler.set_stance("default" if rows == 25 else "fail_on_recompile"):
            value = compiled(*layer, target)
        gradients = torch.autograd.grad(value.sum(), layer)
        compare([side.numpy(each) for each in (value, *gradients)], wanted, 1e-5)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_graph_holds_some_chunks_of_the_logits(reduction, monkeypatch):
    if reduction == "none" and not linear_traced.TRACES_BACKWARD:
        pytest.skip("this version of torch computes all logits")
    rows, features, classes = 512, 4, 8192
    limited(monkeypatch, 4 * rows * classes // 8)
    loss = side.package.get({"loss": "CategoricalCrossEntropy", "config": {"reduction": reduction}})
    layer = [torch.randn(size, features, requires_grad=True) for size in (rows, classes)]
    target = torch.arange(rows)
    with prepared(lambda *layer: side.layer_value(loss, *layer, None, target).sum(), "inductor") as compiled:
        torch.autograd.grad(compiled(*layer), layer)
        taken = peak_of(lambda: torch.autograd.grad(compiled(*layer), layer))
    gradients = 4 * features * (rows + classes)
    assert taken - gradients < 3 * 4 * rows * classes // 8
