"""Fields carry their range: construction and assignment run one check, and an assigned value counts from then on."""

import copy
import inspect
import math
import pickle
from dataclasses import dataclass, fields

import numpy as np
import pytest

from examples import CLASSES, build, inputs, is_binary, required
from keyword_values import FAMILIES, LOGITS, NUMBERS, OWN, REFUSED
from sides import is_keras, side
from sides import name as side_name

GOOD = {**NUMBERS, **OWN, **LOGITS, "views": 2, "from_logits": False}
for family, logits_only in FAMILIES.values():
    GOOD |= family | logits_only
GOOD |= {"axis": -1, "name": "own_name"}
BAD = {
    "from_logits": ["yes", 1],
    "label_smoothing": [-0.1, 1.5],
    "smooth_over": ["other"],
    "ignore_index": [math.inf, "void"],
    "temperature": [0, -1],
    "entropy_penalty": [math.inf],
    "hard_fraction": [0, 1.5],
    "check_labels": ["yes"],
    "reduction": ["avg", 3],
    "name": [3],
    "axis": [0.5, "last"],
    "class_weight": [[1, -1, 1], [], 3, "123"],
    "z_loss": [-1],
    "softcap": [0],
    "pos_weight": [-1, [1, -1, 1]],
    "gamma": [-1, "flsd", True],
    "alpha": [-1],
    "beta": [-1],
    "epsilon": [-2],
    "q": [0, 1.5],
    "truncate_at": [0, 1],
    "log_zero": [0],
    "order": [0, 1.5],
    "gamma_pos": [-1],
    "gamma_neg": [-1],
    "margin": [-1],
    "detach_modulator": ["yes"],
    "mode": ["medium"],
    "t1": [2],
    "t2": [0],
    "views": [1],
    "weight": [-1],
    "tau": [math.inf],
    "max_margin": [-1],
    "scale": [0],
    "class_counts": [[1, 0, 1], [1, -1, 1], 3],
}
NO_NUMBERS = {"from_logits", "smooth_over", "check_labels", "reduction", "name", "mode", "detach_modulator"}
# What gives other numbers than the default in no call of `inputs`: there is no label -1, the last axis is the class
# axis, and all labels are in range.
WITHOUT_EFFECT = {"ignore_index", "axis", "check_labels", "name"}
ALL = [(name, field.name) for name in CLASSES for field in fields(getattr(side.package, name))]


def arguments(loss, name, keyword=None):
    """Logits and a target of an ordinary call, which the keyword has an effect on."""
    logits, target = inputs(name, classes=4 if keyword == "views" else 3)
    if keyword == "from_logits":
        logits = np.abs(logits)
    if name == "VarifocalLoss":  # the background
        target = np.where(target < 0.5, 0.0, target).astype("float32")
    if name == "Distillation":  # a label beside the teacher's logits
        target = np.concatenate([target, np.arange(6)[:, None] % 3], -1).astype("float32")[:, : 3 + (loss.alpha < 1)]
    return side.tensor(logits), side.tensor(target)


def call(loss, name, keyword=None):
    """The value, and the gradient where the keyword has an effect on that alone."""
    logits, target = arguments(loss, name, keyword)
    if keyword != "detach_modulator":
        return side.numpy(side.call(loss, logits, target))
    return side.numpy(side.value_and_gradient(lambda *tensors: side.call(loss, *tensors), logits, "eager", target)[1])


def base_config(name, keyword):
    """What makes the keyword count."""
    weights = {"pos_weight": 2.0} if is_binary(name) else {"class_weight": [1.0, 2.0, 5.0]}
    config = {
        "smooth_over": {"label_smoothing": 0.1},
        "detach_modulator": {"gamma_pos": 1.5},
        "log_zero": {"beta": 0.5},
        "truncate_at": {"temperature": 0.25},
        "entropy_penalty": {"scale": 2.0},
        "reduction": weights,
    }.get(keyword, {})
    return {key: value for key, value in config.items() if (name, key) in ALL}


def message(error, act):
    with pytest.raises(error) as caught:
        act()
    return str(caught.value)


