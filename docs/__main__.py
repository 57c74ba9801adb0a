"""Writes losses.md from the notes here, the shared cases and the docstrings of lightning_xent, which it only parses."""

import argparse
import ast
import difflib
import json
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from shared_specs.common import docstrings

ROOT = Path(__file__).parent.parent
CASES = ROOT / "shared_specs" / "cases"
NOTES, PAGE = Path(__file__).with_name("notes.toml"), Path(__file__).with_name("losses.md")
EXPORTS = ast.parse((ROOT / "lightning_xent" / "__init__.py").read_text(encoding="utf-8")).body
NO_LOSSES = {"get", "TopK"}  # public, but described elsewhere
FORMULA = re.compile(r": (?=.*[=(_])(\S.*?)(, (?:the|\S+ (?:=|the)) .*|, elementwise.*)?\.$")
"""The formula after the first colon of a docstring's first line, and the words after it."""


class Definition(NamedTuple):
    """The docstring and parameters of a class or function; the default of a required keyword is empty."""

    name: str
    paragraphs: list[str]
    keywords: dict[str, str]
    defaults: dict[str, str]
    reference: str


def public_names() -> list[str]:
    """The names that lightning_xent exports, without NO_LOSSES."""
    exports = next(ast.literal_eval(node.value) for node in EXPORTS if isinstance(node, ast.Assign))
    return sorted(set(exports) - NO_LOSSES)


def definitions() -> dict[str, Definition]:
    """The classes and functions with a docstring, by name, of the bases and of where lightning_xent takes its names."""
    exports = {node.module for node in EXPORTS if isinstance(node, ast.ImportFrom) and node.module}
    modules = {name for name in exports if name.startswith(("lightning_xent.", "shared_specs.common."))}
    modules |= {f"lightning_xent.{name}" for name in ("base", "binary", "callbacks", "categorical")}
    nodes = [
        node
        for module in sorted(modules)
        for node in ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    ]
    mixins = {node.name: node for node in nodes if node.name.startswith("_")}
    return {node.name: definition(node, mixins) for node in nodes}


def definition(
    node: ast.ClassDef | ast.FunctionDef, mixins: Mapping[str, ast.ClassDef | ast.FunctionDef]
) -> Definition:
    """The `Definition` of a node, with the parameters of its mixins first."""
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    shared = [mixins[base] for base in bases if base in mixins]
    docstring = reduce(docstrings.joined, (ast.get_docstring(part) or "" for part in (node, *shared)))
    head, *rest = re.split(r"^(Args|Returns|Raises|Reference):", docstring, flags=re.MULTILINE)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", sections.get("Args", ""), flags=re.MULTILINE)
    paragraphs = [flat(paragraph) for paragraph in head.strip().split("\n\n")]
    keywords = {name: flat(text) for name, text in entries}
    defaults = {name: default for part in (*shared, node) for name, default in parameters(part)}
    return Definition(node.name, paragraphs, keywords, defaults, flat(sections.get("Reference", "")))


def parameters(node: ast.ClassDef | ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """The parameters of a function, of a class's __init__, or the fields of a dataclass; with their defaults."""
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.AnnAssign) and not ast.unparse(child.annotation).startswith("ClassVar"):
                yield ast.unparse(child.target), default_of(child.value)
            elif isinstance(child, ast.FunctionDef) and child.name == "__init__":
                yield from parameters(child)
        return
    positional = [argument for argument in node.args.args if argument.arg != "self"]
    values: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults
    pairs = zip([*positional, *node.args.kwonlyargs], [*values, *node.args.kw_defaults], strict=True)
    yield from ((argument.arg, ast.unparse(value) if value else "") for argument, value in pairs)


