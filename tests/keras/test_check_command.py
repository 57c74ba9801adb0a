"""`xent check MODEL.keras`: each mistake is found, and what no file can show is said."""

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_xent
from shared_specs.command.program import program

LABELS = np.arange(12) % 3
INPUTS = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")


def run(*arguments):
    return CliRunner().invoke(program, ["check", *map(str, arguments)], prog_name="xent")


def saved(tmp_path, loss, *layers, shape=(4,)):
    model = keras.Sequential([keras.Input(shape), *layers])
    if loss is not None:
        model.compile("sgd", loss)
    path = tmp_path / "model.keras"
    model.save(path)
    return path


def dense(units, activation=None):
    return keras.layers.Dense(units, activation=activation, name="last")


def data(tmp_path, **arrays):
    np.savez(tmp_path / "batch.npz", **arrays)
    return tmp_path / "batch.npz"


CE = keras_xent.CategoricalCrossEntropy
DOUBLED = "takes logits (from_logits=True) but gets probabilities, those of a softmax"
WITHOUT_DATA = {
    "nothing wrong": (CE(), dense(3), None),
    "softmax": (CE(), dense(3, "softmax"), DOUBLED),
    "softmax, Keras' loss": (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        dense(3, "softmax"),
        DOUBLED,
    ),
    "logits, Keras' default": (
        "sparse_categorical_crossentropy",
        dense(3),
        "takes probabilities (from_logits=False) but gets logits",
    ),
    "Keras' default": ("sparse_categorical_crossentropy", dense(3, "softmax"), None),
    "sigmoid": (keras_xent.BinaryCrossEntropy(), dense(3, "sigmoid"), "probabilities, those of a sigmoid"),
    "one class": (CE(), dense(1), "gets logits of one class"),
}


@pytest.mark.parametrize("case", WITHOUT_DATA)
def test_without_data(case, tmp_path):
    loss, layer, message = WITHOUT_DATA[case]
    result = run(saved(tmp_path, loss, layer))
    lines = result.output.splitlines()
    assert result.exit_code == (0 if message is None else 1), result.output
    assert "not checked: labels, weights and values: no data was given (--data)" in lines
    assert [line for line in lines if line.startswith("checked: ")]
    problems = [line for line in lines if line.startswith("problem: ")]
    assert len(problems) == (message is not None)
    assert message is None or message in problems[0]
    assert lines[-1] == ("1 problem" if message else "no problem was found")


def test_axes_are_ambiguous(tmp_path):
    result = run(saved(tmp_path, CE(), keras.layers.Dense(5), shape=(5, 4)))
    assert result.exit_code == 1
    assert "set axis=2 or axis=1" in result.output


WITH_DATA = {
    "labels": ({"target": LABELS + 1}, "got 3 at [2]"),
    "class weights twice": ({"target": LABELS, "sample_weight": 1.0 + LABELS}, "has class_weight, and the sample weig"),
    "other weights": ({"target": LABELS, "sample_weight": 1.0 + np.arange(12) % 5}, None),
}


@pytest.mark.parametrize("case", WITH_DATA)
def test_with_data(case, tmp_path):
    arrays, message = WITH_DATA[case]
    model = saved(tmp_path, CE(class_weight=[1, 2, 4]), dense(3))
    result = run(model, "--data", data(tmp_path, inputs=INPUTS, **arrays))
    assert result.exit_code == (0 if message is None else 1), result.output
    assert message is None or message in result.output
    assert "not checked: class_weight of fit(), which would multiply class_weight once more" in result.output


def test_data_of_a_module_and_a_loss_that_is_named(tmp_path, monkeypatch):
    text = "def batch():\n    return np.ones((12, 4), 'float32'), np.arange(12) % 3\nbatches = [batch()]\n"
    (tmp_path / "data_of_keras.py").write_text(f"import numpy as np\n{text}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = saved(tmp_path, None, dense(3))
    for place in ("data_of_keras:batch", "data_of_keras:batches"):
        result = run(model, "--data", place, "--loss", "CategoricalFocalCrossEntropy:gamma=3")
        assert result.exit_code == 0, result.output
        assert "CategoricalFocalCrossEntropy(gamma=3.0): the batch" in result.output


def test_several_outputs(tmp_path):
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(3, activation="softmax", name="a")(inputs), "b": dense(2)(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": CE(), "b": keras_xent.BinaryCrossEntropy()})
    model.save(tmp_path / "model.keras")
    result = run(tmp_path / "model.keras")
    assert result.exit_code == 1
    assert result.output.count("checked: Cat") == result.output.count("checked: Bin") == 1
    assert result.output.splitlines()[-1] == "1 problem"


def test_what_cannot_be_checked(tmp_path):
    result = run(saved(tmp_path, "mean_squared_error", dense(3)))
    assert (result.exit_code, result.output.splitlines()[-1]) == (2, "nothing could be checked")
    assert "not checked: the loss mean_squared_error: loss must be a loss of keras.losses" in result.output


ERRORS = {
    "no loss": (lambda folder: [saved(folder, None, dense(3))], "has no loss: its model was saved before compile()"),
    "no arrays": (
        lambda folder: [saved(folder, CE(), dense(3)), "--data", data(folder, x=INPUTS)],
        "must hold the arrays inputs, target and perhaps sample_weight and mask, got x",
    ),
    "no module": (
        lambda folder: [saved(folder, CE(), dense(3)), "--data", "nowhere:batch"],
        "--data: there is no module 'nowhere' here or on the path of Python",
    ),
    "no place": (
        lambda folder: [saved(folder, CE(), dense(3)), "--data", "nowhere"],
        "--data must be MODULE:NAME, such as train:Data, got 'nowhere'",
    ),
    "shapes of the network": (
        lambda folder: [saved(folder, CE(), dense(3)), "--data", data(folder, inputs=INPUTS[:, :2], target=LABELS)],
        "xent: ",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_mistake_is_one_line(case, tmp_path):
    arguments, message = ERRORS[case]
    result = run(*arguments(tmp_path))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_model(tmp_path):
    (tmp_path / "bad.keras").write_text("no archive", encoding="utf-8")
    (tmp_path / "model.h5").write_text("", encoding="utf-8")
    for name, message in (("bad.keras", "xent: "), ("model.h5", "a model has the suffix .keras, and a config .yaml")):
        result = run(tmp_path / name)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert message in result.stderr
