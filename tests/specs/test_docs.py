"""The pages of docs are what their sources make, and the numbers of losses.md follow from their formulas."""

import ast
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
from mpmath import mp, mpf

from docs import migrating
from shared_specs.common import docstrings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/losses.md").read_text(encoding="utf-8")
HALF = mpf("0.5")


def program():
    """The generator, a module of its own for each test."""
    spec = importlib.util.spec_from_file_location("docs_program", ROOT / "docs/__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_names(package):
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
    return next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))


def test_page_is_what_the_sources_make():
    result = subprocess.run([sys.executable, "-m", "docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", ["keras_xent", "lightning_xent"])
def test_every_public_name_is_described_once(package):
    described = re.findall(r"^\*\*`(\w+)`\*\*`\(", PAGE, flags=re.MULTILINE)
    assert len(described) == len(set(described))
    others = {"Loss", "CategoricalLoss", "BinaryLoss", "CheckModel", "ClassWeighting"}
    assert set(described) - others == set(public_names(package)) - {"get", "TopK"}


def test_links_lead_somewhere():
    anchors = [program().anchor(title) for title in re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)]
    assert len(anchors) == len(set(anchors))
    for target in re.findall(r"\]\(([^)]*)\)", PAGE):
        path, _, name = target.partition("#")
        assert (ROOT / "docs" / path).is_file() if path else name in anchors, target


