"""The laws that every loss keeps, on random calls.

Every public class is under test, a new one from the day it is written: its own parameters are those of its shared
vectors. What a law leaves out stands beside it, with the reason.
"""

import json
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared_specs import load
from sides import name, side
from strategies import (
    BINARY,
    CATEGORICAL,
    CLASS_COUNTS,
    DTYPE,
    KINDS,
    LOGITS,
    PUBLIC,
    calls,
    evaluate,
    has_labels,
    is_binary,
    kept_rows,
    kinds_of,
    scale_of_gradient,
    shifts,
    targets,
    width,
    without_ties,
)

# Per law and class. The first 10 are new, of the others hypothesis varies each one 5 times.
EXAMPLES = {"lightning": 15, "keras-torch": 8, "keras-tensorflow": 3, "keras-jax": 2}[name]
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)  # explaining a failure would take minutes
LAW = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, phases=PHASES)
COMPILED_LAW = settings(LAW, max_examples=1)  # a compilation takes up to a second

LOSSES = [*BINARY, *CATEGORICAL]
DISTRIBUTIONS = [loss for loss in CATEGORICAL if len(kinds_of(loss)) > 1]
DIVERGENCES = {"KLDivergence", "BiTemperedLogistic", "QualityFocalLoss", "VarifocalLoss"}  # not linear in the target
# The classes of the first two have an order; the slope of the others goes to the first of equal classes.
PLACE_COUNTS = {"OrdinalCrossEntropy", "SquaredEarthMoverDistance", "CategoricalHinge", "Bootstrapping"}
TWICE = {"BinarySquaredError"}  # half of the sum over both labels
PAIRS = {
    binary: categorical
    for binary in BINARY
    for categorical in CATEGORICAL
    if categorical.__name__ == binary.__name__.replace("Binary", "Categorical") and binary.__name__ not in TWICE
}
CROSS_ENTROPIES = ("BinaryCrossEntropy", "CategoricalCrossEntropy")
LIMITS = {  # variant: the loss that it meets, and where; 1e-30 is 0 to every rounding, but takes the general path
    "BinaryFocalCrossEntropy": ("BinaryCrossEntropy", [{"gamma": 0.0}, {"gamma": 1e-30}]),
    "CategoricalFocalCrossEntropy": ("CategoricalCrossEntropy", [{"gamma": 0.0}, {"gamma": 1e-30}]),
    "SparseCategoricalCrossEntropy": ("CategoricalCrossEntropy", [{}]),
    **{
        f"{family}{variant}": (f"{family}CrossEntropy", parameters)
        for family in ("Binary", "Categorical")
        for variant, parameters in {
            "PolyCrossEntropy": [{"epsilon": 0.0}, {"epsilon": 1e-30}],
            "GeneralizedCrossEntropy": [{"q": 1e-30}, {"q": 1e-20}],
            "SymmetricCrossEntropy": [{"alpha": 1.0, "beta": 0.0}, {"alpha": 1.0, "beta": 1e-30}],
            "LabelRelaxation": [{"alpha": 1e-30}],
        }.items()
    },
    "AsymmetricLoss": ("BinaryCrossEntropy", [{"gamma_pos": 0.0, "gamma_neg": 0.0, "margin": 0.0}]),
    "QualityFocalLoss": ("BinaryCrossEntropy", [{"beta": 0.0}]),
    "Bootstrapping": ("CategoricalCrossEntropy", [{"beta": 1.0}, {"beta": 1.0, "mode": "hard"}]),
    "BiTemperedLogistic": ("KLDivergence", [{"t1": 1.0, "t2": 1.0}]),
}
WITHOUT_LIMIT = {  # of parameters; what they are equal to otherwise is in test_algebra.py
    "ArcFaceCrossEntropy",
    "BinaryHinge",
    "BinaryJensenShannon",
    "BinaryMeanAbsoluteError",
    "BinarySquaredError",
    "BinaryTaylorCrossEntropy",
    "CategoricalHinge",
    "CategoricalJensenShannon",
    "CategoricalMeanAbsoluteError",
    "CategoricalSquaredError",
    "CategoricalTaylorCrossEntropy",
    "CosFaceCrossEntropy",
    "JensenShannonConsistency",
    "KLDivergence",
    "LDAMCrossEntropy",
    "LogitAdjustedCrossEntropy",
    "NormalizedCrossEntropy",
    "OrdinalCrossEntropy",
    "SquaredEarthMoverDistance",
    "VarifocalLoss",
}


