"""What the vectors cannot say: construction, serialisation, messages, label dtypes, ranking."""

import copy
import json
import math
import pickle
from dataclasses import dataclass, fields

import numpy as np
import pytest

from examples import CLASSES, build, inputs, is_binary, required
from keyword_values import ALL_CONFIGS, REFUSED
from shared_specs.common import arguments, spec
from shared_specs.common.spec import public_classes
from sides import is_keras, side


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_need_no_config(name):
    assert build(name).get_config() == required(name)


@pytest.mark.parametrize(
    ("name", "keyword"), [(name, keyword) for name in REFUSED for keyword in sorted(REFUSED[name])]
)
def test_refused_keywords_are_named(name, keyword):
    value = {"from_logits": False, "temperature": 2.0, "z_loss": 0.5}[keyword]
    with pytest.raises(ValueError, match=keyword):
        build(name, **{keyword: value})


@pytest.mark.parametrize(("name", "config"), ALL_CONFIGS)
@pytest.mark.parametrize(
    "copied",
    [
        lambda loss: type(loss)(**loss.get_config()),
        lambda loss: side.package.get(
            json.loads(json.dumps({"loss": type(loss).__name__, "config": loss.get_config()}))
        ),
        lambda loss: pickle.loads(pickle.dumps(loss)),
        copy.deepcopy,
        copy.copy,
    ],
    ids=["get_config", "json", "pickle", "deepcopy", "copy"],
)
def test_every_argument_survives(name, config, copied):
    loss = getattr(side.package, name)(**config)
    again = copied(loss)
    assert type(again) is type(loss)
    assert again.get_config() == loss.get_config() == config
    logits, target = inputs(name)
    if name == "Distillation" and config["alpha"] < 1:
        target = np.concatenate([target, [[0], [1], [2], [0], [1], [2]]], -1).astype("float32")
    arguments = side.tensor(np.abs(logits)), side.tensor(target)
    assert side.numpy(side.call(again, *arguments)) == side.numpy(side.call(loss, *arguments))


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 2, 3.5],
        (0.1, 2, 3.5),
        np.array([0.1, 2, 3.5]),
        {"tensor": True},
    ],
    ids=["list", "tuple", "array", "tensor"],
)
def test_weights_become_floats(values):
    exact = not isinstance(values, dict)
    values = values if exact else side.tensor(np.array([0.125, 2, 3.5], "float32"))
    expected = [0.1, 2.0, 3.5] if exact else [0.125, 2.0, 3.5]
    for loss in (
        side.package.CategoricalCrossEntropy(class_weight=values),
        side.package.BinaryCrossEntropy(pos_weight=values),
    ):
        (weights,) = loss.get_config().values()
        assert weights == expected
        assert all(type(weight) is float for weight in weights)


def test_one_weight_in_a_list_is_one_weight():
    assert side.package.BinaryCrossEntropy(pos_weight=[3]).get_config() == {"pos_weight": 3.0}


BAD_SPECS = [
    ({"loss": "Qqq"}, ValueError, "loss must be one of .*CategoricalFocalCrossEntropy.*got 'Qqq'"),
    ({"loss": ["CategoricalCrossEntropy"]}, ValueError, "loss must be one of"),
    ({"loss": "get"}, ValueError, "loss must be one of"),
    ({"los": "CategoricalCrossEntropy"}, ValueError, 'spec must be .*"loss".*"config"'),
    ({"loss": "CategoricalCrossEntropy", "gamma": 2}, ValueError, 'spec must be .*"loss".*"config"'),
    (3, ValueError, "spec must be"),
    (
        side.package.BinaryHinge,
        TypeError,
        "spec must be a loss, its spec or its name, got the class BinaryHinge: call it",
    ),
    ({"loss": "CategoricalCrossEntropy", "config": [1]}, ValueError, "config must be"),
    (
        {"loss": "CategoricalFocalCrossEntropy", "config": {"gama": 2}},
        TypeError,
        "CategoricalFocalCrossEntropy got an unexpected keyword argument 'gama': did you mean 'gamma'",
    ),
    (
        {"loss": "CategoricalFocalCrossEntropy", "config": {"gamma": "two"}},
        ValueError,
        r"gamma must be a number in \[0, inf\) or 'flsd53', got 'two'",
    ),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD_SPECS)
def test_bad_specs_say_what_is_valid(given, error, message):
    with pytest.raises(error, match=message):
        side.package.get(given)


