"""The runner of the test vectors: its four outcomes, its file, its arguments, and its pytest plugin. No framework."""

import ast
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shared_specs import load, textbook
from shared_specs.conformance import evaluate, features, offers, results, runner
from shared_specs.conformance.offers import Adapter, Offer

pytest_plugins = ["pytester"]

CASES = {case.id: case for case in load.cases()}
VALUE = CASES["categorical-cross-entropy/index-target"]
BAD_CONFIG = next(case for case in CASES.values() if case.error and not case.inputs)
BAD_LABEL = next(case for case in CASES.values() if case.error and case.error.kind == "label")
MEAN = "sums over the rows"


def row_losses(logits, target):
    """Cross-entropy of rows and labels, and its gradient."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    rows = np.arange(len(logits))
    gradient = p.copy()
    gradient[rows, target] -= 1
    return -np.log(p[rows, target]), gradient


def mean(logits, target):
    losses, gradient = row_losses(logits, target)
    return losses.mean(), gradient / len(losses)


def total(logits, target):
    losses, gradient = row_losses(logits, target)
    return losses.sum(), gradient


def of_mean(change):
    """`mean` with its results changed."""
    return lambda logits, target: change(*mean(logits, target))


def raises(error):
    def function(*given, **named):
        raise error

    return function


NAMES_LABEL = ValueError("label 7 is out of range: y_true must lie in [0, 3)")
# case, what is offered, the arguments' names, then the outcome and the start of its message
OUTCOMES = {
    "equal": (VALUE, Offer(mean), None, "equal", None),
    "value only": (VALUE, Offer(of_mean(lambda loss, _: loss)), None, "equal", "value only"),
    "convention": (VALUE, Offer(total, MEAN, mean), None, "differs", None),
    "needless convention": (VALUE, Offer(mean, MEAN, total), None, "equal", None),
    "wrong convention": (VALUE, Offer(total, MEAN, total), None, "wrong", f"after undoing '{MEAN}': loss: at ()"),
    "value": (VALUE, Offer(of_mean(lambda loss, gradient: (loss * 1.001, gradient))), None, "wrong", "loss: at ()"),
    "gradient": (
        VALUE, Offer(of_mean(lambda loss, gradient: (loss, -gradient))), None, "wrong", "grad_logits: at ("
    ),
    "shape": (VALUE, Offer(of_mean(lambda loss, gradient: (loss, gradient[:1]))), None, "wrong", "grad_logits: shape"),
    "dtype": (VALUE, Offer(of_mean(lambda loss, gradient: (np.int64(0), gradient))), None, "wrong", "loss: dtype"),
    "exception": (VALUE, Offer(raises(RuntimeError("\nno\nway"))), None, "wrong", "RuntimeError: no"),
    "exception of the convention": (
        VALUE, Offer(total, MEAN, raises(KeyError(3))), None, "wrong", f"after undoing '{MEAN}': KeyError: 3"
    ),
    "exception of the adapter": (VALUE, raises(TypeError("oh")), None, "wrong", "TypeError: oh"),
    "not offered": (VALUE, None, None, "not offered", None),
    "not offered, and why": (VALUE, "no labels", None, "not offered", "no labels"),
    "bad input is not promised": (BAD_LABEL, Offer(raises(NAMES_LABEL)), None, "not offered", "bad input"),
    "bad input is not offered": (BAD_LABEL, "no labels", {}, "not offered", "no labels"),
    "bad input": (BAD_LABEL, Offer(raises(NAMES_LABEL)), {"target": "y_true"}, "equal", None),
    "bad config": (BAD_CONFIG, raises(ValueError(BAD_CONFIG.error.argument)), {}, "equal", None),
    "other argument": (
        BAD_LABEL, Offer(raises(NAMES_LABEL)), {}, "wrong", "want ValueError that names target, got ValueError: l"
    ),
    "other exception": (BAD_LABEL, Offer(raises(IndexError("target"))), {}, "wrong", "want ValueError that names"),
    "no exception": (BAD_LABEL, Offer(lambda *given, **named: (np.nan, np.nan)), {}, "wrong", "want ValueError"),
    "no exception of a config": (BAD_CONFIG, Offer(mean), {}, "wrong", "want ValueError"),
}  # fmt: skip


def run_of(offer, arguments=None, cases=(VALUE,)):
    """A run of an adapter in NumPy."""
    return runner.Run(
        Adapter("mine", offer, "numpy", arguments=arguments), evaluate.setting("numpy", "float32", None, "cpu"), cases
    )


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome(name):
    case, offered, arguments, wanted, message = OUTCOMES[name]
    offer = offered if callable(offered) and not isinstance(offered, Offer) else lambda case: offered
    outcome = run_of(offer, arguments).outcome(case)
    assert outcome.name == wanted, outcome
    assert (outcome.message or "").startswith(message or "") and bool(outcome.message) == bool(message)
    assert (outcome.convention == MEAN) == (wanted == "differs")
    if case.expected and wanted in ("equal", "differs"):
        assert 0.0 <= outcome.worst <= 1.0
    line = runner.line_of(case, outcome, "float32")
    assert json.loads(json.dumps(line, allow_nan=False)) == line
    assert ("wanted" in line) == ("inputs" in line) == (wanted == "wrong")


@pytest.mark.parametrize(
    ("mode", "device", "wanted"), [("eager", "cpu", "wrong"), ("compiled", "cpu", "equal"), ("eager", "cuda", "equal")]
)
def test_label_out_of_range_may_give_nan_where_it_cannot_be_read(mode, device, wanted):
    module = evaluate.setting("numpy", "float32", None, "cpu").module
    setting = evaluate.Setting(module, "float32", mode, device)
    run = runner.Run(Adapter("mine", lambda case: Offer(lambda *given: np.nan), "numpy", arguments={}), setting, [])
    assert BAD_LABEL.error.traced == "nan"
    assert run.outcome(BAD_LABEL).name == wanted


def test_worst_is_a_share_of_the_tolerance():
    half = np.float64(4 * 2.0**-23 * VALUE.expected.loss.scale)
    loss, gradient = VALUE.expected.loss.data, VALUE.expected.grad_logits.data
    outcome = run_of(lambda case: Offer(lambda *given: (loss + half, gradient))).outcome(VALUE)
    assert (outcome.name, outcome.worst) == ("equal", pytest.approx(0.5, abs=0.01))


def test_offer_states_a_convention_and_its_undoing_together():
    for given in ({"convention": MEAN}, {"undone": mean}):
        with pytest.raises(ValueError, match="convention and undone must both be given"):
            Offer(mean, **given)


# ---- The file.

ADAPTER = """
import warnings
import numpy as np
from shared_specs.conformance.offers import Offer