def over(losses, share=1 if name == "lightning" else 3):
    """The law for each of the losses; but for the first ones and each `share`-th of the others it is slow."""
    basic = {
        *CROSS_ENTROPIES,
        "SparseCategoricalCrossEntropy",
        "BinaryFocalCrossEntropy",
        "CategoricalFocalCrossEntropy",
    }
    turns = enumerate(sorted(losses, key=lambda loss: loss.__name__))
    marked = {loss: [] if loss.__name__ in basic or turn % share == 0 else [pytest.mark.slow] for turn, loss in turns}
    return pytest.mark.parametrize(
        "loss_class", [pytest.param(loss, id=loss.__name__, marks=marks) for loss, marks in marked.items()]
    )


def assert_close(got, want, scale=1.0):
    """Both were computed, and each may err by the tolerance of the shared vectors."""
    scale = 2 * max(scale, np.abs(want).max(initial=1.0))
    verdict = load.compare(load.Want(want, scale, np.ones(want.shape, bool), ()), got, DTYPE, DTYPE, False)
    assert verdict.ok, verdict.message


def assert_same(got, want, scale):
    """Values and gradients agree; `scale` is that of the gradients."""
    assert_close(got[0], want[0])
    assert_close(got[1], want[1], scale)


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_1_index_is_one_hot(loss_class, data):
    """Binary: integers are floats. ignore_index, which distributions have none of, aside."""
    without = () if is_binary(loss_class) else ("ignore_index",)
    config, batch = data.draw(calls(loss_class, without=without, kinds=("labels",)))
    config = without_ties(loss_class, config, batch)
    if is_binary(loss_class):
        other, one_hot = loss_class, replace(batch, target=batch.target.astype(float), column=False)
    else:  # a class without distributions stands beside the one that it refines
        other = next(base for base in loss_class.__mro__ if base in DISTRIBUTIONS)
        one_hot = replace(batch, target=batch.distribution(), column=False)
    got, want = evaluate(loss_class(**config), batch), evaluate(other(**config), one_hot)
    assert_same(got, want, scale_of_gradient(loss_class, config, batch))


@over([loss for loss in (*BINARY, *DISTRIBUTIONS) if loss.__name__ not in DIVERGENCES])
@LAW
@given(data=st.data())
def test_law_2_linear_in_the_target(loss_class, data):
    """hard_fraction aside, ignore_index of a binary target too (a mixture is another label), and of weighted_mean
    what makes its denominator depend on the target: weights, and distributions that do not sum to 1."""
    weighted = data.draw(st.booleans())
    without = ("hard_fraction", "reduction") if weighted else ("hard_fraction",)
    without += ("class_weight", "pos_weight", "alpha") if weighted else ()
    without += ("ignore_index",) if is_binary(loss_class) else ()
    kinds = KINDS[1:3] if weighted else KINDS[1:]
    config, first = data.draw(calls(loss_class, without=without, kinds=kinds))
    if weighted:
        config["reduction"] = "weighted_mean"
    elif config.get("reduction") == "weighted_mean":
        del config["reduction"]
    rows = first.logits.shape if is_binary(loss_class) else first.logits.shape[:-1]
    target = data.draw(targets(loss_class, rows, first.classes, data.draw(st.sampled_from(kinds))))
    second = replace(first, target=target)
    share = data.draw(st.sampled_from((0.5, 0.25, 0.875, 0.0, 1.0)))
    mixed = replace(first, target=share * first.target + (1 - share) * second.target)

    loss = loss_class(**config)
    parts = zip(evaluate(loss, first), evaluate(loss, second), strict=True)
    want = [share * one + (1 - share) * two for one, two in parts]
    assert_same(evaluate(loss, mixed), want, max(scale_of_gradient(loss_class, config, b) for b in (first, second)))