FOREIGN = {
    "a typo": ("CategoricalFocalCrossEntropy", "class_weigths", "did you mean 'class_weight'?"),
    "a typo of an own keyword": ("CategoricalFocalCrossEntropy", "gama", "did you mean 'gamma'?"),
    "binary typo": ("BinaryCrossEntropy", "pos_weigth", "did you mean 'pos_weight'?"),
    "Keras": ("SparseCategoricalCrossEntropy", "ignore_class", "ignore_class of Keras is ignore_index here"),
    "Keras' dtype": ("BinaryCrossEntropy", "dtype", "leave dtype out: float64 is computed in float64"),
    "torch": ("CategoricalCrossEntropy", "weight", "weight of torch is class_weight here"),
    "torch, binary": ("BinaryCrossEntropy", "weight", "weight of torch is the sample_weight of the call here"),
    "torch's old reduction": ("BinaryCrossEntropy", "size_average", "size_average of torch is reduction here"),
    "smp": ("CategoricalFocalCrossEntropy", "ignored_index", "ignored_index of smp is ignore_index here"),
    "nothing like it": ("BinaryHinge", "qqq", "its keywords are from_logits, label_smoothing, .*pos_weight"),
    "Transformers": (
        "CategoricalCrossEntropy",
        "label_smoothing_factor",
        "label_smoothing_factor of Transformers is lab",
    ),
    "alpha of a focal loss": ("CategoricalFocalCrossEntropy", "alpha", "alpha of focal losses is class_weight="),
    "a family": (
        "CategoricalCrossEntropy",
        "softmax",
        "the class says it: Binary... has a sigmoid, Categorical... a s",
    ),
    "timm": ("JensenShannonConsistency", "num_splits", "num_splits of timm is views here"),
    "timm's clip": ("AsymmetricLoss", "clip", "clip of timm is margin here"),
    "a clip": ("CategoricalCrossEntropy", "clip", "leave clip out: nothing is clipped"),
    "smp's axis": ("CategoricalCrossEntropy", "dim", "dim of smp is axis here"),
    "MONAI": ("CategoricalFocalCrossEntropy", "include_background", "include_background=False is class_weight="),
    "optax": ("CategoricalCrossEntropy", "where", "where of optax is the mask of the call here"),
    "Liger": ("CategoricalCrossEntropy", "lse_square_scale", "lse_square_scale of Liger and flash-attn is z_loss here"),
    "the authors of LDAM": ("LDAMCrossEntropy", "cls_num_list", "cls_num_list of LDAM's authors is class_counts here"),
    "inputs": (
        "BinaryFocalCrossEntropy",
        "labels",
        "labels is an argument of the call: build the loss first, then call",
    ),
    "a Dice loss": ("CategoricalFocalCrossEntropy", "lambda_dice", "lambda_dice has no counterpart: add the Dice loss"),
    "a kind of target": (
        "CategoricalCrossEntropy",
        "soft_label",
        "leave soft_label out: class indices and distributio",
    ),
    "no epsilon": ("BinaryCrossEntropy", "eps", "leave eps out: nothing is clipped"),
}


@pytest.mark.parametrize(("name", "keyword", "message"), FOREIGN.values(), ids=FOREIGN)
def test_newcomer_17_unknown_keywords_say_what_may_be_meant(name, keyword, message):
    message = message.replace("?", r"\?")
    with pytest.raises(TypeError, match=rf"{name} got an unexpected keyword argument '{keyword}': {message}"):
        getattr(side.package, name)(**{keyword: 1})
    with pytest.raises(TypeError, match=rf"{name} got an unexpected keyword argument '{keyword}': {message}") as caught:
        side.package.get({"loss": name, "config": {keyword: 1}})
    assert len(str(caught.value)) < 180 or "its keywords" in message


OTHER_NAMES = {
    "CategoricalCrossentropy": "did you mean 'CategoricalCrossEntropy'",
    "sparse_categorical_crossentropy": "did you mean 'SparseCategoricalCrossEntropy'",
    "CategoricalFocalCrossentropy": "did you mean 'CategoricalFocalCrossEntropy'",
    "CrossEntropyLoss": "here it is CategoricalCrossEntropy$",
    "nll_loss": "here it is CategoricalCrossEntropy$",
    "BCEWithLogitsLoss": "here it is BinaryCrossEntropy$",
    "KLDivLoss": "here it is KLDivergence$",
    "FocalLoss": "here it is CategoricalFocalCrossEntropy or BinaryFocalCrossEntropy$",
    "BinaryFocalLoss": "did you mean 'BinaryFocalCrossEntropy'",
    "ArcFaceLoss": "did you mean 'ArcFaceCrossEntropy'",
    "Bootstraping": "did you mean 'Bootstrapping'",
}


