"""Every loss stands in every place that it takes; CONTRIBUTING.md lists them. Needs no framework."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_specs import load, textbook

ROOT = Path(__file__).parents[2]


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def assigned(path: str, name: str) -> ast.expr:
    """What a module assigns to a name, without importing it."""
    for node in ast.parse(text(path)).body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets):
            return node.value
    raise AssertionError(f"{path} does not assign {name}")


def public(package: str) -> set[str]:
    """The losses that a package exports: names of classes begin with a capital, and TopK is a target."""
    names = ast.literal_eval(assigned(f"{package}/__init__.py", "__all__"))
    return {name for name in names if name[0].isupper()} - {"TopK"}


def defined(package: str) -> set[str]:
    """The classes in losses/ of a package."""
    paths = sorted((ROOT / package / "losses").glob("*.py"))
    nodes = (node for path in paths for node in ast.parse(path.read_text(encoding="utf-8")).body)
    return {node.name for node in nodes if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}


def keys(node: ast.expr) -> set[str]:
    """The literal keys of a dictionary, or elements of a set."""
    entries = node.keys if isinstance(node, ast.Dict) else node.elts
    return {entry.value for entry in entries if isinstance(entry, ast.Constant)}


def places() -> dict[str, set[str]]:
    """Where a loss has to stand, and the losses that do."""
    notes = tomllib.loads(text("docs/notes.toml"))
    return {
        "the tables at the end of shared_specs/textbook.py": set(textbook.TEXTBOOK),
        "a file in shared_specs/cases (`loss`)": {
            json.loads(path.read_text(encoding="utf-8"))["loss"] for path in load.CASES.glob("*.json")
        },
        "lightning_xent/__init__.py (import and __all__)": public("lightning_xent"),
        "keras_xent/__init__.py (import and __all__)": public("keras_xent"),
        "tests/support/trajectories.py (SETUPS)": keys(assigned("tests/support/trajectories.py", "SETUPS")),
        "docs/notes.toml (`classes` of a [[group.loss]])": {
            name for group in notes["group"] for loss in group["loss"] for name in loss["classes"]
        },
        "docs/losses.md (run `python -m docs`)": set(re.findall(r"`([A-Z]\w+)`", text("docs/losses.md"))),
        "a page of docs/losses (run `python -m docs`)": {
            name
            for path in (ROOT / "docs/losses").glob("*.md")
            for name in re.findall(r"^\*\*`([A-Z]\w+)`\*\*", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        },
        "the last table of docs/which_loss.md": set(
            re.findall(r"`([A-Z]\w+)`", text("docs/which_loss.md").split("## Every loss")[1])
        ),
    }


def missing(found: dict[str, set[str]]) -> Iterator[str]:
    losses = set(textbook.TEXTBOOK) | found["a file in shared_specs/cases (`loss`)"]
    losses |= public("lightning_xent") | public("keras_xent")
    for place, names in found.items():
        yield from (f"{name} is missing in {place}" for name in sorted(losses - names))


def test_every_loss_stands_in_every_place() -> None:
    problems = list(missing(places()))
    assert not problems, "\n".join(["CONTRIBUTING.md says what each place takes:", *problems])


def test_a_loss_that_is_missing_is_named_with_its_place() -> None:
    found = places()
    found["tests/support/trajectories.py (SETUPS)"].discard("BinaryHinge")
    assert "BinaryHinge is missing in tests/support/trajectories.py (SETUPS)" in list(missing(found))


def test_readme_counts_the_losses() -> None:
    count = len(public("lightning_xent"))
    said = f" {count} losses" in text("README.md")
    assert said, f"README.md has to say that there are {count} losses"


@pytest.mark.parametrize("package", ["keras_xent", "lightning_xent"])
def test_every_class_of_a_variant_is_public(package: str) -> None:
    """Bases and mixins begin with an underscore."""
    hidden = defined(package) - public(package)
    assert not hidden, f"{package}/__init__.py does not export {', '.join(sorted(hidden))}"
