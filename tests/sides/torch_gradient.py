"""Values and gradients by torch.autograd, for both sides that compute with torch."""

import sys
from contextlib import ExitStack
from unittest import mock

import numpy as np
import torch

modes = ("eager", "blocks", "torch.compile")
slow_modes = ("torch.compile",)

KERNELS = "lightning_xent.torch_kernel", "keras_xent.torch_kernel"


def tensor(array, dtype=None):
    array = torch.from_numpy(np.array(array))
    return array if dtype is None else array.to(getattr(torch, dtype))


def numpy(value):
    return value.detach().double().numpy()


def dtype_name(value):
    return str(value.dtype).removeprefix("torch.")


def value_and_gradient(function, logits, mode, *rest):
    if mode == "torch.compile":
        torch._dynamo.reset()
        # What a loss can break is the capture. Inductor takes seconds a case: test_lightning.py has it once a class.
        function = torch.compile(function, fullgraph=True, backend="eager", dynamic=False)
    with ExitStack() as stack:
        if mode == "blocks":  # of a row or two, for inputs that would be one block
            for kernel in (sys.modules[name] for name in KERNELS if name in sys.modules):
                stack.enter_context(mock.patch.object(kernel, "BLOCK", 5))
        logits = logits.clone().requires_grad_()
        value = function(logits, *rest)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value, gradient
