"""The test vectors on a device, through one package, in a process of its own. Prints JSON.

`python -m benchmarks.gpu.vectors torch --case focal/plain --dtype float32` runs one case and prints what differs.
"""

import argparse
import importlib
import json
import os
from itertools import chain, groupby, zip_longest
from typing import Any

import numpy as np

from benchmarks.gpu.results import Clock
from shared_specs import load

SIDES = ("torch", "keras-torch", "keras-jax")
Outcome = tuple[Any, Any]
"""Value and gradient of a case, as NumPy's arrays of float64."""


class OfTorch:
    """lightning_xent, or keras_xent on torch: one case at a time."""

    group = 1

    def __init__(self, side: str, device: str) -> None:
        self.torch = importlib.import_module("torch")
        self.package = importlib.import_module("lightning_xent" if side == "torch" else "keras_xent")
        self.is_keras, self.device = side != "torch", device
        # Keras' torch backend drops float64 to float32 inside some operations.
        self.dtypes = ("float32", "bfloat16", "float16", *([] if self.is_keras else ["float64"]))

    def run(self, cases: list[load.Case], dtype: str) -> list[Outcome]:
        return [self._run(case, getattr(self.torch, dtype)) for case in cases]

    def _run(self, case: load.Case, dtype: Any) -> Outcome:
        tensors = {name: self.torch.from_numpy(np.array(array)) for name, array in case.inputs.items()}
        for name, tensor in tensors.items():
            tensors[name] = tensor.to(self.device, dtype if tensor.is_floating_point() else tensor.dtype)
        logits, target = tensors.pop("logits").requires_grad_(), tensors.pop("target")
        loss = self.package.get({"loss": case.loss, "config": case.config})
        value = loss(target, logits, **tensors) if self.is_keras else loss(logits, target, **tensors)
        (gradient,) = self.torch.autograd.grad(value.sum(), logits)
        return value.detach().double().cpu().numpy(), gradient.double().cpu().numpy()

    def deterministic(self, is_on: bool) -> None:
        self.torch.use_deterministic_algorithms(is_on)