@pytest.mark.parametrize(("name", "keyword"), ALL)
def test_A3_a_value_out_of_range_is_refused_at_construction_and_at_assignment(name, keyword):
    loss = build(name)
    before, config = getattr(loss, keyword), loss.get_config()
    assert keyword in BAD, f"BAD in tests/losses/test_fields.py has no values out of the range of {keyword}"
    for bad in BAD[keyword] + ([] if keyword in NO_NUMBERS else [math.nan]):
        at_construction = message(ValueError, lambda bad=bad: build(name, **{keyword: bad}))
        assert keyword in at_construction
        assert message(ValueError, lambda bad=bad: setattr(loss, keyword, bad)) == at_construction
        assert getattr(loss, keyword) is before
        assert loss.get_config() == config


@pytest.mark.parametrize(("name", "keyword"), [(name, keyword) for name in REFUSED for keyword in REFUSED[name]])
def test_A3_what_fields_mean_together_is_checked_at_assignment_too(name, keyword):
    loss = build(name)
    value = call(loss, name)
    bad = {"from_logits": False, "temperature": 2.0, "z_loss": 0.5}[keyword]
    at_construction = message(ValueError, lambda: build(name, **{keyword: bad}))
    assert message(ValueError, lambda: setattr(loss, keyword, bad)) == at_construction
    assert loss.get_config() == required(name)
    assert call(loss, name) == value


TOGETHER = [
    ("CategoricalCrossEntropy", {"from_logits": False}, {"temperature": 2.0, "z_loss": 0.5, "softcap": 3.0}),
    ("CategoricalCrossEntropy", {"temperature": 2.0}, {"from_logits": False}),
    ("CategoricalCrossEntropy", {"z_loss": 0.5}, {"from_logits": False}),
    ("CategoricalCrossEntropy", {"softcap": 3.0}, {"from_logits": False}),
    ("BinaryCrossEntropy", {"temperature": 2.0}, {"from_logits": False}),
    ("LDAMCrossEntropy", {}, {"class_weight": [1, 2]}),
    ("LogitAdjustedCrossEntropy", {"class_weight": [1, 2, 3]}, {"class_counts": [1, 2]}),
]


@pytest.mark.parametrize(("name", "config", "refused"), TOGETHER)
def test_A3_a_contradiction_leaves_the_old_value(name, config, refused):
    for keyword, bad in refused.items():
        loss = build(name, **config)
        before = loss.get_config()
        at_construction = message(ValueError, lambda keyword=keyword, bad=bad: build(name, **{**config, keyword: bad}))
        assert (
            message(ValueError, lambda loss=loss, keyword=keyword, bad=bad: setattr(loss, keyword, bad))
            == at_construction
        )
        assert loss.get_config() == before


@pytest.mark.parametrize(
    ("name", "keyword"), [(name, keyword) for name, keyword in ALL if keyword not in REFUSED.get(name, ())]
)
def test_A3_an_assigned_value_counts_from_the_next_call_on(name, keyword):
    config, value = base_config(name, keyword), GOOD[keyword]
    loss = build(name, **config)
    old = call(loss, name, keyword)
    setattr(loss, keyword, value)
    fresh = build(name, **{**config, keyword: value})
    assert loss.get_config() == fresh.get_config()
    assert repr(loss) == repr(fresh)
    new = call(loss, name, keyword)
    assert (new == call(fresh, name, keyword)).all()
    assert keyword in WITHOUT_EFFECT or not np.array_equal(new, old), "the test sees no effect of the field"
    for copied in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert copied.get_config() == loss.get_config()
        setattr(copied, keyword, getattr(build(name, **config), keyword))
        assert (call(copied, name, keyword) == old).all()
    assert (call(loss, name, keyword) == new).all()


DERIVED = {  # whose tensors are made of fields before a call
    "BinaryCrossEntropy",
    "CategoricalCrossEntropy",
    "Distillation",
    "LDAMCrossEntropy",
    "LogitAdjustedCrossEntropy",
}


