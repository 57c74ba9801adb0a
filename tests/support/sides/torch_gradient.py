"""Values and gradients by torch.autograd, for both sides that compute with torch."""

import gc
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest import mock

import numpy as np
import torch

from lightning_xent import kernels
from lightning_xent.kernels import blocks
from lightning_xent.kernels.linear import Limits

eager_modes = ("eager", "blocks")
compiled_modes = ("inductor",)
modes = (*eager_modes, "torch.compile")  # with the backend "eager": the capture alone, which takes no compiler
BACKENDS = {"torch.compile": "eager", "aot": "aot_eager", "inductor": "inductor"}
group_size = 6  # 24 take inductor more than twice the time for each case
parts_mode = "eager"


def tensor(array, dtype=None):
    array = torch.from_numpy(np.array(array))
    return array if dtype is None else array.to(getattr(torch, dtype))


def numpy(value):
    return value.detach().double().numpy()


def dtype_name(value):
    return str(value.dtype).removeprefix("torch.")


@contextmanager
def prepared(function, mode):
    """Give `function` as the mode runs it."""
    with ExitStack() as stack:
        if mode in BACKENDS:
            torch.compiler.reset()
            backend = BACKENDS[mode]
            # Code for one thread, as OMP_NUM_THREADS=1 has it, differs: it hid gradients that were wrong for all users.
            options = {"cpp.threads": 2} if backend == "inductor" else None
            function = torch.compile(function, fullgraph=True, backend=backend, dynamic=False, options=options)
            # A compiler leaves so many objects that their collection takes much of its time.
            gc.disable()
            stack.callback(gc.enable)
            # Numbers of a loss are constants of its graph in the end; Dynamo finds that out by tracing all of it twice.
            stack.enter_context(torch._dynamo.config.patch(specialize_float=True))
        if mode == "blocks":  # of a row or two, for inputs that would be one block
            stack.enter_context(mock.patch.object(blocks, "BLOCK", 5))
        yield function


def values_of(functions, inputs, mode):
    """The values of functions, each of its own inputs; a compiled mode compiles all of them as one function."""
    with prepared(partial(of_all, functions), mode) as function:
        return function(inputs)


def values_and_gradients(functions, inputs, mode):
    """`values_of`, each with the gradient of its sum in its first input."""
    inputs = [(logits.clone().requires_grad_(), *rest) for logits, *rest in inputs]
    with prepared(partial(of_all, functions), mode) as function:
        found = function(inputs)
        gradients = torch.autograd.grad([value.sum() for value in found], [logits for logits, *_ in inputs])
    return list(zip(found, gradients, strict=True))


def value_and_gradient(function, logits, mode, *rest):
    (result,) = values_and_gradients([function], [(logits, *rest)], mode)
    return result


def of_all(functions, inputs):
    return [function(*of_one) for function, of_one in zip(functions, inputs, strict=True)]


# Everything in one chunk, a row or two in a chunk, and a class or two in a chunk.
linear_plans = {"whole": None, "rows": Limits(40, 40, 0, 40), "classes": Limits(40, 40, 1000, 40)}


@contextmanager
def planned(plan):
    """Compute losses of layers in small chunks."""
    limits = linear_plans[plan]
    with mock.patch.dict(kernels.linear.LIMITS, {} if limits is None else {"cpu": limits}):
        yield
