"""The demo: what it says to bad input, a short run, and what its comparison finds. Runs in the demo environment."""

import math
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from demo import check, comparison, data, imbalance, noise, sides
from demo.__main__ import SPECS, main
from demo.examples import EXAMPLES
from demo.plan import Outcome, Outcomes, Plan, changed_split
from demo.result import Result
from demo.settings import CONFIGS, read

ROOT = Path(__file__).parents[2]


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ))


BAD_SPECS = {
    "unknown loss": ('{"loss": "FocalLoss"}', ["FocalLoss", "CategoricalFocalCrossEntropy", "BinaryFocalCrossEntropy"]),
    "misspelled keyword": (
        '{"loss": "CategoricalFocalCrossEntropy", "config": {"gama": 2}}',
        ["CategoricalFocalCrossEntropy", "'gama'", "did you mean 'gamma'?"],
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


EXPERIMENT_BAD_OPTIONS = {
    "no seeds": (["noise", "--seeds", "0"], ["demo noise: error", "--seeds", "from 1 to 100", "'0'"]),
    "no epochs in an experiment": (["imbalance", "--epochs", "0"], ["demo imbalance: error", "--epochs", "at least 1"]),
    "more than all rows": (["noise", "--noise", "40", "101"], ["--noise", "from 0 to 100", "'101'"]),
    "share, not percent": (["noise", "--noise", "0.4"], ["--noise", "whole number", "'0.4'"]),
    "no shares": (["noise", "--noise"], ["--noise", "expected at least one argument"]),
    "missing loss": (["noise", "--losses", "lion"], ["--losses", "lion", "no such file", "symmetric"]),
    "binary loss in the noise": (
        ["noise", "--losses", "focal", "binary_focal"],
        ["--losses", "binary_focal.json", "breast_cancer", "digits"],
    ),
    "two files of one name": (["noise", "--losses", "focal", "focal.json"], ["--losses", "focal", "more than once"]),
    "unknown method": (["imbalance", "--methods", "smote"], ["--methods", "smote", "ldam_deferred"]),
    "ratio below 1": (["imbalance", "--ratio", "0"], ["--ratio", "from 1 to 130", "'0'"]),
    "ratio beyond the rows": (["imbalance", "--ratio", "131"], ["--ratio", "from 1 to 130", "'131'"]),
    "unknown backend of an experiment": (["imbalance", "--backend", "mxnet"], ["mxnet", "tensorflow", "jax", "torch"]),
    "output of an experiment is a file": (["imbalance", "--output", "file"], ["--output", "file"]),
    "option of the other experiment": (["imbalance", "--noise", "40"], ["demo imbalance: error", "--noise"]),
    "options before the experiment": (["--epochs", "3", "noise"], ["demo: error", "noise"]),
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


def fitting_here(specs: list[Path]) -> list[list[str]]:
    """Check in this process, with the error of `sides.fitting_data_of_all`."""
    for spec in specs:
        try:
            check.fitting(spec)
        except ValueError as error:
            raise ValueError(f"{spec}: {error}") from error
    return list(map(check.fitting, specs))


@pytest.mark.parametrize(
    ("options", "words"),
    [*BAD_OPTIONS.values(), *EXPERIMENT_BAD_OPTIONS.values()],
    ids=[*BAD_OPTIONS, *EXPERIMENT_BAD_OPTIONS],
)
def test_a_bad_option_is_one_line(
    options: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sides, "fitting_data_of_all", fitting_here)
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


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("noise", {"--losses", "--noise"}),
        ("imbalance", {"--methods", "--ratio"}),
    ],
)
def test_help_of_an_experiment(name: str, wanted: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    options = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert options == {"--help", "--seeds", "--epochs", "--backend", "--output", *wanted}


EXPERIMENTS = {
    "noise": (
        ["--losses", "cross_entropy", "generalized", "--noise", "0", "60"],
        4,
        ["0 % wrong labels", "60 % wrong labels"],
    ),
    "imbalance": (
        ["--methods", "effective_weights", "logit_adjusted", "ldam_deferred"],
        3,
        ["balanced accuracy", "3 largest classes", "3 smallest classes"],
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_short_experiment(name: str, tmp_path: Path) -> None:
    options, trainings, words = EXPERIMENTS[name]
    process = run_demo(name, *options, "--seeds", 1, "--epochs", 2, "--output", tmp_path / "out")
    assert process.returncode == 0, process.stdout + process.stderr
    assert f"{trainings}/{trainings}" in process.stderr
    assert "Warning" not in process.stderr
    table = (tmp_path / "out" / "table.txt").read_text(encoding="utf-8")
    assert table in process.stdout
    assert not [word for word in words if word not in table]
    assert not [method for method in options[1:3] if comparison.label(method) not in table]
    for plot in ("scores.png", "epochs.png"):
        image = (tmp_path / "out" / plot).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert min(struct.unpack(">2I", image[16:24])) > 350
    plan = Plan.read(tmp_path / "out" / "plan.json")
    keras, lightning = (Outcomes.read(tmp_path / "out" / f"{side}.json") for side in ("keras", "lightning"))
    assert len(plan.jobs) == len(keras.outcomes) == len(lightning.outcomes) == trainings
    for first, second in zip(keras.outcomes, lightning.outcomes, strict=True):
        assert first.losses == pytest.approx(second.losses, rel=1e-5)
        assert (len(first.losses), len(first.scores), len(first.predictions)) == (2, 2, 450)
        assert first.scores == pytest.approx(second.scores, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.6, 1.0])
def test_the_noise(share: float) -> None:
    clean, split = data.load("digits", 3), changed_split("noise", share, 3)
    changed = split.train_target != clean.train_target
    assert changed.sum() == round(share * 1347)
    assert set(split.train_target) == set(range(10))
    for name in ("train_inputs", "test_inputs", "test_target"):
        np.testing.assert_array_equal(getattr(split, name), getattr(clean, name))
    np.testing.assert_array_equal(split.train_target, changed_split("noise", share, 3).train_target)
    more = changed_split("noise", 1.0, 3)
    np.testing.assert_array_equal(split.train_target[changed], more.train_target[changed])


def test_the_noise_is_symmetric() -> None:
    clean, split = data.load("digits", 0), changed_split("noise", 1.0, 0)
    steps = np.bincount((split.train_target - clean.train_target) % 10, minlength=10)
    assert steps[0] == 0
    assert abs(steps[1:] - 1347 / 9).max() < 4 * math.sqrt(1347 / 9)


@pytest.mark.parametrize("seed", range(3))
def test_the_long_tail(seed: int) -> None:
    balanced, split = data.load("digits", seed), changed_split("imbalance", 100, seed)
    counts = data.class_counts(split)
    assert sorted(counts.tolist(), reverse=True) == [131, 79, 47, 28, 17, 10, 6, 4, 2, 1]
    np.testing.assert_array_equal(split.test_target, balanced.test_target)
    rows = {inputs.tobytes(): label for inputs, label in zip(balanced.train_inputs, balanced.train_target, strict=True)}
    kept = zip(split.train_inputs, split.train_target, strict=True)
    assert all(rows[inputs.tobytes()] == label for inputs, label in kept)
    again = changed_split("imbalance", 100, seed)
    np.testing.assert_array_equal(split.train_inputs, again.train_inputs)
    np.testing.assert_array_equal(split.train_target, again.train_target)
    assert set(data.class_counts(changed_split("imbalance", 1, seed))) == {131}


def test_the_rare_classes_are_others_for_other_seeds() -> None:
    largest = {int(data.class_counts(changed_split("imbalance", 100, seed)).argmax()) for seed in range(5)}
    assert len(largest) > 1


def test_the_methods_know_the_counts_and_the_epochs() -> None:
    options = imbalance.command_line().parse_args(["--seeds", "2", "--epochs", "20"])
    jobs = imbalance.jobs(options)
    assert len(jobs) == 2 * len(imbalance.METHODS)
    for job in jobs:
        counts = data.class_counts(changed_split("imbalance", 100, job.seed)).tolist()
        assert job.spec.get("config", {}).get("class_counts", counts) == counts
        assert (job.weighting or {}).get("start_epoch", 0) == (16 if job.method == "ldam_deferred" else 0)
        assert job.cosine == ("max_margin" in job.spec.get("config", {}))


def test_a_loss_of_ones_own_in_the_noise(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('"CategoricalTaylorCrossEntropy"')
    specs = noise.read_specs(["focal", str(tmp_path / "mine.json"), "focal"])
    assert list(specs) == ["focal", "mine"]
    assert specs["mine"] == {"loss": "CategoricalTaylorCrossEntropy"}


EXPERIMENT_COMPARISONS = {
    "equal": (2.0, 0.9, None),
    "rounding": (2.00001, 0.91, None),
    "other losses": (2.0001, 0.9, "the losses after the first epoch differ by 5.0e-05"),
    "NaN": (math.nan, 0.9, "not finite"),
    "other scores": (2.0, 0.93, "mean scores are 0.930 and 0.900"),
}


@pytest.mark.parametrize(
    ("loss", "score", "problem"), EXPERIMENT_COMPARISONS.values(), ids=EXPERIMENT_COMPARISONS.keys()
)
def test_the_comparison_of_an_experiment(
    loss: float,
    score: float,
    problem: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    classes = changed_split("imbalance", 100, 0).test_target.tolist()
    keras, lightning = (Outcomes("side", [Outcome(*values, classes)]) for values in (([loss], [score]), ([2.0], [0.9])))
    monkeypatch.setattr(sides, "train_plan", lambda *arguments: (keras, lightning))
    options = ["--methods", "focal", "--seeds", "1", "--epochs", "1", "--output", str(tmp_path)]
    assert main(["imbalance", *options]) == (problem is not None)
    printed = capsys.readouterr()
    assert printed.out.count("1.000") == 2 * 3  # sides and columns
    assert (problem or "") in printed.err
    assert printed.err.count("\n") == (problem is not None)


def test_mean_and_standard_deviation() -> None:
    values = {"focal": {"accuracy": [0.7, 0.8, 0.9]}}
    assert "focal   0.800 +- 0.100  0.800 +- 0.100" in comparison.table("Accuracy", values, values)


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
        ("demo.keras_plan", {"torch"}),
        ("demo.lightning_plan", {"tensorflow"}),
        ("demo.__main__", {"tensorflow", "torch"}),
    ],
)
def test_tensorflow_and_torch_are_in_no_process_together(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; sys.exit(bool({unwanted} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | sides.ENVIRONMENT).returncode == 0


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CONFIGS.glob("*.yaml") if path.stem not in EXAMPLES),
    ids=lambda path: path.stem,
)
def test_the_configs_are_alike_where_the_keras_side_reads_them(path: Path) -> None:
    run = read(path, max_epochs=3, seed=None)
    assert (run.max_epochs, run.seed) == (3, 0)
    assert path.stem == f"{run.name}_{run.optimizer.removeprefix('torch.optim.').lower()}"


def test_pictures_of_the_losses_are_those_that_are_drawn_now(tmp_path):
    command = [sys.executable, "-m", "docs.pictures", "--folder", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    # The width in a PNG header; page width is about 900.
    assert struct.unpack(">I", (tmp_path / "curves.png").read_bytes()[16:20])[0] >= 900
    drawn = sorted((tmp_path / "losses").glob("*.svg"))
    assert [path.name for path in drawn] == sorted(path.name for path in (ROOT / "docs/losses").glob("*.svg"))
    for path in drawn:
        new, old = lines_of(path), lines_of(ROOT / "docs/losses" / path.name)
        assert new.keys() == old.keys(), path.name
        # Half a point of 302 in height: versions of matplotlib may place axes differently by less.
        assert all(np.allclose(new[key], old[key], atol=0.5) for key in new), path.name


def test_curves_are_drawn_for_the_side_that_is_named(tmp_path):
    path = tmp_path / "curves.png"
    losses = ["BinaryFocalCrossEntropy:gamma=1.5", "BinaryHinge"]
    command = [sys.executable, "-m", "shared_specs.command", "curves", *losses, "-o", str(path), "--side", "keras"]
    result = subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True)
    assert result.stdout == f"{path}: BinaryFocalCrossEntropy(gamma=1.5), BinaryHinge()\n"
    assert path.read_bytes()[1:4] == b"PNG"


def test_a_loss_is_shown_with_its_curve_in_a_file(tmp_path):
    for path in (tmp_path / "curve.png", tmp_path / "curve.svg"):
        command = [sys.executable, "-m", "shared_specs.command", "show", "BinaryHinge", "--png", str(path)]
        result = subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True, text=True)
        assert result.stdout.startswith("BinaryHinge\n") and result.stdout.endswith(f"\n\nThe curve is in {path}\n")
        assert "(its pull" not in result.stdout
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "curve.svg").read_text(encoding="utf-8").startswith("<?xml")


def lines_of(path):
    """The points of the long lines of an SVG picture, by their places in it."""
    paths = re.findall(r' d="(M [^"]*)"', path.read_text(encoding="utf-8"))
    points = {index: np.array(re.findall(r"-?[\d.]+", text), float) for index, text in enumerate(paths)}
    return {index: numbers for index, numbers in points.items() if numbers.size > 100}