@pytest.mark.parametrize(("name", "message"), OTHER_NAMES.items(), ids=OTHER_NAMES)
def test_newcomer_17_unknown_names_say_what_may_be_meant(name, message):
    with pytest.raises(ValueError, match=f"^loss must be the name of a loss, got '{name}': {message}"):
        side.package.get(name)


def test_newcomer_17_names_of_other_libraries_lead_to_losses():
    classes = public_classes(side.package)
    for name, ours in spec.FOREIGN.items():
        assert set(ours.split(" or ")) <= set(classes), name
    keywords = {field.name for loss in classes.values() for field in fields(loss)}
    assert {ours for _, ours in arguments.FOREIGN.values()} <= keywords


def test_newcomer_17_arguments_without_keyword():
    message = r"CategoricalCrossEntropy takes its arguments by keyword, as in .*, got \[1, 2\] without one"
    with pytest.raises(TypeError, match=message):
        side.package.CategoricalCrossEntropy([1, 2])


class Output:
    """The output of a model, as those of Transformers."""

    def __init__(self, logits):
        self.logits = logits


NO_LOGITS = {
    "an output": (Output, r"pass its \.logits"),
    "a dictionary": (lambda logits: {"logits": logits}, "pass its entry 'logits'"),
    "an output of torchvision": (lambda logits: {"out": logits}, "pass its entry 'out'"),
    "class indices": (
        lambda logits: side.tensor(np.array([0, 1])),
        r"call the loss as loss\((y_true, y_pred|logits, target)",
    ),
}


@pytest.mark.parametrize(("wrap", "message"), NO_LOGITS.values(), ids=NO_LOGITS)
def test_newcomer_10_what_is_no_tensor_of_logits_names_the_way_out(wrap, message):
    logits, target = side.tensor(np.zeros((2, 3), "float32")), side.tensor(np.array([0, 1]))
    with pytest.raises(TypeError, match=f"(logits|y_pred) must .*: {message}"):
        side.call(side.package.CategoricalCrossEntropy(), wrap(logits), target)


def test_newcomer_17_a_subclass_may_have_a_constructor_of_its_own():
    class Scaled(side.package.BinaryCrossEntropy):
        def __init__(self, factor, *, offset=0.0):
            super().__init__(pos_weight=factor + offset)

    assert Scaled(2.0, offset=1.0).pos_weight == Scaled(factor=2.0, offset=1.0).pos_weight == 3.0
    with pytest.raises(TypeError, match=r"Scaled got an unexpected keyword argument 'ofset': did you mean 'offset'\?"):
        Scaled(2.0, ofset=1.0)
    copied = copy.deepcopy(side.package.BinaryCrossEntropy(pos_weight=3.0))
    assert copied.pos_weight == pickle.loads(pickle.dumps(copied)).pos_weight == 3.0


def test_get_takes_names_and_losses():
    loss = side.package.get("BinaryFocalCrossEntropy")
    assert type(loss) is side.package.BinaryFocalCrossEntropy
    assert side.package.get(loss) is loss


INTEGERS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype_is_a_label(dtype):
    logits = np.random.default_rng(0).normal(size=(4, 300)).astype("float32")
    labels = np.array([0, 1, 100, 127])
    loss = side.package.CategoricalCrossEntropy(ignore_index=-100)
    want = side.numpy(side.call(loss, side.tensor(logits), side.tensor(labels)))
    # -100 is 156 as a uint8: an ignore_index outside the dtype ignores nothing.
    assert side.numpy(side.call(loss, side.tensor(logits), side.tensor(labels.astype(dtype)))) == want
    wrapped = np.array([156, 156, 156, 156]).astype("uint8")
    assert side.numpy(side.call(loss, side.tensor(logits), side.tensor(wrapped))) > 0


