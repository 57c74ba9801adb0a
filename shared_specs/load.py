"""Loads the test vectors and judges results against them. Needs only numpy."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CASES = Path(__file__).parent / "cases"
DTYPES = {"float": np.float64, "int": np.int64, "bool": np.bool_}
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
EXCEPTIONS = {
    "config": "ValueError",
    "keyword": "TypeError",
    "shape": "ValueError",
    "dtype": "TypeError",
    "label": "ValueError",
}
TOLERANCE = 8.0  # in units of eps(compute dtype) * scale
TAIL_TOLERANCE = 512.0  # in units of eps(compute dtype) * max(|want|, TAIL_FLOOR)
TAIL_FLOOR = 1e-30


@dataclass(frozen=True)
class Want:
    """One expected tensor. Entries where `compared` is False may be anything."""

    data: NDArray[np.float64]
    scale: float
    compared: NDArray[np.bool_]
    nonfinite: tuple[tuple[int, ...], ...]  # groups of flat positions: one of each group is not finite


@dataclass(frozen=True)
class Expected:
    """The loss, the gradient of its sum, and the denominator of the mean (None under "none")."""

    loss: Want
    denominator: float | None
    grad_logits: Want


@dataclass(frozen=True)
class Error:
    """What an error case raises, and what a traced run that cannot raise gives instead ("nan" or None)."""

    kind: str
    argument: str
    traced: str | None
    exception: str


@dataclass(frozen=True)
class Case:
    """One test vector: either `expected` or `error` is set."""

    id: str
    loss: str
    comment: str
    flags: tuple[str, ...]
    config: dict[str, Any]
    inputs: dict[str, NDArray[Any]]
    dtypes: tuple[str, ...]
    expected: Expected | None
    error: Error | None


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison; `compare` defines the unit of `worst`."""

    ok: bool
    worst: float
    message: str


def cases(loss: str | None = None, folder: Path = CASES) -> list[Case]:
    """All cases, or those of one loss, in the order of the files."""
    found = (case for path in sorted(folder.glob("*.json")) for case in _cases_of(path))
    return [case for case in found if loss in (None, case.loss)]


def numbers(value: Any) -> Any:
    """`value` with the strings NaN, Infinity and -Infinity as floats, at any depth."""
    if isinstance(value, list):
        return [numbers(entry) for entry in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def tensor(spec: dict[str, Any]) -> NDArray[Any]:
    """The array of one input."""
    return np.array(numbers(spec["data"]), DTYPES[spec["kind"]]).reshape(spec["shape"])


def compare(want: Want, got: NDArray[Any], got_dtype: str, compute_dtype: str, tail: bool) -> Verdict:
    """Judges `got` by the one tolerance of this suite.

    Normally `|got - want| <= 8 eps(compute) scale + eps(got) |want|`; `worst` is the largest
    `(|got - want| - eps(got) |want|) / (eps(compute) scale)`, at least 0. With `tail` it is the largest
    `|got - want| / (eps(compute) max(|want|, 1e-30))`, and 512 passes. NaN matches only NaN, an
    infinity only itself. An entry that cannot match makes `worst` infinite.
    """
    got = np.asarray(got, np.float64)
    if got.shape != want.data.shape:
        return Verdict(False, np.inf, f"shape: want {want.data.shape}, got {got.shape}")
    for group in want.nonfinite:
        if np.isfinite(got.ravel()[list(group)]).all():
            return Verdict(False, np.inf, f"no entry of {list(group)} (flat) is NaN or infinite")
    error = np.where(want.compared, _error(want, got, got_dtype, compute_dtype, tail), 0.0)
    worst = float(error.max(initial=0.0))
    limit = TAIL_TOLERANCE if tail else TOLERANCE
    if worst <= limit:
        return Verdict(True, worst, f"worst {worst:.3g} of {limit:g}")
    where = tuple(int(index) for index in np.unravel_index(int(error.argmax()), error.shape))
    wanted, found = float(want.data[where]), float(got[where])
    return Verdict(False, worst, f"at {where}: want {wanted!r}, got {found!r}, {worst:.3g} of {limit:g}")


def _error(want: Want, got: NDArray[np.float64], got_dtype: str, compute_dtype: str, tail: bool) -> NDArray[np.float64]:
    """The error of each entry in units of the tolerance; infinite where it can never match."""
    magnitude = np.abs(want.data)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(got - want.data)
        if tail:
            error = distance / (EPSILON[compute_dtype] * np.maximum(magnitude, TAIL_FLOOR))
        else:
            beyond_rounding = np.maximum(distance - EPSILON[got_dtype] * magnitude, 0.0)
            error = beyond_rounding / (EPSILON[compute_dtype] * want.scale)
    same = (got == want.data) | (np.isnan(got) & np.isnan(want.data))
    finite = np.isfinite(got) & np.isfinite(want.data)
    return np.where(same, 0.0, np.where(finite, error, np.inf))


def _cases_of(path: Path) -> Iterator[Case]:
    content = json.loads(path.read_text(encoding="utf-8"))
    for case in content["cases"]:
        yield Case(
            id=case["id"],
            loss=content["loss"],
            comment=case["comment"],
            flags=tuple(case["flags"]),
            config={name: numbers(value) for name, value in case["config"].items()},
            inputs={name: tensor(spec) for name, spec in case.get("inputs", {}).items()},
            dtypes=tuple(case.get("dtypes", ["float32"])),
            expected=_expected(case["expected"]) if "expected" in case else None,
            error=_error_of(case["error"]) if "error" in case else None,
        )


def _expected(spec: dict[str, Any]) -> Expected:
    return Expected(_want(spec["loss"]), spec["denominator"], _want(spec["grad_logits"]))


def _want(spec: dict[str, Any]) -> Want:
    entries = np.array(numbers(spec["data"]), object).reshape(spec["shape"])
    compared = np.array([entry is not None for entry in entries.ravel()], bool).reshape(entries.shape)
    groups = tuple(tuple(group) for group in spec.get("nonfinite", []))
    return Want(entries.astype(np.float64), spec["scale"], compared, groups)  # None becomes NaN


def _error_of(spec: dict[str, Any]) -> Error:
    return Error(spec["kind"], spec["argument"], spec.get("traced"), EXCEPTIONS[spec["kind"]])
