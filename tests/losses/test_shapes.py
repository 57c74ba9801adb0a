"""What the shape and the kind of an input say: distributions, one class, subclasses, devices without float64."""

import importlib
import json
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest

from examples import CLASSES, build, inputs, is_binary
from sides import is_keras, side
from sides import name as side_name

package = side.package
TARGET, LOGITS = ("y_true", "y_pred") if is_keras else ("target", "logits")
CALLED = {"target": TARGET, "logits": LOGITS}
CLASS_AXIS = -1 if is_keras else 1
EAGER = [mode for mode in side.modes if mode == "eager"]
TRACES = [mode for mode in side.modes if mode not in ("eager", "blocks")]
on_torch = pytest.mark.skipif(side_name in ("keras-tensorflow", "keras-jax"), reason="a matter of torch")


def call(name, logits, target, *, config=None, **more):
    """The loss of arrays."""
    more = {key: side.tensor(value) for key, value in more.items()}
    return side.numpy(side.call(build(name, **(config or {})), side.tensor(logits), target, **more))


def message_of(function, *errors):
    with pytest.raises(errors) as caught:
        function()
    return str(caught.value)


def warned(function):
    """The texts of the warnings of this package, without that of labels under a trace (test_traces.py)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    texts = [str(warning.message) for warning in caught]
    return [text for text in texts if "CrossEntropy" in text and "cannot look at labels under a trace" not in text]


# ---- A4: integers in the shape of the logits are rows of 0 and 1.

# -log softmax((1, 0, 0))_0 and of another class: log(1 + 2/e) and log(2 + e).
FIRST, OTHER = math.log1p(2 / math.e), math.log(2 + math.e)
ROWS = np.array([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]], "float32")
IDS = np.array([[1, 0, 0], [0, 1, 2], [0, 0, 1]])
IGNORED = np.array([[1, 0, 0], [0, -100, 1], [0, 0, 1]])
WRONG = {
    "class indices": (IDS, {}, {}, r"got 2 at \[1, 2\].*use the shape \(3,\), or set axis.*mask"),
    "ignored entry": (
        IGNORED,
        {"ignore_index": -100},
        {},
        r"got -100 at \[1, 1\].*ignore_index=-100 has no effect.*mask",
    ),
    "another row is masked": (IDS, {}, {"mask": np.array([False, True, True])}, r"got 2 at \[1, 2\]"),
    "narrow dtype": (IDS.astype("uint8"), {}, {}, r"got 2 at \[1, 2\]"),
    "read on request": (IDS, {"check_labels": True}, {}, r"got 2 at \[1, 2\]"),
}


@pytest.mark.parametrize(("target", "config", "more", "text"), WRONG.values(), ids=WRONG)
def test_A4_integers_that_are_no_rows_of_0_and_1(target, config, more, text):
    message = message_of(
        lambda: call("CategoricalCrossEntropy", ROWS, side.tensor(target), config=config, **more), ValueError
    )
    assert message.startswith(f"{TARGET} must hold only 0 and 1")
    with pytest.raises(ValueError, match=text):
        raise ValueError(message)


RIGHT = {
    "one-hot": (np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), {}, (FIRST + 2 * OTHER) / 3),
    "multi-hot": (np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]), {}, (FIRST + 2 * OTHER) / 3),
    "bool": (np.array([[True, False, False]] * 3), {}, FIRST),
    "masked": (IDS, {"mask": np.array([True, False, True])}, (FIRST + OTHER) / 2),
    "of weight 0": (IDS, {"sample_weight": np.array([1, 0, 1], "float32")}, (FIRST + OTHER) / 3),
    "soft": (np.array([[2.0, 0, 0]] * 3, "float32"), {}, 2 * FIRST),
}


@pytest.mark.parametrize(("target", "more", "want"), RIGHT.values(), ids=RIGHT)
def test_A4_what_is_right_stays(target, more, want):
    got = call("CategoricalCrossEntropy", ROWS, side.tensor(target), **more)
    assert got == pytest.approx(want, rel=1e-6)


def test_A4_the_place_is_that_of_the_users_layout():
    target = np.zeros((2, 3, 4), "int64")
    target[1, 2, 3] = 7
    loss = build("CategoricalCrossEntropy", axis=1)
    logits = side.tensor(np.zeros((2, 3, 4), "float32"))
    message = message_of(lambda: side.call(loss, logits, side.tensor(target)), ValueError)
    assert "got 7 at [1, 2, 3]" in message
    assert "(2, 3, 4)" in message
    assert "use the shape (2, 4)" in message


@pytest.mark.parametrize("name", [name for name in CLASSES if not is_binary(name)])
def test_A4_every_loss_reads_its_integers(name):
    logits, _ = inputs(name)
    if name in ("Distillation", "SparseCategoricalCrossEntropy"):  # whose targets are others
        return
    target = np.full((len(logits), 3), 3)
    with pytest.raises(ValueError, match=rf"{TARGET} must hold only 0 and 1, got 3 at \[0, 0\]"):
        call(name, logits, side.tensor(target))


@pytest.mark.parametrize("mode", TRACES)
def test_A4_where_nothing_can_be_read_the_row_is_nan(mode):
    loss = build("CategoricalCrossEntropy", reduction="none")
    logits, target = side.tensor(ROWS), side.tensor(IDS)
    if mode in side.raising_modes:  # an assertion in the graph
        with pytest.raises(Exception, match="y_true must hold"):
            side.value_and_gradient(lambda x, t: side.call(loss, x, t), logits, mode, target)
        return
    value, gradient = side.value_and_gradient(lambda x, t: side.call(loss, x, t), logits, mode, target)
    assert np.isnan(side.numpy(value)).tolist() == [False, True, False]
    assert np.isnan(side.numpy(gradient)).any(-1).tolist() == [False, True, False]


def test_A4_check_labels_false_reads_nothing():
    got = call("CategoricalCrossEntropy", ROWS, side.tensor(IDS), config={"check_labels": False, "reduction": "none"})
    assert np.isnan(got).tolist() == [False, True, False]


@pytest.mark.parametrize("check_labels", [None, False])
def test_A4_check_outputs_reports_it(check_labels):
    loss = build("CategoricalCrossEntropy", check_labels=check_labels)
    (problem,) = package.check_outputs(loss, side.tensor(ROWS), side.tensor(IDS))
    assert f"does not take this batch: {TARGET} must hold only 0 and 1, got 2 at [1, 2]" in problem


@pytest.mark.parametrize("metric", ["Accuracy", "F1", "ExpectedCalibrationError", "predictions"])
def test_A4_metrics_read_integers_as_the_losses_do(metric):
    measure = getattr(importlib.import_module(f"{package.__name__}.metrics"), metric, None)
    if measure is None:  # each side has its own
        return
    loss, logits = build("CategoricalCrossEntropy"), side.tensor(ROWS)

    def update(target, **more):
        if metric == "predictions":
            return measure(loss, logits, target, **more).label.tolist()
        built = measure() if metric == "ExpectedCalibrationError" else measure(loss)
        (built.update_state if is_keras else built.update)(
            *((target, logits) if is_keras else (logits, target)), **more
        )
        return float(built.result() if is_keras else built.compute())

    ids, kept = side.tensor(IDS), side.tensor(np.array([True, False, True]))
    for more in ({}, {"sample_weight": side.tensor(np.ones(3, "float32"))}):
        with pytest.raises(ValueError, match=rf"^{TARGET} must hold only 0 and 1, got 2 at \[1, 2\]"):
            update(ids, **more)
    labels = side.tensor(np.array([0, 1, 2]))
    assert update(ids, mask=kept) == update(labels, mask=kept)
    assert update(side.tensor(np.eye(3, dtype="int64"))) == update(labels)


# ---- A5: one class.

ONE = {
    "CategoricalCrossEntropy": (4, 1),
    "CategoricalFocalCrossEntropy": (4, 1),
    "SparseCategoricalCrossEntropy": (4, 1),
    "JensenShannonConsistency": (4, 3),
}
SAYS_ONE = "gets logits of one class (axis 1 of shape "


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("mode", side.modes)
def test_A5_one_class_warns_once(name, mode):
    loss = build(name, classes=1)
    logits, target = side.tensor(np.ones(ONE[name], "float32")), side.tensor(np.zeros(4, "int64"))
    run = lambda: side.value_and_gradient(lambda x, t: side.call(loss, x, t), logits, mode, target)  # noqa: E731
    (text,) = warned(run) if name.endswith("CrossEntropy") else [SAYS_ONE]
    assert SAYS_ONE in text
    if mode != "torch.compile":  # compiled again it warns again, and Python shows it once
        assert warned(run) == []


def test_A5_the_warning_names_the_way_out():
    (text,) = warned(
        lambda: call("CategoricalCrossEntropy", np.ones((4, 1), "float32"), side.tensor(np.zeros((4, 1), "int64")))
    )
    assert text == (
        "CategoricalCrossEntropy gets logits of one class (axis 1 of shape (4, 1)): its loss is always 0; "
        "use a Binary loss or two outputs"
    )


def test_A5_check_outputs_reports_it_and_does_not_warn():
    loss = build("CategoricalCrossEntropy")
    found = []
    assert warned(lambda: found.extend(check_one(loss))) == []
    (problem,) = found
    assert SAYS_ONE in problem


def check_one(loss):
    return package.check_outputs(loss, side.tensor(np.ones((4, 1), "float32")), side.tensor(np.zeros(4, "int64")))


def test_A5_two_classes_of_one_logit_are_two():
    logits, target = side.tensor(np.zeros((4, 1), "float32")), side.tensor(np.zeros(4, "int64"))
    assert warned(lambda: side.call(build("OrdinalCrossEntropy", classes=2), logits, target)) == []


if is_keras:

    def test_A5_the_symbolic_build_says_it():
        import keras

        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss=build("CategoricalCrossEntropy"))
        data = np.ones((4, 2), "float32"), np.zeros((4, 1), "int64")
        texts = warned(lambda: model.fit(*data, epochs=2, verbose=0))
        assert len(texts) == 1
        assert "one class" in texts[0]
        assert any("one class" in problem for problem in package.check_model(model, model.loss, data))


# ---- B8: an axis of size 1 may be missing; a mask may be a leading part.

TARGETS = {  # shape of the target, shape of the logits
    "last axis of the logits": ((2, 3, 4), (2, 3, 4, 1)),
    "last axis of the target": ((2, 3, 4, 1), (2, 3, 4)),
    "a sequence": ((2, 3), (2, 3, 1)),
    "a sequence, the other way": ((2, 3, 1), (2, 3)),
    "one channel of the target": ((2, 1, 3, 4), (2, 3, 4)),
    "one channel of the logits": ((2, 3, 4), (2, 1, 3, 4)),
    "a column": ((3, 1), (3,)),
    "rows": ((3,), (3, 1)),
    "a number": ((), (1,)),
}
REFUSED_TARGETS = {
    "a row for columns": ((3,), (3, 3)),
    "columns for a row": ((3, 3), (3,)),
    "a row before": ((1, 3), (3,)),
    "a row behind": ((3,), (1, 3)),
    "broadcast along classes": ((3, 1), (3, 3)),
    "two axes": ((2, 1, 1), (2,)),
    "an axis in the middle": ((2, 3, 1, 4), (2, 3, 4)),
    "other sizes": ((2, 3, 4), (2, 4, 3, 1)),
}


@pytest.mark.parametrize("mode", ["eager", *TRACES[:1]])
@pytest.mark.parametrize(("given", "shape"), TARGETS.values(), ids=TARGETS)
def test_B8_a_binary_target_may_lack_an_axis_of_size_1(given, shape, mode):
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=shape), (rng.uniform(size=shape) > 0.5) * 1.0
    want = np.logaddexp(0, np.where(target == 1, -logits, logits))
    loss = build("BinaryCrossEntropy", reduction="none")
    tensors = side.tensor(logits, "float32"), side.tensor(target.reshape(given), "float32")
    value, _ = side.value_and_gradient(lambda x, t: side.call(loss, x, t), tensors[0], mode, tensors[1])
    assert value.shape == shape
    np.testing.assert_allclose(side.numpy(value), want, rtol=1e-5)


@pytest.mark.parametrize(("given", "shape"), REFUSED_TARGETS.values(), ids=REFUSED_TARGETS)
def test_B8_nothing_else_is_broadcast(given, shape):
    with pytest.raises(
        ValueError, match=rf"{TARGET} must have the shape of .*got shape \({', '.join(map(str, given))}"
    ):
        call("BinaryCrossEntropy", np.zeros(shape, "float32"), side.tensor(np.zeros(given, "float32")))


ALONG_ROWS = {  # shape of a mask or of weights, shape of the logits, what it is in that shape
    "rows": ((2,), (2, 3), (2, 1)),
    "a column": ((2, 1), (2, 3), (2, 1)),
    "a column for rows": ((2, 1), (2,), (2,)),
    "a sequence": ((2, 3), (2, 3, 1), (2, 3, 1)),
    "one channel of the logits": ((2, 3, 4), (2, 1, 3, 4), (2, 1, 3, 4)),
    "one channel of the mask": ((2, 1, 3, 4), (2, 3, 4), (2, 3, 4)),
    "a leading part of three": ((2, 3), (2, 3, 4), (2, 3, 1)),
    "square": ((3,), (3, 3), (3, 1)),
    "a number": ((), (2, 3), (1, 1)),
}
REFUSED_ALONG_ROWS = {
    "the last axis": ((3,), (2, 3)),
    "a row": ((1, 3), (2, 3)),
    "another size": ((2, 2), (2, 3)),
    "classes": ((2, 3), (2,)),
    "two axes": ((2, 1, 1), (2,)),
}


@pytest.mark.parametrize("argument", ["mask", "sample_weight"])
@pytest.mark.parametrize("mode", ["eager", *TRACES[:1]])
@pytest.mark.parametrize(("given", "shape", "aligned"), ALONG_ROWS.values(), ids=ALONG_ROWS)
def test_B8_a_mask_may_be_a_leading_part_of_the_rows(argument, mode, given, shape, aligned):
    rng = np.random.default_rng(1)
    logits, chosen = rng.normal(size=shape), rng.uniform(size=given) > 0.5
    want = np.where(np.broadcast_to(chosen.reshape(aligned), shape), np.logaddexp(0, logits), 0.0)
    loss = build("BinaryCrossEntropy", reduction="none")
    rest = side.tensor(np.zeros(shape), "float32"), side.tensor(chosen, None if argument == "mask" else "float32")
    value, _ = side.value_and_gradient(
        lambda x, t, more: side.call(loss, x, t, **{argument: more}), side.tensor(logits, "float32"), mode, *rest
    )
    np.testing.assert_allclose(side.numpy(value), want, rtol=1e-5)


@pytest.mark.parametrize("argument", ["mask", "sample_weight"])
@pytest.mark.parametrize(("given", "shape"), REFUSED_ALONG_ROWS.values(), ids=REFUSED_ALONG_ROWS)
def test_B8_no_mask_is_broadcast_from_the_right(argument, given, shape):
    more = {argument: np.ones(given, bool if argument == "mask" else "float32")}
    with pytest.raises(ValueError, match=rf"{argument} must have the shape of the rows, .*got shape"):
        call("BinaryCrossEntropy", np.zeros(shape, "float32"), side.tensor(np.zeros(shape, "float32")), **more)


def test_B8_one_value_is_no_mask_of_several_rows():
    with pytest.raises(ValueError, match="mask must have the shape of the rows"):
        call("BinaryCrossEntropy", np.zeros(2, "float32"), side.tensor(np.zeros(2, "float32")), mask=np.array([True]))


def test_B8_a_mask_of_a_categorical_loss():
    logits, target = np.zeros((2, 3, 4), "float32"), np.zeros((2, 3), "int64")
    loss = build("CategoricalCrossEntropy", axis=2, reduction="sum")
    for mask in ([True, False], [[True], [False]], [[[True]] * 3, [[False]] * 3]):
        mask = side.tensor(np.array(mask))
        value = side.numpy(side.call(loss, side.tensor(logits), side.tensor(target), mask=mask))
        assert value == pytest.approx(3 * math.log(4), rel=1e-6)


# ---- B16 and A9: what is no array of numbers, and what holds one.


class Series:
    """Numbers as pandas holds them."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