@pytest.mark.parametrize("label", [2**32 + 1, -(2**32), 2**40])
def test_labels_beyond_32_bits_do_not_wrap(label):
    logits = side.tensor(np.zeros((2, 3), "float32"))
    with pytest.raises(ValueError, match=r"must hold class indices"):
        side.call(side.package.CategoricalCrossEntropy(), logits, side.given(np.array([label, 0])))


@pytest.mark.parametrize("ignore_index", [2**40, -(2**63), 2**32 - 1])
def test_ignore_index_beyond_the_dtype_ignores_nothing(ignore_index):
    logits, target = side.tensor(np.zeros((2, 3), "float32")), side.tensor(np.array([1, 0], "int32"))
    loss = side.package.CategoricalCrossEntropy(ignore_index=ignore_index, reduction="sum")
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(2 * np.log(3), rel=1e-6)
    loss = side.package.BinaryCrossEntropy(ignore_index=ignore_index, reduction="sum")
    logits = side.tensor(np.zeros(2, "float32"))
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(2 * np.log(2), rel=1e-6)


@pytest.mark.skipif("float64" not in side.dtypes, reason="this side computes in float32")
def test_numbers_and_lists_keep_their_precision():
    logits, target = side.tensor(np.zeros(1)), side.tensor(np.ones(1))
    loss = side.package.BinaryCrossEntropy()
    for weight in (0.1, [0.1]):
        assert side.numpy(side.call(loss, logits, target, sample_weight=weight)) == pytest.approx(
            0.1 * np.log(2), rel=1e-15
        )
    assert side.numpy(side.call(loss, side.tensor(np.ones(1)), [0.1])) == pytest.approx(
        0.1 * np.log1p(np.exp(-1)) + 0.9 * np.log1p(np.exp(1)), rel=1e-15
    )


def test_infinite_probabilities_are_nan():
    loss = side.package.CategoricalCrossEntropy(from_logits=False, reduction="none")
    probabilities = np.array([[np.inf, 0.5], [np.inf, 0.5], [0.5, 0.5]], "float32")
    losses = side.numpy(side.call(loss, side.tensor(probabilities), side.tensor(np.array([0, 1, 1]))))
    assert np.isnan(losses).tolist() == [True, True, False]


BAD_ARGUMENTS = [
    ("CategoricalFocalCrossEntropy", {"gamma": 10**400}, "gamma"),
    ("CategoricalCrossEntropy", {"ignore_index": 10**400}, "ignore_index"),
    ("CategoricalCrossEntropy", {"ignore_index": 2**63}, "ignore_index"),
]


@pytest.mark.parametrize(("name", "config", "argument"), BAD_ARGUMENTS)
def test_huge_arguments_are_named(name, config, argument):
    with pytest.raises(ValueError, match=argument):
        side.package.get({"loss": name, "config": config})


def test_arguments_of_numpy_are_taken():
    config = {"from_logits": np.False_, "check_labels": np.True_, "smooth_over": np.str_("others")}
    loss = side.package.CategoricalCrossEntropy(**config)
    assert loss.get_config() == {"from_logits": False, "check_labels": True, "smooth_over": "others"}


def test_label_message_has_label_position_range_and_hint():
    logits = side.tensor(np.zeros((2, 3, 4), "float32"))
    target = side.tensor(np.array([[0, 1, 2], [3, 9, -7]]))
    name = "y_true" if is_keras else "target"
    loss = side.package.CategoricalCrossEntropy(axis=-1)
    with pytest.raises(
        ValueError,
        match=rf"{name} must hold class indices.* in \[0, 3\], got 9 at \[1, 1\].*"
        "; if 9 marks positions to skip, pass ignore_index=9$",
    ):
        side.call(loss, logits, target)


def test_label_message_of_nan_names_the_mask():
    logits, target = side.tensor(np.zeros(2, "float32")), side.tensor(np.array([0.0, np.nan], "float32"))
    with pytest.raises(
        ValueError, match=r"got nan at \[1\].*; if nan marks positions to skip, leave them out by mask$"
    ):
        side.call(side.package.BinaryCrossEntropy(), logits, target)


@pytest.mark.parametrize(
    ("check_labels", "raises"), [(None, True), (True, True), (False, False)], ids=["None", "True", "False"]
)
def test_check_labels(check_labels, raises):
    loss = side.package.CategoricalCrossEntropy(check_labels=check_labels, reduction="none")
    arguments = side.tensor(np.zeros((3, 2), "float32")), side.tensor(np.array([0, 2, 1]))
    if raises:
        with pytest.raises(ValueError, match="got 2 at"):
            side.call(loss, *arguments)
    else:
        assert np.isnan(side.numpy(side.call(loss, *arguments))).tolist() == [False, True, False]


