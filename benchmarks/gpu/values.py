"""Whether values are right: every kernel starts, the vectors, kernel by kernel, more than 2^31 logits, memcheck."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import lightning_xent
from benchmarks.gpu.kernels import OPTIONS, Inputs, tiny
from benchmarks.gpu.results import Clock, Results
from lightning_xent.kernels import cuda

ROOT = Path(__file__).parents[2]
DTYPES = (torch.bfloat16, torch.float32, torch.float16, torch.float64)
SHAPES = ((8, 32000), (8, 50257), (2, 1000000), (64, 1000), (2, 21, 64, 64))


def in_threads(function: Callable[..., None], plan: list[Any], clock: Clock, is_dry: bool) -> list[bool | Exception]:
    """Call a function with each entry: True, False if time was up, or its error, if it has one a second time, alone."""

    def attempt(entry: Any) -> bool | Exception:
        if clock.left < 0:
            return False
        # The gradient is computed in this thread, not in the one of the device, which all would share.
        with torch.autograd.set_multithreading_enabled(False):
            try:
                function(*entry)
            except Exception as error:
                return error
        return True

    with ThreadPoolExecutor(1 if is_dry else 8) as pool:
        outcomes = list(pool.map(attempt, plan))
    return [
        attempt(entry) or outcome if isinstance(outcome, Exception) else outcome
        for entry, outcome in zip(plan, outcomes, strict=True)
    ]


def compile_kernels(results: Results, clock: Clock, device: str, is_dry: bool) -> None:
    """Launch every variant once."""
    plan = [(shape, option, dtype) for dtype in DTYPES for option in OPTIONS for shape in SHAPES]

    def launch(shape: tuple[int, ...], option: str, dtype: torch.dtype) -> None:
        Inputs.of(tiny(shape) if is_dry else shape, option, dtype, device).backward()()
        if device == "cuda":
            torch.cuda.synchronize()  # an illegal access shows here

    plan = plan[:: 37 if is_dry else 1]
    report(results, "variants of kernels", plan, in_threads(launch, plan, clock, is_dry))


def report(results: Results, what: str, plan: list[Any], outcomes: list[bool | Exception]) -> None:
    for entry, outcome in zip(plan, outcomes, strict=True):
        if isinstance(outcome, Exception):
            results.wrong.append(f"{what}: {entry}: {type(outcome).__name__}: {outcome}")
    results.count(what, sum(outcome is not False for outcome in outcomes), len(plan))


def check_values(results: Results, clock: Clock, device: str, is_dry: bool, sides: tuple[str, ...]) -> None:
    """Run the vectors in processes of their own, and meanwhile the kernels by themselves, and large tensors."""
    # Most of the time goes into compiling kernels, of which several processes compile several at once.
    shards = 1 if is_dry else max(1, min(8, (os.cpu_count() or 1) // 2))
    plan = [
        (side, shard, count) for side in sides for count in [shards if side == "torch" else 1] for shard in range(count)
    ]

    def run(entry: tuple[str, int, int]) -> dict[str, Any]:
        side, shard, count = entry
        seconds = max(1.0, clock.left)
        command = [sys.executable, "-m", "benchmarks.gpu.vectors", side, "--device", device]
        command += ["--shard", f"{shard}/{count}", "--seconds", str(0.8 * seconds)]
        command += ["--every", "200", "--dtype", "float32"] if is_dry else []
        try:
            found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"missing": "time was up"}
        if found.returncode:
            return {"broken": f"exit code {found.returncode}: " + " | ".join(found.stderr.splitlines()[-3:])}
        return json.loads(found.stdout.splitlines()[-1])

    with ThreadPoolExecutor(len(plan)) as pool:
        reports = pool.map(run, plan)
        torch.use_deterministic_algorithms(True)  # memory is full of NaN before it is written
        try:
            check_huge(results, device, is_dry)
            check_kernels(results, clock, device, is_dry)
        except Exception as error:
            results.wrong.append(f"large tensors or kernel_cases.py broke off: {type(error).__name__}: {error}")
        finally:
            torch.use_deterministic_algorithms(False)
        reports = list(reports)
    for side in sides:
        add_vectors(
            results, side, device, [report for report, entry in zip(reports, plan, strict=True) if entry[0] == side]
        )


def add_vectors(results: Results, side: str, device: str, reports: list[dict[str, Any]]) -> None:
    """Add what the processes of a side found, each in its part of the cases."""
    results.not_run += [f"vectors, {side}: {report['missing']}" for report in reports if "missing" in report]
    results.wrong += [f"vectors, {side}, broke off: {report['broken']}" for report in reports if "broken" in report]
    found = [report for report in reports if "run" in report]
    again = f"python -m benchmarks.gpu.vectors {side} --device {device} --case NAME --dtype DTYPE"
    for report in found:
        results.wrong += [f"vectors, {side}: {entry}; again: {again}" for entry in report["wrong"]]
        results.wrong += [f"vectors, {side}: {entry}: other bits the second time" for entry in report["unequal"]]
    refused = {entry for report in found for entry in report["refused"]}
    results.missed += [f"deterministic algorithms, {side}: {entry}" for entry in sorted(refused)]
    for dtype in found[0]["run"] if found else []:
        of_all = {name: [report[name][dtype] for report in found] for name in ("run", "of", "worst", "apart")}
        worst, apart = max(of_all["worst"]), None if None in of_all["apart"] else max(of_all["apart"])
        run, of = sum(of_all["run"]), sum(of_all["of"])
        results.count(f"vectors, {side}, {dtype}", run, of, worst_of_8=worst, eps_from_cpu=apart)


def kernel_cases() -> ModuleType:
    """The cases of tests/cuda, from their file: `tests` may be the name of some installed package."""
    spec = importlib.util.spec_from_file_location("kernel_cases", ROOT / "tests" / "support" / "kernel_cases.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def check_kernels(results: Results, clock: Clock, device: str, is_dry: bool) -> None:
    """The kernels alone, beside formulas in extended precision."""
    if not cuda.runs_on(torch.device(device)):
        results.not_run.append("kernel_cases.py: Triton is not installed")
        return
    module = kernel_cases()
    plan = [("run_labels", case) for case in module.LABELS] + [
        ("run_distributions", case) for case in module.DISTRIBUTIONS
    ]
    if is_dry:
        plan = [(check, case) for check, case in plan if case.name == "short torch.bfloat16"]
    outcomes = in_threads(lambda check, case: getattr(module, check)(case, device), plan, clock, is_dry)
    report(results, "kernel_cases.py", plan, outcomes)


def check_huge(results: Results, device: str, is_dry: bool) -> None:
    """More than 2^31 logits: the bits of both halves, and values of rows on either side of 2^31."""
    rows, inner, classes = (6, 4, 5) if is_dry else (2200, 1000, 1000)
    for shape in [(rows, inner * classes), (rows, classes, inner)]:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        target = torch.randint(shape[1], (rows, *shape[2:]), generator=generator, device=device)
        loss = lightning_xent.CategoricalCrossEntropy(reduction="none")
        found = value_and_gradient(loss, x, target)
        is_same = True
        for half in (slice(0, rows // 2), slice(rows // 2, rows)):
            parts = value_and_gradient(loss, x[half], target[half])
            is_same &= all(torch.equal(whole[half], part) for whole, part in zip(found, parts, strict=True))
        picked = torch.tensor([0, rows // 2, min(rows - 2, 2**31 // (inner * classes)), rows - 1], device=device)
        of_picked = x[picked].double().cpu(), target[picked].cpu()  # torch's loss refuses deterministic CUDA
        want = value_and_gradient(lambda x, target: functional.cross_entropy(x, target, reduction="none"), *of_picked)
        errors = [
            float(((whole[picked].double().cpu() - part).abs() / (part.abs() + 1e-12)).max())
            for whole, part in zip(found, want, strict=True)
        ]
        if not is_same or not (errors[0] <= 512 * 2**-23 and errors[1] <= 2**-7):
            results.wrong.append(f"{shape} bfloat16, seed 0: halves have equal bits: {is_same}, errors: {errors}")
        results.count(f"{x.numel()} logits, {shape}", 1, 1)


def value_and_gradient(loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = loss(x, target)
    return value.detach(), *torch.autograd.grad(value.sum(), x)


def sanitize(results: Results, clock: Clock, is_dry: bool) -> None:
    """Small kernels under compute-sanitizer, which sees accesses beyond a tensor that torch's allocator would hide."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=f"{home}/bin")
    if is_dry or tool is None:
        results.not_run.append(f"sanitizer: {'a dry run has no GPU' if is_dry else 'no compute-sanitizer here'}")
        return
    code = "from benchmarks.gpu import values; values.ragged_kernels()"
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", code]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        found = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=max(1.0, clock.left)
        )
    except subprocess.TimeoutExpired:
        results.not_run.append("sanitizer: time was up")
        return
    if found.returncode:
        lines = (found.stdout + found.stderr).splitlines()
        results.wrong.append(f"sanitizer, exit code {found.returncode}: {' | '.join(lines[:3] + lines[-3:])}")
    results.count("ragged kernels under memcheck", 1, 1)


def ragged_kernels() -> None:
    """What the sanitizer runs: 12 small cases that end within a vector or a tile."""
    module = kernel_cases()
    names = ("unaligned", "positions", "1025 classes", "all but the last")
    for run, cases, count in (
        (module.run_labels, module.LABELS, 8),
        (module.run_distributions, module.DISTRIBUTIONS, 4),
    ):
        for case in [case for case in cases if any(name in case.name for name in names)][:count]:
            run(case, "cuda")