UNREADABLE = {
    "strings": (["cat", "dog", "cat"], r"strings such as 'cat'"),
    "an array of strings": (np.array(["cat", "dog", "cat"]), r"strings such as 'cat'"),
    "None": (None, "got None"),
    "a None in a list": ([0, None, 2], "got None"),
    "objects": (np.array([0, {}, 2], object), "objects, such as dict"),
    "objects of which one is None": (np.array([0, None, 2], object), "got None"),
    "a dictionary": ({"labels": [0, 1, 2]}, "objects, such as dict"),
    "ragged": ([[0, 1], [1], [2]], "rows have one length.*pad.*mask"),
    "ragged objects": (np.array([[0, 1], [1], None], object), "rows of one length"),
    "complex": (np.array([0, 1j, 2]), "real numbers, got complex"),
    "dates": (np.array(["2020-01-01"] * 3, "datetime64[D]"), "real numbers, got datetime64"),
    "a masked array": (np.ma.array([0, 1, 2], mask=[0, 1, 0]), r"masked one.*mask=~"),
}


@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "BinaryCrossEntropy"])
@pytest.mark.parametrize(("target", "text"), UNREADABLE.values(), ids=UNREADABLE)
def test_B16_labels_that_are_no_numbers_are_named(name, target, text):
    logits = np.zeros((3, 3) if name == "CategoricalCrossEntropy" else 3, "float32")
    with pytest.raises((TypeError, ValueError), match=rf"^{TARGET} must .*{text}"):
        call(name, logits, target)


