"""Runs every target in an environment of its own and collects docs/conformance/results.json.

    python -m shared_specs.conformance.matrix                    all targets but those of SLOW
    python -m shared_specs.conformance.matrix --target timm      these only; the others keep their results
    python -m shared_specs.conformance.matrix --keep FOLDER      leave the environments there, for the next run

It also runs the programs of docs/divergences.md, each where its library is installed. A library that cannot be
installed, a run that does not end, and a divergence that is gone are errors: the other targets go on, and the exit code
is 1.
"""

import argparse
import ast
import datetime
import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_specs import load
from shared_specs.conformance import divergences, environments, offers, results
from shared_specs.conformance.features import FEATURES
from shared_specs.conformance.results import OUTCOMES, Results

# Compiling each of the cases takes hours: `--target lightning_xent-compiled` does so.
SLOW = ("lightning_xent-compiled",)
RESULTS = environments.ROOT / "docs/conformance/results.json"
RUN = (
    "import sys; from shared_specs.conformance import runner; runner.run(sys.argv[1], json=sys.argv[2], progress=True)"
)
DIGITS = 9
MOST_NUMBERS = 1000
MOST_REASONS = 5


def requirements(target: str) -> tuple[str, ...]:
    """What the environment of a target installs. Its module is read, not imported."""
    path = offers.ADAPTERS / f"{target.replace('-', '_')}.py"
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and "REQUIREMENTS" in (alias.name for alias in statement.names):
            return requirements(str(statement.module).rpartition(".")[2])
        if isinstance(statement, ast.Assign):
            names, values = statement.targets[0], statement.value
            pairs = [(names, values)]
            if isinstance(names, ast.Tuple) and isinstance(values, ast.Tuple):
                pairs = list(zip(names.elts, values.elts, strict=True))
            for name, value in pairs:
                if isinstance(name, ast.Name) and name.id == "REQUIREMENTS":
                    return tuple(ast.literal_eval(value))
    raise ValueError(f"{path.name} must have REQUIREMENTS, a tuple of what its environment installs")


def is_own(target: str) -> bool:
    """Whether a target is one of this project's packages."""
    return "_xent" in target


