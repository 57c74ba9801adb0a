"""The check on a GPU, without one: every step runs on the CPU, and what is wrong or missed gives exit code 1.

Runs in the demo-tests environment, by plain operations, and in triton's, by the kernels in the interpreter.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_xent
from benchmarks.gpu import __main__ as program
from benchmarks.gpu import speed, values, vectors
from benchmarks.gpu.results import Clock, Results
from shared_specs import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """A dry run sets this for its process, which here other tests share."""
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))


def run(folder, *arguments):
    """The exit code and what results.json holds."""
    code = program.main(["--dry-run", "--output", str(folder), *arguments])
    return code, json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_every_step_runs(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--dry-run", "--sides", "torch"]
    command += ["--seconds", "500", "--output", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, env=environment)
    assert found.returncode == 0, found.stdout + found.stderr
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert list(results["steps"]) == list(program.SECONDS)
    assert results["wrong"] == results["missed"] == []
    assert "dry run" in results["machine"]["card"]
    names = [row["what"] for rows in results["steps"].values() for row in rows]
    for start in (
        "variants",
        "120 logits",
        "vectors, torch",
        "kernel 2x",
        "2x1040 bfloat16",
        "torch.compile, fullgraph",
        "layer, everything, classes",
        "layer 8x4x16",
    ):
        assert any(name.startswith(start) for name in names), (start, names)
    assert not any(
        value
        for rows in results["steps"].values()
        for row in rows
        for name, value in row.items()
        if name.endswith("_us")
    )
    has_kernels = importlib.util.find_spec("triton") is not None
    assert ("kernel_cases.py" in names) == bool(results["steps"]["sweep"]) == has_kernels


def test_no_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.import_module("torch").cuda, "is_available", lambda: False)
    assert program.main(["--output", str(tmp_path / "output")]) == 2
    found = capsys.readouterr()
    assert found.out == "" and "needs an NVIDIA GPU, and torch sees none here" in found.err
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "card,fly"], "argument --steps: must be some of card, compile"),
        (["--sides", "mxnet"], "argument --sides: must be some of torch, keras-torch, keras-jax, got mxnet"),
        (["--seconds", "0"], "argument --seconds: must be above 0, got 0"),
    ],
)
def test_bad_options(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        program.main(arguments)
    assert message in capsys.readouterr().err


def test_time_is_up(tmp_path):
    code, found = run(tmp_path, "--seconds", "1e-9")
    assert code == 0
    assert found["not_run"] == [f"{step}: time was up" for step in program.SECONDS]


REPORT = {
    "wrong": ["focal/plain float32: at (0,): want 1.0, got 2.0"],
    "unequal": ["poly/plain float32"],
    "refused": ["OrdinalCrossEntropy: cumsum has no deterministic implementation"],
    **{name: {"float32": 7} for name in ("run", "worst", "apart")},
    "of": {"float32": 9},
}


def test_wrong_values_stop_the_run(tmp_path, monkeypatch, capsys):
    """It says how to see a wrong case again, and times nothing."""
    answer = subprocess.CompletedProcess([], 0, stdout=json.dumps(REPORT), stderr="")
    monkeypatch.setattr(values.subprocess, "run", lambda *arguments, **options: answer)
    monkeypatch.setattr(values, "check_kernels", lambda *arguments: None)
    code, found = run(tmp_path, "--steps", "values,timing", "--sides", "keras-jax")
    assert code == 1
    assert len(found["wrong"]) == 2 and found["missed"] == [
        f"deterministic algorithms, keras-jax: {REPORT['refused'][0]}"
    ]
    assert found["not_run"] == ["vectors, keras-jax, float32: 2 of 9, time was up", "timing: values are wrong"]
    said = capsys.readouterr().out
    assert "focal/plain float32: at (0,): want 1.0, got 2.0; again: python -m benchmarks.gpu.vectors keras-jax" in said


def test_wrong_rows_are_found(monkeypatch):
    """Of large tensors: a value, a gradient and a half that differ."""
    right = lightning_xent.CategoricalCrossEntropy
    for is_wrong, wrong in [
        (False, right),
        (True, lambda **options: right(**options, temperature=1.01)),
        (True, lambda **options: lambda x, target: right(**options)(x, target) * (1.0 + 0.1 * (len(x) > 3))),
    ]:
        results = Results(Path(), {})
        results.start("values")
        monkeypatch.setattr(values.lightning_xent, "CategoricalCrossEntropy", wrong)
        values.check_huge(results, "cpu", is_dry=True)
        assert bool(results.wrong) == is_wrong, results.wrong


def test_missed_targets_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(speed.Bench, "microseconds", lambda bench, calls: 1000.0)
    monkeypatch.setattr(speed.Bench, "memory", lambda bench, call, x: 200.0)
    monkeypatch.setattr(speed.Bench, "share", lambda bench, size, taken, ceiling: 0.5 if ceiling == "read" else 0.8)
    monkeypatch.setattr(speed, "TARGETS", speed.TARGETS[-2:-1] + speed.TARGETS[:1])
    monkeypatch.setattr(speed.Bench, "some", lambda bench, plan: plan[:3])
    monkeypatch.setattr(speed, "time_losses", lambda *arguments: None)
    code, found = run(tmp_path, "--steps", "timing")
    assert code == 1
    what = "2x1040 bfloat16 plain"
    assert [entry.partition(":")[0] for entry in found["missed"]] == [
        f"{what}, forward, share of the ceiling", f"{what}, backward, share of the ceiling", f"{what}, memory in logits"
    ]  # fmt: skip
    assert found["missed"][0].endswith(": 0.5, wanted at least 0.9")


def test_a_step_that_breaks_off(tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(speed, "measure_card", broken)
    code, found = run(tmp_path, "--steps", "card,sweep")
    assert code == 1
    assert found["wrong"] == ["card broke off: RuntimeError: an illegal memory access"]
    assert "sweep" in found["steps"] and not any("values are wrong" in entry for entry in found["not_run"])


def test_a_run_that_hangs_leaves_its_results(tmp_path, monkeypatch):
    codes = []
    monkeypatch.setattr(program.os, "_exit", codes.append)
    results = Results(tmp_path, {})
    results.start("timing")
    results.add("kernel", forward_us=1.0)
    program.stop(results)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert codes == [1] and found["steps"] == {"timing": [{"what": "kernel", "forward_us": 1.0}]}
    assert found["not_run"] == ["the rest: a step did not end in time"]


CASES = [case for case in load.cases("CategoricalPolyCrossEntropy") if case.expected][:4]


def test_vectors_are_judged(monkeypatch):
    found = vectors.check("torch", "cpu", Clock(60), CASES, ())
    assert found["wrong"] == found["unequal"] == found["refused"] == []
    assert found["run"] == found["of"] and set(found["run"]) == {"float32", "bfloat16", "float16", "float64"}
    assert found["apart"]["float32"] == 0.0 and 0 < found["worst"]["float32"] < 8
    get = lightning_xent.get
    monkeypatch.setattr(lightning_xent, "get", lambda config: lambda *given, **more: 1.01 * get(config)(*given, **more))
    found = vectors.check("torch", "cpu", Clock(60), CASES, ("float32",))
    assert len(found["wrong"]) >= 4 and CASES[0].id in found["wrong"][0]
    assert vectors.check("torch", "cpu", Clock(-1), CASES, ("float32",))["run"] == {"float32": 0}


def test_other_bits_and_refusals_are_seen(monkeypatch):
    import torch

    class Drifting:
        calls = 0

        def __call__(self, logits, target, **more):
            self.calls += 1
            if torch.are_deterministic_algorithms_enabled() and "refuse" in more:
                raise RuntimeError("f has no deterministic implementation. Say so.")
            return (logits * self.calls).sum()

    drifting = Drifting()
    monkeypatch.setattr(lightning_xent, "get", lambda config: drifting)
    found = vectors.check("torch", "cpu", Clock(60), CASES[:1], ("float32",))
    assert found["unequal"] == [f"{CASES[0].id} float32"]
    refusing = load.Case(**{**vars(CASES[0]), "inputs": {**CASES[0].inputs, "refuse": CASES[0].inputs["logits"]}})
    found = vectors.check("torch", "cpu", Clock(60), [refusing], ("float32",))
    assert found["refused"] == ["CategoricalPolyCrossEntropy: f has no deterministic implementation"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_fails_in_threads_is_tried_alone():
    """Only an error that comes twice counts; what no time was left for is said."""
    calls = []

    def launch(name):
        calls.append(name)
        if name == "bad" or (name == "shy" and calls.count(name) == 1):
            raise RuntimeError(f"{name} failed")

    results, plan = Results(Path(), {}), [("good",), ("shy",), ("bad",)]
    results.start("compile")
    values.report(results, "kernels", plan, values.in_threads(launch, plan, Clock(60), is_dry=False))
    assert results.wrong == ["kernels: ('bad',): RuntimeError: bad failed"] and results.not_run == []
    values.report(results, "kernels", plan, values.in_threads(launch, plan, Clock(-1), is_dry=False))
    assert len(results.wrong) == 1 and results.not_run == ["kernels: 3 of 3, time was up"]


@pytest.mark.parametrize(("code", "is_wrong"), [(0, False), (9, True)])
def test_sanitizer(code, is_wrong, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f'#!/bin/sh\necho "Invalid read: $*"\nexit {code}\n', encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setattr(values.shutil, "which", lambda name, **options: str(tool))
    results = Results(Path(), {})
    results.start("sanitizer")
    values.sanitize(results, Clock(60), is_dry=False)
    assert [entry.partition(": --tool memcheck")[0] for entry in results.wrong] == (
        ["sanitizer, exit code 9: Invalid read"] if is_wrong else []
    )
    monkeypatch.setattr(values.shutil, "which", lambda name, **options: None)
    values.sanitize(results, Clock(60), is_dry=False)
    assert results.not_run == ["sanitizer: no compute-sanitizer here"]


def test_ragged_kernels(monkeypatch):
    """The sanitizer has 12 cases, of every layout and of both kinds of targets."""
    module, cases = values.kernel_cases(), {}
    monkeypatch.setattr(values, "kernel_cases", lambda: module)
    for name in ("run_labels", "run_distributions"):
        cases[name] = []
        monkeypatch.setattr(module, name, lambda case, device, name=name: cases[name].append(case))
    values.ragged_kernels()
    assert [len(of_name) for of_name in cases.values()] == [8, 4]
    for of_name in cases.values():
        assert any(case.lies in ("second", "all but the last class") for case in of_name)
        assert any(case.lies == "last" and case.shape[-1] > 1024 for case in of_name)