@pytest.mark.parametrize("argument", ["sample_weight", "mask"])
def test_B16_other_arguments_are_named(argument):
    loss = build("CategoricalCrossEntropy")
    logits, target = side.tensor(np.zeros((3, 3), "float32")), side.tensor(np.zeros(3, "int64"))
    for value in (["a", "b", "c"], [[1], [1, 2], [3]]):
        with pytest.raises((TypeError, ValueError), match=rf"^{argument} must "):
            side.call(loss, logits, target, **{argument: value})


@on_torch
def test_B16_sparse_tensors_are_named():
    loss, eye, labels = (
        build("CategoricalCrossEntropy"),
        side.tensor(np.eye(3, dtype="float32")),
        side.tensor(np.arange(3)),
    )
    for name, logits, target in ((TARGET, eye, eye.to_sparse()), (LOGITS, eye.to_sparse(), labels)):
        with pytest.raises(ValueError, match=rf"^{name} must be a dense tensor, .*sparse_coo: pass {name}.to_dense"):
            side.call(loss, logits, target)


@on_torch
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "BinaryCrossEntropy"])
@pytest.mark.parametrize("argument", ["target", "sample_weight", "mask"])
def test_B16_tensors_without_values_are_named(name, argument):
    """Keras makes up values of a tensor on the meta device, torch says `Cannot copy out of meta tensor`."""
    import torch

    logits, target = torch.zeros(2, 3), torch.ones(2, 3)
    given = {"target": target[:, 0].long() if name == "CategoricalCrossEntropy" else target}
    given |= {"sample_weight": torch.ones(2), "mask": torch.ones(2, dtype=torch.bool)}
    given[argument] = given[argument].to("meta")
    named = TARGET if argument == "target" else argument
    with pytest.raises(ValueError, match=rf"^{named} must hold values, .*got a tensor on the meta device"):
        side.call(build(name), logits, **given)