FRAMEWORK, DISTRIBUTION = "numpy", "numpy"

def mean(logits, target):
    warnings.warn("a library may warn")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    gradient = p.copy()
    gradient[np.arange(len(logits)), target] -= 1
    return -np.log(p[np.arange(len(logits)), target]).mean(), gradient / len(logits)

def offer(case):
    match case.id.removeprefix("categorical-cross-entropy/"):
        case "index-target" | "temperature-two":
            return Offer(mean)
        case "two-classes":  # two rows, and a sum
            return Offer(mean, "always a mean", lambda *given: tuple(2.0 * each for each in mean(*given)))
    return "labels and logits only"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with an adapter in mine.py."""
    (tmp_path / "mine.py").write_text(ADAPTER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)


def test_file_is_what_the_run_returns(folder):
    returned = runner.run(adapter="mine:offer", cases="categorical-cross-entropy/*", json="found.jsonl")
    assert results.read("found.jsonl") == returned
    header, footer = returned.header, returned.footer
    assert header["target"] == "mine:offer" and header["version"] == np.__version__ == header["versions"]["numpy"]
    assert (header["dtype"], header["mode"], header["device"]) == ("float32", "eager", "cpu")
    assert header["cases"] == len(returned.cases) == sum(footer[outcome] for outcome in results.OUTCOMES)
    assert all(footer[outcome] > 0 for outcome in results.OUTCOMES), footer
    wrong = next(line for line in returned.cases if line["outcome"] == "wrong")
    assert np.shape(wrong["got"]["grad_logits"]) == np.shape(wrong["wanted"]["grad_logits"])
    assert load.tensor(wrong["inputs"]["logits"]).shape == CASES[wrong["id"]].inputs["logits"].shape


def test_run_that_is_stopped_leaves_no_footer(folder, monkeypatch):
    count = iter(range(3))

    def outcome(run, case):
        if next(count) == 2:
            raise KeyboardInterrupt
        return runner.Outcome("equal")

    monkeypatch.setattr(runner.Run, "outcome", outcome)
    with pytest.raises(KeyboardInterrupt):
        runner.run(adapter="mine:offer", json="found.jsonl")
    assert Path("found.jsonl").read_text(encoding="utf-8").count("\n") == 3
    with pytest.raises(ValueError, match=r"found\.jsonl has no footer, so its run did not end"):
        results.read("found.jsonl")


HEADER = {"format": 1, "kind": "header"}
CASE = {"kind": "case", "id": "a/b", "outcome": "equal"}
FOOTER = {"kind": "footer", "equal": 1, "differs": 0, "wrong": 0, "not offered": 0, "seconds": 0.1}
BROKEN = {
    "empty": ([], "must begin with a header"),
    "no header": ([CASE, FOOTER], "must begin with a header"),
    "other format": ([{**HEADER, "format": 2}, CASE, FOOTER], "header of format 1"),
    "no footer": ([HEADER, CASE], "no footer"),
    "lost case": ([HEADER, FOOTER], "must hold the cases that its footer counts"),
    "other kind": ([HEADER, HEADER, CASE, FOOTER], "must hold cases between"),
    "other JSON": ([[1, 2]], "must hold the lines of a conformance run"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_file_is_refused(name, tmp_path):
    lines, message = BROKEN[name]
    path = tmp_path / "found.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        results.read(path)


def test_half_a_line_is_refused(tmp_path):
    (tmp_path / "found.jsonl").write_text(json.dumps(HEADER) + '\n{"kind": "ca', encoding="utf-8")
    with pytest.raises(ValueError, match="must hold the lines of a conformance run"):
        results.read(tmp_path / "found.jsonl")


def test_plain_values_are_what_the_loader_reads():
    values = [1.5, [float("inf"), -float("inf")], "mean", None, True]
    assert load.numbers(results.plain(values)) == values
    assert np.isnan(load.numbers(results.plain(float("nan"))))


# ---- Arguments.

MINE = {"adapter": "mine:offer"}
ARGUMENTS = {
    "nothing": ({}, "one of target and adapter"),
    "both": ({"target": "lightning_xent", **MINE}, "one of target and adapter"),
    "target": (
        {"target": "keras-xent-jax"}, "target must be one of .*got 'keras-xent-jax'; did you mean 'keras_xent-jax'"
    ),
    "no target is near": ({"target": "zzz"}, "lightning_xent, .*got 'zzz'; for a loss of your own, use adapter="),
    "adapter": ({"adapter": "mine"}, "adapter must be module:function"),
    "module": ({"adapter": "theirs:offer"}, "no module 'theirs'"),
    "function": ({"adapter": "mine:offers"}, "mine has no function 'offers'"),
    "framework": ({"adapter": "odd:offer"}, "FRAMEWORK of odd must be one of torch, .*got 'mxnet'"),
    "glob": (
        {**MINE, "cases": "categorical-focal-loss/*"},
        "cases must match .*got 'categorical-focal-loss/\\*', which matches none; did you mean 'categorical-focal/",
    ),
    "no name is near": ({**MINE, "cases": "zzz"}, "which matches none$"),
    "dtype": ({**MINE, "dtype": "float8"}, "dtype must be one of float64, .*got 'float8'"),
    "dtype of the cases": ({**MINE, "cases": BAD_CONFIG.id, "dtype": "float64"}, "has dtype float64; use float32"),
    "dtype of the framework": ({**MINE, "dtype": "bfloat16"}, "dtype must be 'float64' or 'float32' or 'float16'"),
    "mode": ({**MINE, "mode": "compiled"}, "mode must be 'eager' for this target, which computes with numpy"),
    "mode of the adapter": ({"adapter": "slow:offer", "mode": "eager"}, "mode must be 'compiled'"),
    "device": ({**MINE, "device": "tpu"}, "device must be 'cpu'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_argument_that_is_refused(name, folder):
    given, message = ARGUMENTS[name]
    (folder / "odd.py").write_text("FRAMEWORK = 'mxnet'\noffer = print\n", encoding="utf-8")
    (folder / "slow.py").write_text("FRAMEWORK, MODES = 'numpy', ('compiled',)\noffer = print\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        runner.run(**given)
    assert "\n" not in str(caught.value)


def test_module_that_an_adapter_lacks_is_named(folder):
    (folder / "lacking.py").write_text("import no_such_library\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        runner.run(adapter="lacking:offer")


@pytest.mark.parametrize(
    ("glob", "wanted"),
    [
        ("categorical-cross-entropy/two-*", {"CategoricalCrossEntropy": 1}),
        ("BinaryHinge", {"BinaryHinge": 29}),
        ("*hinge/index-target", {"CategoricalHinge": 1}),
    ],
)
def test_cases_are_chosen_by_id_or_loss(glob, wanted, folder):
    losses = [case.loss for case in runner.prepare(**MINE, cases=glob).cases]
    assert {loss: losses.count(loss) for loss in losses} == wanted


@pytest.mark.parametrize("progress", [None, False, True])
def test_progress_is_shown_on_a_terminal_or_if_asked_for(progress, folder, capsys):
    runner.run(**MINE, cases="*/index-target", progress=progress)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert ("mine:offer" in printed.err) == (progress is True)


# ---- Targets and features.


def test_targets_are_named_like_their_files():
    names = offers.targets()
    own = ["keras_xent-jax", "keras_xent-tensorflow", "keras_xent-torch", "lightning_xent", "lightning_xent-compiled"]
    assert {*own, "lightning_xent-fused", "lightning_xent-sharded"} <= set(names)
    assert not any(name.startswith("_") or "_" in name.replace("_xent", "") for name in names)


@pytest.mark.parametrize("path", sorted(offers.ADAPTERS.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_each_target_says_what_it_needs(path):
    """Read, not run: the library is not here."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.alias)}
    assert {"DISTRIBUTION", "REQUIREMENTS", "offer"} <= names