def alike(targets: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """The targets by what they install: those that install the same share an environment."""
    found: dict[tuple[str, ...], list[str]] = {}
    for target in targets:
        found.setdefault(requirements(target), []).append(target)
    return found


def measure(targets: Sequence[str], folder: Path, keep: bool) -> tuple[list[Results], list[str]]:
    """The results of targets that install the same, and what went wrong with them or with their divergences."""
    found: list[Results] = []
    problems: list[str] = []
    installs = requirements(targets[0])
    try:
        with environments.environment(installs, folder / "-".join(installs), keep) as python:
            for target in targets:
                print(f"{target}: running", file=sys.stderr, flush=True)
                path = folder / f"{target}.jsonl"
                path.unlink(missing_ok=True)
                backend = target.rpartition("-")[2] if target.startswith("keras") else "tensorflow"
                process = environments.run(python, "-c", RUN, target, str(path), KERAS_BACKEND=backend)
                try:
                    found.append(results.read(path))
                except (OSError, ValueError) as error:
                    problems.append(f"{target}: exit code {process.returncode}: {error}")
                for section in divergences.read():
                    if target in section.targets:
                        problem = divergences.problem(python, section, KERAS_BACKEND=backend)
                        problems += [f"{target}: {problem}"] if problem else []
    except environments.InstallError as error:
        problems += [f"{target}: {error}" for target in targets]
    return found, problems


def measure_alone(folder: Path, keep: bool) -> list[str]:
    """Run the programs of sections that have an environment of their own; what went wrong."""
    problems = []
    for section in divergences.read():
        if section.requires:
            try:
                with environments.environment(section.requires, folder / section.anchor, keep) as python:
                    problem = divergences.problem(python, section)
                problems += [problem] if problem else []
            except environments.InstallError as error:
                problems.append(f"{section.title}: {error}")
    return problems


def collect(found: Sequence[Results], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What results.json holds: the targets that were run, and those of `before` that were not."""
    every = load.cases()
    ran = {run.header["target"] for run in found}
    kept = [target for target in (before or {}).get("targets", []) if target["target"] not in ran]
    cases: dict[str, Any] = {}
    for target in kept:
        cases |= {case["id"]: before["cases"][case["id"]] for case in target["failing"]} if before else {}
    for run in found:
        for case in run.cases:
            if case["outcome"] in ("wrong", "differs"):
                known = {name: case[name] for name in ("loss", "features", "config")}
                given = {name: case[name] for name in ("wanted", "inputs") if name in case}
                cases[case["id"]] = {**cases.get(case["id"], {}), **known, **given}
    targets = sorted([*kept, *map(_target, found)], key=lambda target: (not target["own"], target["target"]))
    return {
        "format": 1,
        "kind": "matrix",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "vectors": {"cases": len(every)},
        "features": list(FEATURES),
        "losses": list(dict.fromkeys(case.loss for case in every)),
        "targets": targets,
        "cases": {case.id: cases[case.id] for case in every if case.id in cases},
    }


def _target(run: Results) -> dict[str, Any]:
    """One target: its header, its counts, its cells and what failed."""
    header = {name: value for name, value in run.header.items() if name not in ("kind", "format")}
    if is_own(run.header["target"]):
        # This checkout, which is not installed.
        project = tomllib.loads((environments.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        header["version"] = project["version"]
    cells: dict[str, Any] = {}
    for case in run.cases:
        for name in (case["loss"], *case["features"]):
            cells.setdefault(name, []).append(case)
    return {
        **header,
        "own": is_own(run.header["target"]),
        "counts": {outcome: run.footer[outcome] for outcome in OUTCOMES},
        "cells": {name: _cell(group) for name, group in cells.items()},
        "failing": [_failing(case) for case in run.cases if case["outcome"] in ("wrong", "differs")],
    }


def _cell(group: list[dict[str, Any]]) -> dict[str, Any]:
    """The outcomes of the cases of one feature or loss; the worst error of those that are equal or differ."""
    passed = [case for case in group if case["outcome"] in ("equal", "differs") and "worst" in case]
    reasons = [case.get("message") for case in group if case["outcome"] == "not offered"]
    return {
        **{outcome: sum(case["outcome"] == outcome for case in group) for outcome in OUTCOMES},
        "worst": _rounded(max(case["worst"] for case in passed)) if passed else None,
        "conventions": list(dict.fromkeys(case["convention"] for case in group if "convention" in case)),
        "reasons": list(dict.fromkeys(filter(None, reasons)))[:MOST_REASONS],
    }


def _failing(case: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "outcome", "convention", "worst", "message", "got")
    kept = {name: _rounded(case[name]) for name in names if case.get(name) is not None}
    if "got" in kept and _count(kept["got"]) > MOST_NUMBERS:
        kept["got"], kept["cut"] = None, True
    return kept


def _rounded(value: Any) -> Any:
    """Numbers to nine digits, at any depth."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _count(value: Any) -> int:
    """How many numbers there are, at any depth."""
    if isinstance(value, dict | list):
        return sum(_count(entry) for entry in (value.values() if isinstance(value, dict) else value))
    return 1


def write(content: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Write results.json, a line for each target and each case, so that a diff shows what changed."""
    lines = []
    for name, value in content.items():
        if name == "targets":
            entries = ",\n".join(json.dumps(target, allow_nan=False) for target in value)
            lines.append(f'"targets": [\n{entries}\n]')
        elif name == "cases":
            entries = ",\n".join(f"{json.dumps(id)}: {json.dumps(case, allow_nan=False)}" for id, case in value.items())
            lines.append(f'"cases": {{\n{entries}\n}}')
        else:
            lines.append(f"{json.dumps(name)}: {json.dumps(value)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run targets, write results.json and say what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m shared_specs.conformance.matrix", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--target", action="append", choices=offers.targets(), help="run these only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the environments and the files of the runs")
    options = parser.parse_args(arguments)
    if not RESULTS.parent.is_dir():
        parser.error(f"{RESULTS.parent} must be a folder, but is not there: run this in a checkout of the repository")
    found: list[Results] = []
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for installs, targets in alike(
            options.target or [name for name in offers.targets() if name not in SLOW]
        ).items():
            print(f"Installing {', '.join(installs)}", file=sys.stderr, flush=True)
            runs, wrong = measure(targets, folder, keep=options.keep is not None)
            found += runs
            problems += wrong
        if not options.target:
            problems += measure_alone(folder, keep=options.keep is not None)
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if options.target and RESULTS.exists() else None
    content = collect(found, before)
    write(content)
    for target in content["targets"]:
        wrong = [case["id"] for case in target["failing"] if case["outcome"] == "wrong"]
        problems += [
            f"{target['target']}: docs/divergences.md does not explain {case}"
            for case in divergences.unexplained(target["target"], wrong)
        ]
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