class OfJax:
    """keras_xent on JAX: many cases in one compiled function, as compiling one takes as long."""

    group = 12
    dtypes = ("float32",)

    def __init__(self, side: str, device: str) -> None:
        self.jax = importlib.import_module("jax")
        self.package = importlib.import_module("keras_xent")
        if device == "cuda" and self.jax.default_backend() != "gpu":
            raise ImportError(f"JAX sees no GPU, it runs on {self.jax.default_backend()}")

    def run(self, cases: list[load.Case], dtype: str) -> list[Outcome]:
        narrow = {"float64": dtype, "int64": "int32"}
        losses = [self.package.get({"loss": case.loss, "config": case.config}) for case in cases]
        inputs = [
            {name: array.astype(narrow.get(array.dtype.name, array.dtype)) for name, array in case.inputs.items()}
            for case in cases
        ]
        logits = [tensors.pop("logits") for tensors in inputs]

        def total(logits: list[Any], inputs: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
            values = []
            for loss, x, given in zip(losses, logits, inputs, strict=True):
                values.append(loss(given["target"], x, **{name: given[name] for name in given if name != "target"}))
            return sum(value.sum() for value in values), values

        gradients, values = self.jax.jit(self.jax.grad(total, has_aux=True))(logits, inputs)
        return [(np.asarray(v, "float64"), np.asarray(g, "float64")) for v, g in zip(values, gradients, strict=True)]

    def deterministic(self, is_on: bool) -> None:
        """XLA has a flag of the process for this, which `main` sets."""


def judged(case: load.Case, dtype: str, outcome: Outcome) -> list[load.Verdict]:
    compute, tail = "float64" if dtype == "float64" else "float32", "tail" in case.flags
    return [
        load.compare(case.expected.loss, outcome[0], compute, compute, tail),
        load.compare(case.expected.grad_logits, outcome[1], dtype, compute, tail),
    ]


def distance(case: load.Case, dtype: str, first: Outcome, second: Outcome) -> float:
    """How far two outcomes are apart where both are finite, in eps of the dtype times the scale of the case."""
    found = 0.0
    for want, one, other in zip((case.expected.loss, case.expected.grad_logits), first, second, strict=True):
        is_finite = np.isfinite(one) & np.isfinite(other)
        apart = abs(np.where(is_finite, one, 0.0) - np.where(is_finite, other, 0.0)).max(initial=0.0)
        found = max(found, float(apart) / (load.EPSILON[dtype] * (want.scale or 1.0)))
    return found


def twice(runner: OfTorch | OfJax, cases: list[load.Case], dtype: str, refused: list[str]) -> list[list[Outcome]]:
    """Two outcomes of each case, by deterministic algorithms; where torch has none, that is noted, and others run."""
    runner.deterministic(True)
    try:
        return [runner.run(cases, dtype) for _ in range(2)]
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        refused.append(f"{cases[0].loss}: {str(error).split('.')[0]}")
        runner.deterministic(False)
        return [runner.run(cases, dtype)] * 2
    finally:
        runner.deterministic(False)


def check(side: str, device: str, clock: Clock, cases: list[load.Case], dtypes: tuple[str, ...]) -> dict[str, Any]:
    """Run cases twice on a device, and torch on the CPU beside it, until time is up."""
    runner = (OfJax if side == "keras-jax" else OfTorch)(side, device)
    cpu = OfTorch(side, "cpu") if side == "torch" else None
    found: dict[str, Any] = {"wrong": [], "unequal": [], "refused": [], "run": {}, "of": {}, "worst": {}, "apart": {}}
    for dtype in dtypes or runner.dtypes:
        of_dtype = [case for case in cases if dtype in case.dtypes]
        run, worst, apart = 0, 0.0, 0.0
        for first in range(0, len(of_dtype), runner.group):
            group = of_dtype[first : first + runner.group]
            if clock.left < 0:
                break
            run += len(group)
            try:
                outcomes, again = twice(runner, group, dtype, found["refused"])
            except Exception as error:
                found["wrong"].append(f"{[case.id for case in group]} {dtype}: {type(error).__name__}: {error}")
                continue
            for case, outcome, second in zip(group, outcomes, again, strict=True):
                verdicts = judged(case, dtype, outcome)
                found["wrong"] += [f"{case.id} {dtype}: {verdict.message}" for verdict in verdicts if not verdict.ok]
                if any(one.tobytes() != other.tobytes() for one, other in zip(outcome, second, strict=True)):
                    found["unequal"].append(f"{case.id} {dtype}")
                if "tail" not in case.flags:
                    worst = max(worst, *(verdict.worst for verdict in verdicts))
                    apart = max(apart, distance(case, dtype, outcome, *cpu.run([case], dtype))) if cpu else None
        for name, value in (("run", run), ("of", len(of_dtype)), ("worst", worst), ("apart", apart)):
            found[name][dtype] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=int, default=1, help="of the cases, each N-th")
    parser.add_argument("--shard", default="0/1", help="I/N: of those, each N-th from the I-th on")
    parser.add_argument("--case", help="the name of one")
    parser.add_argument("--dtype", action="append", default=[])
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.side.removeprefix("keras-")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, deterministic products raise
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # other processes need memory too
    if options.device == "cuda":
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"

    cases = [case for case in load.cases() if case.expected and options.case in (None, case.id)]
    by_loss = [list(of_loss) for _, of_loss in groupby(cases, lambda case: case.loss)]
    # One of each loss after the other, so that a run that is cut off has seen all losses.
    cases = [case for case in chain.from_iterable(zip_longest(*by_loss)) if case is not None]
    first, count = map(int, options.shard.split("/"))
    cases = cases[:: options.every][first::count]
    try:
        found = check(options.side, options.device, Clock(options.seconds), cases, tuple(options.dtype))
    except ImportError as error:
        found = {"missing": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
