"""lightning_xent on a DTensor: two processes have half of the classes each (of binary losses, half of the last axis).

The processes start with the first case, and end with the program.
"""

import datetime
import functools
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import lightning_xent
from lightning_xent import targets
from shared_specs.conformance.features import is_binary
from shared_specs.conformance.offers import Offer
from shared_specs.load import Case

DISTRIBUTION, REQUIREMENTS = "crossent", ("torch",)
MODES = ("eager",)
RANKS = 2


def offer(case: Case) -> Offer | str:
    logits = torch.from_numpy(case.inputs["logits"])
    if logits.ndim == 0:
        return "a scalar has no axis to divide"
    axis = logits.ndim - 1 if is_binary(case.loss) else targets.class_axis(logits, case.config.get("axis"))

    def call(logits: Tensor, target: Tensor, **others: Any) -> Tensor:
        job = case.loss, case.config, axis, {"target": target, **others}
        return _OfRanks.apply(logits, job)  # type: ignore[no-untyped-call]

    return Offer(call)


class _OfRanks(torch.autograd.Function):
    """The value that the processes give, and the gradient of its sum that they give."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, job: tuple[Any, ...]) -> Tensor:
        values, gradients = zip(*_ask((logits.detach(), *job)), strict=True)
        if any(not torch.equal(value.nan_to_num(7.0), values[0].nan_to_num(7.0)) for value in values):
            raise RuntimeError(f"the processes give different values, {values}")
        ctx.save_for_backward(torch.cat(gradients, job[2]))
        return values[0]

    @staticmethod
    def backward(ctx: Any, *seeds: Tensor) -> tuple[Tensor, None]:
        if not (seeds[0] == 1.0).all():
            raise ValueError("the processes know the gradient of the sum alone")
        return ctx.saved_tensors[0], None


def _ask(job: tuple[Any, ...]) -> list[tuple[Tensor, Tensor]]:
    """What each process gives for its part of a job."""
    connections, _ = _started()
    for connection in connections:
        connection.send(job)
    answers = [connection.recv() for connection in connections]
    for answer in answers:
        if isinstance(answer, str):
            raise RuntimeError(answer)
    return answers


@functools.cache
def _started() -> tuple[list[Connection], TCPStore]:
    """Start the processes, which end when this one does, and the store by which they find each other."""
    context = multiprocessing.get_context("spawn")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    connections = []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(rank, store.port, theirs), daemon=True).start()
        theirs.close()  # else a process that ends unasked would leave this one waiting
        connections.append(ours)
    for connection in connections:
        connection.recv()
    return connections, store


def _serve(rank: int, port: int, connection: Connection) -> None:
    """Answer jobs until the other end closes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, RANKS, is_master=False)
    distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=RANKS, timeout=datetime.timedelta(seconds=60)
    )
    mesh = init_device_mesh("cpu", (RANKS,))
    connection.send("ready")
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(_of_rank(mesh, rank, *job))
        except Exception as error:
            connection.send(f"{type(error).__name__}: {error}")


def _of_rank(
    mesh: Any, rank: int, logits: Tensor, name: str, config: dict[str, Any], axis: int, others: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient on this rank's part of the logits."""
    parts = logits.chunk(RANKS, axis)
    local = parts[rank] if rank < len(parts) else logits.narrow(axis, 0, 0)
    placed = DTensor.from_local(
        local.contiguous(), mesh, [Shard(axis)], shape=logits.shape, stride=logits.stride()
    ).requires_grad_()
    value = getattr(lightning_xent, name)(**config)(placed, **others)
    gradient: Any = torch.autograd.grad(value.sum(), placed)[0]
    return value.detach(), gradient.redistribute(mesh, [Shard(axis)]).to_local()