@on_torch
def test_B16_logits_without_values():
    """lightning_xent gives the shape of the loss, for a model that is built on the meta device."""
    import torch

    logits, target = torch.zeros(2, 3, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta")
    loss = build("CategoricalCrossEntropy", reduction="none")
    if not is_keras:
        assert (side.call(loss, logits, target).shape, side.call(loss, logits, target).is_meta) == ((2,), True)
        return
    with pytest.raises(ValueError, match=r"^y_pred must hold values, got a tensor on the meta device"):
        side.call(loss, logits, target)


OBJECTS = {  # (labels, sample weights, mask), as a column of pandas may hold them
    "whole numbers": ([2, 0, 1], [1, 3, 2], [True, False, True]),
    "numbers of numpy": ([np.int64(2), np.uint8(0), 1], [np.float32(1), 3, Fraction(2)], [np.True_, False, 1]),
    "floats": ([2, 0, 1], [1.0, 3.0, 2], [1.0, 0.0, 1]),
}


@pytest.mark.parametrize("case", OBJECTS.values(), ids=OBJECTS)
def test_B16_objects_that_are_numbers_are_read(case):
    logits = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]], "float32")
    target, sample_weight, mask = (np.array(values, object) for values in case)
    found = side.call(
        build("CategoricalCrossEntropy", reduction="sum"),
        side.tensor(logits),
        target=target,
        sample_weight=sample_weight,
        mask=mask,
    )
    assert side.numpy(found) == pytest.approx(np.log(1 + np.e + np.e**-1) + 2 * np.log(3), rel=1e-6)
    soft = np.array([[0, 0, 1], [1, 0, 0], [0, True, 0.0]], object)
    assert side.numpy(
        side.call(build("BinaryCrossEntropy", reduction="sum"), side.tensor(0 * logits), target=soft)
    ) == pytest.approx(9 * np.log(2), rel=1e-6)


@pytest.mark.parametrize("argument", ["target", "sample_weight", "mask"])
def test_B16_a_number_of_too_many_bits_is_named(argument):
    logits = side.tensor(np.zeros((2, 3), "float32"))
    given = {"target": [0, 1], "sample_weight": [1.0, 1.0], "mask": [True, True]}
    given[argument] = np.array([0, 2**70], object)
    named = TARGET if argument == "target" else argument
    with pytest.raises(TypeError, match=rf"^{named} must hold numbers of at most 64 bits, got {2**70}"):
        side.call(build("CategoricalCrossEntropy"), logits, **given)