def test_binary_losses_are_those_of_the_oracle():
    assert {case.loss for case in CASES.values() if features.is_binary(case.loss)} == textbook.BINARY


def test_every_feature_is_that_of_some_case():
    found = {feature for case in CASES.values() for feature in features.features(case)}
    assert found | {"half precision"} == set(features.FEATURES)
    assert len(features.FEATURES) == len(set(features.FEATURES))


FEATURES = {
    "categorical-cross-entropy/index-target": ["class indices", "reduction mean"],
    "categorical-cross-entropy/two-classes": ["class indices", "reduction sum"],
    "categorical-cross-entropy/one-hot-integers": ["one-hot targets", "reduction mean"],
    "binary-cross-entropy/hard-labels": ["binary labels", "reduction mean"],
    "distillation/teacher": ["a teacher's logits", "reduction mean"],
    "categorical-cross-entropy/ignored-nonfinite": [
        "class indices", "ignore_index", "reduction mean", "logits not finite"
    ],
    BAD_CONFIG.id: ["bad input"],
}  # fmt: skip


@pytest.mark.parametrize("case", FEATURES)
def test_features_of_a_case(case):
    assert features.features(CASES[case]) == FEATURES[case]
    if CASES[case].expected:
        found = features.features(CASES[case], "bfloat16")
        assert [feature for feature in found if feature != "half precision"] == FEATURES[case]
        assert "half precision" in found


