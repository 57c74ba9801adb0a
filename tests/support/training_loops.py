"""The code blocks of docs/training_loops.md, and one step by the loops among them.

Run as `python training_loops.py fabric|accelerate|torch DEVICES`; prints the worst difference between the gradient of
the step and that of all its rows at once, relative to the largest entry of the gradient.
"""

import os
import re
import sys
from functools import partial
from pathlib import Path

from groups import leave_group
from ports import free_port

PAGE = Path(__file__).parents[2] / "docs/training_loops.md"
CLASSES, FEATURES, IGNORED = 4, 3, -100


def block(*words):
    """The names that the code block of the page which has all of these words defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (code,) = [code for code in blocks if all(word in code for word in words)]
    names = {}
    exec(compile(code, PAGE.name, "exec"), names)
    return names


def micro_batches(device=0):
    """Three uneven micro-batches of a device: the second of device 0 is ignored as a whole."""
    import torch

    generator = torch.Generator().manual_seed(device)
    result = []
    for index, rows in enumerate((5, 2, 3 + device)):
        inputs = torch.randn(rows, FEATURES, generator=generator)
        labels = torch.randint(0, CLASSES, (rows,), generator=generator)
        labels[: rows if (index, device) == (1, 0) else index] = IGNORED
        result.append((inputs, labels))
    return result


def network():
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(FEATURES, CLASSES)


def difference(weight, devices, class_weight=None):
    """How far the step of SGD(1.0) that made `weight` is from the gradient of all rows, by torch's own loss."""
    import torch

    model = network()
    batches = [batch for device in range(devices) for batch in micro_batches(device)]
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    class_weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    torch.nn.functional.cross_entropy(model(inputs).double(), labels, class_weight, ignore_index=IGNORED).backward()
    wanted = model.weight.grad
    return float((model.weight.detach() - weight - wanted).abs().max() / wanted.abs().max())


def with_fabric(devices):
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto")
    return fabric.launch(step_of_fabric, devices)


def step_of_fabric(fabric, devices):
    found = difference(weight_of_fabric(fabric), devices)
    if devices > 1:
        leave_group()
    return found


def weight_of_fabric(fabric):
    import torch

    model = network()
    module, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), 1.0))
    block("fabric.backward")["train_step"](fabric, module, optimizer, micro_batches(fabric.global_rank))
    return model.weight.detach()


def spawned(step_of_process, devices):
    """The largest answer of processes of gloo that take the step; of this one, if there is one device."""
    from torch import multiprocessing

    if devices == 1:
        return step_of_process(0, 1)
    answers = multiprocessing.get_context("spawn").SimpleQueue()
    multiprocessing.spawn(process, (step_of_process, devices, free_port(), answers), nprocs=devices)
    return max(answers.get() for _ in range(devices))


def process(rank, step_of_process, devices, port, answers):
    os.environ.update(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(devices), "LOCAL_WORLD_SIZE": str(devices)}
        | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    )
    answers.put(step_of_process(rank, devices))
    leave_group()


def step_of_accelerate(rank, devices):
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == devices
    model = network()
    module, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 1.0))
    block("accelerator.backward")["train_step"](accelerator, module, optimizer, micro_batches(rank))
    return difference(model.weight.detach(), devices)


def step_of_torch(rank, devices):
    import torch

    model = network()
    torch.distributed.init_process_group("gloo")
    module = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    block("network.no_sync")["train_step"](module, optimizer, micro_batches(rank))
    return difference(model.weight.detach(), devices)


LOOPS = {
    "fabric": with_fabric,
    "accelerate": partial(spawned, step_of_accelerate),
    "torch": partial(spawned, step_of_torch),
}


if __name__ == "__main__":
    print(LOOPS[sys.argv[1]](int(sys.argv[2])))