@over(PAIRS)
@LAW
@given(data=st.data())
def test_law_3_binary_is_two_class(loss_class, data):
    """One pos_weight for all labels, since class_weight has one for all rows. ignore_index has labels only."""
    config, batch = data.draw(calls(loss_class))
    if batch.target.dtype.kind == "f":
        config.pop("ignore_index", None)
        batch = replace(batch, target=np.clip(batch.target, 0, 1))  # -1 was an ignored label
    elif config.get("ignore_index") == 0.5:
        del config["ignore_index"]
    if isinstance(config.get("pos_weight"), list):
        config["pos_weight"] = config["pos_weight"][0]
    config = without_ties(loss_class, config, batch)

    names = {field.name for field in fields(PAIRS[loss_class])}
    twin = {keyword: value for keyword, value in config.items() if keyword in names} | {"axis": -1}
    weight_1, weight_0 = loss_class(**config).balance()
    twin["class_weight"] = [weight_0, weight_1 * config.get("pos_weight", 1.0)]
    from_logits = config.get("from_logits", True)
    x, target = batch.logits, batch.target
    if target.dtype.kind == "f":
        target = np.stack([1 - target, target], -1)
    two = replace(batch, logits=np.stack([0 * x if from_logits else 1 - x, x], -1), target=target, column=False)
    got, (want, want_gradient) = evaluate(loss_class(**config), batch), evaluate(PAIRS[loss_class](**twin), two)
    assert_close(got[0], want)
    if from_logits:
        assert_close(got[1], want_gradient[..., 1], scale_of_gradient(loss_class, config, batch))


@over([loss for loss in CATEGORICAL if shifts(loss, {})])
@LAW
@given(data=st.data())
def test_law_4_constants_change_nothing(loss_class, data):
    """Logits only, z_loss and softcap aside. The constants do not round: see LOGITS."""
    config, batch = data.draw(calls(loss_class, without=("from_logits", "z_loss", "softcap")))
    config = without_ties(loss_class, config, batch)
    rows = (*batch.logits.shape[:-1], 1)
    constants = data.draw(arrays("float64", rows, elements=LOGITS | st.sampled_from((4096.0, -1000.0))))
    loss, scale = loss_class(**config), scale_of_gradient(loss_class, config, batch)
    want = evaluate(loss, batch)
    assert_same(evaluate(loss, replace(batch, logits=batch.logits + constants)), want, scale)
    # The sum of K entries errs by that of K entries.
    classes = batch.logits.shape[-1]
    total = want[1].sum(-1)
    assert_close(total, np.zeros_like(total), classes / 2 * max(scale, np.abs(want[1]).max(initial=1.0)))


