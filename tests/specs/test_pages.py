"""Pages that repeat numbers of the demo have those of demo/README.md."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def rows(text):
    """The rows of the tables in a text by their first cell, without heads; deviations are cut off."""
    found = {}
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        for line in table.splitlines()[2:]:
            first, *others = re.split(r" *\| *", line.strip("| "))
            found[first.replace("`", "")] = [re.sub(r" \+- .*", "", cell) for cell in others]
    return found


def section(page, title):
    text = (ROOT / page).read_text(encoding="utf-8")
    return rows(text.split(f"\n{title}", 1)[1].split("\n## ", 1)[0])


NOISE = section("demo/README.md", "## Wrong labels")
RARE = section("demo/README.md", "## Rare classes")
EXAMPLES = section("demo/README.md", "## Seven examples")
WHICH = section("docs/which_loss.md", "Start with the row")
CALLS = {
    "CategoricalCrossEntropy()": "CategoricalCrossEntropy",
    "CategoricalMeanAbsoluteError()": "CategoricalMeanAbsoluteError",
}


def test_label_noise_has_the_table_of_the_demo():
    page = section("docs/label_noise.md", "Start with")
    demo = {call.replace("`", ""): scores for call, *scores in NOISE.values() if len(scores) == 3}
    assert len(page) == len(demo) == 7
    assert {CALLS.get(call, call): scores for call, scores in page.items()} == demo


def of(table, *places):
    return [float(table[name][column]) for name, column in places]


def both(name):
    """The mean of the scores of Keras and of Lightning."""
    return sum(map(float, EXAMPLES[name][-2:])) / 2


EVIDENCE = {
    "Several classes, some rare": of(RARE, ("balanced_weights", 1), ("cross_entropy", 1)),
    "Two labels, 1 is rare": [both("imbalanced_binary")],
    "Several labels per sample, most of them 0": [both("multi_label")],
    "Many wrong labels (30 % and more)": of(NOISE, ("generalized", 2), ("cross_entropy", 2)),
    "Many wrong labels, few classes": of(NOISE, ("mean_absolute_error", 3), ("cross_entropy", 3)),
    "Some wrong labels": of(NOISE, ("smoothing", 1), ("cross_entropy", 1)),
    "Segmentation with void pixels": [both("segmentation"), float(EXAMPLES["segmentation"][2].split(",")[0])],
}


@pytest.mark.parametrize("problem", EVIDENCE)
def test_the_evidence_of_the_decision_table_is_that_of_the_demo(problem):
    said = re.findall(r"0\.\d+", WHICH[problem][2])
    assert len(said) == len(EVIDENCE[problem])
    for text, value in zip(said, EVIDENCE[problem], strict=True):
        digits = len(text) - 2
        assert abs(float(text) - value) <= 0.5001 * 10**-digits + 1e-12, f"{text} is not {value}, rounded"


def test_every_number_of_the_decision_table_has_its_source():
    assert {problem for problem, cells in WHICH.items() if re.search(r"0\.\d", cells[2])} == set(EVIDENCE)
