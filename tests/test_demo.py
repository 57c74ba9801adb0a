"""The demo: what it says to bad input, a short run, and what its comparison finds. Runs in the demo environment."""

import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from demo import check, sides
from demo.__main__ import SPECS, main
from demo.result import Result
from demo.settings import CONFIGS, read

ROOT = Path(__file__).parents[1]


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ))


BAD_SPECS = {
    "unknown loss": ('{"loss": "FocalLoss"}', ["FocalLoss", "CategoricalFocalCrossEntropy", "BinaryCrossEntropy"]),
    "misspelled keyword": (
        '{"loss": "CategoricalFocalCrossEntropy", "config": {"gama": 2}}',
        ["gama", "gamma", "label_smoothing"],
    ),
    "wrong type": (
        '{"loss": "CategoricalCrossEntropy", "config": {"label_smoothing": "a"}}',
        ["label_smoothing", "[0, 1]", "'a'"],
    ),
    "out of range": ('{"loss": "BinaryCrossEntropy", "config": {"pos_weight": -1}}', ["pos_weight", "[0, inf)"]),
    "unknown reduction": (
        '{"loss": "BinaryCrossEntropy", "config": {"reduction": "avg"}}',
        ["reduction", "avg", "weighted_mean"],
    ),
    "no reduction": ('{"loss": "BinaryCrossEntropy", "config": {"reduction": "none"}}', ["reduction", "weighted_mean"]),
    "wrong number of weights": (
        '{"loss": "CategoricalCrossEntropy", "config": {"class_weight": [1, 2]}}',
        ["class_weight", "10"],
    ),
    "probabilities": ('{"loss": "BinaryCrossEntropy", "config": {"from_logits": false}}', ["from_logits", "True"]),
    "config is a list": ('{"loss": "BinaryCrossEntropy", "config": [1]}', ["config", "mapping"]),
    "unknown key": ('{"loss": "BinaryCrossEntropy", "options": {}}', ["options", "config"]),
    "not a mapping": ("[1, 2]", ["loss", "config"]),
    "broken JSON": ('{"loss": ', ["JSON", "line 1"]),
    "not text": ("\ud800", ["JSON"]),
}

BAD_OPTIONS = {
    "missing spec": (["--spec", "no_such_file.json"], ["no such file", "binary_focal", "cross_entropy"]),
    "spec is a folder": (["--spec", "."], ["binary_focal", "cross_entropy"]),
    "categorical loss on binary data": (
        ["--spec", "focal", "--data", "breast_cancer"],
        ["focal.json", "breast_cancer", "digits"],
    ),
    "binary loss on ten classes": (
        ["--spec", "binary_focal", "--data", "digits"],
        ["binary_focal.json", "breast_cancer", "digits"],
    ),
    "unknown data set": (["--data", "iris"], ["iris", "digits", "breast_cancer"]),
    "unknown optimizer": (["--optimizer", "lion"], ["lion", "sgd", "adamw"]),
    "unknown backend": (["--backend", "mxnet"], ["mxnet", "tensorflow", "jax", "torch"]),
    "no epochs": (["--epochs", "0"], ["--epochs", "at least 1", "'0'"]),
    "negative seed": (["--seed", "-1"], ["--seed", "at least 0", "'-1'"]),
    "unknown option": (["--epoch-number", "3"], ["--epoch-number"]),
    "output is a file": (["--output", "file"], ["--output", "file"]),
}


def assert_one_line(returncode: object, stderr: str, words: list[str]) -> None:
    assert returncode == 2, stderr
    assert stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr
    assert not [word for word in words if word not in stderr], stderr