@over([loss for loss in CATEGORICAL if loss.__name__ not in PLACE_COUNTS])
@LAW
@given(data=st.data())
def test_law_5_permuting_the_classes(loss_class, data):
    config, batch = data.draw(calls(loss_class, class_counts=tuple(count for count in CLASS_COUNTS if count > 1)))
    config = without_ties(loss_class, config, batch)
    classes = batch.classes
    order = np.array(data.draw(st.permutations(range(classes))))
    place = np.argsort(order)
    entries = np.concatenate([order + first for first in range(0, width(loss_class, classes), classes)])

    def moved(label):
        return np.where((label >= 0) & (label < classes), place[np.clip(label, 0, classes - 1)], label)

    permuted = dict(config)
    for keyword in {"class_weight", "class_counts"} & set(config):
        permuted[keyword] = [config[keyword][entry] for entry in order]
    if "ignore_index" in config:
        permuted["ignore_index"] = int(moved(np.array(config["ignore_index"])))
    target = moved(batch.target) if has_labels(batch, loss_class) else batch.target[..., order]
    got = evaluate(loss_class(**permuted), replace(batch, logits=batch.logits[..., entries], target=target))
    value, gradient = evaluate(loss_class(**config), batch)
    assert_same(got, (value, gradient[..., entries]), scale_of_gradient(loss_class, config, batch))


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_6_ignored_rows_are_no_rows(loss_class, data):
    """Whatever their logits hold, and a masked row whatever its label is; "none" has 0 in their place."""
    config, batch = data.draw(calls(loss_class, batched=True))
    if isinstance(config.get("pos_weight"), list) and batch.logits.ndim == 1:
        config["pos_weight"] = config["pos_weight"][0]  # one per row: it would lose one with the row
    count = len(batch.logits)
    row = data.draw(st.integers(0, count - 1))
    logits, target, mask = batch.logits.copy(), batch.target.copy(), batch.mask
    garbage = st.sampled_from((np.nan, np.inf, -np.inf, 1e30, 3.0))
    logits[row] = data.draw(arrays("float64", logits[row].shape, elements=garbage))
    if has_labels(batch, loss_class) and data.draw(st.booleans()):
        ignored = config.setdefault("ignore_index", -1)
        target = target.astype(float) if ignored == 0.5 else target
        target[row] = ignored
    else:
        mask = kept_rows(loss_class, {}, batch).copy()
        mask[row] = False
        if has_labels(batch, loss_class):
            target[row] = data.draw(st.sampled_from((99, -7)))
    batch = replace(batch, logits=logits, target=target, mask=mask)
    others = [index for index in range(count) if index != row]
    fewer = batch.take(others)
    config = without_ties(loss_class, config, fewer)

    loss = loss_class(**config)
    (value, gradient), want = evaluate(loss, batch), evaluate(loss, fewer)
    if config.get("reduction") == "none":
        assert not value[row].any()
        value = value[others]
    assert not gradient[row].any()
    assert_same((value, gradient[others]), want, scale_of_gradient(loss_class, config, fewer))


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_7_parts_of_a_split_batch_add_up(loss_class, data):
    """hard_fraction, which ranks the batch, aside; "none" has no parts; a sum has the denominator 1."""
    config, batch = data.draw(calls(loss_class, batched=True, without=("hard_fraction",)))
    if config.get("reduction") == "none":
        del config["reduction"]
    if isinstance(config.get("pos_weight"), list) and batch.logits.ndim == 1:
        config["pos_weight"] = config["pos_weight"][0]
    loss, denominators, totals, gradients = loss_class(**config), [], [], []

    def total(loss, logits, *rest, **more):
        total, denominator = side.parts(loss, logits, *rest, **more)
        denominators.append(side.numpy(denominator))
        return total

    count = len(batch.logits)
    cut = data.draw(st.integers(0, count)) if name != "keras-jax" else 1
    for rows in (slice(0, cut), slice(cut, count)):
        part, gradient = evaluate(loss, batch.take(rows), call=total)
        totals.append(part)
        gradients.append(gradient)
    denominator = 1.0 if config.get("reduction") == "sum" else sum(denominators)
    factor = 1 / denominator if denominator else 0.0
    want = evaluate(loss, batch)
    got = sum(totals) * factor, np.concatenate(gradients) * factor
    assert_same(got, want, scale_of_gradient(loss_class, config, batch))


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_7_weight_2_is_the_row_twice(loss_class, data):
    """ "weighted_mean" and "sum"; hard_fraction, which ranks rows, aside."""
    config, batch = data.draw(calls(loss_class, batched=True, without=("hard_fraction", "reduction")))
    config["reduction"] = data.draw(st.sampled_from(("weighted_mean", "sum")))
    if isinstance(config.get("pos_weight"), list) and batch.logits.ndim == 1:
        config["pos_weight"] = config["pos_weight"][0]
    count = len(batch.logits) if name != "keras-jax" else 2  # 2 and 3 rows are in the pool of shapes
    batch = batch.take(slice(0, count))
    weight = np.ones(count) if batch.sample_weight is None else batch.sample_weight
    weight = np.full(count, weight) if weight.ndim == 0 else weight.copy()
    batch = replace(batch, sample_weight=weight)
    row = data.draw(st.integers(0, count - 1))

    loss = loss_class(**config)
    want, want_gradient = evaluate(loss, batch.take([*range(count), row]))
    want_gradient[row] += want_gradient[count]
    doubled = weight.copy()
    doubled[row] *= 2
    batch = replace(batch, sample_weight=doubled)
    got = evaluate(loss, batch)
    assert_same(got, (want, want_gradient[:count]), scale_of_gradient(loss_class, config, batch))