@pytest.mark.parametrize("mode", [mode for mode in side.modes if mode != "eager"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DERIVED else pytest.mark.slow) for name in CLASSES]
)
def test_A3_assigned_values_count_in_what_is_compiled_after_them(name, mode):
    keywords = [keyword for owner, keyword in ALL if owner == name and keyword not in {*REFUSED.get(name, ()), "name"}]
    given = {keyword: GOOD[keyword] for keyword in keywords if keyword not in ("from_logits", "views")}
    loss, fresh = build(name), build(name, **given)
    call(loss, name)
    for keyword, value in given.items():
        setattr(loss, keyword, value)
    (value, gradient), (want, want_gradient) = (
        side.value_and_gradient(lambda *tensors, loss=loss: side.call(loss, *tensors), logits, mode, target)
        for loss in (loss, fresh)
        for logits, target in [arguments(loss, name)]
    )
    assert side.numpy(value) == side.numpy(want)
    assert (side.numpy(gradient) == side.numpy(want_gradient)).all()


ROWS = np.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, 3.0, 1.0]], "float32")
SURPRISE = np.log(np.exp(ROWS.astype(float)).sum(-1, keepdims=True)) - ROWS  # -log p
LABELS = np.array([0, 1, 2])
OF_LABELS = SURPRISE[[0, 1, 2], LABELS]
BITS = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]])
OF_ONE, OF_ZERO = np.log1p(np.exp(-ROWS.astype(float))), np.log1p(np.exp(ROWS.astype(float)))
ASSIGNED = [
    ("CategoricalCrossEntropy", "class_weight", [1, 5, 9], LABELS, OF_LABELS @ [1, 5, 9] / 3),
    ("CategoricalCrossEntropy", "reduction", "sum_over_batch_size", LABELS, OF_LABELS.mean()),
    ("CategoricalCrossEntropy", "reduction", "sum", LABELS, OF_LABELS.sum()),
    ("CategoricalFocalCrossEntropy", "gamma", 1, LABELS, ((1 - np.exp(-OF_LABELS)) * OF_LABELS).mean()),
    ("BinaryCrossEntropy", "pos_weight", 9, BITS, np.where(BITS, 9 * OF_ONE, OF_ZERO).mean()),
    ("BinaryCrossEntropy", "pos_weight", [2, 3, 4], BITS, np.where(BITS, OF_ONE * [2, 3, 4], OF_ZERO).mean()),
]


@pytest.mark.parametrize(("name", "keyword", "value", "target", "want"), ASSIGNED)
def test_A3_assigned_values_by_hand(name, keyword, value, target, want):
    loss = build(name)
    logits, target = side.tensor(ROWS), side.tensor(target)
    side.call(loss, logits, target)
    setattr(loss, keyword, value)
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(want, rel=1e-6)


# Dynamo does not trace the array that a loss of Keras makes of its weights.
@pytest.mark.parametrize("mode", [mode for mode in side.modes if side_name != "keras-torch"])
def test_A3_losses_can_be_built_and_changed_in_what_is_compiled(mode):
    def changed(logits, target):
        loss = side.package.CategoricalCrossEntropy(class_weight=[1, 2, 3])
        loss.class_weight = [1, 5, 9]
        return side.call(loss, logits, target)

    value, _ = side.value_and_gradient(changed, side.tensor(ROWS), mode, side.tensor(LABELS))
    assert side.numpy(value) == pytest.approx(OF_LABELS @ [1, 5, 9] / 3, rel=1e-6)


def test_A3_assigned_values_are_canonical():
    loss = side.package.BinaryCrossEntropy()
    loss.reduction, loss.pos_weight, loss.from_logits = "mean_with_sample_weight", np.array([9]), np.False_
    assert loss.get_config() == {"reduction": "weighted_mean", "pos_weight": 9.0, "from_logits": False}
    loss.reduction = None
    assert loss.reduction == "none"


def test_A3_a_distillation_takes_assigned_fields_for_its_labels_too():
    logits = side.tensor(np.array([[1.0, 0.0], [0.5, 0.0]], "float32"))
    target = side.tensor(np.array([[0.0, 1.0, 1.0], [1.0, 0.0, -1.0]], "float32"))
    loss = build("Distillation", alpha=0.0)
    loss.ignore_index = -1
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(np.log1p(np.e), rel=1e-6)
    loss.label_smoothing = 0.5
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(np.log1p(np.e) - 0.25, rel=1e-6)


