"""`xent curves`: what it reads, computes and refuses. It draws in tests/tools/test_demo.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mpmath import mp, mpf

from shared_specs import curves, textbook
from shared_specs.command.program import program
from shared_specs.curves import Line
from sides import is_keras, side

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(program, ["curves", *arguments], prog_name="xent")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("BinaryHinge", Line("BinaryHinge")),
        ("BinaryHinge:", Line("BinaryHinge")),
        ("A:gamma=1.5,alpha=0.25", Line("A", {"gamma": 1.5, "alpha": 0.25})),
        ("A:gamma=flsd53", Line("A", {"gamma": "flsd53"})),
        ("A:class_counts=[900, 90,10], scale=2", Line("A", {"class_counts": [900, 90, 10], "scale": 2})),
        ("A:alpha=null,detach_modulator=true", Line("A", {"alpha": None, "detach_modulator": True})),
        ('{"loss": "A", "config": {"q": 0.5}}', Line("A", {"q": 0.5})),
        ('{"loss": "A"}', Line("A")),
    ],
)
def test_a_loss_is_read(text, want):
    assert curves.read(text) == want


ERRORS = {
    "unknown loss": (
        ["CategoricalFocalLoss"],
        "'CategoricalFocalLoss': did you mean 'CategoricalFocalCrossEntropy'?",
    ),
    "name elsewhere": (["brier_loss"], "got 'brier_loss': here it is CategoricalSquaredError"),
    "nothing like it": (["xyz"], "loss must be one of ArcFaceCrossEntropy, "),
    "unknown keyword": (["BinaryFocalCrossEntropy:gama=2"], "did you mean 'gamma'?"),
    "value out of range": (["BinaryFocalCrossEntropy:gamma=-1"], "gamma must be "),
    "no value": (["BinaryFocalCrossEntropy:gamma"], "'gamma' of BinaryFocalCrossEntropy:gamma must be KEYWORD=VALUE"),
    "not JSON": (['{"loss": BinaryHinge}'], "is not JSON"),
    "other JSON": (['{"los": "BinaryHinge"}'], 'has the keys "loss" and "config"'),
    "no counts": (
        ["LDAMCrossEntropy"],
        "needs the rows of each class, as in LDAMCrossEntropy:class_counts=[900,100]",
    ),
    "label": (["CategoricalHinge", "--label", "5", "--classes", "3"], "got label 5 of 3 classes"),
    "target": (["BinaryCrossEntropy", "--target", "2"], "target must be in [0, 1], got 2.0"),
    "teacher": (["Distillation"], "target must be between 0 and 1 for Distillation"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
def test_a_mistake_is_one_line(arguments, message, tmp_path):
    path = tmp_path / "curves.png"
    result = run(*arguments, "-o", str(path), "--side", "keras" if is_keras else "lightning")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("xent: ") and result.stderr.count("\n") == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("missing", "message"),
    [({"matplotlib"}, "matplotlib is not installed"), ({"torch", "keras"}, "torch or keras is not installed")],
    ids=["matplotlib", "frameworks"],
)
def test_what_is_not_installed_is_named(missing, message, monkeypatch, tmp_path):
    find = curves.util.find_spec
    monkeypatch.setattr(curves.util, "find_spec", lambda name: None if name in missing else find(name))
    if "matplotlib" in missing:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("BinaryHinge", "--output", str(tmp_path / "curves.png"))
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_module_imports_no_framework():
    code = "import sys, shared_specs.curves; print(sorted({'torch', 'keras', 'jax', 'tensorflow'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed == "[]\n"


# ---- The numbers, from textbook formulas of m.


def of_curve(name, **config):
    numbers = {key: mpf(value) if isinstance(value, float) else value for key, value in config.items()}
    return lambda m: textbook.CURVES[name](sigmoid(m), sigmoid(-m), **numbers)


def sigmoid(m):
    return 1 / (1 + mp.exp(-m))


def soft(target):
    """Cross-entropy of a soft target."""
    return lambda m: -target * mp.log(sigmoid(m)) - (1 - target) * mp.log(sigmoid(-m))


def divergence(m):
    """The divergence of (0.3, 0.7) from the probabilities."""
    return soft(mpf("0.7"))(m) + mpf("0.7") * mp.log(mpf("0.7")) + mpf("0.3") * mp.log(mpf("0.3"))


def cubes(m):
    """The squared earth mover's distance of label 0 of 3 classes, whose others have half of 1 - p each."""
    return sigmoid(-m) ** 2 + (sigmoid(-m) / 2) ** 2


def views(m):
    """Cross-entropy, and 12 times the divergence of three views, two of them at log-odds 0."""
    p, q = sigmoid(m), mpf("0.5")
    mean = (p + 2 * q) / 3
    return -mp.log(p) + 4 * mp.fsum(
        share * mp.log(share / middle) for view in (p, q, q) for share, middle in ((view, mean), (1 - view, 1 - mean))
    )


LINES = [
    (Line("BinaryCrossEntropy"), of_curve("BinaryCrossEntropy")),
    (Line("CategoricalFocalCrossEntropy", {"gamma": 1.5}), of_curve("BinaryFocalCrossEntropy", gamma=1.5)),
    (Line("CategoricalTaylorCrossEntropy", classes=7), of_curve("BinaryTaylorCrossEntropy")),
    (Line("CategoricalCrossEntropy", target=0.7), soft(mpf("0.7"))),
    (Line("BinaryCrossEntropy", target=0.0), lambda m: mp.log(1 + mp.exp(m))),
    (Line("KLDivergence", target=0.7), divergence),
    (Line("Distillation", target=0.7), divergence),
    (Line("SquaredEarthMoverDistance", classes=3, label=0), cubes),
    (Line("OrdinalCrossEntropy", classes=3, label=1), lambda m: -mp.log(sigmoid(m)) - mp.log(sigmoid(-m))),
    (Line("JensenShannonConsistency"), views),
    (Line("LogitAdjustedCrossEntropy", {"class_counts": [900, 100]}), lambda m: mp.log(1 + 9 * mp.exp(-m))),
    (Line("CosFaceCrossEntropy", {"scale": 4.0}), lambda x: mp.log(1 + mp.exp(-4 * (x - mpf("0.35"))))),
]


@pytest.mark.parametrize(("line", "formula"), LINES, ids=[line.legend for line, _ in LINES])
def test_numbers_are_those_of_the_formula(line, formula):
    drawn = curves.evaluate(line, side.package)
    assert drawn.are_cosines == (line.loss == "CosFaceCrossEntropy")
    assert drawn.places[0] == -drawn.places[-1] == (-1 if drawn.are_cosines else -6)
    for index in range(0, len(drawn.places), 15):
        m = mpf(drawn.places[index])
        want = float(formula(m)), -float(mp.diff(formula, m))
        assert (drawn.values[index], drawn.pulls[index]) == pytest.approx(want, rel=1e-4, abs=1e-5)


def test_the_axis_ends_where_it_is_told():
    assert np.allclose(curves.evaluate(Line("BinaryHinge"), side.package, reach=2.0).places, np.linspace(-2, 2, 121))
