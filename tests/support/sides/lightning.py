"""torch, through lightning_xent."""

import torch
from pytorch_lightning import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset

import lightning_xent as package
from lightning_xent import targets
from lightning_xent.module import XentModule
from sides.torch_gradient import (
    compiled_modes,
    dtype_name,
    eager_modes,
    group_size,
    linear_plans,
    modes,
    numpy,
    parts_mode,
    planned,
    tensor,
    value_and_gradient,
    values_and_gradients,
    values_of,
)

dtypes = ("float64", "float32", "bfloat16", "float16")
fast_share = 3
eager_dtypes, compiled_dtypes = dtypes, ("float32",)
fast_dtypes = {"eager": dtypes, "blocks": ("float32",)}
raising_modes = ()


def given(values):
    """Values as users pass them."""
    return torch.from_numpy(values)


def call(loss, logits, target, **more):
    return loss(logits, target, **more)


def parts(loss, logits, target, **more):
    return loss.parts(logits, target, **more)


def fit(loss, inputs, target, *, outputs, epochs, sample_weight=None):
    """Train a linear model by a Trainer; return the loss of each epoch and the function that it learnt."""
    torch.manual_seed(0)
    tensors = [torch.from_numpy(array) for array in (inputs, target, sample_weight) if array is not None]
    batches = DataLoader(TensorDataset(*tensors), batch_size=32)
    module = XentModule(
        torch.nn.Linear(inputs.shape[1], outputs), loss, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.5)
    )
    losses = EpochLosses()
    trainer(max_epochs=epochs, callbacks=[losses]).fit(module, batches, batches)
    return losses.values, lambda inputs: module(torch.from_numpy(inputs)).detach().numpy()


class EpochLosses(Callback):
    """Collects the logged loss of each training epoch."""

    def __init__(self):
        self.values = []

    def on_train_epoch_end(self, trainer, module):
        self.values.append(float(trainer.callback_metrics["train_loss"]))


def trainer(**options):
    """A Trainer that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", **{**quiet, "enable_model_summary": False, **options})


def class_axis(loss, logits):
    """The class axis of logits."""
    return targets.class_axis(torch.from_numpy(logits), loss.axis)


def layer(loss, hidden, weight, bias, target, *, fused, **more):
    """The loss of a last layer, in chunks or of all logits, and the gradients of hidden, weight and bias of its sum."""
    hidden, weight, bias = (None if each is None else each.clone().requires_grad_() for each in (hidden, weight, bias))
    if fused:
        value = loss.linear(hidden, weight, target, bias, **more)
    else:
        value = loss(torch.nn.functional.linear(hidden, weight, bias), target, **more)
    wanted = [each for each in (hidden, weight, bias) if each is not None]
    return [numpy(each) for each in (value, *torch.autograd.grad(value.sum(), wanted))]


def layer_value(loss, hidden, weight, bias, target, **more):
    """The loss of a last layer, in chunks."""
    return loss.linear(hidden, weight, target, bias, **more)


def layer_parts(loss, hidden, weight, bias, target):
    """The sum and the denominator of the loss of a last layer."""
    return [float(each) for each in loss.linear_parts(hidden, weight, target, bias)]


linear_share = 1
linear_dtypes = dtypes
layer_dtype, layer_tolerance = "float64", 1e-12
target_name, weight_name = "target", "weight"