@dataclass(kw_only=True, eq=False, repr=False)
class Plain(side.package.CategoricalFocalCrossEntropy):
    """As users write one: plain fields, a default of its own, checks of its own."""

    gamma: float = 3.0
    rate: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rate = side.package.arguments.number("rate", self.rate, "(0, inf)")

    def curve(self, log_odds):
        return self.rate * super().curve(log_odds)


@dataclass(kw_only=True, eq=False, repr=False)
class Declared(side.package.CategoricalFocalCrossEntropy):
    """The same, with a declared field, and a rule for two fields."""

    gamma: float = 3.0
    rate: float = side.package.arguments.field(0.5, side.package.arguments.number, "(0, inf)")

    def fields_changed(self) -> None:
        super().fields_changed()
        if self.rate > self.gamma:
            raise ValueError(f"rate must be at most gamma, {self.gamma}, got {self.rate}")

    def curve(self, log_odds):
        return self.rate * super().curve(log_odds)


@pytest.mark.parametrize("loss_class", [Plain, Declared])
def test_A3_classes_of_users_keep_working(loss_class):
    logits, target = side.tensor(ROWS), side.tensor(LABELS)
    loss = loss_class()
    of_rows = (1 - np.exp(-OF_LABELS)) ** 3 * OF_LABELS
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(0.5 * of_rows.mean(), rel=1e-6)
    loss.rate, loss.class_weight = 2, [1, 5, 9]
    assert side.numpy(side.call(loss, logits, target)) == pytest.approx(2 * of_rows @ [1, 5, 9] / 3, rel=1e-6)
    assert loss.get_config() == {"rate": 2, "class_weight": [1.0, 5.0, 9.0]}
    with pytest.raises(ValueError, match=r"gamma must be a number in \[0, inf\)"):
        loss.gamma = -1
    with pytest.raises(ValueError, match="rate must be"):
        loss_class(rate=-1)
    assert loss_class(gamma=5).gamma == 5
    loss.note = "an attribute that is no field"
    assert loss.note == "an attribute that is no field"


def test_A3_a_declared_field_of_a_user_is_checked_when_assigned():
    loss = Declared()
    for bad, text in (
        (0, r"rate must be a number in \(0, inf\), got 0"),
        (4, "rate must be at most gamma, 3.0, got 4"),
    ):
        with pytest.raises(ValueError, match=text):
            loss.rate = bad
        assert loss.rate == 0.5
    with pytest.raises(ValueError, match=r"rate must be at most gamma, 0\.25, got 0\.5"):
        loss.gamma = 0.25
    assert loss.get_config() == {}


def test_A3_signatures_show_plain_types_and_defaults():
    parameters = inspect.signature(side.package.BinaryFocalCrossEntropy).parameters
    assert (parameters["alpha"].annotation, parameters["alpha"].default) == (float | None, None)
    assert (parameters["label_smoothing"].annotation, parameters["label_smoothing"].default) == (float, 0.0)
    assert side.package.BinaryFocalCrossEntropy.gamma == 2.0


@pytest.mark.parametrize("name", CLASSES)
def test_A3_every_field_is_declared_with_its_check(name):
    loss_class = getattr(side.package, name)
    assert all(side.package.arguments.check_of(loss_class, field.name) for field in fields(loss_class))
    unknown = {keyword for owner, keyword in ALL if owner == name} - BAD.keys()
    assert not unknown, f"BAD in tests/losses/test_fields.py has no values for {', '.join(sorted(unknown))} of {name}"


@pytest.mark.skipif(not is_keras, reason="a name is Keras'")
def test_A3_names_may_be_assigned():
    loss = build("BinaryCrossEntropy")
    made_up = loss.name
    assert made_up.startswith("binary_cross_entropy")
    loss.name = "mine"
    assert (loss.name, loss.get_config()) == ("mine", {"name": "mine"})
    loss.name = None
    assert loss.name.startswith("binary_cross_entropy")
    assert loss.get_config() == {}


