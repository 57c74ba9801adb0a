"""Runs the test vectors against a target: each case is equal, differs by a named convention, wrong or not offered.

>>> from shared_specs.conformance import runner
>>> runner.run("lightning_xent", cases="categorical-focal/*").footer["equal"]
89
"""

import contextlib
import datetime
import difflib
import importlib.metadata
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_specs import load
from shared_specs.conformance import evaluate, offers, results
from shared_specs.conformance.evaluate import Found, Setting
from shared_specs.conformance.features import features
from shared_specs.conformance.offers import Adapter, Offer
from shared_specs.load import Case, Verdict


@dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Args:
        name: One of `results.OUTCOMES`.
        worst: The largest error as a share of the tolerance: up to 1 passes. None: nothing was compared.
        message: Why a case is wrong or not offered, or what else is to say of it.
        found: The value and the gradient of a wrong case.
    """

    name: str
    convention: str | None = None
    worst: float | None = None
    message: str | None = None
    found: Found | None = None


@dataclass(frozen=True)
class Run:
    """An adapter, the setting in which it runs, and its cases."""

    adapter: Adapter
    setting: Setting
    cases: list[Case]

    def outcome(self, case: Case) -> Outcome:
        """Run one case. Warnings of the library are not shown: numbers are judged."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _of_value(self, case) if case.expected else _of_error(self, case)


def prepare(
    target: str | None = None,
    *,
    adapter: str | None = None,
    cases: str = "*",
    dtype: str = "float32",
    mode: str | None = None,
    device: str = "cpu",
) -> Run:
    """Check the arguments of `run`, and import the library of the target."""
    if (target is None) == (adapter is None):
        raise ValueError(f"one of target and adapter must be given, got {target!r} and {adapter!r}")
    if dtype not in load.EPSILON:
        raise ValueError(f"dtype must be one of {', '.join(load.EPSILON)}, got {dtype!r}")
    chosen = [case for case in _chosen(cases) if dtype in case.dtypes]
    if not chosen:
        raise ValueError(f"cases: no test vector that matches {cases!r} has dtype {dtype}; use float32")
    found = offers.of_user(adapter) if adapter is not None else offers.of_target(str(target))
    return Run(found, evaluate.setting(found.framework, dtype, mode, device, found.modes), chosen)


def run(
    target: str | None = None,
    *,
    adapter: str | None = None,
    cases: str = "*",
    dtype: str = "float32",
    mode: str | None = None,
    device: str = "cpu",
    json: str | Path | None = None,
    progress: bool | None = None,
) -> results.Results:
    """Run the test vectors against a target.

    Args:
        target: One of `offers.targets()`.
        adapter: An adapter of your own, module:function, in place of a target.
        cases: A glob of ids or losses, such as "categorical-focal/*" or "*FocalCrossEntropy".
        dtype: The dtype of the inputs. Cases without it are left out.
        mode: "eager" or "compiled"; None is the target's first, mostly "eager".
        device: "cpu" or, for torch, "cuda".
        json: The file to write; see `results`.
        progress: Whether to show a progress bar on stderr. None: if it is a terminal.

    Raises:
        ValueError: An argument out of its range, or a glob that matches no case.
    """
    from tqdm import tqdm

    prepared = prepare(target, adapter=adapter, cases=cases, dtype=dtype, mode=mode, device=device)
    header, lines, start = _header(prepared), [], time.perf_counter()
    with contextlib.ExitStack() as stack:
        file = None if json is None else stack.enter_context(Path(json).open("w", encoding="utf-8"))
        results.write_line(file, header)
        bar = tqdm(
            prepared.cases,
            desc=prepared.adapter.name,
            unit="case",
            file=sys.stderr,
            disable=None if progress is None else not progress,
            leave=False,
        )
        for case in bar:
            line = line_of(case, prepared.outcome(case), dtype)
            lines.append(line)
            results.write_line(file, line)
        footer = results.footer(lines, time.perf_counter() - start)
        results.write_line(file, footer)
    return results.Results(header, lines, footer)


def line_of(case: Case, outcome: Outcome, dtype: str) -> dict[str, Any]:
    """The line of a case in a file."""
    line: dict[str, Any] = {
        "kind": "case",
        "id": case.id,
        "loss": case.loss,
        "features": features(case, dtype),
        "outcome": outcome.name,
        "config": case.config,
        "convention": outcome.convention,
        "worst": outcome.worst,
        "message": outcome.message,
    }
    if outcome.name == "wrong":
        line["got"] = outcome.found and _pair(outcome.found.value, outcome.found.gradient)
        line["wanted"] = _wanted(case)
        line["inputs"] = {
            name: {"kind": _kind(array), "shape": list(array.shape), "data": array.tolist()}
            for name, array in case.inputs.items()
        }
    return {name: results.plain(value) for name, value in line.items() if value is not None}


