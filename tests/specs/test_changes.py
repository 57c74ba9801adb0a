"""The difference between two states of the vectors, and the version that it asks for."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from shared_specs import changes, load

STEM = "binary_cross_entropy"
VALUE = "binary-cross-entropy/hard-labels"


@pytest.fixture
def states(tmp_path):
    """Two folders with the same file, and a function that edits cases of the second one."""
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
        shutil.copy(load.CASES / f"{STEM}.json", folder)

    def edit(change, folder=new):
        path = folder / f"{STEM}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = {case["id"]: case for case in content["cases"]}
        change(cases)
        content["cases"] = list(cases.values())
        path.write_text(json.dumps(content), encoding="utf-8")

    return old, new, edit


def first(cases, key, flag=None):
    return next(case for case in cases.values() if key in case and (flag is None or flag in case["flags"]))


def move_loss(factor):
    def edit(cases):
        cases[VALUE]["expected"]["loss"]["data"] *= factor

    return edit


def steps(value, count):
    """The float64 that comes `count` steps after a number."""
    return float(value + count * np.spacing(value))


def step_loss(cases):
    loss = cases[VALUE]["expected"]["loss"]
    loss["data"] = steps(loss["data"], 2)


def move_entry_of_gradient(cases):
    gradient = cases[VALUE]["expected"]["grad_logits"]["data"]
    gradient[0] = float(np.nextafter(gradient[0], 1))


def lose_entry_of_gradient(cases):
    cases[VALUE]["expected"]["grad_logits"]["data"][0] = "NaN"


def move_tail(count):
    def edit(cases):
        data = first(cases, "expected", "tail")["expected"]["loss"]["data"]
        data[0] = steps(data[0], count)

    return edit


def turn_error_into_value(cases):
    first(cases, "error").update(first(cases, "error"), expected=cases[VALUE]["expected"])
    del first(cases, "error")["error"]


def turn_value_into_error(cases):
    cases[VALUE]["error"] = {"kind": "label", "argument": "target"}
    del cases[VALUE]["expected"]


CHANGES = {
    "nothing": (lambda cases: None, [], "patch"),
    "one more case": (lambda cases: cases.update(new={**cases[VALUE], "id": "new"}), ["added"], "patch"),
    "one case less": (lambda cases: cases.pop(VALUE), ["removed"], "major"),
    "the last digits": (step_loss, ["loss 2 ulp"], "patch"),
    "the last digit of a slope": (move_entry_of_gradient, ["gradient 1 ulp"], "patch"),
    "another loss": (move_loss(2), ["loss {old:.6g} -> {new:.6g} (0.5 relative)"], "major"),
    "a slope that is NaN": (lose_entry_of_gradient, ["gradient {slope} -> nan"], "major"),
    "a tail within its tolerance": (move_tail(200), ["loss 200 ulp"], "patch"),
    "a tail beyond its tolerance": (move_tail(900), ["loss 900 ulp"], "major"),
    "a comment": (lambda cases: cases[VALUE].update(comment="as before"), [], "patch"),
    "another question": (
        lambda cases: cases[VALUE]["config"].update(label_smoothing=0.5),
        ["another config under the same id"],
        "major",
    ),
    "a dtype less": (lambda cases: cases[VALUE]["dtypes"].remove("float16"), ["no longer in float16"], "major"),
    "no tail": (
        lambda cases: first(cases, "expected", "tail")["flags"].remove("tail"),
        ["no longer judged by relative error"],
        "major",
    ),
    "an error that became a value": (turn_error_into_value, ["an error before, a value now"], "minor"),
    "a value that became an error": (turn_value_into_error, ["a value before, ValueError now"], "major"),
    "another argument named": (
        lambda cases: first(cases, "error")["error"].update(argument="other"),
        ["another error: {kind} of other"],
        "major",
    ),
    "the last digit of a denominator": (
        lambda cases: cases[VALUE]["expected"].update(denominator=steps(cases[VALUE]["expected"]["denominator"], 1)),
        ["denominator {denominator} -> {next_denominator}"],
        "patch",
    ),
    "another denominator": (
        lambda cases: cases[VALUE]["expected"].update(denominator=17.0),
        ["denominator {denominator} -> 17.0"],
        "major",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_found_with_their_level(name, states):
    old, new, edit = states
    change, want, level = CHANGES[name]
    edit(change)
    case = next(case for case in load.cases(folder=old) if case.id == VALUE)
    kind = next(case for case in load.cases(folder=old) if case.error).error.kind
    loss, slope = float(case.expected.loss.data), case.expected.grad_logits.data[0]
    words = {"old": loss, "new": 2 * loss, "slope": slope, "kind": kind, "denominator": case.expected.denominator}
    words["next_denominator"] = steps(case.expected.denominator, 1)
    found = changes.changes(old, new)
    assert [change.what for change in found] == [text.format(**words) for text in want]
    report = changes.report(found, 7)
    assert report.endswith(f"Smallest version for these vectors: {level}.")
    assert report.startswith("Test vectors: 7 cases; ")


def test_a_new_loss_is_a_minor_version(states):
    old, new, _ = states
    shutil.copy(load.CASES / "binary_poly.json", new)
    report = changes.report(changes.changes(old, new), len(load.cases(folder=new)))
    count = len(load.cases("BinaryPolyCrossEntropy"))
    assert f"- added: {count} of BinaryPolyCrossEntropy" in report.splitlines()
    assert report.endswith(": minor.")


@pytest.mark.parametrize(
    ("old", "new", "want"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 2 * 2**-51], "2 ulp"),
        ([0.0, 5e-324], [0.0, 1e-323], "1 ulp"),
        ([1.0, 4.0], [1.0, 5.0], "4 -> 5 (0.2 relative)"),
        ([0.0], [1e-8], "0 -> 1e-08 (1 relative)"),
        ([np.inf, 1.0], [np.inf, np.nan], "1.0 -> nan"),
        ([np.inf], [-np.inf], "inf -> -inf"),
        ([np.nan, 1.0], [np.nan, 1.0 + 2**-52], "1 ulp"),
    ],
)
def test_how_far(old, new, want):
    assert changes.how_far(np.array(old), np.array(new)) == want


def test_command_reads_git_refs_and_folders(tmp_path, monkeypatch, capsys):
    repository = tmp_path / "repository"
    cases = repository / "shared_specs/cases"
    cases.mkdir(parents=True)
    shutil.copy(load.CASES / f"{STEM}.json", cases)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", repository]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "cases"], ["tag", "v0"]):
        subprocess.run([*git, *command], check=True)
    (cases / f"{STEM}.json").unlink()
    shutil.copy(load.CASES / "binary_poly.json", cases)
    monkeypatch.setattr(changes, "CASES", cases)
    assert changes.main(["v0", str(cases)]) == 0
    assert "(BinaryCrossEntropy)" in capsys.readouterr().out
    assert changes.main(["v0", "v0"]) == 0
    assert "0 added, 0 removed, 0 changed." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        changes.main(["v9"])
    assert "'v9' is neither a folder with case files nor a git ref" in capsys.readouterr().err
