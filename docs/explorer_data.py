"""The losses of the curve explorer: docs/explorer/losses.js, which `python -m docs` writes.

Names, ranges and defaults are those of the fields in lightning_xent, which it parses; formulas are those of
shared_specs/textbook.py.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PATH = "docs/explorer/losses.js"
WRITTEN = "// Written by `python -m docs` from the fields of lightning_xent and from shared_specs/textbook.py."
OTHERS = {"AsymmetricLoss": "asymmetric", "BinaryHinge": "hinge"}
"""Functions of the label that are a curve for each label."""
NO_CURVES = {"OrdinalCrossEntropy"}  # one logit a threshold
Classes = Mapping[str, ast.ClassDef]


def parsed(path: Path) -> list[ast.stmt]:
    """The statements of a module."""
    return ast.parse(path.read_text(encoding="utf-8")).body


def curves() -> dict[str, tuple[str, str]]:
    """The losses that are a curve of the log-odds: the name of their formula in the textbook, and the formula."""
    nodes = parsed(ROOT / "shared_specs/textbook.py")
    formulas = {node.name: ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.FunctionDef)}
    tables = {ast.unparse(node.target): node.value for node in nodes if isinstance(node, ast.AnnAssign)}
    table = tables["CURVES"]
    assert isinstance(table, ast.Dict)
    pairs = zip(table.keys, table.values, strict=True)
    named = {ast.literal_eval(key): ast.unparse(value) for key, value in pairs if key} | OTHERS
    return {loss: (name, formulas[name].split("\n")[0]) for loss, name in named.items() if loss not in NO_CURVES}


def losses(pages: Mapping[str, str], keywords: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """The losses, given the page of each and the meanings of its keywords."""
    paths = sorted((ROOT / "lightning_xent/losses").glob("*.py"))
    classes = {node.name: node for path in paths for node in parsed(path) if isinstance(node, ast.ClassDef)}
    for name, (curve, formula) in sorted(curves().items()):
        bases = {ast.unparse(base) for each in lineage(name, classes) for base in each.bases}
        family = "binary" if "BinaryLoss" in bases else "categorical"
        own = [field(node) | {"about": keywords[name][ast.unparse(node.target)]} for node in fields(name, classes)]
        yield {"name": name, "curve": curve, "family": family, "formula": formula, "page": pages[name], "fields": own}


def lineage(name: str, classes: Classes) -> list[ast.ClassDef]:
    """A class of losses/, after its bases there."""
    node = classes[name]
    bases = [ast.unparse(base) for base in node.bases]
    return [each for base in bases if base in classes for each in lineage(base, classes)] + [node]


def fields(name: str, classes: Classes) -> list[ast.AnnAssign]:
    """The declarations of a loss's own fields."""
    nodes = [node for each in lineage(name, classes) for node in each.body if isinstance(node, ast.AnnAssign)]
    return [node for node in nodes if not ast.unparse(node.annotation).startswith("ClassVar")]


def field(node: ast.AnnAssign) -> dict[str, Any]:
    """The name, default and range of a field that `arguments.field` declares."""
    call = node.value
    assert isinstance(call, ast.Call)
    default, check, *details = call.args
    found = {"name": ast.unparse(node.target), "default": ast.literal_eval(default)}
    values = [ast.literal_eval(detail) for detail in details]
    match ast.unparse(check).removeprefix("arguments."):
        case "number":
            return found | {"interval": values[0]}
        case "number_or_name":
            return found | {"interval": values[0], "names": list(values[1])}
        case "integer":
            return found | {"interval": f"[{values[0]}, inf)", "whole": True}
        case "choice" if set(values[0]) == {True, False}:
            return found
        case other:
            raise ValueError(f"{PATH}: the explorer has no control for the check {other} of {found['name']}")


def text(pages: Mapping[str, str], keywords: Mapping[str, Mapping[str, str]]) -> str:
    """The file, one loss a line."""
    lines = ",\n".join(json.dumps(loss, ensure_ascii=False) for loss in losses(pages, keywords))
    return f"{WRITTEN}\nconst LOSSES = [\n{lines}\n];\n"
