"""The test vectors themselves: their form, their reach, their numbers. Needs no framework."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from shared_specs import load, oracle, textbook

SPECS = Path(load.__file__).parent
SCHEMA = json.loads((SPECS / "schema.json").read_text(encoding="utf-8"))
FILES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(load.CASES.glob("*.json"))}
CASES = load.cases()
VALUE_CASES = [case for case in CASES if case.expected]
SIGNIFICANT_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
SMALLEST_NORMAL_FLOAT16 = 2.0**-14
SPACING_OF_SUBNORMAL_FLOAT16 = 2.0**-24
LARGEST_FLOAT16 = 65504.0

Lint = Callable[[load.Case], Any]


def config(name: str) -> Lint:
    return lambda case: name in case.config


def expected(case: load.Case) -> load.Expected:
    assert case.expected is not None
    return case.expected


def error(case: load.Case) -> load.Error:
    assert case.error is not None
    return case.error


def is_binary(case: load.Case) -> bool:
    return case.loss in textbook.BINARY


def is_distribution(case: load.Case) -> bool:
    same = case.inputs["target"].ndim == case.inputs["logits"].ndim
    return not is_binary(case) and not case.loss.startswith("Sparse") and same and case.loss != "Distillation"


def class_count(case: load.Case) -> int:
    return 0 if is_binary(case) else int(case.inputs["logits"].shape[case.config.get("axis", -1)])


def is_saturated(case: load.Case) -> bool:
    logits, target = case.inputs["logits"], case.inputs["target"]
    plain = "label_smoothing" not in case.config and set(np.unique(target)) <= {0, 1, 2}
    return plain and set(case.dtypes) == {"float32", "float64"} and np.abs(logits).max() >= 17


def some_ignored(case: load.Case) -> bool:
    target = case.inputs["target"]
    if case.loss == "Distillation" and "alpha" in case.config:
        target = np.take(target, -1, case.config.get("axis", -1))
    ignored = target == case.config.get("ignore_index")
    masked = not case.inputs.get("mask", np.True_).all()
    return masked or (bool(np.any(ignored)) and not is_distribution(case))


def other_shapes(case: load.Case) -> bool:
    """Anything but logits (N, K) or (N, L) with the plain target."""
    logits, target = case.inputs["logits"], case.inputs["target"]
    return logits.ndim != 2 or (target.shape != logits.shape if is_binary(case) else target.ndim == 2)


def probabilities_at_a_limit(case: load.Case) -> bool:
    return case.config.get("from_logits") is False and bool(np.isin(case.inputs["logits"], (0, 1)).any())


REACHES: dict[str, Lint] = {  # flag: what a case with it must hold
    "formula": lambda case: not {"from_logits", "hard_fraction", "ignore_index"} & set(case.config),
    "gamma": config("gamma"),
    "parameter": lambda case: bool(set(oracle.own_keywords(case.loss)) & set(case.config)),
    "softcap": config("softcap"),
    "alpha": config("alpha"),
    "ignored": some_ignored,
    "nothing-kept": lambda case: expected(case).denominator == 0,
    "nonfinite": lambda case: not np.isfinite(case.inputs["logits"]).all(),
    "zero-weight": lambda case: (case.inputs["sample_weight"] == 0).any(),
    "sample-weight": lambda case: "sample_weight" in case.inputs,
    "class-weight": config("class_weight"),
    "pos-weight": config("pos_weight"),
    "smoothing": lambda case: case.config["label_smoothing"] > 0,
    "soft": lambda case: (case.inputs["target"] % 1 != 0).any(),
    "one-hot": lambda case: is_distribution(case) and set(np.unique(case.inputs["target"])) <= {0, 1},
    "reduction": config("reduction"),
    "denominator": lambda case: "denominator" in case.inputs,
    "axis": config("axis"),
    "shape": other_shapes,
    "empty": lambda case: case.inputs["logits"].size == 0,
    "single-class": lambda case: class_count(case) == 1,
    "large-label": lambda case: (case.inputs["target"] == 257).any() and class_count(case) > 257,
    "extreme": lambda case: np.abs(case.inputs["logits"]).max() >= 998,
    "tail": is_saturated,
    "temperature": lambda case: case.config["temperature"] != 1,
    "z-loss": lambda case: case.config["z_loss"] > 0,
    "entropy-penalty": lambda case: case.config["entropy_penalty"] != 0,
    "hard": lambda case: case.config["hard_fraction"] < 1,
    "from-logits": lambda case: case.config["from_logits"] is False,
    "clip": probabilities_at_a_limit,
    "unchecked": lambda case: case.config["check_labels"] is False and not expected(case).grad_logits.compared.all(),
    "invalid": lambda case: error(case).kind != "label",
    "out-of-range": lambda case: error(case).kind == "label" and error(case).traced == "nan",
}


def named(case: load.Case) -> str:
    return case.id


@pytest.mark.parametrize("stem", FILES)
def test_file_has_the_form(stem: str) -> None:
    content = FILES[stem]
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(content)
    prefixes = {case["id"].split("/")[0] for case in content["cases"]}
    assert prefixes == {stem.replace("_", "-")}, f"ids in {stem}.json have to begin with {stem.replace('_', '-')}/"
    used, defined = {flag for case in content["cases"] for flag in case["flags"]}, set(content["flags"])
    assert used == defined, f"{stem}.json: not defined: {used - defined}, not used: {defined - used}"
    assert used <= set(REACHES), f"REACHES in this file does not say what a case flagged {used - set(REACHES)} holds"


@pytest.mark.parametrize(
    "change",
    [
        {"spec_version": 2},
        {"extra": 1},
        {"cases": []},
        {"cases": [{"id": "No Kebab"}]},
        {"flags": {}},
    ],
    ids=str,
)
def test_schema_refuses(change: dict[str, Any]) -> None:
    content = FILES["binary_cross_entropy"] | change
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(content)


def test_counts() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 120
    assert sum(case.error is not None for case in CASES) >= 25
    for loss in {case.loss for case in CASES} ^ set(textbook.TEXTBOOK):
        pytest.fail(f"{loss} needs both: a file in shared_specs/cases, and a formula in shared_specs/textbook.py")
    for loss in textbook.TEXTBOOK:
        count = len(load.cases(loss))
        assert count >= 15, f"{loss} has {count} cases; at least 15 are wanted"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_flags_reach_their_feature(case: load.Case) -> None:
    missed = [flag for flag in case.flags if not REACHES[flag](case)]
    assert not missed, f"{case.id} does not hold what its flags {missed} promise, see REACHES in this file"


@pytest.mark.parametrize("case", VALUE_CASES, ids=named)
def test_inputs_are_exact(case: load.Case) -> None:
    bits = min(SIGNIFICANT_BITS[dtype] for dtype in case.dtypes)
    for name, values in case.inputs.items():
        finite = values[np.isfinite(values)].astype(np.float64)
        if values.dtype == np.float64:
            mantissa = np.frexp(finite)[0] * 2.0**bits
            assert (mantissa == np.round(mantissa)).all(), f"{name} is not exact in {case.dtypes}"
            if "float16" in case.dtypes:
                assert (finite == finite.astype(np.float16)).all(), f"{name} is not exact in float16"
    for name in ("temperature", "hard_fraction"):
        value = case.config.get(name, 1.0) * 2**10
        assert value == round(value), f"{name} is not dyadic"


@pytest.mark.parametrize("case", VALUE_CASES, ids=named)
def test_float16_can_hold_the_gradient(case: load.Case) -> None:
    if "float16" not in case.dtypes or case.expected is None:
        return
    want = case.expected.grad_logits
    magnitude = np.abs(want.data[want.compared])
    assert (magnitude <= LARGEST_FLOAT16).all(), "float16 cannot hold the gradient: leave it out of `dtypes`"
    if ((magnitude > 0) & (magnitude < SMALLEST_NORMAL_FLOAT16)).any():
        half_the_tolerance = load.TOLERANCE * load.EPSILON["float32"] * want.scale / 2
        assert half_the_tolerance >= SPACING_OF_SUBNORMAL_FLOAT16 / 2, "too small for float16: leave it out of `dtypes`"


@pytest.mark.parametrize("case", VALUE_CASES, ids=named)
def test_axis_is_named_beyond_two_dimensions(case: load.Case) -> None:
    named = is_binary(case) or case.inputs["logits"].ndim <= 2 or "axis" in case.config
    assert named, f"{case.id} has logits of {case.inputs['logits'].ndim} dimensions and has to name `axis`"


@pytest.mark.parametrize("case", [case for case in VALUE_CASES if case.config.get("hard_fraction", 1) < 1], ids=named)
def test_hard_rows_are_no_tie(case: load.Case) -> None:
    """Row losses differ by more than float32 rounds, so every dtype makes the same choice."""
    stem = case.id.split("/")[0].replace("-", "_")
    raw = next(raw for raw in FILES[stem]["cases"] if raw["id"] == case.id)
    inputs = {name: spec for name, spec in raw["inputs"].items() if name != "sample_weight"}
    settings = {name: value for name, value in raw["config"].items() if name != "hard_fraction"}
    every = oracle.fill(case.loss, {"config": settings | {"reduction": "none"}, "inputs": inputs})
    losses = np.sort([entry for entry in np.ravel(load.numbers(every["loss"]["data"])) if entry != 0])
    assert (np.diff(losses[np.isfinite(losses)]) > 1e-4).all(), f"rows of {case.id} lose nearly the same: {losses}"


def test_oracle_reproduces_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle.main(["--check"]) == 0, capsys.readouterr().out


def test_oracle_check_reports_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = FILES["binary_cross_entropy"]
    content = content | {"cases": [dict(content["cases"][0])]}
    path = tmp_path / "binary_cross_entropy.json"
    path.write_text(oracle.formatted(content), encoding="utf-8")
    assert oracle.main(["--check", str(path)]) == 0
    wrong = path.read_text(encoding="utf-8").replace('"denominator": 3.0', '"denominator": 4.0')
    path.write_text(wrong, encoding="utf-8")
    assert oracle.main(["--check", str(path)]) == 1
    assert '+    "denominator": 3.0' in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == wrong
    assert oracle.main([str(path)]) == 0
    assert '"denominator": 3.0' in path.read_text(encoding="utf-8")


CE, FOCAL, BCE, BINARY_FOCAL = (
    "CategoricalCrossEntropy",
    "CategoricalFocalCrossEntropy",
    "BinaryCrossEntropy",
    "BinaryFocalCrossEntropy",
)
PRINTED = [  # loss, config, logits, target, the value to 16 digits
    (CE, {}, [[1.2, -0.8, -0.5]], [0], 0.27612970554553754),
    (CE, {}, [[0.9, -1.2, 1.1]], [1], 2.9517987958544252),
    (CE, {}, [[4, 2, 1]], [[1, 0, 0]], 0.16984601955628565),
    (CE, {}, [[0, 5, 1]], [[0, 0.8, 0.2]], 0.82474489013882265),
    (CE, {}, [[-100, 100, -100, -100]], [1], 4.1516895802102126e-87),
    (CE, {"label_smoothing": 0.1}, [[100, -100, -100]], [0], 13.333333333333333),
    (CE, {"label_smoothing": 0.1}, [[1, -0.5, 0.25]], [0], 0.60297574385530979),
    (CE, {"label_smoothing": 0.1, "smooth_over": "others"}, [[1, -0.5, 0.25]], [0], 0.64047574385530979),
    (
        CE,
        {"from_logits": False},
        [[0.05, 0.95, 0], [0.1, 0.8, 0.1]],
        [1, 2],
        (0.051293294387550533 + 2.3025850929940457) / 2,
    ),
    (FOCAL, {}, [[1, -0.5, 0.25]], [[0.7, 0.2, 0.1]], 0.43456193567260881),
    (FOCAL, {"class_weight": [2.5, 1, 1]}, [[1, -0.5, 0.25]], [0], 0.22210085919017755),
    (BCE, {}, [1, -1, 0], [0, 0, 0], (1.3132616875182228 + 0.31326168751822283 + 0.69314718055994531) / 3),
    (BCE, {}, [-18.6, 0.51, 2.94, -12.8], [0, 1, 0, 0], 0.86545794978109727),
    (BCE, {"from_logits": False}, [0.8, 0.3, 0.7, 0.2], [1, 0, 1, 0], 0.28990924762647107),
    (BINARY_FOCAL, {}, [-18.6, 0.51, 2.94, -12.8], [0, 1, 0, 0], 0.69121207583206632),
    (BINARY_FOCAL, {"gamma": 3}, [-18.6, 0.51, 2.94, -12.8], [0, 1, 0, 0], 0.64699501188669605),
    (BINARY_FOCAL, {"alpha": 0.25}, [-18.6, 0.51, 2.94, -12.8], [0, 1, 0, 0], 0.5101332954752427),
    (BINARY_FOCAL, {}, [0.5], [0.7], 0.16052492362007548),
]


@pytest.mark.parametrize(("loss", "settings", "logits", "target", "printed"), PRINTED)
def test_oracle_gives_printed_values(
    loss: str, settings: dict[str, Any], logits: list[Any], target: list[Any], printed: float
) -> None:
    got = oracle.fill(loss, call(settings, logits, target))["loss"]["data"]
    assert got == pytest.approx(printed, rel=2e-15, abs=0)


def call(settings: dict[str, Any], logits: list[Any], target: list[Any]) -> dict[str, Any]:
    target_kind = "int" if np.array(target).dtype.kind == "i" else "float"
    return {
        "config": settings,
        "inputs": {
            "logits": {"kind": "float", "shape": np.shape(logits), "data": logits},
            "target": {"kind": target_kind, "shape": np.shape(target), "data": target},
        },
    }


@pytest.mark.parametrize(
    ("loss", "settings", "logits", "target", "want"),
    [
        (CE, {}, [[0, 0]], [0], [[-0.5, 0.5]]),
        (CE, {"temperature": 2.0}, [[0, 0]], [0], [[-0.25, 0.25]]),
        (CE, {}, [[4096, -4096]], [1], [[1.0, -1.0]]),
        (CE, {"z_loss": 1.0}, [[0, 0]], [0], [[np.log(2) - 0.5, np.log(2) + 0.5]]),
        (BCE, {"pos_weight": 3.0}, [0], [1], [-1.5]),
        (BCE, {"from_logits": False}, [0.5, 0], [1, 1], [-1.0, 0.0]),
        (BINARY_FOCAL, {"gamma": 1}, [0], [1], [-(1 + np.log(2)) / 4]),
    ],
)
def test_oracle_gradient(
    loss: str, settings: dict[str, Any], logits: list[Any], target: list[Any], want: list[Any]
) -> None:
    got = oracle.fill(loss, call(settings, logits, target))["grad_logits"]["data"]
    np.testing.assert_allclose(got, want, rtol=1e-15, atol=0)


def test_oracle_refuses_unknown_keyword() -> None:
    with pytest.raises(ValueError, match="gama"):
        oracle.fill(FOCAL, call({"gama": 2.0}, [[0, 0]], [0]))


def want(data: list[float], compared: list[bool] | None = None, **more: Any) -> load.Want:
    mask = np.ones(len(data), bool) if compared is None else np.array(compared)
    return load.Want(np.array(data, float), more.get("scale", 1.0), mask, more.get("nonfinite", ()))


EPS = load.EPSILON["float32"]


@pytest.mark.parametrize(
    ("expected", "got", "tail", "ok"),
    [
        (want([0.0]), [8 * EPS], False, True),
        (want([0.0]), [8.01 * EPS], False, False),
        (want([1.0]), [1 + 9 * EPS], False, True),
        (want([1.0], scale=2.0), [1 + 17 * EPS], False, True),
        (want([1.0]), [1 + 9.01 * EPS], False, False),
        (want([1.0]), [np.nan], False, False),
        (want([1.0]), [np.inf], False, False),
        (want([np.nan]), [np.nan], False, True),
        (want([np.nan]), [1.0], False, False),
        (want([np.inf]), [np.inf], False, True),
        (want([np.inf]), [-np.inf], False, False),
        (want([1.0]), [1.0, 1.0], False, False),
        (want([np.nan, 1.0], [False, True]), [7.0, 1.0], False, True),
        (want([np.nan, 1.0], [False, True]), [7.0, 2.0], False, False),
        (want([np.nan, np.nan], [False, False], nonfinite=((0, 1),)), [0.0, np.nan], False, True),
        (want([np.nan, np.nan], [False, False], nonfinite=((0, 1),)), [0.0, 1.0], False, False),
        (want([1e-20]), [1e-20 * (1 + 500 * EPS)], True, True),
        (want([1e-20]), [0.0], True, False),
        (want([1e-40]), [0.0], True, True),
        (want([]), [], False, True),
    ],
)
def test_compare(expected: load.Want, got: list[float], tail: bool, ok: bool) -> None:
    verdict = load.compare(expected, np.array(got), "float32", "float32", tail)
    assert verdict.ok is ok, verdict.message
    assert (verdict.worst <= (512 if tail else 8)) is ok


def test_compare_allows_the_rounding_of_got() -> None:
    assert load.compare(want([1.0]), np.array([1.0078125]), "bfloat16", "float32", False).ok
    assert not load.compare(want([1.0]), np.array([1.015625]), "bfloat16", "float32", False).ok


def test_cases_of_one_loss() -> None:
    found = load.cases("BinaryFocalCrossEntropy")
    assert found and {case.loss for case in found} == {"BinaryFocalCrossEntropy"}
    errors = {case.error.kind: case.error.exception for case in CASES if case.error}
    assert errors == load.EXCEPTIONS


@pytest.mark.parametrize("framework", ["torch", "keras", "tensorflow", "jax", "pytorch_lightning"])
def test_no_framework_is_installed(framework: str) -> None:
    """So the tests of this file show that the vectors need none."""
    assert importlib.util.find_spec(framework) is None


def test_loader_needs_numpy_alone() -> None:
    script = "import sys, shared_specs.load; assert not {'mpmath', 'jsonschema'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=SPECS.parent, check=True)


def test_readme_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (SPECS / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    monkeypatch.chdir(SPECS.parent)
    exec(compile(blocks[0], "README.md", "exec"), {})