@pytest.mark.parametrize("logits", [None, ["a", "b"], [[1.0], [1.0, 2.0]], np.array([None])], ids=repr)
def test_B16_logits_are_named(logits):
    with pytest.raises((TypeError, ValueError), match=rf"^{LOGITS} must "):
        side.call(build("CategoricalCrossEntropy"), logits, side.tensor(np.zeros(2, "int64")))


HOLDERS = {
    "list": [0, 1, 2],
    "tuple": (0, 1, 2),
    "object with an array": Series([0, 1, 2]),
    "masked array without a mask": np.ma.array([0, 1, 2]),
    "a subclass of array": np.array([0, 1, 2]).view(type("Mine", (np.ndarray,), {})),
    "read-only": np.broadcast_to(np.array([0, 1, 2]), (3,)),
}


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


# torch takes neither of the first two, and warns of the third, which pandas and jax give.
@pytest.mark.parametrize(
    "hold", [lambda a: a[::-1].copy()[::-1], lambda a: a.astype(a.dtype.newbyteorder()), read_only]
)
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_B16_arrays_in_any_memory_are_read(hold, dtype):
    logits = side.tensor(np.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]], "float32"))
    rows = np.eye(3, dtype=dtype)[[2, 0]]
    want = (np.log(1 + np.e + np.e**-1) + 0.5 * np.log(3)) / 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = side.call(
            build("CategoricalCrossEntropy", reduction="weighted_mean"),
            logits,
            target=hold(rows),
            sample_weight=hold(np.array([1.0, 0.5], "float32")),
            mask=hold(np.array([True, True])),
        )
    assert side.numpy(found) == pytest.approx(want, rel=1e-6)


@pytest.mark.skipif(not is_keras, reason="inputs of Keras")
def test_B16_inputs_of_keras_are_not_ragged():
    """A KerasTensor has a `ragged_rank`, too: None."""
    import keras

    found = side.call(build("CategoricalCrossEntropy"), keras.Input((3,)), target=keras.Input((), dtype="int32"))
    assert (found.shape, found.dtype) == ((), "float32")


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # torch says so of any such array
@pytest.mark.parametrize("target", HOLDERS.values(), ids=HOLDERS)
def test_A9_labels_in_any_holder_are_read(target):
    assert call("CategoricalCrossEntropy", ROWS, target) == pytest.approx((FIRST + 2 * OTHER) / 3, rel=1e-6)
    narrow = ROWS[:, :2]
    with pytest.raises(ValueError, match=rf"{TARGET} must hold class indices.*got 2 at \[2\]"):
        call("CategoricalCrossEntropy", narrow, target)


if side_name == "keras-tensorflow":
    import tensorflow as tf

    @pytest.mark.parametrize("position", [0, 1], ids=["y_true", "y_pred"])
    def test_B16_ragged_tensors_are_named(position):
        arguments = [tf.constant([0, 1]), tf.zeros((2, 2))]
        arguments[position] = tf.ragged.constant([[0.0], [1.0, 2.0]])
        with pytest.raises(ValueError, match=rf"{('y_true', 'y_pred')[position]} must have rows of one length"):
            build("CategoricalCrossEntropy")(*arguments)

    @pytest.mark.parametrize("name", ["y_true", "y_pred", "sample_weight", "mask"])
    def test_B16_unknown_ranks_are_named(name):
        loss = build("BinaryCrossEntropy")
        arguments = {argument: tf.ones((2, 3)) for argument in ("y_true", "y_pred", "sample_weight", "mask")}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
        def run(tensor):
            return loss(**{**arguments, name: tensor})

        with pytest.raises(ValueError, match=rf"{name} must have a known rank.*tf\.ensure_shape"):
            run(tf.ones((2, 3)))

    def test_B16_strings_of_the_backend_are_named():
        with pytest.raises(TypeError, match="y_true must hold real numbers, got string"):
            build("CategoricalCrossEntropy")(tf.constant(["a", "b"]), tf.zeros((2, 2)))

    def test_A9_variables_and_sparse_tensors_are_read():
        loss = build("CategoricalCrossEntropy")
        target = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], "float32")
        for given in (tf.Variable([0, 1, 2]), tf.sparse.from_dense(target)):
            assert side.numpy(loss(given, ROWS)) == pytest.approx((FIRST + 2 * OTHER) / 3, rel=1e-6)