# A row's label and the largest logit of the other class give its loss; NaN ranks first, then +inf.
RANKED = [
    ("ties go to the lower index", [1.0, 1.0, 1.0, 1.0], [True, True, False, False]),
    ("NaN first", [5.0, np.nan, 1.0, np.nan], [False, True, False, True]),
    ("NaN before infinity", [np.inf, np.nan, 1.0, np.inf], [True, True, False, False]),
    ("largest", [1.0, 4.0, 2.0, 3.0], [False, True, False, True]),
]


@pytest.mark.parametrize(("logits", "kept"), [row[1:] for row in RANKED], ids=[row[0] for row in RANKED])
def test_hard_fraction_ranks(logits, kept):
    loss = side.package.BinaryCrossEntropy(hard_fraction=0.5, reduction="none")
    arguments = side.tensor(np.array(logits, "float32")), side.tensor(np.zeros(4, "float32"))
    assert (side.numpy(side.call(loss, *arguments)) != 0).tolist() == kept


@pytest.mark.parametrize(("fraction", "rows", "count"), [(0.07, 100, 7), (0.7, 10, 7), (0.34, 3, 2), (1e-9, 5, 1)])
def test_hard_fraction_counts(fraction, rows, count):
    """0.07 * 100 is 7.000000000000001 in float64: that is not one row more."""
    loss = side.package.BinaryCrossEntropy(hard_fraction=fraction)
    arguments = side.tensor(np.arange(rows, dtype="float32")), side.tensor(np.zeros(rows, "float32"))
    assert side.numpy(side.parts(loss, *arguments)[1]) == count


def test_temperature_does_not_overflow():
    """2^127 / 0.25 is infinite in float32."""
    loss = side.package.CategoricalCrossEntropy(temperature=0.25)
    logits = side.tensor(np.full((1, 2), 2.0**127, "float32"))
    assert side.numpy(side.call(loss, logits, side.tensor(np.array([0])))) == pytest.approx(np.log(2), rel=1e-6)


@dataclass(kw_only=True, eq=False, repr=False)
class FocalLDAM(side.package.CategoricalFocalCrossEntropy, side.package.LDAMCrossEntropy):
    """The curve of the one, the margins of the other."""


@pytest.mark.parametrize(
    ("config", "name", "alone"),
    [
        ({"gamma": 0.0}, "LDAMCrossEntropy", {"class_counts": [5.0, 3.0, 2.0]}),
        ({"max_margin": 0.0, "scale": 2.0}, "CategoricalFocalCrossEntropy", {"temperature": 0.5}),
    ],
)
def test_variants_combine_by_inheritance(config, name, alone):
    logits, target = (side.tensor(array) for array in inputs(name))
    both = FocalLDAM(class_counts=[5.0, 3.0, 2.0], reduction="none", **config)
    want = side.call(getattr(side.package, name)(reduction="none", **alone), logits, target)
    np.testing.assert_allclose(side.numpy(side.call(both, logits, target)), side.numpy(want), rtol=1e-6)


@dataclass(kw_only=True, eq=False, repr=False)
class AdjustedCosFace(side.package.LogitAdjustedCrossEntropy, side.package.CosFaceCrossEntropy):
    """The adjustment of the one, the margin of the other."""


@pytest.mark.filterwarnings("ignore:.*cosines")
def test_a_margin_of_adjusted_logits():
    logits, target = inputs("CategoricalCrossEntropy")
    counts, shift = [5.0, 3.0, 2.0], 2.0 * 0.25 * np.eye(3)[target]
    want = side.call(
        side.package.CategoricalCrossEntropy(),
        side.tensor((2.0 * logits - shift + np.log(counts)).astype("float32")),
        side.tensor(target),
    )
    loss = AdjustedCosFace(class_counts=counts, scale=2.0, margin=0.25)
    found = side.call(loss, side.tensor(logits), side.tensor(target))
    np.testing.assert_allclose(side.numpy(found), side.numpy(want), rtol=1e-6)


NUMBERS = {"float": float, "integer": int, "NumPy": np.float32, "tensor": lambda value: side.tensor(np.float32(value))}


