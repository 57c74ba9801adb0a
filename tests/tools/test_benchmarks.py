"""The benchmark: what it says to bad input, what it checks and measures, what it writes. No test looks at a time.

Runs in the demo-tests environment, without most of the peers.
"""

import json
import math
import os
import platform
import re
import struct
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import machine, memory, plots, report
from benchmarks.layers import __main__ as layers_program
from benchmarks.layers import page, work
from benchmarks.measure import Contender, Row, Setting, alternating, relative_difference
from benchmarks.settings import BACKENDS, DEFAULT_SIZES, LOSSES, Plan, Size
from benchmarks.side import compare
from benchmarks.targets import OWN, TARGETS

ROOT = Path(__file__).parents[2]


def run_benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ))


BAD_OPTIONS = {
    "unknown backend": (["--backend", "torch,mxnet"], ["--backend", "mxnet", "keras-jax"]),
    "unknown loss": (["--losses", "focal,lion"], ["--losses", "lion", "binary_focal"]),
    "unknown dtype": (["--dtype", "float8"], ["--dtype", "float8", "bfloat16"]),
    "unknown device": (["--device", "tpu"], ["--device", "tpu", "cuda"]),
    "size of one number": (["--sizes", "512"], ["--sizes", "512x32000", "'512'"]),
    "size of four numbers": (["--sizes", "1x2x3x4"], ["--sizes", "'1x2x3x4'"]),
    "size with a letter": (["--sizes", "128x10,axb"], ["--sizes", "'axb'"]),
    "no rows": (["--sizes", "0x10"], ["--sizes", "'0x10'"]),
    "one class": (["--sizes", "10x1"], ["--sizes", "2 classes", "'10x1'"]),
    "no rounds": (["--repeat", "0"], ["--repeat", "at least 1", "'0'"]),
    "negative scaling": (["--scaling-elements", "-1"], ["--scaling-elements", "at least 0", "'-1'"]),
    "unknown option": (["--speed"], ["--speed"]),
    "loss that Keras has not here": (
        ["--backend", "keras-jax", "--losses", "poly"],
        ["--losses", "poly", "keras-jax"],
    ),
    "binary loss of many labels": (
        ["--losses", "binary_focal", "--sizes", "16x32000"],
        ["--losses", "binary_focal", "16x32000"],
    ),
    "Keras on CUDA": (["--device", "cuda", "--backend", "keras-torch"], ["--device", "cuda", "keras-torch"]),
    "profile without torch": (["--profile", "--backend", "keras-jax"], ["--profile", "torch", "keras-jax"]),
    "output is a file": (["--output", "file"], ["--output", "file"]),
    "no results to read": (["--read", "missing.json"], ["--read", "missing.json", "no such file"]),
    "results are no JSON": (["--read", "file"], ["--read", "not a results.json"]),
    "results of something else": (["--read", "other.json"], ["--read", "not a results.json"]),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_a_bad_option_is_one_line(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("other.json").write_text('{"backends": [1]}')
    with pytest.raises(SystemExit) as exit_:
        program.main(options)
    errors = capsys.readouterr().err
    assert exit_.value.code == 2
    assert errors.count("\n") == 1
    assert errors.startswith("python -m benchmarks: error: argument ") or words == ["--speed"]
    assert not [word for word in words if word not in errors], errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_one_line(tmp_path: Path) -> None:
    process = run_benchmark("--device", "cuda", "--output", tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "argument --device" in process.stderr


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        program.main(["--help"])
    assert exit_.value.code == 0
    wanted = {"--backend", "--sizes", "--losses", "--dtype", "--device", "--repeat", "--output", "--profile", "--read"}
    assert wanted <= set(re.findall(r"--\w+", capsys.readouterr().out))


def plan(**instead: object) -> Plan:
    values = {"backend": "torch", "device": "cpu", "losses": LOSSES, "sizes": DEFAULT_SIZES["cpu"]}
    values |= {"dtypes": ("float32",), "repeat": 2, "scaling_elements": 8_000_000, "profile": False}
    return Plan(**values | instead)


def test_the_plan_covers_every_loss(tmp_path: Path) -> None:
    plan().write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan()
    settings = {str(size): losses for _, size, losses in plan().settings()}
    assert settings["4096x1000"] == list(LOSSES)
    assert settings["8x64x32000"] == ["cross_entropy"]
    assert set(settings["512x32000"]) == {loss for loss in LOSSES if not loss.startswith("binary")}
    for backend in set(BACKENDS) - {"torch"}:
        assert all(losses == ["cross_entropy", "focal"] for *_, losses in plan(backend=backend).settings())
    huge = plan(sizes=("8192x128256",)).settings()
    assert [losses for *_, losses in huge] == [["cross_entropy"]]


def test_the_scaling_run_has_the_same_number_of_logits() -> None:
    sizes = plan().scaling_sizes()
    assert [size.classes for size in sizes] == [10**3, 10**4, 10**5, 10**6]
    assert {size.elements for size in sizes} == {8_000_000}
    assert plan(scaling_elements=0).scaling_sizes() == []


GRADIENT = np.array([[-0.5, 1e-5, 2e-5], [3e-5, -0.4, 1e-5]], np.float32)
DIFFERENCES = {
    "equal": (GRADIENT, 0.0),
    "true class": (GRADIENT * np.float32([1.0, 0.9, 1.0]), 0.08),
    "softmax": (np.where(GRADIENT > 0, 2 * GRADIENT, GRADIENT), 7e-5 / 0.90007),
    "NaN": (np.where(GRADIENT > 0, np.nan, GRADIENT), math.nan),
}


@pytest.mark.parametrize(("other", "wanted"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_the_difference_of_gradients(other: np.ndarray, wanted: float) -> None:
    for convert in (np.asarray, torch.tensor):
        assert relative_difference(convert(other), convert(GRADIENT)) == pytest.approx(wanted, rel=0.2, nan_ok=True)
    assert relative_difference(np.zeros(2), np.zeros(2)) == 0.0


class Side:
    """Stands for a framework: NumPy arrays, no device."""

    array = staticmethod(np.float32)

    def synchronise(self) -> None:
        pass


def contender(name: str, value: float, gradient: float, peak: int | None = 80, **options: object) -> Contender:
    return Contender(name, lambda: (value, [gradient, -gradient]), lambda: peak, **options)


def fails() -> tuple[float, float]:
    raise TypeError("no such dtype\nand more")


PEERS = {
    "same": (contender("peer", 2.0, 0.5), None),
    "rounding": (contender("peer", 2.0001, 0.50001), None),
    "another value": (contender("peer", 2.001, 0.5), "its value differs by 5.0e-04 relative, more than 0.0001"),
    "another gradient": (contender("peer", 2.0, 0.25), "its gradient differs by 5.0e-01 relative"),
    "another sign": (contender("peer", -2.0, -0.5), "its value differs by 2.0e+00 relative, its gradient"),
    "NaN": (contender("peer", math.nan, 0.5), "its value differs by nan"),
    "a named convention": (contender("peer", 3.0, 0.25, note="mean over K", same=False), None),
    "an error": (Contender("peer", fails), "TypeError: no such dtype"),
}


@pytest.mark.parametrize(("peer", "problem"), PEERS.values(), ids=PEERS.keys())
def test_a_peer_with_another_value_is_refused(peer: Contender, problem: str | None) -> None:
    setting = Setting("cross_entropy", "eager", contender("ours", 2.0, 0.5, 20), [peer])
    (row,) = compare(Side(), setting, plan(), Size((5, 2)), "float32")
    assert row.ours_memory == 0.5
    if problem is None:
        assert row.problem == ""
        assert row.peer_memory == 2.0
        assert len(row.ours_seconds) == len(row.peer_seconds) == 2
        assert report.problems(results([row])) == []
    else:
        assert row.problem.startswith(problem)
        assert (row.ours_seconds, row.peer_seconds, row.ratio) == ([], [], None)
        (found,) = report.problems(results([row]))
        assert problem in found


def test_the_rounds_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.measure.ROUND_SECONDS", 0.0)  # one call a round
    calls: list[str] = []
    rounds = alternating([lambda: calls.append("ours"), lambda: calls.append("peer")], 3)
    assert [len(times) for times in rounds] == [3, 3]
    assert calls[:6] == ["ours"] * 3 + ["peer"] * 3  # warming up
    assert calls[6:] == ["ours", "peer"] * 3


def test_medians_and_ratio() -> None:
    row = row_of(ours_seconds=[1.0, 9.0, 2.0], peer_seconds=[3.0, 5.0, 4.0])
    assert (row.ours_median, row.peer_median, row.ratio) == (2.0, 4.0, 2.0)


def test_the_peak_of_the_allocations() -> None:
    assert memory.peak_of([]) == 0
    assert memory.peak_of([4, 4, -4, 8, -4, -8, 6]) == 12


def test_the_memory_of_tensorflow_comes_from_a_second_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_side(parser: object, plan: Plan, **variables: str) -> dict[str, object]:
        assert plan.memory_only == (variables == {"TF_ENABLE_ONEDNN_OPTS": "0"})
        memory_of = {"ours_memory": 1.0, "peer_memory": 3.0} if plan.memory_only else {}
        seconds = {"ours_seconds": [], "peer_seconds": []} if plan.memory_only else {}
        return {"versions": {}, "missing": [], "rows": [asdict(row_of(**memory_of, **seconds))]}

    monkeypatch.setattr(program, "run_side", run_side)
    (row,) = program.measure(program.command_line(), plan(backend="keras-tensorflow"))["rows"]
    assert (row["ours_memory"], row["peer_memory"]) == (1.0, 3.0)
    assert (row["ours_seconds"], row["peer_seconds"]) == ([0.02], [0.04])


def test_torch_is_timed_with_fresh_pages_and_with_reused_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_side(parser: object, plan: Plan, **variables: str) -> dict[str, object]:
        rows = [row_of(peer_seconds=[0.01 if variables else 0.04])] + [row_of(scaling=True)] * (
            plan.scaling_elements > 0
        )
        return {"versions": {}, "missing": [], "rows": [asdict(row) for row in rows]}

    monkeypatch.setattr(program, "run_side", run_side)
    monkeypatch.setattr(machine, "has_glibc", lambda: True)
    rows = [Row(**row) for row in program.measure(program.command_line(), plan(scaling_elements=8000))["rows"]]
    assert [(row.mode, row.scaling) for row in rows] == [
        ("eager", False),
        ("eager", True),
        ("eager, memory reused", False),
    ]
    many = [target.worst(rows) for target in TARGETS if "index labels, 32000" in target.text]
    assert many == [2.0, 0.5]


MEGABYTE = 2**20
ALLOCATIONS = {
    "one": (lambda: torch.ones(MEGABYTE), 4),
    "two at a time": (lambda: torch.ones(MEGABYTE) + torch.ones(MEGABYTE), 12),
    "one after the other": (lambda: [torch.ones(MEGABYTE).sum() for _ in range(3)], 4),
}


@pytest.mark.parametrize(("call", "megabytes"), ALLOCATIONS.values(), ids=ALLOCATIONS.keys())
def test_the_memory_of_a_known_allocation(call: object, megabytes: int) -> None:
    assert memory.torch_cpu(call) == pytest.approx(megabytes * MEGABYTE, abs=4096)


def test_the_memory_of_the_process() -> None:
    peak = memory.resident(lambda: np.ones(64 * MEGABYTE, np.uint8), 64 * MEGABYTE)
    assert peak is None or peak == pytest.approx(64 * MEGABYTE, rel=0.1)  # None: not on Linux, or not allowed
    assert memory.resident(lambda: np.ones(8), 8) is None


def row_of(**values: object) -> Row:
    defaults = {"backend": "torch", "mode": "eager", "loss": "cross_entropy", "size": "512x32000"}
    defaults |= {"dtype": "float32", "ours": "CategoricalCrossEntropy", "peer": "F.cross_entropy"}
    return Row(**defaults | {"ours_seconds": [0.02], "peer_seconds": [0.04]} | values)


def results(rows: list[Row], **side: object) -> dict[str, object]:
    """Return results as the program writes and reads them."""
    options = {"device": "cpu", "losses": LOSSES, "sizes": ["512x32000"], "dtypes": ["float32"], "repeat": 7}
    backends = {"torch": {"versions": {"torch": "2.13.0"}, "missing": ["monai"], "rows": rows} | side}
    return {"machine": machine.describe(), "options": options | {"scaling_elements": 0}, "backends": backends}


ROWS = [
    row_of(ours_memory=1.0, peer_memory=3.0, note="a | b"),
    row_of(loss="focal", peer=OWN, note="another loss", same=False),
    row_of(mode="eager, memory reused", peer_seconds=[0.01]),
    row_of(loss="focal", peer="kornia focal_loss", peer_seconds=[0.06]),
    row_of(loss="focal", peer="MONAI FocalLoss", peer_seconds=[0.05]),
    row_of(backend="keras-jax", mode="jit", peer="optax", peer_seconds=[0.01]),
    *[row_of(size=f"{8 * 10**6 // classes}x{classes}", scaling=True) for classes in (10**3, 10**6)],
]


def write_results(path: Path, rows: list[Row], **side: object) -> None:
    written = results([asdict(row) for row in rows], **side)
    path.write_text(json.dumps(written), encoding="utf-8")


def test_the_report_is_made_from_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "old.json", ROWS)
    assert program.main(["--read", str(tmp_path / "old.json"), "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "RESULTS.md").read_text(encoding="utf-8")
    assert text == report.markdown(report.read(tmp_path / "old.json"))
    assert "- torch: torch 2.13.0; not installed: monai" in text
    assert (
        "| cross_entropy | 512x32000 | float32 | F.cross_entropy | 20.000 | 40.000 | 2.00 | 1.00 | 3.00 | a \\| b |"
        in text
    )
    assert "| torch, fresh pages: index labels, 32000 classes or more | >= 1.60 | 2.00 | yes |" in text
    assert "| torch, eager | F.cross_entropy | 1000000 | 8 | 2.500 | 5.000 | 2.00 |" in text
    assert "Failures" not in text
    printed = capsys.readouterr().out
    assert not [word for word in ("optax", "MONAI FocalLoss", "ours, ms", "a | b", "2.50") if word not in printed]
    for plot in ("ratios.png", "scaling.png"):
        image = (tmp_path / "out" / plot).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert min(struct.unpack(">2I", image[16:24])) > 350  # width and height, in pixels


FAILURES = {
    "a peer": ([row_of(problem="its value differs", ours_seconds=[], peer_seconds=[])], {}, "its value differs"),
    "a backend": ([], {"problem": "broke off with exit code -11"}, "torch: broke off with exit code -11"),
}


@pytest.mark.parametrize(("rows", "side", "words"), FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_is_reported_and_is_the_exit_code(
    rows: list[Row], side: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path / "old.json", rows, **side)
    assert program.main(["--read", str(tmp_path / "old.json"), "--output", str(tmp_path)]) == 1
    assert words in capsys.readouterr().err
    assert words in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


def test_a_backend_that_breaks_off_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: subprocess.CompletedProcess([], -11))
    assert program.main(["--backend", "torch,keras-jax", "--sizes", "8x5", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("broke off with exit code -11") == 2


def test_the_best_peer_counts() -> None:
    best = {(row.backend, row.loss): row.peer for row in plots.best_peers(ROWS)}
    assert best["torch", "focal"] == "MONAI FocalLoss"
    assert best["torch", "cross_entropy"] == "F.cross_entropy"
    curves = next(target for target in TARGETS if "own cross-entropy" in target.text)
    assert curves.worst(ROWS) == 2.0
    memory_target = next(target for target in TARGETS if target.text.startswith("torch: memory"))
    assert memory_target.worst(ROWS) == 1.0
    assert [memory_target.met(number) for number in (1.0, 1.15, 2.0)] == [True, True, False]
    assert curves.worst([]) is None


def test_the_machine_without_names_and_paths() -> None:
    described = machine.describe()
    assert set(described) == {"cpu", "cores", "system", "python"}
    assert "/" not in json.dumps(described)
    assert platform.node() not in described.values()
    assert set(machine.versions(["numpy", "no-such-package"])) == {"numpy"}


def test_a_short_run(tmp_path: Path) -> None:
    options = ["--sizes", "8x5,2x3x4", "--repeat", 1, "--scaling-elements", 4000, "--output", tmp_path]
    process = run_benchmark("--backend", "torch,keras-torch", *options)
    assert process.returncode == 0, process.stdout + process.stderr
    read = report.read(tmp_path / "results.json")
    rows = report.rows_of(read)
    assert list(read["backends"]) == ["torch", "keras-torch"]
    # All peers of the binary focal loss are packages, which the environment of the tests need not have.
    assert {row.loss for row in rows} >= set(LOSSES) - {"binary_focal"}
    assert {row.size for row in rows} == {"8x5", "2x3x4", "4x1000"}
    assert all(row.ratio > 0 and row.ours_memory > 0 and row.peer_memory > 0 for row in rows)
    assert str(ROOT) not in (tmp_path / "results.json").read_text(encoding="utf-8")
    assert (tmp_path / "ratios.png").exists()
    assert (tmp_path / "scaling.png").exists()


@pytest.mark.parametrize("module", ["benchmarks.__main__", "benchmarks.side"])
def test_the_driver_imports_no_framework(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'tensorflow', 'torch', 'jax', 'keras'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results.json").exists(), reason="no run in the repository")
def test_the_results_in_the_repository_are_of_its_json() -> None:
    written = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    assert written == report.markdown(report.read(ROOT / "benchmarks" / "results.json"))


# ---- The layers


def run_layers(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.layers", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ))


def test_a_short_run_of_layers(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    process = run_layers("--size", "8x4x50", "--most-classes", 1000, "--repeat", 1, "--output", file)
    assert process.returncode == 0, process.stdout + process.stderr
    results = json.loads(file.read_text(encoding="utf-8"))
    assert [row["backend"] for row in results["layers"]] == ["torch", "torch", "keras-jax", "keras-tensorflow"]
    for row in results["layers"]:
        assert work.OURS in row["seconds"] and work.PRODUCTS in row["seconds"]
    assert [row["fused"] for row in results["scaling"]] == [True, False]
    assert process.stdout.count("| 1,000 |") == 2


@pytest.mark.parametrize("arguments", [["--size", "8x4"], ["--backend", "mxnet"], ["--repeat", "0"]])
def test_a_bad_option_of_layers_is_one_line(arguments: list[str]) -> None:
    process = run_layers(*arguments)
    assert process.returncode == program.BAD_INPUT
    assert process.stderr.count("\n") == 1 and arguments[0] in process.stderr


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_layer_over_processes(ranks: int) -> None:
    plan = {"kind": "ranks", "backend": "torch", "size": (8, 4, 64), "ranks": ranks}
    assert layers_program.run(plan)["seconds"] > 0


def test_the_page_of_layers_is_of_its_json() -> None:
    results = json.loads((ROOT / "benchmarks" / "layers.json").read_text(encoding="utf-8"))
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renewed(text, results) == text
    with pytest.raises(ValueError, match="must have one block"):
        page.renewed(text.replace("<!-- scaling,", "<!-- "), results)
