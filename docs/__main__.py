"""Writes losses.md and losses/ from notes.toml, the shared cases and lightning_xent, whose docstrings it parses.

Also writes explorer/losses.js, see explorer_data.py.
"""

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
from urllib.parse import quote

from docs import explorer_data
from shared_specs.common import docstrings

ROOT = Path(__file__).parent.parent
CASES = ROOT / "shared_specs" / "cases"
NOTES, FOLDER = Path(__file__).with_name("notes.toml"), ROOT
EXAMPLES = "shared_specs/common/examples.json"
FAMILIES = "shared_specs/common/families.json"
WRITTEN = "<!-- Written by `python -m docs`: edit docs/notes.toml or the docstrings. -->"
SYMBOLS = (
    "In the formulas $p$ is the probability of the label, $x$ the logits, $t$ the target, and $y$ the label. The "
    "dotted line of a picture is cross-entropy. [Losses](../losses.md#terms) explains the terms; "
    "[Keywords of every loss](keywords.md) has the common keywords."
)
EXPORTS = ast.parse((ROOT / "lightning_xent" / "__init__.py").read_text(encoding="utf-8")).body
NO_LOSSES = {"get", "TopK"}  # public, but described elsewhere
TITLES = {"paper": "Defaults of the paper", "limits": "Limits", "elsewhere": "Elsewhere", "exceptions": "Exceptions"}
NUMBER = re.compile(r"(?:arXiv:(\d{4}\.\d{4,5})|doi:(10\.\S+?))(?=[.;,]?(?:\s|$))")
"""The number of a paper at arXiv, or its DOI."""
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
    modules |= {"shared_specs.common.options", "shared_specs.common.weighting"}
    nodes = [
        node
        for module in sorted(modules)
        for node in ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    ]
    mixins = {node.name: node for node in nodes if node.name.startswith("_") or node.name.endswith("Options")}
    return {node.name: definition(node, mixins) for node in nodes}


def definition(
    node: ast.ClassDef | ast.FunctionDef, mixins: Mapping[str, ast.ClassDef | ast.FunctionDef]
) -> Definition:
    """The `Definition` of a node, with the parameters of its mixins first, and common ones last."""
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    shared = [mixins[base] for base in bases if base in mixins]
    docstring = reduce(docstrings.joined, (ast.get_docstring(part) or "" for part in (node, *shared)))
    head, *rest = re.split(r"^(Args|Returns|Raises|Reference):", docstring, flags=re.MULTILINE)
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", sections.get("Args", ""), flags=re.MULTILINE)
    paragraphs = [flat(paragraph) for paragraph in head.strip().split("\n\n")]
    keywords = {name: flat(text) for name, text in entries}
    parts = sorted((*shared, node), key=lambda part: part.name.endswith("Options"))
    defaults = {name: default for part in parts for name, default in parameters(part) if not name.startswith("_")}
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


def pages() -> dict[str, str]:
    """The pages by their paths, the contents of the site below losses.md, the examples of the docstrings, families."""
    notes, found = tomllib.loads(NOTES.read_text(encoding="utf-8")), definitions()
    described = [name for group in notes["group"] for loss in group["loss"] for name in loss["classes"]]
    described += [name for section in notes["section"] for name in section.get("functions", []) if name.islower()]
    if sorted(described) != public_names():
        missing, unknown = set(public_names()) - set(described), set(described) - set(public_names())
        twice = {name for name in described if described.count(name) > 1}
        raise ValueError(f"docs/notes.toml: no entry for {missing}, no such class for {unknown}, twice {twice}")
    contents = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in CASES.glob("*.json")}
    files = {content["loss"]: (name, content) for name, content in contents.items()}
    written = {"losses.md": index(notes)}
    for group in notes["group"]:
        lines = [f"# {group['title']}", "", WRITTEN, "", *blocks(group["text"]), *blocks(SYMBOLS)]
        for loss in group["loss"]:
            lines += entry(loss, found, files)
        written[f"losses/{group['page']}.md"] = ending(lines)
    for section in notes["section"]:
        lines = [f"# {section['title']}", "", WRITTEN, "", *blocks(section["text"])]
        for name in section.get("functions", []):
            lines += [*described_definition(found[name]), *keyword_table([found[name]])]
        written[f"losses/{section['page']}.md"] = ending(lines)
    names = [f"/docs/{path.removesuffix('.md')}" for path in written if "/" in path]
    written["losses/contents.txt"] = "\n".join(["", "```{toctree}", ":hidden:", "", *names, "```", ""])
    pages = {f"docs/{path}": text for path, text in written.items()}
    examples = "".join(f',\n"{name}": {json.dumps(example(files[name][1]))}' for name in sorted(files))
    links = {
        name: f"../losses/{group['page']}.md#{anchor(loss['title'])}"
        for group in notes["group"]
        for loss in group["loss"]
        for name in loss["classes"]
    }
    explored = explorer_data.text(links, {name: item.keywords for name, item in found.items()})
    families = {
        group["title"]: {name: found[name].paragraphs[0] for loss in group["loss"] for name in loss["classes"]}
        for group in notes["group"]
    }
    listed = json.dumps(families, indent=1, ensure_ascii=False) + "\n"
    return pages | {EXAMPLES: f"{{{examples[1:]}\n}}\n", FAMILIES: listed, explorer_data.PATH: explored}


def ending(lines: Sequence[str]) -> str:
    """A file of these lines."""
    return "\n".join(lines).rstrip() + "\n"