def test_runner_needs_no_framework_and_the_plugin_nothing():
    """Without its option, the plugin is the import of pytest."""
    for module, absent in (
        ("runner", {"torch", "tensorflow", "jax", "keras", "keras_xent", "lightning_xent", "mpmath"}),
        ("pytest_plugin", {"numpy", "shared_specs.load", "shared_specs.conformance.runner"}),
    ):
        script = f"import sys, shared_specs.conformance.{module}; print({absent!r} & set(sys.modules))"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert run.stdout.strip() == "set()", run.stdout + run.stderr


# ---- The pytest plugin.

PLUGIN = "shared_specs.conformance.pytest_plugin"
HAS_ENTRY_POINT = bool(importlib.metadata.entry_points(group="pytest11", name="xent"))
LOADED = [] if HAS_ENTRY_POINT else ["-p", PLUGIN]
ONE_TEST = "def test_of_the_project(): pass"
PLUGGED = {
    "every outcome": (
        ["--xent-adapter", "mine:offer", "--xent-cases", "categorical-cross-entropy/*"],
        {"passed": 2, "xfailed": 1, "failed": 1, "skipped": 254},
    ),
    "chosen by -k": (
        ["--xent-adapter", "mine:offer", "-k", "categorical-cross-entropy/two-classes"],
        {"xfailed": 1, "skipped": 1},
    ),
    "without the option": ([], {"passed": 1}),
    "warnings as errors": (
        ["--xent-adapter", "mine:offer", "-W", "error", "--xent-cases", "categorical-cross-entropy/index-target"],
        {"passed": 2},
    ),
    "other dtype": (
        ["--xent-adapter", "mine:offer", "--xent-dtype", "float64", "--xent-cases", "*entropy/index-target"],
        {"passed": 2, "skipped": 1},
    ),
}