def default_of(value: ast.expr | None) -> str:
    """The default of a field: what is assigned, or the first argument of `arguments.field`; "" where there is none."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "arguments.field"):
        value = value.args[0] if value.args else None
    return ast.unparse(value) if value else ""


def page() -> str:
    """The whole page."""
    notes, found = tomllib.loads(NOTES.read_text(encoding="utf-8")), definitions()
    described = [name for group in notes["group"] for loss in group["loss"] for name in loss["classes"]]
    described += [name for section in notes["section"] for name in section.get("functions", []) if name.islower()]
    if sorted(described) != public_names():
        missing, unknown = set(public_names()) - set(described), set(described) - set(public_names())
        twice = {name for name in described if described.count(name) > 1}
        raise ValueError(f"docs/notes.toml: no entry for {missing}, no such class for {unknown}, twice {twice}")
    contents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in CASES.glob("*.json")}
    files = {content["loss"]: (name, content) for name, content in contents.items()}
    lines = ["# Losses", "", "<!-- Written by `python -m docs`: edit docs/notes.toml or the docstrings. -->", ""]
    lines += [*blocks(notes["introduction"]), "## Contents", ""]
    for group in notes["group"]:
        lines.append(f"- [{group['title']}](#{anchor(group['title'])})")
        for loss in group["loss"]:
            names = f"`{'`, `'.join(loss['classes'])}`"
            lines.append(wrapped(f"  - [{loss['title']}](#{anchor(loss['title'])}): {names}", "    "))
    lines += [*(f"- [{section['title']}](#{anchor(section['title'])})" for section in notes["section"]), ""]
    for group in notes["group"]:
        lines += [f"## {group['title']}", "", *blocks(group["text"])]
        for loss in group["loss"]:
            lines += entry(loss, found, files)
    for section in notes["section"]:
        lines += [f"## {section['title']}", "", *blocks(section["text"])]
        for name in section.get("functions", []):
            lines += [*described_definition(found[name]), *keyword_table([found[name]])]
    return "\n".join(lines).rstrip() + "\n"


def entry(loss: dict[str, Any], found: dict[str, Definition], files: dict[str, Any]) -> list[str]:
    """The lines of one loss: its note, its classes, their keywords, and the rest of the note."""
    classes = [found[name] for name in loss["classes"]]
    lines = [f"### {loss['title']}", "", *blocks(loss["when"])]
    for item in classes:
        name, content = files[item.name]
        vectors = f"Test vectors: {len(content['cases'])} cases in [{name}](../shared_specs/cases/{name})"
        facts = f"Textbook formula: `{content['about']}`", example(content), vectors
        lines += [*described_definition(item), *(wrapped(f"- {fact}", "  ") for fact in facts), ""]
    lines += keyword_table(classes)
    titles = {"paper": "Defaults of the paper", "limits": "Limits", "elsewhere": "Elsewhere", "laws": "Laws not kept"}
    for key, title in titles.items():
        lines += blocks(f"**{title}.** {loss[key]}") if key in loss else []
    references = dict.fromkeys(item.reference for item in classes)
    return [*lines, *blocks(f"**Reference{'s' * (len(references) > 1)}.** {' '.join(references)}")]


def described_definition(item: Definition) -> list[str]:
    """A class or function with its own parameters and its docstring, whose first colon starts the formula."""
    own = ", ".join(f"{name}={default}" if default else name for name, default in item.defaults.items())
    first = FORMULA.sub(r": `\1`\2.", item.paragraphs[0])
    return blocks(f"**`{item.name}`**`({own})`. {' '.join([first, *item.paragraphs[1:]])}")


def keyword_table(items: Sequence[Definition]) -> list[str]:
    """The table of the classes' own keywords; shared keywords come once."""
    rows: dict[str, tuple[str, str]] = {}
    for item in items:
        if set(item.keywords) != set(item.defaults):
            raise ValueError(f"{item.name} has {set(item.defaults)}, but its docstring has {set(item.keywords)}")
        for name, text in item.keywords.items():
            default = f"`{item.defaults[name]}`" if item.defaults[name] else "required"
            if rows.setdefault(name, (default, text))[0] != default:
                raise ValueError(f"{name} of {item.name} has the default {default}, another class has another")
    lines = ["| keyword | default | meaning |", "|---|---|---|"] if rows else []
    for name, (default, text) in rows.items():
        owners = [item.name for item in items if name in item.keywords]
        only = "" if len(owners) == len(items) else f" (`{'`, `'.join(owners)}` only)"
        lines.append(f"| `{name}` | {default} | {text}{only} |".replace("||", r"\|\|"))
    return [*lines, ""] if lines else []


def example(content: dict[str, Any]) -> str:
    """The first value of a case file."""
    case = next(case for case in content["cases"] if "expected" in case)
    own = ", ".join(f"{name}={value}" for name, value in case["config"].items())
    logits, target = (json.dumps(case["inputs"][name]["data"]) for name in ("logits", "target"))
    loss = case["expected"]["loss"]["data"]
    return f"Example: `{content['loss']}({own})` of logits `{logits}` and target `{target}` is `{loss}`."


def blocks(text: str) -> list[str]:
    """Markdown with wrapped paragraphs, and a blank line after each block; tables and headings stay unchanged."""
    return [line for part in text.strip().split("\n\n") for line in (part if part[0] in "|#" else wrapped(part), "")]


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 120 characters; no break in code or links, and none that would begin a list."""
    start = text[: len(text) - len(text.lstrip())]
    text = re.sub(r"`[^`]*`|\[[^]]*\]\(", lambda code: code[0].replace(" ", "\0"), start + flat(text))
    text = re.sub(r" (?=(?:[-+*#>=|]|\d+[.)]) )", "\0", text)
    options = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, 120, **options).replace("\0", " ")


def flat(text: str) -> str:
    """`text` in one line."""
    return " ".join(text.split())


def anchor(title: str) -> str:
    """The address of a heading, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or show what would change."""
    parser = argparse.ArgumentParser(prog="python -m docs", description="Write docs/losses.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page would change")
    check = parser.parse_args(arguments).check
    old, new = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "", page()
    if check:
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), PAGE.name, "docs", n=0, lineterm="")
        sys.stdout.writelines(f"{line}\n" for line in lines)
    elif old != new:
        PAGE.write_text(new, encoding="utf-8", newline="\n")
    return int(check and old != new)


if __name__ == "__main__":
    sys.exit(main())