def test_every_variant_has_a_limit_or_none():
    for loss in ({loss.__name__ for loss in LOSSES} - set(CROSS_ENTROPIES)) ^ (set(LIMITS) | WITHOUT_LIMIT):
        pytest.fail(f"{loss} has to be public, and in one of LIMITS and WITHOUT_LIMIT in this file")


@over([loss for loss in LOSSES if loss.__name__ in LIMITS])
@LAW
@given(data=st.data())
def test_law_8_variants_meet_their_limit(loss_class, data):
    limit, parameters = LIMITS[loss_class.__name__]
    limit = PUBLIC[limit]
    own = {field.name for field in fields(loss_class)} - {field.name for field in fields(limit)}
    config, batch = data.draw(calls(loss_class, without=tuple(own)))
    config = without_ties(limit, config, batch)
    got = evaluate(loss_class(**config, **data.draw(st.sampled_from(parameters))), batch)
    want = evaluate(limit(**config), replace(batch, column=False))  # a column of one class may be a distribution there
    assert_same(got, want, scale_of_gradient(loss_class, config, batch))


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_9_weights_of_1_are_none(loss_class, data):
    config, batch = data.draw(calls(loss_class, without=("class_weight", "pos_weight")))
    config = without_ties(loss_class, config, batch)
    if not is_binary(loss_class):
        ones = {"class_weight": [1.0] * batch.classes}
    else:
        per_label = batch.logits.ndim > 0 and batch.logits.shape[-1] > 0 and data.draw(st.booleans())
        ones = {"pos_weight": [1.0] * batch.logits.shape[-1] if per_label else 1.0}
    got, want = evaluate(loss_class(**config, **ones), batch), evaluate(loss_class(**config), batch)
    assert_same(got, want, scale_of_gradient(loss_class, config, batch))


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_10_smoothing_over_others_is_less_over_all(loss_class, data):
    """Targets that sum to 1: over "others" the smoothed target keeps its sum, over "all" it gets e."""
    config, batch = data.draw(calls(loss_class, without=("label_smoothing", "smooth_over"), kinds=KINDS[:3]))
    share = data.draw(st.sampled_from((0.1, 0.25, 0.5, 0.9, 1.0)))
    classes = batch.classes
    over_all = config | {"label_smoothing": share, "smooth_over": "all"}
    over_all = without_ties(loss_class, over_all, batch)
    over_others = over_all | {"label_smoothing": share * (classes - 1) / classes, "smooth_over": "others"}
    got, want = evaluate(loss_class(**over_others), batch), evaluate(loss_class(**over_all), batch)
    assert_same(got, want, scale_of_gradient(loss_class, config, batch))


@over(LOSSES)
@LAW
@given(data=st.data())
def test_law_11_saved_and_loaded(loss_class, data):
    """The very same numbers, from JSON and from a pickle."""
    config, batch = data.draw(calls(loss_class))
    loss = loss_class(**config)
    want = evaluate(loss, batch)
    spec = json.dumps({"loss": loss_class.__name__, "config": loss.get_config()}, allow_nan=False)
    for restored in (side.package.get(json.loads(spec)), pickle.loads(pickle.dumps(loss))):
        assert type(restored) is loss_class
        assert restored.get_config() == loss.get_config()
        for keyword in config:
            assert getattr(restored, keyword) == getattr(loss, keyword), keyword
        for got, expected in zip(evaluate(restored, batch), want, strict=True):
            np.testing.assert_array_equal(got, expected)


# Dynamo traces through the cache of keras.backend.result_type, and says so.
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.parametrize("mode", [mode for mode in side.modes if mode != "eager"])
@over(LOSSES, share=8)
@COMPILED_LAW
@given(data=st.data())
def test_law_11_compiled_is_eager(loss_class, mode, data):
    config, batch = data.draw(calls(loss_class))
    config = without_ties(loss_class, config, batch)
    loss = loss_class(**config)
    assert_same(evaluate(loss, batch, mode), evaluate(loss, batch), scale_of_gradient(loss_class, config, batch))