if side_name in ("keras-torch", "lightning"):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_flatten

    class Mask(torch.Tensor):
        """As MONAI's MetaTensor and fastai's tensors: a plain tensor that carries something along."""

    class Carrying(torch.Tensor):
        """One that hands itself on, as `super().__torch_function__` does, and counts the calls."""

        calls = 0

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.calls += 1
            return super().__torch_function__(func, types, args, kwargs)

    @pytest.mark.parametrize("name", CLASSES)
    def test_A9_subclasses_of_tensors_are_plain_tensors(name):
        logits, target = (torch.from_numpy(array) for array in inputs(name))
        plain = {"logits": logits, "target": target, "sample_weight": torch.arange(6.0), "mask": torch.arange(6) != 2}
        loss = build(name)

        def results(kind, *wrapped):
            tensors = {key: value.as_subclass(kind) if key in wrapped else value for key, value in plain.items()}
            tensors["logits"] = tensors["logits"].detach().clone().requires_grad_()
            value = side.call(loss, **tensors)
            (gradient,) = torch.autograd.grad(value, tensors["logits"])
            assert type(value) is torch.Tensor
            return value, gradient.as_subclass(torch.Tensor)

        want = results(torch.Tensor)
        for kind in (Mask, Carrying):
            for wrapped in (["target"], ["logits"], list(plain)):
                assert all(torch.equal(*pair) for pair in zip(results(kind, *wrapped), want, strict=True)), wrapped

    @pytest.mark.parametrize("check_labels", [None, True])
    def test_A9_labels_of_a_subclass_are_checked(check_labels):
        logits, target = torch.zeros(3, 2), torch.tensor([0, 1, 7]).as_subclass(Mask)
        for name in ("CategoricalCrossEntropy", "BinaryCrossEntropy"):
            x = logits if name == "CategoricalCrossEntropy" else logits[:, 0]
            with pytest.raises(ValueError, match=rf"{TARGET} must hold .*got 7 at \[2\]"):
                side.call(build(name, check_labels=check_labels), x, target)

    def test_A9_parameters_are_logits():
        logits = torch.nn.Parameter(torch.tensor(ROWS))
        side.call(build("CategoricalCrossEntropy"), logits, torch.tensor([0, 1, 2])).backward()
        want = torch.softmax(logits.detach(), -1) - torch.eye(3)
        torch.testing.assert_close(logits.grad, want / 3)

    def test_A9_softmax_of_a_subclass_is_told():
        p = torch.softmax(torch.randn(12, 3), -1).as_subclass(Mask)
        with pytest.warns(UserWarning, match="takes logits"):
            side.call(build("CategoricalCrossEntropy"), p, torch.zeros(12, dtype=torch.long))

    def test_A9_fake_tensors_are_not_read():
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            logits, target = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
            assert side.call(build("CategoricalCrossEntropy", check_labels=True), logits, target).shape == ()

    def test_B16_nested_tensors_are_named():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls nested tensors a prototype
            target = torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])
        with pytest.raises(ValueError, match=rf"{TARGET} must have rows of one length"):
            side.call(build("CategoricalCrossEntropy"), torch.zeros(2, 2), target)

    class NoFloat64(TorchDispatchMode):
        """Makes the device "meta" one without float64, as MPS is."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            outputs = func(*args, **(kwargs or {}))
            for output in tree_flatten(outputs)[0]:
                if isinstance(output, torch.Tensor) and output.is_meta and output.dtype == torch.float64:
                    raise TypeError(f"{func}: this device has no float64")
            return outputs

    def test_B6_the_device_refuses_float64():
        with NoFloat64():
            torch.zeros(2, device="meta")
            for make in (lambda: torch.zeros(2, dtype=torch.float64, device="meta"), lambda: ON_CPU.to("meta")):
                with pytest.raises(TypeError, match="no float64"):
                    make()

    ON_CPU = torch.ones(6, dtype=torch.float64)
    WIDE = {
        "plain": {},
        "a number": {"sample_weight": 0.5},
        "a list": {"sample_weight": [0.5] * 6},
        "a float64 array": {"sample_weight": np.full(6, 0.5)},
        "a float64 tensor of the CPU": {"sample_weight": ON_CPU},
        "a mask": {"mask": [True] * 6},
    }
    OPTIONS = {
        "plain": {},
        "smoothed": {"label_smoothing": 0.1},
        "hard": {"hard_fraction": 0.5, "entropy_penalty": 0.1},
        "weighted": {"reduction": "weighted_mean"},
        "ignoring": {"ignore_index": -1},
    }

    def on_meta(run):
        """Run with the device "meta" as the one of the loss."""
        if not is_keras:
            return run()
        import keras

        with keras.device("meta"):
            return run()

    @pytest.mark.parametrize("name", CLASSES)
    def test_B6_nothing_is_wide_on_the_device(name):
        logits, target = inputs(name)
        weights = {"pos_weight": [1.0, 2.0, 3.0]} if is_binary(name) else {"class_weight": [1.0, 2.0, 3.0]}
        runs = [({}, more) for more in WIDE.values()] + [({**config, **weights}, {}) for config in OPTIONS.values()]
        for config, more in runs:
            with NoFloat64():
                x = torch.from_numpy(logits).to("meta").requires_grad_()
                arguments = x, torch.from_numpy(target).to("meta")
                value = on_meta(lambda c=config, a=arguments, m=more: side.call(build(name, **c), *a, **m))
                if not is_keras:  # which makes an empty tensor of one on "meta"
                    value.backward()
                    assert x.grad.is_meta
            assert value.dtype == torch.float32

    def test_B6_targets_given_as_numbers_and_wide_arrays():
        loss = build("BinaryCrossEntropy")
        for target in ([0.1] * 6, np.full(6, 0.1), ON_CPU):
            with NoFloat64():
                assert on_meta(lambda t=target: side.call(loss, torch.zeros(6, device="meta"), t)).is_meta

    def test_B6_the_label_of_a_distillation():
        target = torch.zeros(6, 4, device="meta")
        with NoFloat64():
            loss = build("Distillation", alpha=0.5)
            assert on_meta(lambda: side.call(loss, torch.zeros(6, 3, device="meta"), target)).is_meta


# ---- C6 and C7: what check_model tells.

SOFT = np.full((12, 3), 1 / 3, "float32")


def with_row(row, dtype="float32"):
    target = SOFT.copy()
    target[4] = row
    return target.astype(dtype)


SUMS = {
    "short": ("CategoricalCrossEntropy", with_row([0.5, 0.2, 0.1]), r"gets a target that sums to 0\.8 in row \[4\]"),
    "long": ("CategoricalFocalCrossEntropy", with_row([1, 1, 0]), r"sums to 2 in row \[4\].*Binary loss"),
    "NaN": ("CategoricalCrossEntropy", with_row([np.nan, 1, 0]), r"sums to nan in row \[4\]"),
    "right": ("CategoricalCrossEntropy", with_row([0.5, 0.25, 0.25]), None),
    "half precision": ("CategoricalCrossEntropy", SOFT.astype("float16"), None),
    "multi-hot integers": ("CategoricalCrossEntropy", np.ones((12, 3), "int64"), None),
    "bools": ("CategoricalCrossEntropy", np.ones((12, 3), bool), None),
    "labels": ("CategoricalCrossEntropy", np.zeros(12, "int64"), None),
    "a teacher": ("Distillation", with_row([5, 2, 1]), None),
    "a binary loss": ("BinaryCrossEntropy", with_row([1, 1, 0]), None),
}


@pytest.mark.parametrize(("name", "target", "text"), SUMS.values(), ids=SUMS)
def test_C6_target_rows_that_do_not_sum_to_1(name, target, text):
    logits = side.tensor(np.random.default_rng(0).normal(size=(12, 3)).astype("float32"))
    found = [text for text in package.check_outputs(build(name), logits, side.tensor(target)) if "sums to" in text]
    assert len(found) == (text is not None)
    for problem in found:
        with pytest.raises(ValueError, match=f"^{name} .*{text}"):
            raise ValueError(problem)


def test_C6_rows_of_weight_0_may_sum_to_anything():
    logits = side.tensor(np.zeros((12, 3), "float32"))
    weight = side.tensor((np.arange(12) != 4).astype("float32"))
    loss = build("CategoricalCrossEntropy")
    assert package.check_outputs(loss, logits, side.tensor(with_row([3, 0, 0])), weight) == []


def model_of(activation):
    if is_keras:
        import keras

        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation=activation)])
    from torch import nn

    last = {"sigmoid": nn.Sigmoid, "hard_sigmoid": nn.Hardsigmoid, "softmax": lambda: nn.Softmax(-1)}[activation]()
    return nn.Sequential(nn.Linear(4, 3), last)


@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_C6_a_sigmoid_under_a_categorical_loss(activation, from_logits):
    rng = np.random.default_rng(0)
    batch = side.given(rng.normal(size=(12, 4)).astype("float32")), side.given(np.arange(12) % 3)
    found = package.check_model(model_of(activation), build("CategoricalCrossEntropy", from_logits=from_logits), batch)
    assert len(found) == 1
    assert f"those of a {activation}" in found[0]
    assert from_logits or "end the network in a softmax, or use a Binary loss" in found[0]


def test_C6_a_softmax_is_right_without_from_logits():
    batch = side.given(np.ones((12, 4), "float32")), side.given(np.arange(12) % 3)
    loss = build("CategoricalCrossEntropy", from_logits=False)
    assert package.check_model(model_of("softmax"), loss, batch) == []


COSINES = ("ArcFaceCrossEntropy", "CosFaceCrossEntropy")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", COSINES)
def test_C7_raw_logits_warn_once(name, dtype):
    loss = build(name)
    logits = side.tensor(np.array([[0.5, -3.5, 0.25]], "float32"), dtype)
    (text,) = warned(lambda: side.call(loss, logits, side.tensor(np.array([0]))))
    assert text.startswith(f"{name} takes cosines")
    assert "in [-1, 1], but gets -3.5 in row [0], class 1" in text
    assert warned(lambda: side.call(loss, logits, side.tensor(np.array([0])))) == []
    (problem,) = package.check_outputs(build(name), logits, side.tensor(np.array([0])))
    assert problem == text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", COSINES)
def test_C7_rounded_cosines_are_cosines(name, dtype):
    epsilon = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    logits = side.tensor(np.array([[1 + epsilon, -1 - epsilon, -np.inf]], "float32"), dtype)
    assert warned(lambda: side.call(build(name), logits, side.tensor(np.array([0])))) == []


@pytest.mark.parametrize("mode", TRACES)
def test_C7_a_trace_reads_nothing(mode):
    logits, target = side.tensor(np.array([[0.5, -3.5, 0.25]], "float32")), side.tensor(np.array([0]))
    loss = build("CosFaceCrossEntropy")
    assert warned(lambda: side.value_and_gradient(lambda x, t: side.call(loss, x, t), logits, mode, target)) == []


# ---- B9: weights of labels on any axis.

NESTED = {
    "lists": [[[2]], [[0.5]], [[3]]],
    "tuples": (((2.0,),), ((0.5,),), ((3.0,),)),
    "an array": np.array([2.0, 0.5, 3.0]).reshape(3, 1, 1),
    "a tensor": {"tensor": True},
}


def images():
    """Logits (2, 3, 4, 3), whose last axis is as long as the one of the labels, targets, and the right losses."""
    rng = np.random.default_rng(4)
    x, target = rng.normal(size=(2, 3, 4, 3)).astype("float32"), rng.integers(0, 2, (2, 3, 4, 3))
    weight = np.array([2.0, 0.5, 3.0]).reshape(3, 1, 1)
    return x, target, np.where(target == 1, weight * np.logaddexp(0, -x.astype("float64")), np.logaddexp(0, x))


@pytest.mark.parametrize("mode", ["eager", *TRACES[:1]])
@pytest.mark.parametrize(
    "config",
    [
        {"pos_weight": [[[2.0]], [[0.5]], [[3.0]]]},
        {"pos_weight": [[[[2.0]], [[0.5]], [[3.0]]]]},
        {"pos_weight": [2.0, 0.5, 3.0], "axis": 1},
        {"pos_weight": [2.0, 0.5, 3.0], "axis": -3},
    ],
    ids=["(C, 1, 1)", "(1, C, 1, 1)", "axis", "negative axis"],
)
def test_B9_weights_of_channels(config, mode):
    x, target, want = images()
    loss = build("BinaryCrossEntropy", reduction="none", **config)
    tensors = side.tensor(x), side.tensor(target)
    value, _ = side.value_and_gradient(lambda x, t: side.call(loss, x, t), tensors[0], mode, tensors[1])
    np.testing.assert_allclose(side.numpy(value), want, rtol=1e-5)


def test_B9_a_flat_one_lies_along_the_last_axis():
    x, target, _ = images()
    want = np.where(target == 1, [2.0, 0.5, 3.0] * np.logaddexp(0, -x), np.logaddexp(0, x)).mean()
    assert call("BinaryCrossEntropy", x, side.tensor(target), config={"pos_weight": [2.0, 0.5, 3.0]}) == pytest.approx(
        want, rel=1e-5
    )


@pytest.mark.parametrize("given", NESTED.values(), ids=NESTED)
def test_B9_rows_of_weights_are_kept_as_numbers(given):
    given = side.tensor(np.array([[[2.0]], [[0.5]], [[3.0]]], "float32")) if isinstance(given, dict) else given
    loss = build("BinaryCrossEntropy", pos_weight=given)
    assert loss.pos_weight == (((2.0,),), ((0.5,),), ((3.0,),))
    assert loss.get_config() == {"pos_weight": [[[2.0]], [[0.5]], [[3.0]]]}
    again = package.get(json.loads(json.dumps({"loss": "BinaryCrossEntropy", "config": loss.get_config()})))
    assert again.pos_weight == loss.pos_weight
    x, target, want = images()
    value = side.numpy(side.call(again, side.tensor(x), side.tensor(target)))
    assert value == pytest.approx(want.mean(), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in CLASSES if is_binary(name)])
def test_B9_every_binary_loss_takes_them(name):
    logits, target = inputs(name)
    logits, target = (array.reshape(2, 3, 3) for array in (logits, target))
    flat = build(name, pos_weight=[2.0, 0.5, 3.0], axis=1, reduction="none")
    rows = build(name, pos_weight=[[2.0], [0.5], [3.0]], reduction="none")
    moved = build(name, pos_weight=[2.0, 0.5, 3.0], reduction="none")
    values = [side.numpy(side.call(loss, side.tensor(logits), side.tensor(target))) for loss in (flat, rows)]
    others = [side.tensor(np.moveaxis(array, 1, -1).copy()) for array in (logits, target)]
    for value in values:
        np.testing.assert_allclose(value, np.moveaxis(side.numpy(side.call(moved, *others)), -1, 1), rtol=1e-5)


WRONG_WEIGHTS = {
    "ragged": ({"pos_weight": [[1.0], [1.0, 2.0]]}, r"pos_weight must be a number, or .* rows of one length"),
    "a negative one": ({"pos_weight": [[1.0], [-2.0]]}, r"pos_weight\[1\]\[0\] must be a number in \[0, inf\)"),
    "empty": ({"pos_weight": [[]]}, r"pos_weight.* must be a number, or a non-empty"),
    "an axis for rows": ({"pos_weight": [[1.0], [2.0]], "axis": 1}, "axis must be None where pos_weight has rows"),
    "a fraction": ({"axis": 0.5}, "axis must be an integer"),
}


@pytest.mark.parametrize(("config", "text"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_B9_what_is_refused(config, text):
    with pytest.raises(ValueError, match=text):
        build("BinaryCrossEntropy", **config)


MISFITS = {
    "axis": ({"pos_weight": [1.0, 2.0], "axis": 3}, r"axis must lie in \[-3, 2\] for .* of rank 3, got 3"),
    "length": (
        {"pos_weight": [1.0, 2.0, 3.0]},
        r"pos_weight must have 4 numbers.*, got 3; they fit axis 1: set axis=1, or give them the shape \(3, 1\)",
    ),
    "broadcast": (
        {"pos_weight": [[1.0], [2.0]]},
        r"pos_weight must broadcast against .*, \(3, 4\), got shape \(2, 1\)",
    ),
}


@pytest.mark.parametrize(("config", "text"), MISFITS.values(), ids=MISFITS)
def test_B9_what_does_not_fit(config, text):
    with pytest.raises(ValueError, match=text):
        call("BinaryCrossEntropy", np.zeros((2, 3, 4), "float32"), side.tensor(np.zeros((2, 3, 4))), config=config)


def test_B9_check_outputs_tells_of_two_axes_as_long():
    x, target, _ = images()
    x, target = side.tensor(x), side.tensor(target)
    (problem,) = package.check_outputs(build("BinaryCrossEntropy", pos_weight=[2.0, 0.5, 3.0]), x, target)
    assert "takes the labels of pos_weight from axis 3" in problem
    assert "set axis=3 or axis=1" in problem
    for config in ({"pos_weight": [2.0, 0.5, 3.0], "axis": 1}, {"pos_weight": 2.0}, {"pos_weight": [[[2.0]]] * 3}):
        assert package.check_outputs(build("BinaryCrossEntropy", **config), x, target) == []