@pytest.mark.parametrize(("text", "words"), BAD_SPECS.values(), ids=BAD_SPECS.keys())
def test_a_bad_spec_is_one_line(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(text, encoding="utf-8", errors="surrogatepass")
    assert_one_line(check.main([str(spec)]), capsys.readouterr().err, ["spec.json", *words])


@pytest.mark.parametrize("name", ["unknown loss", "misspelled keyword", "wrong type"])
def test_a_bad_spec_is_one_line_of_the_demo(name: str, tmp_path: Path) -> None:
    text, words = BAD_SPECS[name]
    spec = tmp_path / "spec.json"
    spec.write_text(text, encoding="utf-8")
    process = run_demo("--spec", spec, "--output", tmp_path / "out")
    assert_one_line(process.returncode, process.stderr, ["python -m demo: error:", "spec.json", *words])
    assert process.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_a_bad_option_is_one_line(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sides, "fitting_data", check.fitting)
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(options)
    assert_one_line(exit_.value.code, capsys.readouterr().err, words)


def test_help_lists_the_options() -> None:
    process = run_demo("--help")
    assert process.returncode == 0
    options = {"--data", "--spec", "--epochs", "--optimizer", "--backend", "--seed", "--output"}
    assert options <= set(re.findall(r"--\w+", process.stdout))


def test_a_short_run(tmp_path: Path) -> None:
    process = run_demo("--data", "digits", "--optimizer", "sgd", "--epochs", 2, "--output", tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Epoch 2/2" in process.stdout
    folder = tmp_path / "digits-cross_entropy-sgd"
    table = (folder / "table.txt").read_text(encoding="utf-8")
    assert [line.split()[0] for line in table.splitlines()[2:5]] == ["initial", "1", "2"]
    assert table in process.stdout
    text = (folder / "report.txt").read_text(encoding="utf-8")
    assert "agree on 450 of 450 test rows" in text
    assert all(word in text for word in ("precision", "recall", "f1-score", "support", "macro avg", "weighted avg"))
    for name in ("loss.png", "curve.png"):
        image = (folder / name).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert min(struct.unpack(">2I", image[16:24])) > 500  # width and height, in pixels
    for side in ("keras", "lightning"):
        result = Result.read(folder / f"{side}.json")
        assert (len(result.epoch_losses), len(result.logged_losses), len(result.predictions)) == (3, 2, 450)


def test_the_exit_code_of_a_side_that_breaks_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "breaks_off.py").write_text("raise SystemExit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sides, "train_keras", lambda *arguments: sides._run("breaks_off", []))
    with pytest.raises(SystemExit) as exit_:
        main(["--data", "digits", "--output", str(tmp_path)])
    assert exit_.value.code == 7
    assert "breaks_off broke off with exit code 7" in capsys.readouterr().err


LOSSES = [2.0, 1.0, 0.5]
COMPARISONS = {
    "equal": ([2.0, 1.0, 0.5], None),
    "rounding": ([2.0, 1.000009, 0.5], None),
    "one epoch differs": ([2.0, 1.00002, 0.5], "differ by 2.0e-05"),
    "another sign": ([2.0, -1.0, 0.5], "differ by 2.0e+00"),
    "NaN": ([2.0, math.nan, 0.5], "not finite"),
    "infinite": ([math.inf, 1.0, 0.5], "not finite"),
    "nothing learnt": ([2.0, 1.0, 2.0], "nothing was learnt"),
}


@pytest.mark.parametrize(("losses", "problem"), COMPARISONS.values(), ids=COMPARISONS.keys())
def test_the_comparison(
    losses: list[float],
    problem: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keras, lightning = Result("Keras", losses), Result("Lightning", LOSSES)
    monkeypatch.setattr(sides, "train_keras", lambda *arguments: keras)
    monkeypatch.setattr(sides, "train_lightning", lambda *arguments: lightning)
    monkeypatch.setattr("demo.__main__.write_comparison", lambda *arguments: None)
    code = main(["--data", "digits", "--optimizer", "sgd", "--output", str(tmp_path)])
    assert code == (problem is not None)
    assert (problem or "") in capsys.readouterr().err


def test_every_bundled_spec_fits_one_data_set() -> None:
    assert {tuple(check.fitting(spec)) for spec in sorted(SPECS.glob("*.json"))} == {
        ("digits",),
        ("breast_cancer",),
    }


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("demo.keras_side", {"torch"}),
        ("demo.lightning_side", {"tensorflow"}),
        ("demo.__main__", {"tensorflow", "torch"}),
    ],
)
def test_tensorflow_and_torch_are_in_no_process_together(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; sys.exit(bool({unwanted} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | sides.ENVIRONMENT).returncode == 0


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_configs_are_alike_where_the_keras_side_reads_them(path: Path) -> None:
    run = read(path, max_epochs=3, seed=None)
    assert (run.max_epochs, run.seed) == (3, 0)
    assert path.stem == f"{run.name}_{run.optimizer.removeprefix('torch.optim.').lower()}"