def trained_values():
    """Values that a gradient or a trace passes through, by name; None where a trace has to make them."""
    if side_name == "keras-jax":
        return {"a tracer": None}
    if side_name == "keras-tensorflow":
        import tensorflow as tf

        return {"a variable": tf.Variable(0.5), "a Keras variable": keras_variable(), "a symbolic tensor": None}
    import torch

    values = {"a tensor with a gradient": torch.tensor(0.5, requires_grad=True)}
    values["a parameter"] = torch.nn.Parameter(torch.tensor(0.5))
    values["a frozen parameter"] = torch.nn.Parameter(torch.tensor(0.5), requires_grad=False)
    values["a result"] = 2 * values["a parameter"]
    values["a tensor of torch.func"] = None
    return values | ({"a Keras variable": keras_variable()} if is_keras else {})


def keras_variable():
    import keras

    return keras.Variable(0.5)


def with_value(value, act):
    """Call act(value); where it is None, with what a trace has in its place."""
    if value is not None:
        act(value)
    elif side_name == "keras-jax":
        import jax

        jax.grad(lambda value: act(value) or value)(0.5)
    elif side_name != "keras-tensorflow":
        import torch

        torch.func.grad(lambda value: act(value) or value)(torch.tensor(0.5))
        torch.func.vmap(lambda value: act(value) or value)(torch.tensor([0.5]))
    else:
        import tensorflow as tf

        tf.function(lambda value: act(value) or value, autograph=False)(tf.constant(0.5))


NUMERIC = [(name, keyword) for name, keyword in ALL if keyword != "name"]


@pytest.mark.parametrize("kind", trained_values())
def test_A8_a_parameter_that_is_trained_is_one_type_error(kind):
    value = trained_values()[kind]
    wanted = r"must be a plain number \(or plain numbers\), got a .*pass float\(value\).*docs/own_loss.md"
    losses = {name: build(name) for name in CLASSES}

    def refused(value):
        for name, keyword in NUMERIC:
            with pytest.raises(TypeError, match=rf"{keyword}\b.* {wanted}"):
                setattr(losses[name], keyword, value)
        for keyword in ("class_weight", "class_counts"):
            with pytest.raises(TypeError, match=rf"{keyword}\[1\] {wanted}"):
                build("LDAMCrossEntropy", **{keyword: [1.0, value, 2.0]})
        with pytest.raises(TypeError, match=rf"gamma {wanted}"):
            build("BinaryFocalCrossEntropy", gamma=value)

    with_value(value, refused)
    assert all(loss.get_config() == required(name) for name, loss in losses.items())


@pytest.mark.skipif(side_name in ("keras-tensorflow", "keras-jax"), reason="a matter of torch")
# torch scripts its formulas of forward derivatives when it first has one.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_A8_a_forward_derivative_is_not_dropped():
    import torch

    def act(gamma):
        with pytest.raises(TypeError, match=r"gamma must be a plain number .*that gradients train"):
            build("BinaryFocalCrossEntropy", gamma=gamma)
        return gamma

    torch.func.jvp(act, (torch.tensor(0.5),), (torch.tensor(1.0),))
    with torch.autograd.forward_ad.dual_level():
        act(torch.autograd.forward_ad.make_dual(torch.tensor(0.5), torch.tensor(1.0)))