@pytest.mark.filterwarnings("ignore:.*cosines")
@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("config", [{}, {"label_smoothing": 0.1}], ids=str)
def test_a_margin_is_a_number_of_any_kind(kind, config):
    class Margin(side.package.CategoricalCrossEntropy):
        def margin_in(self, logits):
            return NUMBERS[kind](2)

    logits, target = (side.tensor(array) for array in inputs("CategoricalCrossEntropy"))
    want = side.call(side.package.CosFaceCrossEntropy(margin=2.0, scale=1.0, **config), logits, target)
    np.testing.assert_allclose(side.numpy(side.call(Margin(**config), logits, target)), side.numpy(want), rtol=1e-6)


def test_a_scale_that_is_learned_raises():
    class Scaled(side.package.CategoricalCrossEntropy):
        @property
        def divisor(self):
            return side.tensor(np.float32(0.5))

    logits, target = (side.tensor(array) for array in inputs("CategoricalCrossEntropy"))
    with pytest.raises(TypeError, match=r"divisor must be a Python number.*multiply the logits"):
        side.call(Scaled(), logits, target)


def test_ordered_classes_have_no_margin():
    class Ordered(side.package.OrdinalCrossEntropy):
        def margin_in(self, logits):
            return 1.0

    with pytest.raises(TypeError, match="Ordered must not have a divisor or margin_in"):
        Ordered()


def test_new_class_weights_replace_the_old():
    logits, target = (side.tensor(array) for array in inputs("CategoricalCrossEntropy"))
    for name in ("CategoricalCrossEntropy", "Distillation"):
        loss = build(name)
        loss.set_class_weight([1, 2, 3])
        assert loss.get_config() == {"class_weight": [1.0, 2.0, 3.0]}
        with pytest.raises(ValueError, match="class_weight"):
            loss.set_class_weight([1, -2, 3])
    loss = build("CategoricalCrossEntropy")
    loss.set_class_weight([1, 2, 3])
    want = build("CategoricalCrossEntropy", class_weight=[1, 2, 3])
    assert side.numpy(side.call(loss, logits, target)) == side.numpy(side.call(want, logits, target))


MANY = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.125},
    "smoothed over others": {"label_smoothing": 0.25, "smooth_over": "others", "temperature": 1.5},
    "weighted": {"class_weight": True, "reduction": "weighted_mean"},
    "weighted and smoothed": {"class_weight": True, "label_smoothing": 0.125, "temperature": 0.5},
}


@pytest.mark.parametrize("mode", [mode for mode in side.modes if mode != "torch.compile"])
@pytest.mark.parametrize("config", MANY.values(), ids=MANY)
def test_many_classes_go_through_the_kernel_of_labels(config, mode):
    """300 rows of 1200 classes: more than a block on torch, compiled on TensorFlow. One-hot rows are another path."""
    rng = np.random.default_rng(0)
    logits = side.tensor((3 * rng.normal(size=(300, 1200))).astype("float32"))
    labels, mask = rng.integers(0, 1200, 300), rng.uniform(size=300) < 0.75
    config = (
        {**config, "class_weight": rng.choice([0.0, 0.5, 2.0], 1200).tolist()} if "class_weight" in config else config
    )
    loss = side.package.CategoricalCrossEntropy(**config)
    one_hot = (labels[:, None] == np.arange(1200)).astype("float32")
    (value, gradient), (want, want_gradient) = (
        side.value_and_gradient(
            lambda logits, target, mask: side.call(loss, logits, target, mask=mask),
            logits,
            mode,
            side.tensor(target),
            side.tensor(mask),
        )
        for target in (labels, one_hot)
    )
    np.testing.assert_allclose(side.numpy(value), side.numpy(want), rtol=2e-6)
    scale = 1 / mask.sum()  # the weight of a row in a mean; both paths round, 32 eps of it at most
    np.testing.assert_allclose(side.numpy(gradient), side.numpy(want_gradient), rtol=2e-5, atol=4e-6 * scale)
    assert not side.numpy(gradient)[~mask].any()


