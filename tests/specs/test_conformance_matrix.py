"""The targets and their requirements, the page of divergences, and what the matrix collects; no library is imported."""

import json
from typing import NamedTuple

import jsonschema
import pytest

from shared_specs import load
from shared_specs.conformance import divergences, environments, matrix, offers, results
from shared_specs.conformance.features import FEATURES

SCHEMA = json.loads((environments.ROOT / "shared_specs/conformance/schema.json").read_text(encoding="utf-8"))
PINNED = (environments.ROOT / "constraints.txt").read_text(encoding="utf-8").split()
CASES = {case.id: case for case in load.cases()}
COMMITTED = json.loads(matrix.RESULTS.read_text(encoding="utf-8"))
THIRD_PARTIES = {
    *(
        "exacta",
        "keras-jax",
        "keras-tensorflow",
        "keras-torch",
        "kornia",
        "liger-kernel",
        "monai",
        "onnxruntime",
        "optax",
    ),
    *("pytorch-metric-learning", "scikit-learn", "segmentation-models-pytorch", "tensorflow", "timm", "torch"),
    *("torchmetrics", "torchvision", "transformers"),
}


def line(id, outcome, **more):
    case = CASES[id]
    return {
        "kind": "case", "id": id, "loss": case.loss, "features": ["tails"], "outcome": outcome, "config": {}, **more
    }  # fmt: skip


def header(target):
    return {
        "format": 1, "kind": "header", "target": target, "version": "1.0", "framework": "torch", "versions": {},
        "python": "3.11", "machine": {}, "dtype": "float32", "mode": "eager", "device": "cpu", "cases": 4, "date": "",
    }  # fmt: skip


class Process(NamedTuple):
    returncode: int
    stdout: str


def run_of(target, lines):
    return results.Results(header(target), lines, results.footer(lines, 1.0))


FIRST, SECOND, THIRD, FOURTH = list(CASES)[:4]
LINES = [
    line(FIRST, "equal", worst=0.25),
    line(SECOND, "differs", worst=1 / 3, convention="mean divides by four"),
    line(THIRD, "wrong", worst="Infinity", message="loss", got={"loss": "NaN"}, wanted={"loss": 0.0}, inputs={}),
    line(FOURTH, "not offered", message="no argument for mask"),
]


def test_third_parties_are_listed():
    assert {target for target in offers.targets() if not matrix.is_own(target)} == THIRD_PARTIES


def test_targets_that_install_the_same_share_an_environment():
    groups = matrix.alike(offers.targets())
    assert sorted(target for group in groups.values() for target in group) == offers.targets()
    assert {"torch", "lightning_xent", "lightning_xent-compiled"} <= set(groups[("torch",)])


@pytest.mark.parametrize("target", offers.targets())
def test_each_target_names_what_it_installs_in_a_version(target):
    for requirement in matrix.requirements(target):
        assert any(pin.startswith(f"{requirement}==") for pin in PINNED), f"{requirement} is not in constraints.txt"


def test_matrix_collects_cells_and_failing_cases():
    content = matrix.collect([run_of("some-library", LINES)])
    jsonschema.validate(content, SCHEMA)
    (target,) = content["targets"]
    assert target["counts"] == {"equal": 1, "differs": 1, "wrong": 1, "not offered": 1}
    assert target["cells"]["tails"]["worst"] == 0.333333333
    assert target["cells"]["tails"]["conventions"] == ["mean divides by four"]
    assert target["cells"]["tails"]["reasons"] == ["no argument for mask"]
    assert [case["id"] for case in target["failing"]] == [SECOND, THIRD]
    assert content["cases"][THIRD]["wanted"] == {"loss": 0.0}


def test_targets_that_were_not_run_keep_their_results():
    before = matrix.collect([run_of("first-library", LINES), run_of("second-library", LINES)])
    after = matrix.collect([run_of("second-library", LINES[:1])], before)
    assert [target["counts"]["equal"] for target in after["targets"]] == [1, 1]
    assert [len(target["failing"]) for target in after["targets"]] == [2, 0]
    assert set(after["cases"]) == {SECOND, THIRD}


