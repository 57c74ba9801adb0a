"""The page and the summary of the conformance matrix are what page.py makes of the results."""

import json
import re

import pytest

import made_results
from shared_specs.conformance import page


@pytest.fixture
def docs(tmp_path):
    """A folder of documentation with made results."""
    made_results.write(tmp_path)
    return tmp_path


def test_both_files_are_those_of_the_results():
    assert page.main(["--check"]) == 0, "run python -m shared_specs.conformance.page"


def test_check_writes_nothing(docs, capsys):
    assert page.main(["--docs", str(docs), "--check"]) == 1
    assert capsys.readouterr().out.count("would change") == 2
    assert page.main(["--docs", str(docs)]) == 0
    assert page.main(["--docs", str(docs), "--check"]) == 0
    (docs / "conformance.md").write_text("other", encoding="utf-8")
    assert page.main(["--docs", str(docs), "--check"]) == 1


def test_missing_results_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        page.main(["--docs", str(tmp_path)])
    assert "results.json is not there: run `tox run -e conformance`" in capsys.readouterr().err


def test_the_summary_has_a_row_for_each_library_and_convention():
    rows = [line for line in page.summary(made_results.results()).splitlines() if line.startswith("| `")]
    assert rows == [
        "| `lightning_xent` | | torch 2.13.0, eager, float32, cpu | 8 | 0 | 0 | 0 | 0.25 |",
        "| `timm` | 1.2.3 | torch 2.13.0, eager, float32, cpu | 5 | 2 | 1 | 0 | 0.25 |",
        "| `optax` | 1.2.3 | jax, eager, float32, cpu | 8 | 0 | 0 | 0 | 0.25 |",
        "| `scikit-learn` | 1.2.3 | numpy, eager, float32, cpu | 0 | 0 | 0 | 8 | |",
        "| `timm` | mean divides by the sum of the &lt;target&gt; weights | 2 |",
    ]


def test_the_page_holds_its_data_and_nothing_closes_it():
    text = page.page(made_results.results())
    data = re.search(r'<script type="application/json" id="results">(.*)</script>', text)[1]
    assert "<" not in data
    found = json.loads(data)
    assert found["cases"] == made_results.results()["cases"]
    assert next(target["target"] for target in found["targets"]) == "lightning_xent"


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"equal": 5, "wrong": 1}, "wrong"),
        ({"equal": 5, "differs": 1}, "differs"),
        ({"equal": 1, "not offered": 9}, "equal"),
        ({"not offered": 9}, "not offered"),
        ({}, "not offered"),
    ],
)
def test_a_cell_has_the_worst_outcome_of_its_cases(counts, wanted):
    assert page.outcome(counts) == wanted


@pytest.mark.parametrize(
    ("worst", "wanted"),
    [
        (None, ""),
        (0.0, "0"),
        (0.0123, "0.012"),
        (0.00123, "0.001"),
        (0.9999, "1"),
        (12.34, "12"),
        (123.4, "123"),
        (1234567.0, "1e6"),
        (1.6e-9, "2e-9"),
        (3e120, "3e120"),
        ("Infinity", "&infin;"),
    ],
)
def test_errors_are_short(worst, wanted):
    assert page.share(worst) == wanted