# Without jit, JAX compiles every operation for each shape.
@pytest.mark.parametrize(
    "mode",
    ["jax.jit"] if "jax.jit" in side.modes else [mode for mode in side.modes if mode != "torch.compile"],
)
def test_one_loss_takes_many_classes_of_any_rank(mode):
    """TensorFlow keeps the traces of its passes, and generalises them."""
    rng = np.random.default_rng(0)
    loss = side.package.CategoricalCrossEntropy(axis=-1, label_smoothing=0.125, ignore_index=-1)
    rows, labels = rng.normal(size=(12, 1200)).astype("float32"), rng.integers(-1, 1200, 12)
    want = None
    for shape in [(12,), (12, 1), (3, 4), (2, 3, 2), (1, 12), (12,)]:
        value, gradient = side.value_and_gradient(
            lambda logits, target: side.call(loss, logits, target),
            side.tensor(rows.reshape(*shape, -1)),
            mode,
            side.tensor(labels.reshape(shape)),
        )
        assert gradient.shape == (*shape, 1200)
        got = side.numpy(value), side.numpy(gradient).reshape(12, -1)
        want = want or got
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("config", [{}, {"label_smoothing": 0.25}, {"temperature": 1.5}], ids=str)
@pytest.mark.parametrize("name", ["CategoricalCrossEntropy", "BinaryCrossEntropy", "BinaryFocalCrossEntropy"])
@pytest.mark.parametrize("way", ["subclass", "mixin", "assigned"])
def test_a_loss_with_another_curve_keeps_no_short_cut_of_its_base(name, config, way):
    """Closed forms and slopes are those of a curve; 300 x 1200 is more than a block on torch."""
    base = getattr(side.package, name)

    class Mixin:
        def curve(self, log_odds):
            return 2 * base.curve(self, log_odds)

    class Subclass(base):
        curve = Mixin.curve

    class Mixed(Mixin, base):
        pass

    doubled = {"subclass": Subclass, "mixin": Mixed, "assigned": base}[way](**config)
    if way == "assigned":
        doubled.curve = lambda log_odds: 2 * base.curve(doubled, log_odds)
    rng = np.random.default_rng(0)
    logits = side.tensor(rng.normal(size=(300, 1200)).astype("float32"))
    target = side.tensor(rng.integers(0, 2, (300, 1200) if is_binary(name) else 300))
    (value, gradient), (want, want_gradient) = (
        side.value_and_gradient(
            lambda logits, target, loss=loss: side.call(loss, logits, target), logits, "eager", target
        )
        for loss in (doubled, base(**config))
    )
    np.testing.assert_allclose(side.numpy(value), 2 * side.numpy(want), rtol=1e-6)
    np.testing.assert_allclose(side.numpy(gradient), 2 * side.numpy(want_gradient), rtol=1e-5, atol=2e-8)


FACTS = [(name, fact) for name in CLASSES for fact in getattr(side.package, name).facts]