@pytest.mark.parametrize("name", PLUGGED)
def test_plugin(name, pytester):
    arguments, wanted = PLUGGED[name]
    pytester.makepyfile(mine=ADAPTER, test_project=ONE_TEST)
    run = pytester.runpytest_subprocess(*LOADED, *arguments)
    outcomes = run.parseoutcomes()
    outcomes.pop("deselected", None)
    assert outcomes == wanted, run.stdout.str()
    assert run.ret == (1 if "failed" in wanted else 0)
    if "-k" not in arguments:
        run.stdout.fnmatch_lines([f"collected {sum(wanted.values())} item*"])


def test_plugin_shows_conventions_and_what_is_wrong(pytester):
    pytester.makepyfile(mine=ADAPTER)
    cases = "categorical-cross-entropy/*"
    run = pytester.runpytest_subprocess(*LOADED, "-rxs", "--xent-adapter", "mine:offer", "--xent-cases", cases)
    run.stdout.fnmatch_lines_random(
        [
            "XFAIL mine:offer::categorical-cross-entropy/two-classes - always a mean",
            "SKIPPED *: labels and logits only",
            "CategoricalCrossEntropy([*][*]{'temperature': 2.0})",
            "loss: at (): want *",
        ]
    )
    assert "Traceback" not in run.stdout.str()


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["here", "xdist"])
def test_plugin_refuses_what_the_runner_refuses(workers, pytester):
    pytester.makepyfile(mine=ADAPTER, test_project=ONE_TEST)
    run = pytester.runpytest_subprocess(*LOADED, *workers, "--xent-adapter", "mine:offer", "--xent-cases", "zzz")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["ERROR: cases must match *, got 'zzz', which matches none"])


@pytest.mark.parametrize("package", ["keras_xent", "lightning_xent", "shared_specs"])
def test_pytest_does_not_warn_of_a_package_that_is_imported_before_it_starts(package):
    """It would: it rewrites the packages of a distribution that brings a plugin."""
    text = (Path(__file__).parents[2] / package / "__init__.py").read_text(encoding="utf-8")
    assert "PYTEST_DONT_REWRITE" in ast.get_docstring(ast.parse(text))


def test_plugin_is_found_by_its_entry_point():
    """The tests above give its name where this project is not installed."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'[project.entry-points.pytest11]\nxent = "{PLUGIN}"\n' in text