@pytest.mark.skipif(side_name in ("keras-tensorflow", "keras-jax"), reason="a matter of torch")
# Keras says so of its table of dtypes, which Dynamo traces.
@pytest.mark.filterwarnings("ignore:.*Dynamo detected a call to a `functools.lru_cache`-wrapped function")
@pytest.mark.parametrize("kind", ["a tensor", "a tensor with a gradient", "a parameter", "an array"])
def test_A8_a_loss_built_of_what_torch_compile_traces(kind):
    """It is the TypeError of JAX and TensorFlow; with fullgraph=True it stands in an error of torch."""
    import torch

    given = {"a tensor": torch.tensor(2.0), "an array": np.array(2.0)}
    given["a tensor with a gradient"] = torch.tensor(2.0, requires_grad=True)
    given["a parameter"] = torch.nn.Parameter(torch.tensor(2.0))
    given = given[kind]
    logits, target = side.tensor(ROWS), side.tensor(LABELS)

    def function(logits, gamma):
        loss = side.package.CategoricalFocalCrossEntropy(gamma=gamma, check_labels=False)
        return side.call(loss, logits, target)

    def assigned(logits, gamma):
        loss = side.package.CategoricalFocalCrossEntropy()
        loss.gamma = gamma
        return side.call(loss, logits, target)

    for each in (function,) if is_keras else (function, assigned):  # Dynamo cannot build a loss of Keras
        torch.compiler.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match=r"TypeError.*gamma must be a plain number .*is traced"):
            torch.compile(each, backend="eager", fullgraph=True)(logits, given)
    torch.compiler.reset()
    with pytest.raises(TypeError, match=r"gamma must be a plain number .*pass float\(value\)"):
        torch.compile(function, backend="eager")(logits, given)


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), side.tensor(np.array(0.5, "float32"))], ids=str)
def test_A8_tensors_without_a_gradient_are_numbers(value):
    assert side.package.BinaryFocalCrossEntropy(gamma=value, alpha=value).get_config() == {"gamma": 0.5, "alpha": 0.5}


@pytest.mark.skipif(is_keras, reason="Keras has no parameters in losses")
def test_A8_a_curve_may_hold_a_parameter():
    import torch

    class Trained(side.package.CategoricalCrossEntropy):
        def __init__(self):
            super().__init__()
            self.rate = torch.nn.Parameter(torch.tensor(2.0))

        def curve(self, log_odds):
            return self.rate * super().curve(log_odds)

    loss = Trained()
    loss(side.tensor(ROWS), side.tensor(LABELS)).backward()
    assert loss.rate.grad.item() == pytest.approx(OF_LABELS.mean(), rel=1e-6)


OF_NUMPY = {np.int64(label): np.float32(1 + 4 * label) for label in range(3)}


@pytest.mark.parametrize("weights", [{0: 1.0, 1: 5.0, 2: 9}, {2: 9, 0: 1, 1: 5}, OF_NUMPY], ids=str)
def test_C10_class_weights_may_be_the_dictionary_of_fit(weights):
    loss, assigned = build("CategoricalCrossEntropy", class_weight=weights), build("CategoricalCrossEntropy")
    assigned.set_class_weight(weights)
    for each in (loss, assigned):
        assert each.get_config() == {"class_weight": [1.0, 5.0, 9.0]}
        value = side.numpy(side.call(each, side.tensor(ROWS), side.tensor(LABELS)))
        assert value == pytest.approx(OF_LABELS @ [1, 5, 9] / 3, rel=1e-6)
    counted = build("LDAMCrossEntropy", class_counts=weights)
    assert counted.get_config() == {"class_counts": [1.0, 5.0, 9.0]}
    spec = {
        "loss": "CategoricalCrossEntropy",
        "config": {"class_weight": {str(key): 2 for key in weights}},
    }  # as in JSON
    assert side.package.get(spec).get_config() == {"class_weight": [2.0, 2.0, 2.0]}


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        (
            "class_weight",
            {0: 1.0, 2: 5.0},
            "for each class from 0 to 2, got none for class 1",
        ),
        ("class_weight", {1: 1.0, 2: 5.0}, "from 0 to 2, got none for class 0: write the list of all K numbers"),
        ("class_weight", {10**12: 1.0}, "got none for class 0"),
        ("class_weight", {-1: 1.0, 0: 2.0}, "a key of class_weight must be an integer >= 0, got -1"),
        ("class_weight", {"cat": 1.0, "dog": 2.0}, "a key of class_weight must be an integer >= 0, got 'cat'"),
        ("class_weight", {}, "class_weight must be a non-empty flat sequence"),
        ("class_weight", {0: 1.0, 1: -5.0}, r"class_weight\[1\] must be a number in \[0, inf\), got -5.0"),
        ("pos_weight", {0: 1.0, 1: 5.0}, "pos_weight must be a number or .* are pos_weight = b / a"),
    ],
)
def test_C10_other_dictionaries_say_what_to_write(keyword, value, text):
    with pytest.raises(ValueError, match=text):
        build("BinaryCrossEntropy" if keyword == "pos_weight" else "CategoricalCrossEntropy", **{keyword: value})