def test_prose_has_lines_of_120_characters():
    """What cannot be broken, tables, code and links, aside."""
    for line in PAGE.splitlines():
        assert len(line) <= 120 or line.startswith("|") or re.fullmatch(r"\s*\S*`[^`]*`\S*|- .*\]\(\S+\)", line), line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"LDAMCrossEntropy"', "", "LDAMCrossEntropy"),
        ('"LDAMCrossEntropy"', '"LDAMCrossEntropy", "NoSuchLoss"', "NoSuchLoss"),
        ('"LDAMCrossEntropy"', '"LDAMCrossEntropy", "CosFaceCrossEntropy"', "twice {'CosFaceCrossEntropy'}"),
    ],
    ids=["missing", "unknown", "twice"],
)
def test_notes_fit_the_public_classes(old, new, message, tmp_path):
    docs = program()
    notes = docs.NOTES.read_text(encoding="utf-8")
    assert notes.count(old) == 1
    docs.NOTES = tmp_path / "notes.toml"
    docs.NOTES.write_text(notes.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        docs.page()


def test_check_shows_what_would_change(tmp_path, capsys):
    docs = program()
    docs.PAGE = tmp_path / "losses.md"
    docs.PAGE.write_text(PAGE.replace("## Contents", "## Content"), encoding="utf-8")
    assert docs.main(["--check"]) == 1
    assert "-## Content\n+## Contents\n" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert docs.PAGE.read_text(encoding="utf-8") == PAGE
    assert docs.main(["--check"]) == 0


ARGUMENTS, REFERENCE = (
    "Args:\n    rate: Steepness, > 0.\n        The default is steep.",
    "Reference: Other, 1999, Title.",
)
MIXIN = f"The curve.\n\n{ARGUMENTS}\n\n{REFERENCE}"


@pytest.mark.parametrize(
    ("own", "shared", "want"),
    [
        ("Loss.", MIXIN, f"Loss.\n\n{ARGUMENTS}\n\n{REFERENCE}"),
        ("Loss.\n\n    More.\n    ", "The curve.", "Loss.\n\nMore."),
        ("Loss.\n\nArgs:\n    own: 1.", MIXIN, f"Loss.\n\n{ARGUMENTS}\n    own: 1.\n\n{REFERENCE}"),
        ("Loss.\n\nReference: Own.", MIXIN, f"Loss.\n\n{ARGUMENTS}\n\nReference: Own."),
        (
            "Loss.\n\nArgs:\n    own: 1.",
            f"{MIXIN}\n\nRaises:\n    ValueError: Never.",
            f"Loss.\n\n{ARGUMENTS}\n    own: 1.\n\nRaises:\n    ValueError: Never.\n\n{REFERENCE}",
        ),
        (f"Loss.\n\n{ARGUMENTS}\n    own: 1.", MIXIN, f"Loss.\n\n{ARGUMENTS}\n    own: 1.\n\n{REFERENCE}"),
        ("Loss: see Args: none.", f"The curve.\n\n{REFERENCE}", f"Loss: see Args: none.\n\n{REFERENCE}"),
    ],
    ids=[
        "all of the mixin",
        "nothing",
        "own arguments last",
        "own reference",
        "other sections",
        "twice",
        "reference alone",
    ],
)
def test_a_docstring_takes_the_sections_of_a_mixin(own, shared, want):
    assert docstrings.joined(own, shared) == want


# ---- The migration guide. What it measured is measured again in the environment that has the other libraries.


CALLS = migrating.read_calls()
ROWS = migrating.rows_of(CALLS)
MEASURED = json.loads(migrating.MEASURED.read_text(encoding="utf-8"))


def result(*value, gradient=(1.0, -2.0)):
    return {"value": list(value), "gradient": list(gradient)}


def test_guide_is_what_its_sources_make():
    assert migrating.PAGE.read_text(encoding="utf-8") == migrating.page(CALLS, MEASURED)
    assert list(MEASURED["rows"]) == [row.key for row in ROWS]


def test_links_of_the_guide_lead_somewhere():
    guide = migrating.PAGE.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", PAGE + guide, flags=re.MULTILINE)
    for path, _, name in re.findall(r"\]\(([\w.]*)(#?)([\w-]*)\)", guide):
        assert not path or (ROOT / "docs" / path).is_file()
        assert not name or name in [migrating.anchor(title) for title in titles]


@pytest.mark.parametrize(
    ("old", "new", "relation"),
    [
        (result(1.0, 2.0), result(1.0, 2.0), "same"),
        (result(1.0, 2.0), result(1.0, 2.0 + 4e-6), "other"),
        (result(1.0), result(1.0, gradient=(1.0, -2.1)), "value"),
        (result(1.0), result(1.0, gradient=(0.0, 0.0)), "value"),
        (result(0.5, gradient=(0.25, -0.5)), result(2.0), "factor"),
        (result(0.5, gradient=(0.25, -0.6)), result(2.0), "other"),
        (result(math.nan), result(0.0), "other"),
        (result(1.0), result(1.0, 1.0), "other"),
        (result(1.0), result(0.0), "other"),
    ],
)
def test_relation(old, new, relation):
    assert migrating.relation(old, new) == relation


def fake_results(monkeypatch, **changes):
    """Processes in which every call is the same, but for the changes to a row on a side."""

    def in_process(side):
        results = {"old": {}, "new": {row.key: result(1.0) for row in ROWS}, "versions": {}}
        results["old"] = {row.key: result(1.0) for row in ROWS if row.side == side}
        results["new"] |= changes.get(side, {})
        return results

    monkeypatch.setattr(migrating, "in_process", in_process)


def test_a_row_that_breaks_is_named(monkeypatch):
    first, second = ROWS[0], ROWS[1]
    fake_results(monkeypatch, jax={first.key: result(2.0)}, torch={second.key: {"error": "ValueError: bad"}})
    measured, problems = migrating.measure(ROWS)
    assert problems == [
        f"{first.key}: {first.call('jax')} on jax is not what it is on torch",
        f"{second.key}: {second.call('torch')} on torch: ValueError: bad",
    ]
    assert set(measured["rows"]) == {row.key for row in ROWS[2:]}
    assert migrating.main(["--check"]) == 1


def test_numbers_stay_where_only_the_rounding_changed():
    row = {"relation": "other", "old": 1.0, "new": math.nan}
    before = {"rows": {"a": row, "gone": row, "moved": row}}
    near, far = row | {"old": 1.00005}, row | {"old": 1.001}
    assert migrating.settled({"rows": {"a": near, "moved": far}}, before) == {"rows": {"a": row, "moved": far}}


# ---- The tables of conventions, from their formulas.


def softmax(*logits):
    total = mp.fsum(mp.exp(x) for x in logits)
    return [mp.exp(x) / total for x in logits]


def mixed(target, p):
    """Cross-entropy."""
    return -mp.fsum(share * mp.log(q) for share, q in zip(target, p, strict=True))


def soft_binary():
    p, t = 1 / (1 + mp.exp(-HALF)), mpf("0.7")
    cross_entropy = mixed((t, 1 - t), (p, 1 - p))
    return {
        "per target": -t * (1 - p) ** 2 * mp.log(p) - (1 - t) * p**2 * mp.log(1 - p),
        "modulator of the mixture": (1 - t * p - (1 - t) * (1 - p)) ** 2 * cross_entropy,
        "sign of the mixture": (1 / (1 + mp.exp(HALF * (2 * t - 1)))) ** 2 * cross_entropy,
        "from the loss": (1 - mp.exp(-cross_entropy)) ** 2 * cross_entropy,
        "distance": abs(t - p) ** 2 * cross_entropy,
    }


def soft_softmax():
    p, target = softmax(1, -HALF, mpf("0.25")), (mpf("0.7"), mpf("0.2"), mpf("0.1"))
    cross_entropy, pairs = mixed(target, p), list(zip(target, p, strict=True))
    return {
        "softmax, per target": -mp.fsum(t * (1 - q) ** 2 * mp.log(q) for t, q in pairs),
        "softmax, from the loss": (1 - mp.exp(-cross_entropy)) ** 2 * cross_entropy,
        "softmax, mean probability": (1 - mp.fsum(t * q for t, q in pairs)) ** 2 * cross_entropy,
    }


def weighted_focal():
    p, weight = softmax(1, -HALF, mpf("0.25"))[0], mpf("2.5")
    return {
        "weight outside": weight * (1 - p) ** 2 * -mp.log(p),
        "weight inside": (1 - p**weight) ** 2 * weight * -mp.log(p),
    }


def smoothings():
    p, q = softmax(1, -HALF, mpf("0.25")), 1 / (1 + mp.exp(-HALF))
    e = mpf(1) / 10
    less = e * 2 / 3
    return {
        "over all classes": mixed((1 - e + e / 3, e / 3, e / 3), p),
        "over the others": mixed((1 - e, e / 2, e / 2), p),
        "over the others, less": mixed((1 - less, less / 2, less / 2), p),
        "binary, over both labels": mixed((1 - e / 2, e / 2), (q, 1 - q)),
        "binary, over the other label": mixed((1 - e, e), (q, 1 - q)),
    }


def means():
    first, second = softmax(1, -HALF, mpf("0.25"))[0], softmax(HALF, mpf("1.5"), -1)[1]
    total = -mp.log(first) - 4 * mp.log(second)
    return {"kept rows": total / 2, "kept weights": total / (1 + 4), "all rows": total / 3}


def test_tables_follow_from_their_formulas():
    rows = re.findall(r"^\| ([\w, ]+) \| .* \| (\d\.\d{8,}) \| .* \|$", PAGE, flags=re.MULTILINE)
    with mpmath.workdps(40):
        want = soft_binary() | soft_softmax() | weighted_focal() | smoothings() | means()
        assert sorted(name for name, _ in rows) == sorted(want)
        for name, value in rows:
            assert abs(mpf(value) - want[name]) <= mpf("1e-16") * abs(want[name]), (
                name,
                value,
                mp.nstr(want[name], 17),
            )


def test_class_weights_follow_from_their_formulas():
    counts, beta = (900, 90, 10), mpf("0.999")
    inverse = [1 / mpf(count) for count in counts]
    effective = [(1 - beta) / (1 - beta**count) for count in counts]
    printed = dict(re.findall(r'^\| `"(\w+)"` \| .* \| ([\d., ]+) \|$', PAGE, flags=re.MULTILINE))
    for name, weights in {"balanced": inverse, "inverse": inverse, "effective": effective}.items():
        assert printed[name] == ", ".join(f"{float(3 * weight / mp.fsum(weights)):.4f}" for weight in weights)
    own = ", ".join(f"{float(sum(counts) / (3 * mpf(count))):.4f}" for count in counts)
    assert f"weights are not normalised: {own}." in " ".join(PAGE.split())