def test_a_run_without_a_footer_is_an_error(tmp_path, monkeypatch):
    def run(python, *arguments, **variables):
        (tmp_path / "torch.jsonl").write_text(json.dumps(header("torch")) + "\n", encoding="utf-8")
        return Process(0, "")

    monkeypatch.setattr(environments, "_install", lambda python, requirements: None)
    monkeypatch.setattr(environments.subprocess, "run", lambda *given, **options: None)
    monkeypatch.setattr(environments, "run", run)
    monkeypatch.setattr(divergences, "read", list)
    found, problems = matrix.measure(["torch"], tmp_path, keep=False)
    assert found == []
    assert "no footer" in problems[0]


def test_a_library_that_cannot_be_installed_is_an_error(tmp_path, monkeypatch):
    def install(python, requirements):
        raise environments.InstallError("ERROR: No matching distribution found for torch")

    monkeypatch.setattr(environments, "_install", install)
    monkeypatch.setattr(environments.subprocess, "run", lambda *given, **options: None)
    assert matrix.measure(["torch", "lightning_xent"], tmp_path, keep=False) == (
        [],
        [f"{name}: ERROR: No matching distribution found for torch" for name in ("torch", "lightning_xent")],
    )


PAGE = """# Divergences

### A library counts to three

<!-- targets: first-library, second-library; cases: */all-ignored, */empty* -->

It says 3.

```python
print(1 + 1)  # 3
```
"""


def test_a_divergence_that_is_gone_is_a_problem(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    (section,) = divergences.read(page)
    assert section.anchor == "a-library-counts-to-three"
    assert section.explains("first-library", "categorical-focal/all-ignored")
    assert not section.explains("third-library", "categorical-focal/all-ignored")
    assert divergences.unexplained("first-library", ["x/empty-mean", "x/soft"], page) == ["x/soft"]

    monkeypatch.setattr(environments, "run", lambda *given, **options: Process(0, "2\n"))
    assert divergences.problem(tmp_path, section) == "A library counts to three: want ['3'], got ['2']"


def test_committed_results_fit_their_schema():
    jsonschema.validate(COMMITTED, SCHEMA)
    assert set(COMMITTED["features"]) <= set(FEATURES)
    assert matrix.RESULTS.stat().st_size < 1.5e6


@pytest.mark.parametrize("target", COMMITTED["targets"], ids=lambda target: target["target"])
def test_committed_results_hold_together(target):
    """Ids are never reused, so an older state of the vectors has no id that is not there today."""
    failing = [case["id"] for case in target["failing"]]
    assert len(set(failing)) == len(failing)
    assert set(failing) <= set(COMMITTED["cases"]) <= set(CASES)
    assert sum(target["counts"].values()) == target["cases"]
    losses = [target["cells"][name] for name in target["cells"] if name in COMMITTED["losses"]]
    for outcome, count in target["counts"].items():
        assert sum(cell[outcome] for cell in losses) == count
        assert outcome in ("equal", "not offered") or count == sum(
            case["outcome"] == outcome for case in target["failing"]
        )


def test_all_targets_have_committed_results():
    assert set(offers.targets()) - set(matrix.SLOW) <= {target["target"] for target in COMMITTED["targets"]}


@pytest.mark.parametrize("target", COMMITTED["targets"], ids=lambda target: target["target"])
def test_every_wrong_case_is_explained(target):
    wrong = [case["id"] for case in target["failing"] if case["outcome"] == "wrong"]
    assert divergences.unexplained(target["target"], wrong) == []


def test_every_divergence_can_be_run():
    for section in divergences.read():
        assert section.targets or section.requires, f"{section.title}: no target"
        assert set(section.targets) <= set(offers.targets()), f"{section.title}: unknown target"
        assert divergences.SAID.search(section.code), f"{section.title}: the program says nothing"