def index(notes: Mapping[str, Any]) -> str:
    """The page that leads to all others: families, their losses and classes."""
    lines = ["# Losses", "", WRITTEN, "", *blocks(notes["introduction"])]
    lines += ["## Contents", "", "| loss | classes |", "|---|---|"]
    for group in notes["group"]:
        page = f"losses/{group['page']}.md"
        lines.append(f"| **[{group['title']}]({page})** | |")
        for loss in group["loss"]:
            names = f"`{'`, `'.join(loss['classes'])}`"
            lines.append(f"| [{loss['title']}]({page}#{anchor(loss['title'])}) | {names} |")
    others = [f"- [{section['title']}](losses/{section['page']}.md)" for section in notes["section"]]
    return ending([*lines, "", *others, "", *blocks(notes["terms"])])


def entry(loss: dict[str, Any], found: dict[str, Definition], files: dict[str, Any]) -> list[str]:
    """The lines of one loss: its note, formula and picture, its classes, their keywords, and the rest of the note."""
    classes = [found[name] for name in loss["classes"]]
    lines = [f"## {loss['title']}", "", *blocks(f"**When to use it.** {loss['when']}")]
    for formula in loss["formula"].strip().split("\n\n"):
        lines += ["$$", formula, "$$", ""]
    named = [f"${symbol}$ is `{keyword}`" for symbol, keyword in loss.get("symbols", {}).items()]
    where = [f"{', '.join(named)}." if named else "", loss.get("where", "")]
    lines += blocks(" ".join(filter(None, where))) if any(where) else []
    lines += [f"![{loss['title']}: the loss of a row, and its pull, over the log-odds]({picture(loss)})", ""]
    for item in classes:
        name, content = files[item.name]
        vectors = f"Test vectors: {len(content['cases'])} cases in [{name}](../../shared_specs/cases/{name})"
        facts = [wrapped(f"- {fact}", "  ") for fact in (in_words(item.name, example(content)), vectors)]
        lines += [*described_definition(item), *facts, ""]
    lines += keyword_table(classes)
    for key, title in TITLES.items():
        lines += blocks(f"**{title}.** {loss[key]}") if key in loss else []
    references = dict.fromkeys(NUMBER.sub(linked, item.reference) for item in classes)
    return [*lines, *blocks(f"**Reference{'s' * (len(references) > 1)}.** {' '.join(references)}")]


def picture(loss: Mapping[str, Any]) -> str:
    """The name of a loss's picture, in the folder of the pages."""
    return f"{anchor(loss['title']).replace('-', '_')}.svg"


def linked(number: re.Match[str]) -> str:
    """The number of a paper with a link to it."""
    arxiv, doi = number.groups()
    address = f"https://arxiv.org/abs/{arxiv}" if arxiv else f"https://doi.org/{quote(doi, safe='/')}"
    return f"[{number[0].replace('<', '&lt;').replace('>', '&gt;')}]({address})"


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
        for name, default in item.defaults.items():
            default = f"`{default}`" if default else "required"
            if rows.setdefault(name, (default, item.keywords[name]))[0] != default:
                raise ValueError(f"{name} of {item.name} has the default {default}, another class has another")
    lines = ["| keyword | default | meaning |", "|---|---|---|"] if rows else []
    for name, (default, text) in rows.items():
        owners = [item.name for item in items if name in item.keywords]
        only = "" if len(owners) == len(items) else f" (`{'`, `'.join(owners)}` only)"
        lines.append(f"| `{name}` | {default} | {text}{only} |".replace("||", r"\|\|"))
    return [*lines, ""] if lines else []


def example(content: dict[str, Any]) -> dict[str, Any]:
    """The first value of a case file: arguments, logits, target and value, to four digits."""
    case = next(case for case in content["cases"] if "expected" in case)
    own = ", ".join(f"{name}={value}" for name, value in case["config"].items())
    inputs = {name: case["inputs"][name]["data"] for name in ("logits", "target")}
    return {"arguments": own, **inputs, "value": round(case["expected"]["loss"]["data"], 4)}


def in_words(name: str, example: Mapping[str, Any]) -> str:
    """An example in a sentence."""
    call = "`{}({arguments})` of logits `{logits}` and target `{target}` is `{value}`".format(name, **example)
    return f"Example: {call}."


def blocks(text: str) -> list[str]:
    """Markdown with wrapped paragraphs, and a blank line after each block; tables and headings stay unchanged."""
    return [line for part in text.strip().split("\n\n") for line in (part if part[0] in "|#" else wrapped(part), "")]


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of 120 characters at most; no break in code, math or links, none that would begin a list."""
    start = text[: len(text) - len(text.lstrip())]
    text = re.sub(r"`[^`]*`|\$[^$]*\$|\[[^]]*\]\(", lambda code: code[0].replace(" ", "\0"), start + flat(text))
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
    """Write the pages, or show what would change."""
    parser = argparse.ArgumentParser(
        prog="python -m docs",
        description="Write docs/losses.md, docs/losses/, the examples, the families and docs/explorer/losses.js.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page would change")
    check = parser.parse_args(arguments).check
    new = pages()
    there = {*(FOLDER / "docs/losses").glob("*.md"), *(FOLDER / name for name in new)}
    old = {path.relative_to(FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in there if path.exists()}
    changed = [name for name in sorted(old | new) if old.get(name) != new.get(name)]
    for name in changed:
        before, after = old.get(name, "").splitlines(), new.get(name, "").splitlines()
        if check:
            lines = difflib.unified_diff(before, after, name, "docs", n=0, lineterm="")
            sys.stdout.writelines(f"{line}\n" for line in lines)
        elif name in new:
            (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            (FOLDER / name).write_text(new[name], encoding="utf-8", newline="\n")
        else:
            (FOLDER / name).unlink()
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
