"""Measures one layer in a process of its own: `python -m benchmarks.layers.work PLAN.json RESULT.json`.

Each call is the loss and the gradients of hidden states and weight, in float32.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import machine, memory
from benchmarks.measure import alternating

Calls = dict[str, Callable[[], Any]]

PRODUCTS, IN_CHUNKS = "three bare products", "three bare products, in chunks"
OURS, FOCAL, SMOOTHED, WHOLE = "linear", "linear, focal", "linear, smoothed", "our loss of all logits"
OWN = {"torch": "F.linear + F.cross_entropy", "keras": "Keras, all logits"}


def torch_calls(rows: int, features: int, classes: int) -> Calls:
    """Return the calls in torch."""
    import torch
    from torch.nn import functional

    import lightning_xent
    from lightning_xent.kernels.linear import Head, chunks

    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, features), torch.randn(classes, features).mul_(features**-0.5)
    label = torch.randint(0, classes, (rows,))
    hidden.requires_grad_(), weight.requires_grad_()
    size = chunks(Head(hidden, weight, None), 1, splits_classes=True).rows

    def step(loss: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(), (hidden, weight))

    def products() -> None:
        h, w = hidden.detach(), weight.detach()
        logits = h @ w.T
        logits @ w, logits.T @ h

    def products_in_chunks() -> None:
        h, w = hidden.detach(), weight.detach()
        memory, of_hidden, of_weight = h.new_empty(size, classes), torch.empty_like(h), torch.empty_like(w)
        for first in range(0, rows, size):
            some = h[first : first + size]
            logits = torch.mm(some, w.T, out=memory[: len(some)])
            torch.mm(logits, w, out=of_hidden[first : first + size])
            if first == 0:
                torch.mm(logits.T, some, out=of_weight)
            else:
                of_weight.addmm_(logits.T, some)

    cross_entropy = lightning_xent.CategoricalCrossEntropy()
    smoothed = lightning_xent.CategoricalCrossEntropy(label_smoothing=0.1)
    focal = lightning_xent.CategoricalFocalCrossEntropy()
    calls = {
        PRODUCTS: products,
        IN_CHUNKS: products_in_chunks,
        OWN["torch"]: step(lambda: functional.cross_entropy(functional.linear(hidden, weight), label)),
        WHOLE: step(lambda: cross_entropy(functional.linear(hidden, weight), label)),
        OURS: step(lambda: cross_entropy.linear(hidden, weight, label)),
        FOCAL: step(lambda: focal.linear(hidden, weight, label)),
        SMOOTHED: step(lambda: smoothed.linear(hidden, weight, label)),
    }
    if hasattr(functional, "linear_cross_entropy"):
        calls["F.linear_cross_entropy"] = step(lambda: functional.linear_cross_entropy(hidden, weight, label))
    unchecked = lightning_xent.CategoricalCrossEntropy(check_labels=False)
    losses = {
        OWN["torch"]: lambda h, w: functional.cross_entropy(functional.linear(h, w), label),
        WHOLE: lambda h, w: unchecked(functional.linear(h, w), label),
        OURS: lambda h, w: unchecked.linear(h, w, label),
    }
    for name, loss in losses.items():
        compiled = torch.compile(loss, fullgraph=True)
        calls[f"{name}, torch.compile"] = step(lambda compiled=compiled: compiled(hidden, weight))  # type: ignore[misc]
    return calls


def keras_calls(rows: int, features: int, classes: int) -> Calls:
    """Return the calls in Keras, compiled: by jax.jit, or by tf.function."""
    import keras
    import numpy as np

    import keras_xent

    generator = np.random.default_rng(0)
    hidden = keras.ops.convert_to_tensor(generator.standard_normal((rows, features), np.float32))
    kernel = generator.standard_normal((features, classes), np.float32) * np.float32(features**-0.5)
    kernel, label = (
        keras.ops.convert_to_tensor(kernel),
        keras.ops.convert_to_tensor(generator.integers(0, classes, rows)),
    )
    cross_entropy = keras_xent.SparseCategoricalCrossEntropy(check_labels=False)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = {
        OWN["keras"]: lambda h, k: theirs(label, keras.ops.matmul(h, k)),
        WHOLE: lambda h, k: cross_entropy(label, keras.ops.matmul(h, k)),
        OURS: lambda h, k: cross_entropy.linear(label, h, k),
    }
    calls: Calls = {}
    if keras.backend.backend() == "jax":
        import jax

        for name, loss in losses.items():
            step = jax.jit(jax.value_and_grad(loss, (0, 1)))
            calls[name] = lambda step=step: jax.block_until_ready(step(hidden, kernel))
            analysis = step.lower(hidden, kernel).compile().memory_analysis()
            JAX_MEMORY[name] = None if analysis is None else analysis.temp_size_in_bytes
        products = jax.jit(lambda h, k: ((z := h @ k) @ k.T, h.T @ z))
        calls[PRODUCTS] = lambda: jax.block_until_ready(products(hidden, kernel))
        return calls
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")

    def of(loss: Callable[[Any, Any], Any], *, compiles: bool) -> Callable[[], Any]:
        @tf.function(jit_compile=compiles, autograph=False)
        def step(h: Any, k: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([h, k])
                value = loss(h, k)
            return value, tape.gradient(value, [h, k])

        return lambda: step(hidden, kernel)

    for name, loss in losses.items():
        calls[name] = of(loss, compiles=False)
        calls[f"{name}, XLA"] = of(loss, compiles=True)
    products = tf.function(lambda: ((z := hidden @ kernel) @ tf.transpose(kernel), tf.transpose(hidden) @ z))
    calls[PRODUCTS] = products
    return calls


JAX_MEMORY: dict[str, int | None] = {}


def peaks(backend: str, calls: Calls, logits_bytes: int, gradients: int) -> dict[str, int | None]:
    """Return the bytes that each call needs beyond its inputs and the gradients; None where that cannot be told."""
    if backend == "torch":
        return {
            name: memory.torch_cpu(call) - gradients
            for name, call in calls.items()
            if name not in (PRODUCTS, IN_CHUNKS)
        }
    if backend == "keras-jax":
        return dict(JAX_MEMORY)
    found = {name: memory.resident(call, logits_bytes) for name, call in calls.items() if name != PRODUCTS}
    return {name: None if peak is None else peak - gradients for name, peak in found.items()}


def busy_seconds() -> float:
    """Return the seconds of all cores that were not idle."""
    numbers = list(map(int, Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]))
    return (sum(numbers[:8]) - numbers[3] - numbers[4]) / os.sysconf("SC_CLK_TCK")


def compare(plan: dict[str, Any]) -> dict[str, Any]:
    """Measure the calls in turn, and the cores that other processes took meanwhile."""
    rows, features, classes = plan["size"]
    calls = (torch_calls if plan["backend"] == "torch" else keras_calls)(rows, features, classes)
    for call in calls.values():  # a compiler runs processes of its own
        call()
    start, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    rounds = alternating(list(calls.values()), plan["repeat"])
    taken = time.perf_counter() - start
    foreign = max(0.0, (busy_seconds() - busy) - (time.process_time() - own)) / taken
    logits, gradients = 4 * rows * classes, 4 * features * (rows + classes)
    found = peaks(plan["backend"], calls, logits, gradients) if plan["has_memory"] else {}
    return {
        "foreign": round(foreign, 2),
        "seconds": {name: median(times) for name, times in zip(calls, rounds, strict=True)},
        "memory": {name: None if peak is None else peak / logits for name, peak in found.items()},
        "versions": machine.versions(("torch", "keras", "jax", "tensorflow-cpu", "numpy")),
    }


def scale(plan: dict[str, Any]) -> dict[str, Any]:
    """Measure one step with so many classes: seconds, and the memory beyond the weight and the gradients."""
    rows, features, classes = plan["size"]
    if plan["backend"] == "torch":
        step = torch_step(rows, features, classes, is_fused=plan["fused"])
    else:
        step = keras_calls(rows, features, classes)[OURS if plan["fused"] else WHOLE]
        step()  # compiles
    busy, own, start = busy_seconds(), time.process_time(), time.perf_counter()
    peak = memory.resident(step, memory.SMALLEST_RESIDENT)
    seconds = time.perf_counter() - start
    foreign = max(0.0, (busy_seconds() - busy) - (time.process_time() - own)) / seconds
    gradients = 4 * features * (rows + classes)
    return {"seconds": seconds, "memory": None if peak is None else peak - gradients, "foreign": round(foreign, 2)}


def torch_step(rows: int, features: int, classes: int, *, is_fused: bool) -> Callable[[], Any]:
    """Return a step in torch, forward and backward."""
    import torch
    from torch.nn.functional import linear

    import lightning_xent

    torch.manual_seed(0)
    hidden = torch.randn(rows, features, requires_grad=True)
    weight = torch.randn(classes, features).mul_(features**-0.5).requires_grad_()
    label = torch.randint(0, classes, (rows,))
    loss = lightning_xent.CategoricalCrossEntropy()

    def step() -> Any:
        value = loss.linear(hidden, weight, label) if is_fused else loss(linear(hidden, weight), label)
        value.backward()
        return value

    return step


def over_ranks(plan: dict[str, Any]) -> dict[str, Any]:
    """Measure one step with the classes over so many processes: the slowest, and the one that needs most memory."""
    from torch import multiprocessing

    ranks = plan["ranks"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    busy, start = busy_seconds(), time.perf_counter()
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(one_rank, (plan, port, results), nprocs=ranks)
        found = list(results.values())
    foreign = max(0.0, busy_seconds() - busy - sum(each["processor"] for each in found)) / (time.perf_counter() - start)
    peaks = [each["memory"] for each in found]
    return {
        "seconds": max(each["seconds"] for each in found),
        "memory": None if None in peaks else max(peaks),
        "foreign": round(foreign, 2),
    }


def one_rank(rank: int, plan: dict[str, Any], port: int, results: Any) -> None:
    """Measure the step of one process."""
    import torch
    from torch import distributed
    from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh

    import lightning_xent

    rows, features, classes = plan["size"]
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan["ranks"]))
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=plan["ranks"])
    mesh = init_device_mesh("cpu", (plan["ranks"],))
    torch.manual_seed(0)
    label, hidden = torch.randint(0, classes, (rows,)), torch.randn(rows, features)
    hidden = DTensor.from_local(hidden, mesh, [Replicate()]).requires_grad_()
    torch.manual_seed(rank)
    local = torch.randn(classes // plan["ranks"], features).mul_(features**-0.5)
    weight = DTensor.from_local(local, mesh, [Shard(0)]).requires_grad_()
    loss, seconds = lightning_xent.CategoricalCrossEntropy(), []

    def step() -> None:
        start = time.perf_counter()
        loss.linear(hidden, weight, label).backward()
        seconds.append(time.perf_counter() - start)

    distributed.barrier()
    peak = memory.resident(step, memory.SMALLEST_RESIDENT)
    gradients = 4 * features * (rows + len(local))
    results[rank] = {
        "seconds": seconds[0],
        "memory": None if peak is None else peak - gradients,
        "processor": time.process_time(),
    }
    distributed.destroy_process_group()


KINDS = {"compare": compare, "scale": scale, "ranks": over_ranks}


def main(plan_file: str, result_file: str) -> None:
    """Measure what the plan says."""
    plan = json.loads(Path(plan_file).read_text(encoding="utf-8"))
    result = KINDS[plan["kind"]](plan)
    Path(result_file).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