TEXT = [
    ("CategoricalFocalCrossEntropy", {"gamma": "1e-4"}, {"gamma": 1e-4}),
    ("CategoricalFocalCrossEntropy", {"gamma": "flsd53"}, {"gamma": "flsd53"}),
    ("CategoricalCrossEntropy", {"z_loss": "1e-4", "ignore_index": "-100"}, {"z_loss": 1e-4, "ignore_index": -100}),
    ("CategoricalCrossEntropy", {"class_weight": ["1e0", 2, "3.5"]}, {"class_weight": [1.0, 2.0, 3.5]}),
    ("CategoricalTaylorCrossEntropy", {"order": "3"}, {"order": 3}),
    ("BinaryCrossEntropy", {"pos_weight": "2e1", "reduction": "sum"}, {"pos_weight": 20.0, "reduction": "sum"}),
    ("LogitAdjustedCrossEntropy", {"class_counts": ["1e3", "1E2"]}, {"class_counts": [1000.0, 100.0]}),
]


@pytest.mark.parametrize(("name", "config", "want"), TEXT)
def test_B15_numbers_in_a_config_may_be_text(name, config, want):
    loss = side.package.get({"loss": name, "config": config})
    assert loss.get_config() == want
    assert all(type(value) is type(want[keyword]) for keyword, value in loss.get_config().items())


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"gamma": "nan"}, "gamma must be a number .*, got 'nan'"),
        ({"gamma": "1e999"}, "gamma must be a number .*, got '1e999'"),
        ({"gamma": "-1e-4"}, "gamma must be a number .*, got -0.0001"),
        ({"gamma": "true"}, "gamma must be a number .*, got 'true'"),
        ({"from_logits": "false"}, "from_logits must be one of True, False, got 'false'"),
    ],
)
def test_B15_other_text_is_no_number(config, text):
    with pytest.raises(ValueError, match=text):
        side.package.get({"loss": "CategoricalFocalCrossEntropy", "config": config})


@pytest.mark.skipif(not is_keras, reason="a name is Keras'")
def test_B15_a_name_stays_text():
    assert side.package.get({"loss": "BinaryCrossEntropy", "config": {"name": "7"}}).name == "7"


@pytest.mark.skipif(is_keras, reason="TorchScript is torch's")
# torch deprecates TorchScript; networks that are scripted for deployment still hold losses.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", CLASSES)
def test_B14_a_network_that_holds_a_loss_can_be_scripted(name, tmp_path):
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.loss = torch.nn.Linear(3, 3), build(name)

        def forward(self, inputs):
            return self.linear(inputs)

        @torch.jit.unused
        def training_loss(self, inputs, target):
            return self.loss(self.linear(inputs), target)

    network, (logits, target) = Network(), arguments(build(name), name)
    before = side.numpy(network.loss(logits, target))
    scripted, inputs = torch.jit.script(network), torch.ones(2, 3)
    assert torch.equal(scripted(inputs), network(inputs))
    torch.jit.save(scripted, tmp_path / "network.pt")
    assert torch.equal(torch.jit.load(tmp_path / "network.pt")(inputs), network(inputs))
    assert side.numpy(network.loss(logits, target)) == before


@pytest.mark.skipif(is_keras, reason="TorchScript is torch's")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # as above
def test_B14_losses_of_users_can_be_held_too():
    import torch

    class Trained(Declared):
        @property
        def other(self):
            return [object(), *self.nothing_that_scripts()]

    holder = torch.nn.ModuleDict({"network": torch.nn.Linear(3, 3), "loss": Trained()})
    assert isinstance(torch.jit.script(holder), torch.jit.ScriptModule)
