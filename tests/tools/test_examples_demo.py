"""The examples: their rows and networks, short runs, what fails, and their configs in a plain LightningCLI."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from demo import sides
from demo.__main__ import main
from demo.data import initial_kernels
from demo.examples import EXAMPLES, driver, settings, text
from demo.examples.example import IGNORED
from demo.examples.recording import IN_CHUNKS, WHOLE, Record
from demo.settings import CONFIGS

ROOT = Path(__file__).parents[2]
TIMEOUT = 300


def config_of(name: str) -> Path:
    return CONFIGS / f"{name}.yaml"


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    # Not the "" of -c: LightningCLI reads a config in the folder of the config.
    environment = os.environ | sides.ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, env=environment)


@pytest.fixture(scope="module")
def splits():
    return {name: example.load(0) for name, example in EXAMPLES.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_rows(name: str, splits) -> None:
    split, again = splits[name], EXAMPLES[name].load(0)
    for part in ("train_inputs", "train_target", "test_inputs", "test_target"):
        np.testing.assert_array_equal(getattr(split, part), getattr(again, part))
    train = {row.tobytes() for row in split.train_inputs}
    assert not train & {row.tobytes() for row in split.test_inputs}
    other = EXAMPLES[name].load(1)
    assert other.train_inputs.shape != split.train_inputs.shape or (other.train_inputs != split.train_inputs).any()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_config_fits_the_rows(name: str, splits) -> None:
    run, split = settings.read(config_of(name)), splits[name]
    assert (run.name, run.seed) == (name, 0)
    sizes = run.network_arguments | (run.layer or {})
    outputs = sizes.get("classes") or sizes.get("sizes", [sizes.get("vocabulary")])[-1]
    assert outputs in (1, len(split.class_names))
    if "vocabulary" in sizes:
        assert max(split.train_inputs.max(), split.test_inputs.max()) < sizes["vocabulary"]
    weights = run.loss["config"].get("class_weight", split.class_names)
    assert len(weights) == len(split.class_names)


def test_few_rows_are_malignant(splits) -> None:
    split = splits["imbalanced_binary"]
    assert split.train_target.mean() == pytest.approx(0.05, abs=0.002)
    assert split.test_target.mean() > 0.3


def test_two_digits_are_present_or_one_twice(splits) -> None:
    assert set(splits["multi_label"].train_target.sum(1)) == {1, 2}


def test_padding_is_ignored_and_only_padding(splits) -> None:
    split = splits["token_classification"]
    np.testing.assert_array_equal(split.train_inputs == 0, split.train_target == IGNORED)
    assert 0 < (split.train_target == IGNORED).mean() < 0.5


def test_each_word_is_the_target_of_the_one_before(splits) -> None:
    split = splits["language_modelling"]
    np.testing.assert_array_equal(split.train_inputs[:, 1:], split.train_target[:, :-1])
    assert 9_000 < len(split.class_names) <= 10_000


def test_the_vocabulary_is_the_most_frequent_words() -> None:
    assert text.vocabulary(list("bacabd"), 5) == {"a": 2, "b": 3, "c": 4}


def test_kernels_are_glorot_uniform() -> None:
    dense, window = initial_kernels([(30, 20), (3, 3, 16, 32)], seed=0)
    for kernel, limit in ((dense, np.sqrt(6 / 50)), (window, np.sqrt(6 / (9 * 48)))):
        assert 0.95 * limit < abs(kernel).max() <= limit


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_of_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    options = set(re.findall(r"(?<!\w)--\w+", capsys.readouterr().out))
    assert options == {"--help", "--epochs", "--backend", "--seed", "--output"}


BAD_OPTIONS = {
    "no epochs": (["--epochs", "0"], ["--epochs", "at least 1", "'0'"]),
    "negative seed": (["--seed", "-1"], ["--seed", "at least 0", "'-1'"]),
    "unknown backend": (["--backend", "mxnet"], ["mxnet", "tensorflow", "jax", "torch"]),
    "output is a file": (["--output", "file"], ["--output", "file"]),
    "unknown option": (["--noise", "40"], ["--noise"]),
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
    with pytest.raises(SystemExit) as exit_:
        main(["segmentation", *options])
    stderr = capsys.readouterr().err
    assert exit_.value.code == 2
    assert stderr.count("\n") == 1
    assert not [word for word in ("demo segmentation: error", *words) if word not in stderr]


def test_an_example_from_end_to_end(tmp_path: Path) -> None:
    process = run_python("-m", "demo", "imbalanced_binary", "--epochs", 3, "--output", tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Epoch 3/3" in process.stdout
    table = (tmp_path / "table.txt").read_text(encoding="utf-8")
    assert table in process.stdout
    assert [line.split()[0] for line in table.splitlines()[2:6]] == ["initial", "1", "2", "3"]
    for plot in ("losses.png", "precision_recall.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
    keras, lightning = (Record.read(tmp_path / f"{side}.json") for side in ("keras", "lightning"))
    assert (len(keras.train_losses), len(keras.test_losses)) == (3, 4)
    np.testing.assert_allclose(keras.train_losses, lightning.train_losses, rtol=1e-5)
    np.testing.assert_allclose(keras.test_losses, lightning.test_losses, rtol=1e-5)


FEW_ROWS = """
import runpy, sys
from dataclasses import replace
from demo.examples import EXAMPLES
module, name, train, test = sys.argv[1:5]
del sys.argv[1:5]
example = EXAMPLES[name]
load = example.load
def few(seed):
    split = load(seed)
    parts = {"train_inputs": train, "train_target": train, "test_inputs": test, "test_target": test}
    return replace(split, **{part: getattr(split, part)[:int(rows)] for part, rows in parts.items()})