def _chosen(glob: str) -> list[Case]:
    """The cases whose id or loss matches a glob."""
    every = load.cases()
    found = [case for case in every if fnmatchcase(case.id, glob) or fnmatchcase(case.loss, glob)]
    if not found:
        names = [*dict.fromkeys(case.loss for case in every), *(case.id for case in every)]
        near = difflib.get_close_matches(glob, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        example = f"an id such as {every[0].id!r} or a loss such as {every[0].loss!r}"
        raise ValueError(f"cases must match {example}, got {glob!r}, which matches none{hint}")
    return found


def _header(run: Run) -> dict[str, Any]:
    names = dict.fromkeys(
        name for name in (run.adapter.distribution, *run.setting.module.VERSIONS, "numpy", "crossent") if name
    )
    versions = {name: version for name in names if (version := _version(name)) is not None}
    return {
        "format": results.FORMAT,
        "kind": "header",
        "target": run.adapter.name,
        "version": versions.get(run.adapter.distribution or ""),
        "framework": run.adapter.framework,
        "versions": versions,
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
        "dtype": run.setting.dtype,
        "mode": run.setting.mode,
        "device": run.setting.device,
        "cases": len(run.cases),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _of_value(run: Run, case: Case) -> Outcome:
    """Judge a value case: first the call alone, and if it is off, the call with its convention undone."""
    try:
        offer = run.adapter.offer(case)
    except Exception as error:
        return Outcome("wrong", message=_one_line(error))
    if not isinstance(offer, Offer):
        return Outcome("not offered", message=offer)
    found = _judged(run.setting, offer.call, case)
    if found.name == "equal" or offer.undone is None:
        return found
    undone = _judged(run.setting, offer.undone, case)
    if undone.name == "equal":
        return Outcome("differs", offer.convention, undone.worst, undone.message)
    return Outcome("wrong", None, undone.worst, f"after undoing {offer.convention!r}: {undone.message}", undone.found)


def _judged(setting: Setting, call: Any, case: Case) -> Outcome:
    """Equal or wrong."""
    try:
        found = setting.evaluate(call, case.inputs)
    except Exception as error:
        return Outcome("wrong", message=_one_line(error))
    verdicts = dict(_verdicts(case, found, setting.dtype))
    worst = max(verdict.worst for verdict in verdicts.values())
    worst /= load.TAIL_TOLERANCE if "tail" in case.flags else load.TOLERANCE
    failed = [f"{name}: {verdict.message}" for name, verdict in verdicts.items() if not verdict.ok]
    if failed:
        return Outcome("wrong", None, worst, "; ".join(failed), found)
    return Outcome("equal", None, worst, "value only" if found.gradient is None else None)


def _verdicts(case: Case, found: Found, dtype: str) -> Iterator[tuple[str, Verdict]]:
    """The verdicts on value and gradient; what has no dtype of floats cannot be equal."""
    assert case.expected is not None
    compute_dtype, tail = "float64" if dtype == "float64" else "float32", "tail" in case.flags
    for name, want, got, got_dtype in (
        ("loss", case.expected.loss, found.value, found.value_dtype),
        ("grad_logits", case.expected.grad_logits, found.gradient, found.gradient_dtype),
    ):
        if got is None:
            continue
        if got_dtype not in load.EPSILON:
            yield name, Verdict(False, np.inf, f"dtype: want one of {', '.join(load.EPSILON)}, got {got_dtype}")
        else:
            yield name, load.compare(want, got, got_dtype, compute_dtype, tail)


def _of_error(run: Run, case: Case) -> Outcome:
    """Judge an error case: the library must raise, and name the argument.

    NaN is also right where the case says so and values cannot be read: under a trace, and on an accelerator.
    """
    assert case.error is not None
    if run.adapter.arguments is None:
        return Outcome("not offered", message="bad input is judged only where an adapter states ARGUMENTS")
    name = run.adapter.arguments.get(case.error.argument, case.error.argument)
    found = None
    try:
        offer = run.adapter.offer(case)
        if not isinstance(offer, Offer):
            return Outcome("not offered", message=offer)
        if case.inputs:
            found = run.setting.evaluate(offer.call, case.inputs)
    except Exception as error:
        is_kind = any(kind.__name__ == case.error.exception for kind in type(error).__mro__)
        # Compilers raise what they trace as an exception of their own.
        if (is_kind or run.setting.mode == "compiled") and re.search(rf"\b{re.escape(name)}\b", str(error)):
            return Outcome("equal")
        wanted = f"want {case.error.exception} that names {name}"
        return Outcome("wrong", message=f"{wanted}, got {_one_line(error)}")
    is_unread = run.setting.mode == "compiled" or run.setting.device != "cpu"
    if is_unread and case.error.traced == "nan" and found and np.isnan(found.value).any():
        return Outcome("equal")
    return Outcome("wrong", message=f"want {case.error.exception} that names {name}, got no error", found=found)


def _one_line(error: Exception) -> str:
    """The type and the first line of an exception."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.strip()}"[:500]


def _pair(value: NDArray[Any], gradient: NDArray[Any] | None) -> dict[str, Any]:
    return {"loss": value.tolist(), "grad_logits": None if gradient is None else gradient.tolist()}


def _wanted(case: Case) -> dict[str, Any]:
    if case.error:
        return {"exception": case.error.exception, "argument": case.error.argument}
    assert case.expected is not None
    return _pair(case.expected.loss.data, case.expected.grad_logits.data)


def _kind(array: NDArray[Any]) -> str:
    return next(kind for kind, dtype in load.DTYPES.items() if array.dtype == dtype)