@pytest.mark.parametrize(("name", "fact"), [pair for pair in FACTS if getattr(getattr(side.package, pair[0]), pair[1])])
def test_a_fact_may_be_taken_back(name, fact):
    """A short cut gives what the long way gives, or the class states something that is not so."""
    logits, target = (side.tensor(array) for array in inputs(name))
    configs = [{}, {"label_smoothing": 0.25}, {"entropy_penalty": 0.5, "temperature": 2.0}]
    for config in configs[: 2 if name == "ArcFaceCrossEntropy" else 3]:
        losses = [build(name, **config) for _ in range(2)]
        setattr(losses[1], fact, False)
        for mode in side.eager_modes:
            (value, gradient), (want, want_gradient) = (
                side.value_and_gradient(
                    lambda logits, target, loss=loss: side.call(loss, logits, target), logits, mode, target
                )
                for loss in losses
            )
            np.testing.assert_allclose(side.numpy(value), side.numpy(want), rtol=1e-5)
            np.testing.assert_allclose(side.numpy(gradient), side.numpy(want_gradient), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", side.modes)
@pytest.mark.parametrize(("lowest", "slope"), [(-180.0, -0.5), (-105.0, -1.0), (-np.inf, -0.5)])
def test_a_curve_that_overflows_is_no_loss_of_a_class_without_mass(lowest, slope, mode):
    class Exponential(side.package.CategoricalCrossEntropy):
        def curve(self, log_odds):
            return math.e ** (slope * log_odds)

    logits = side.tensor(np.array([[5.0, lowest, 1.0], [1.0, 2.0, 0.0]], "float32"))
    targets = (np.array([0, 1]), np.eye(3, dtype="float32")[[0, 1]])
    (value, gradient), (want, want_gradient) = (
        side.value_and_gradient(
            lambda logits, target: side.call(Exponential(), logits, target), logits, mode, side.tensor(target)
        )
        for target in targets[::-1]
    )
    np.testing.assert_allclose(side.numpy(value), side.numpy(want), rtol=1e-6)
    np.testing.assert_allclose(side.numpy(gradient), side.numpy(want_gradient), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", side.modes)
def test_a_label_out_of_range_that_does_not_count_ranks_as_label_0(mode):
    loss = side.package.CategoricalCrossEntropy(hard_fraction=1 / 3, reduction="sum")
    logits = np.array([[3.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]], "float32")
    weight = np.array([1.0, 1.0, 0.0], "float32")
    value, _ = side.value_and_gradient(
        lambda logits, target, weight: side.call(loss, logits, target, sample_weight=weight),
        side.tensor(logits),
        mode,
        side.tensor(np.array([0, 1, 7])),
        side.tensor(weight),
    )
    want = np.log(np.exp(logits[1]).sum()) - logits[1, 1]
    np.testing.assert_allclose(side.numpy(value), want, rtol=1e-6)


def test_reduction_of_a_distillation_may_be_assigned():
    logits, target = side.tensor(np.array([[1.0, 0.0]])), side.tensor(np.array([[0.0, 1.0, 1.0]]))
    want = build("Distillation", alpha=0.5, class_weight=[1, 5], reduction="weighted_mean")
    loss = build("Distillation", alpha=0.5, class_weight=[1, 5])
    loss.reduction = "weighted_mean"
    assert side.numpy(side.call(loss, logits, target)) == side.numpy(side.call(want, logits, target))


UNCOUNTED = {
    "ignored": ({"ignore_index": -1}, [-1, 1], {}),
    "masked": ({}, [0, 1], {"mask": np.array([False, True])}),
    "weight 0": ({}, [0, 1], {"sample_weight": np.array([0.0, 1.0], "float32")}),
}


@pytest.mark.parametrize(
    "logits", [[[np.inf, 0, 1]], [[-np.inf] * 3], [[np.nan, 0, 1]], [[0, -np.inf, -np.inf]]], ids=str
)
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("row", UNCOUNTED)
def test_rows_that_count_nowhere_leave_no_trace(row, smoothing, logits):
    config, target, more = UNCOUNTED[row]
    loss = side.package.CategoricalCrossEntropy(label_smoothing=smoothing, **config)
    value, gradient = side.value_and_gradient(
        lambda logits, target, *rest: side.call(loss, logits, target, **dict(zip(more, rest, strict=True))),
        side.tensor(np.array([*logits, [0, 1, 2]], "float32")),
        "eager",
        side.tensor(np.array(target)),
        *(side.tensor(array) for array in more.values()),
    )
    assert np.isfinite(side.numpy(value))
    assert (side.numpy(gradient)[0] == 0).all()
    assert np.isfinite(side.numpy(gradient)).all()


@pytest.mark.parametrize(
    ("name", "config", "logits", "target"),
    [
        ("CategoricalCrossEntropy", {"label_smoothing": 1e-46}, [[0.0, -np.inf, 1.0]], [0]),
        ("BinaryCrossEntropy", {"pos_weight": 1e-50}, [-np.inf], [1]),
        ("BinaryFocalCrossEntropy", {"alpha": 1e-50}, [-np.inf], [1]),
    ],
)
def test_shares_that_float32_rounds_to_0_take_no_infinity(name, config, logits, target):
    loss = getattr(side.package, name)(**config)
    logits = side.tensor(np.array(logits, "float32"))
    assert np.isfinite(side.numpy(side.call(loss, logits, side.tensor(np.array(target)))))


@pytest.mark.parametrize("mode", side.modes)
def test_a_denominator_of_0_gives_0_whatever_the_sum_is(mode):
    """Smoothing gives the label's class, of weight 0, a share of an infinite loss."""
    config = {"class_weight": [0, 1, 1], "label_smoothing": 0.1, "reduction": "weighted_mean"}
    loss = side.package.CategoricalCrossEntropy(**config)
    value, _ = side.value_and_gradient(
        lambda logits, target: side.call(loss, logits, target),
        side.tensor(np.array([[0.0, -np.inf, 1.0]], "float32")),
        mode,
        side.tensor(np.array([0])),
    )
    assert side.numpy(value) == 0