example.load = few
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(("name", "rows", "share"), [("language_modelling", 16, 0.25), ("many_classes", 256, 0.5)])
def test_the_first_steps_in_chunks_are_those_of_all_logits(
    name: str, rows: int, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    files = tmp_path / "keras.json", tmp_path / "lightning.json"
    config, few = config_of(name), (name, 5 * rows, 32)
    options = "--trainer.max_epochs=1", f"--recorder.path={files[1]}"
    for command in (
        ("demo.examples.keras_example", *few, config, "--epochs", 1, "--output", files[0]),
        ("demo.examples.lightning_example", *few, "fit", "--config", config, *options),
    ):
        process = run_python("-c", FEW_ROWS, *command)
        assert process.returncode == 0, process.stderr
    records = list(map(Record.read, files))
    wanted = records[0].first_steps[WHOLE]
    assert len(wanted) == 5
    assert len(set(wanted)) == 5
    for record in records:
        assert list(record.first_steps) == list(record.memory) == [IN_CHUNKS, WHOLE]
        for losses in record.first_steps.values():
            np.testing.assert_allclose(losses, wanted, rtol=1e-5)
        if None not in record.memory.values():
            assert 0 < record.memory[IN_CHUNKS] < share * record.memory[WHOLE]
    assert None not in records[1].memory.values()


def test_the_steps_and_the_memory_are_in_the_table() -> None:
    record = Record(
        "Keras", first_steps={IN_CHUNKS: [3.0], WHOLE: [3.00003]}, memory={IN_CHUNKS: 7 * 10**6, WHOLE: None}
    )
    text = "\n".join(driver.last_layer_table([record, Record("Lightning")]))
    assert "Lightning" not in text
    assert all(words in text for words in ("3.000030", "7 MB", "not measured", "1.0e-05 relative"))


def test_distractors_are_quadrants_of_training_images(splits) -> None:
    split = splits["many_classes"]
    assert split.prototypes.shape == (100_000, 64)
    distractors = split.prototypes[10:].reshape(-1, 2, 4, 2, 4)
    known = {image[:4, :4].tobytes() for image in split.train_inputs.reshape(-1, 8, 8)}
    assert all(np.ascontiguousarray(image[0, :, 0]).tobytes() in known for image in distractors[:100])
    for target in (split.train_target, split.test_target):
        assert (target < 10).mean() == 0.5
        views = target[target >= 10]
        assert len(set(views)) == len(views)
    assert not set(split.train_target[split.train_target >= 10]) & set(split.test_target)


def test_an_example_that_learns_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(config_of("token_classification").read_text(encoding="utf-8"))
    config["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.0
    (tmp_path / "token_classification.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setattr(driver, "CONFIGS", tmp_path)
    assert main(["token_classification", "--epochs", "2", "--output", str(tmp_path)]) == 1
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert stderr.count("nothing was learnt") == 2
    records = [Record.read(tmp_path / f"{side}.json") for side in ("keras", "lightning")]
    for record in records:  # of the same weights, on the same rows, padding and weights of classes included
        np.testing.assert_allclose(record.test_losses, records[0].test_losses[0], rtol=1e-5)


GOOD = [1.0, 0.5], [2.0, 0.9, 0.6], 0.9
JUDGED = {
    "good": (GOOD, None),
    "NaN": (([1.0, np.nan], [2.0, 0.9, np.nan], 0.9), "not finite"),
    "diverged": (([1.0, np.inf], [2.0, 0.9, 0.6], 0.9), "not finite"),
    "the training loss rises": (([1.0, 1.1], [2.0, 0.9, 0.6], 0.9), "does not fall"),
    "the test loss never falls": (([1.0, 0.5], [2.0, 2.1, 2.2], 0.9), "does not fall"),
    "below the bar": (([1.0, 0.5], [2.0, 0.9, 0.6], 0.78), "accuracy 0.7800 is below 0.8022"),
    "other weights": (([1.0, 0.5], [2.001, 0.9, 0.6], 0.9), "initial weights differ by 5.0e-04"),
    "other scores": (([1.0, 0.5], [2.0, 0.9, 0.6], 0.96), "differ by more than 0.05"),
    "rounding in chunks": ((*GOOD, [3.0, 2.00001]), None),
    "other steps in chunks": ((*GOOD, [3.0, 2.0001]), "the first steps differ by 5.0e-05"),
    "NaN in chunks": ((*GOOD, [3.0, np.nan]), "the first steps differ by nan"),
}


@pytest.mark.parametrize(("side", "problem"), JUDGED.values(), ids=JUDGED.keys())
def test_what_an_example_fails_for(side, problem: str | None, splits) -> None:
    name = "image_classification"
    records = [Record("Keras", *side[:2]), Record("Lightning", *GOOD[:2])]
    for steps in side[3:]:
        records[0].first_steps = {IN_CHUNKS: steps, WHOLE: [3.0, 2.0]}
    found = driver.problems(EXAMPLES[name], splits[name], records, [side[2], GOOD[2]])
    assert len(found) == (problem is not None)
    assert (problem or "") in "".join(found)


def test_newcomer_21_a_short_run_has_no_bar(splits) -> None:
    name, below = "image_classification", 0.78
    records = [Record("Keras", *GOOD[:2]), Record("Lightning", *GOOD[:2])]
    found = {
        has_bar: driver.problems(EXAMPLES[name], splits[name], records, [below] * 2, has_bar=has_bar)
        for has_bar in (True, False)
    }
    assert len(found[True]) == 2
    assert not found[False]


PARSED = """
import json, sys
from demo.lightning_parts import quiet
from pytorch_lightning.cli import LightningCLI
quiet()
for path in sys.argv[1:]:
    cli = LightningCLI(args=["--config", path], run=False, save_config_callback=None)
    inputs, target = next(iter(cli.datamodule.val_dataloader()))
    logits = cli.model(inputs)
    assert cli.model.loss(logits, target).isfinite(), path
    print(json.dumps([type(cli.model.network).__name__, list(logits.shape), list(target.shape)]))
"""


def test_a_plain_lightning_cli_takes_the_configs() -> None:
    process = run_python("-c", PARSED, *map(config_of, EXAMPLES))
    assert process.returncode == 0, process.stderr
    assert list(map(json.loads, process.stdout.splitlines())) == [
        ["ImageClassifier", [32, 10], [32]],
        ["Perceptron", [16, 1], [16, 1]],
        ["ImageClassifier", [64, 10], [64, 10]],
        ["TokenClassifier", [32, 4, 32], [32, 32]],
        ["Segmenter", [16, 11, 24, 24], [16, 24, 24]],
        ["LanguageModel", [16, 32, 10000], [16, 32]],
        ["Embedder", [256, 100000], [256]],
    ]


def test_a_config_trains_by_the_lightning_side_alone() -> None:
    options = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=2"]
    process = run_python("-m", "demo.lightning_side", "fit", "--config", config_of("language_modelling"), *options)
    assert process.returncode == 0, process.stderr
    assert re.search(r"^accuracy \d\.\d+, nll \d+\.\d+, ece", process.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("demo.examples.keras_example", "torch"),
        ("demo.examples.lightning_example", "tensorflow"),
        ("demo.examples.driver", "torch"),
    ],
)
def test_tensorflow_and_torch_are_in_no_process_together(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; sys.exit({unwanted!r} in sys.modules)"
    assert run_python("-c", code).returncode == 0
