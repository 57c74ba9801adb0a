"""The pages of docs are what their sources make, and the numbers of the losses follow from their formulas."""

import ast
import importlib.util
import json
import math
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import mpmath
import pytest
from mpmath import mp, mpf

from docs import migrating
from docs.__main__ import NUMBER, anchor, picture
from shared_specs import textbook
from shared_specs.common import docstrings

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "docs/losses.md", *sorted((ROOT / "docs/losses").glob("*.md"))]
}
ALL = "\n".join(PAGES.values())
NOTES = tomllib.loads((ROOT / "docs/notes.toml").read_text(encoding="utf-8"))
LOSSES = [loss for group in NOTES["group"] for loss in group["loss"]]
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


def test_pages_are_what_the_sources_make():
    result = subprocess.run([sys.executable, "-m", "docs", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("package", ["keras_xent", "lightning_xent"])
def test_every_public_name_is_described_once(package):
    described = re.findall(r"^\*\*`(\w+)`\*\*`\(", ALL, flags=re.MULTILINE)
    assert len(described) == len(set(described))
    others = {"Loss", "CategoricalLoss", "BinaryLoss", "CheckModel", "ClassWeighting"}
    assert set(described) - others == set(public_names(package)) - {"get", "TopK"}


def test_the_curve_explorer_has_a_curve_for_each_loss_that_is_one():
    explorer = ROOT / "docs/explorer"
    names = set(re.findall(r'"curve": "(\w+)"', (explorer / "losses.js").read_text(encoding="utf-8")))
    table = (explorer / "explorer.js").read_text(encoding="utf-8").split("const CURVES = {")[1].split("\n};")[0]
    there = set(re.findall(r"^  (\w+): ", table, flags=re.MULTILINE))
    assert not names - there, f"CURVES in docs/explorer/explorer.js has no {', '.join(sorted(names - there))}"
    assert names == there


def headings(text):
    return [anchor(title) for title in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    anchors = headings(PAGES[page])
    assert len(anchors) == len(set(anchors))
    for target in re.findall(r"\]\(([^)]*)\)", PAGES[page]):
        if target.startswith("https://"):
            assert re.match(r"https://(arxiv\.org/abs/\d{4}\.\d{4,5}|doi\.org/10\.\S+)$", target), target
            continue
        path, _, name = target.partition("#")
        there = ROOT / "docs" / page
        there = there.parent / path if path else there
        assert there.is_file(), target
        assert not name or name in headings(there.read_text(encoding="utf-8")), target


def test_every_page_of_losses_is_in_the_index_and_in_the_contents_of_the_site():
    pages = [page for page in PAGES if page != "losses.md"]
    contents = (ROOT / "docs/losses/contents.txt").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^/docs/(\S+)$", contents, flags=re.MULTILINE)) == [page[:-3] for page in pages]
    assert all(f"({page})" in PAGES["losses.md"] for page in pages)


def test_prose_has_lines_of_120_characters():
    """What cannot be broken, tables, code and links, aside."""
    for line in ALL.splitlines():
        whole = r"\s*\S*`[^`]*`\S*|- .*\]\(\S+\)|!\[.*\]\(\S+\)|\\ell .*|\[[^]]*\]\(\S+\)\.?"
        assert len(line) <= 120 or line.startswith("|") or re.fullmatch(whole, line), line


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"LDAMCrossEntropy"]', "]", "LDAMCrossEntropy"),
        ('"LDAMCrossEntropy"]', '"LDAMCrossEntropy", "NoSuchLoss"]', "NoSuchLoss"),
        ('"LDAMCrossEntropy"]', '"LDAMCrossEntropy", "CosFaceCrossEntropy"]', "twice {'CosFaceCrossEntropy'}"),
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
        docs.pages()


def test_check_shows_what_would_change(tmp_path, capsys):
    docs = program()
    docs.FOLDER = tmp_path
    assert docs.main([]) == 0
    folder = tmp_path / "docs"
    written = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.md")}
    assert {name: path.read_text(encoding="utf-8") for name, path in written.items()} == PAGES
    (folder / "losses.md").write_text(PAGES["losses.md"].replace("## Contents", "## Content"), encoding="utf-8")
    (folder / "losses/gone.md").write_text("# Gone\n", encoding="utf-8")
    assert docs.main(["--check"]) == 1
    shown = capsys.readouterr().out
    assert "-## Content\n+## Contents\n" in shown and "-# Gone\n" in shown
    assert docs.main([]) == 0
    assert (folder / "losses.md").read_text(encoding="utf-8") == PAGES["losses.md"]
    assert not (folder / "losses/gone.md").exists()
    assert docs.main(["--check"]) == 0


# ---- What each loss has: a formula, a picture, a paper.


FOUND = program().definitions()


def by_title(loss):
    return anchor(loss["title"])


@pytest.mark.parametrize("loss", LOSSES, ids=by_title)
def test_every_loss_has_a_formula_that_renders(loss):
    """Balanced, and without what a repository host drops: a backslash before punctuation."""
    for formula in loss["formula"].strip().split("\n\n"):
        assert re.search(r"=", formula)
        assert not re.search(r"\\[^a-zA-Z]", formula), formula
        assert not set("<>*`$").intersection(formula), formula
        depth = 0
        for bracket in re.findall(r"[{}]", formula):
            depth += 1 if bracket == "{" else -1
            assert depth >= 0, formula
        assert depth == 0, formula
        for opened, closed in ((r"\left", r"\right"), (r"\begin{cases}", r"\end{cases}"), ("(", ")")):
            ends = r"(?![a-z])" if opened.startswith(r"\left") else ""
            assert len(re.findall(re.escape(opened) + ends, formula)) == formula.count(closed), formula
    for symbol in loss.get("symbols", {}):
        assert symbol in loss["formula"], symbol
    keywords = {keyword for name in loss["classes"] for keyword in FOUND[name].keywords} | {"temperature"}
    assert set(loss.get("symbols", {}).values()) <= keywords


@pytest.mark.parametrize("loss", LOSSES, ids=by_title)
def test_every_loss_has_a_picture_of_its_own_and_a_paper(loss):
    path = ROOT / "docs/losses" / picture(loss)
    assert 5_000 < path.stat().st_size < 40_000
    text = path.read_text(encoding="utf-8")
    assert all(line["name"] in text for line in loss["curves"])
    assert loss["curves"][0]["loss"] in loss["classes"]
    assert all(NUMBER.search(FOUND[name].reference) for name in set(loss["classes"]) - WITHOUT_NUMBER)


WITHOUT_NUMBER = {"CategoricalHinge"}
"""The paper is in a journal without such numbers then."""


class Latex:
    """A reader of the formulas of curves: it computes what they say, by the rules of arithmetic."""

    TOKEN = re.compile(r"\\(?:begin|end)\{cases\}|\\[a-zA-Z]+|[a-zA-Z]|\d+|[-+(){}^_=|/&,]")

    ENDS = ("+", "-", ")", "}", "=", "&", r"\right", r"\cr", r"\end{cases}", r"\ge", r"\lt")

    def __init__(self, formula, values):
        self.tokens, self.values, self.place = self.TOKEN.findall(formula), values, 0

    @property
    def next(self):
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted):
        token = self.next
        assert not wanted or token in wanted, (self.tokens, self.place, wanted)
        self.place += 1
        return token

    def sum(self):
        sign = -1 if self.next == "-" and self.take() else 1
        total = sign * self.product()
        while self.next in ("+", "-"):
            total += (1 if self.take() == "+" else -1) * self.product()
        return total

    def product(self):
        value = self.power()
        while self.next and self.next not in self.ENDS:
            value *= self.power()
        return value

    def power(self):
        base = self.atom()
        return base ** self.atom() if self.next == "^" and self.take() else base

    def atom(self):
        token = self.take()
        if token in ("(", "{", r"\left"):
            if token == r"\left":
                self.take("(")
            value = self.sum()
            if self.take(")", "}", r"\right") == r"\right":
                self.take(")")
            return value
        if token == r"\frac":
            above = self.atom()
            return above / self.atom()
        if token == r"\log":
            return mp.log(self.power())
        if token == r"\sum":
            return self.series()
        return mpf(token) if token.isdigit() else self.values[token]

    def series(self):
        """A sum from one whole number to another, over the product that follows."""
        for wanted in "_{":
            self.take(wanted)
        index = self.take()
        self.take("=")
        first = int(self.sum())
        self.take("}")
        self.take("^")
        last, start, total = int(self.atom()), self.place, mpf(0)
        for number in range(first, last + 1):
            self.place, self.values = start, self.values | {index: mpf(number)}
            total += self.product()
        return total

    def equation(self):
        assert self.take() == r"\ell"
        self.take("=")
        return self.cases() if self.next == r"\begin{cases}" else self.sum()

    def cases(self):
        self.take()
        chosen = None
        while self.next != r"\end{cases}":
            value = self.sum()
            self.take("&")
            left = self.sum()
            holds = left >= self.sum() if self.take(r"\ge", r"\lt") == r"\ge" else left < self.sum()
            chosen = value if holds else chosen
            if self.next == r"\cr":
                self.take()
        return chosen


CURVES = [loss for loss in LOSSES if set(loss["classes"]) <= set(textbook.CURVES) | {"SparseCategoricalCrossEntropy"}]
VALUES = {"gamma": 3, "epsilon": "1.5", "q": "0.25", "alpha": "0.125", "beta": "0.75", "log_zero": -3, "order": 5}


@pytest.mark.parametrize("loss", [loss for loss in CURVES if loss["title"] != "Ordinal cross-entropy"], ids=by_title)
def test_formulas_of_curves_say_what_the_textbook_computes(loss):
    curve = textbook.CURVES[loss["classes"][0]]
    own = FOUND[loss["classes"][0]].keywords
    config = {keyword: mpf(VALUES[keyword]) for keyword in own if keyword in VALUES}
    names = {keyword: symbol for symbol, keyword in loss.get("symbols", {}).items()}
    symbols = {names.get(key, key if len(key) == 1 else f"\\{key}"): value for key, value in config.items()}
    assert all(symbol in loss["formula"] for symbol in symbols)
    with mpmath.workdps(30):
        for p in map(mpf, ("0.0625", "0.5", "0.8125", "0.96875")):
            got = Latex(loss["formula"], symbols | {"p": p}).equation()
            want = curve(p, 1 - p, **config)
            assert abs(got - want) <= mpf("1e-25") * (1 + abs(want)), (loss["title"], p, got, want)


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


BASE = """The base.

    Args:
        rate: Steepness.
        reduction: How, {in
            words}.

    Returns:
        Nothing.
    """


@pytest.mark.parametrize(
    ("own", "want"),
    [
        ("Loss.", "Loss.\n\nArgs:\n    rate: Steepness.\n    reduction: How, {in\n        words}."),
        (
            "Loss.\n\nArgs:\n    own: 1,\n        two lines.\n    rate: Its own.\n\nReference: A: b.",
            "Loss.\n\nArgs:\n    own: 1,\n        two lines.\n    rate: Its own.\n"
            "    reduction: How, {in\n        words}.\n\nReference: A: b.",
        ),
        ("Loss.\n\nArgs:\n    rate: 1.\n    reduction: 2.", "Loss.\n\nArgs:\n    rate: 1.\n    reduction: 2."),
    ],
    ids=["all of the base", "own first", "nothing"],
)
def test_a_docstring_takes_the_keywords_of_a_base(own, want):
    assert docstrings.with_keywords(own, BASE) == want


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
    for path, _, name in re.findall(r"\]\(([\w./]*)(#?)([\w-]*)\)", guide):
        assert not path or (ROOT / "docs" / path).is_file()
        there = (ROOT / "docs" / path).read_text(encoding="utf-8") if path else guide
        assert not name or name in headings(there)


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
    rows = re.findall(r"^\| ([\w, ]+) \| .* \| (\d\.\d{8,}) \| .* \|$", ALL, flags=re.MULTILINE)
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
    printed = dict(re.findall(r'^\| `"(\w+)"` \| .* \| ([\d., ]+) \|$', ALL, flags=re.MULTILINE))
    for name, weights in {"balanced": inverse, "inverse": inverse, "effective": effective}.items():
        assert printed[name] == ", ".join(f"{float(3 * weight / mp.fsum(weights)):.4f}" for weight in weights)
    own = ", ".join(f"{float(sum(counts) / (3 * mpf(count))):.4f}" for count in counts)
    assert f"weights are not normalised: {own}." in " ".join(ALL.split())
