"""Docstrings of classes whose parameters stand in mixins and bases, and their examples."""

import inspect
import json
import re
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

SECTION = re.compile(r"^(?=(?:Args|Returns|Raises|Example|Reference):)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\w+): .*\n?(?: {8}.*\n?)*", re.MULTILINE)


class Description(NamedTuple):
    """The parts of a docstring, each text in one line."""

    paragraphs: list[str]
    keywords: dict[str, str]
    reference: str


def described(owner: type) -> Description:
    """Return what the docstring of a loss says.

    Raises:
        ValueError: There is none, as under `python -OO`.
    """
    if not owner.__doc__:
        raise ValueError(f"{owner.__name__} has no docstring: run Python without -OO")
    head, *sections = SECTION.split(inspect.cleandoc(owner.__doc__))
    found = {_title(section): section for section in sections}
    keywords = {entry[1]: _flat(entry[0].partition(": ")[2]) for entry in ENTRY.finditer(found.get("Args", "") + "\n")}
    reference = _flat(found.get("Reference", "").partition(":")[2])
    return Description([_flat(paragraph) for paragraph in head.strip().split("\n\n")], keywords, reference)


def complete(owner: type, kind: type, example: str) -> None:
    """Add to a class's docstring the sections of its mixins, an example, and the keywords of its bases of a kind.

    Mixins are the bases before the first of that kind; others, such as a class of a framework, describe themselves.
    `python -OO` has no docstrings.
    """
    if not owner.__doc__:
        return
    text = owner.__doc__
    for mixin in takewhile(lambda base: not issubclass(base, kind), owner.__bases__):
        text = joined(text, mixin.__doc__ or "")
    if owner.__name__ in examples():
        text = joined(text, example.format(name=owner.__name__, **examples()[owner.__name__]))
    for base in (base for base in owner.__bases__ if issubclass(base, kind)):
        text = with_keywords(text, base.__doc__ or "")
    owner.__doc__ = text


@cache
def examples() -> dict[str, dict[str, Any]]:
    """The arguments, inputs and value of an example of each loss; `python -m docs` writes them from the vectors."""
    return json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))


@cache
def families() -> dict[str, dict[str, str]]:
    """The first line of the docstring of each loss, by families; `python -m docs` writes them."""
    return json.loads(Path(__file__).with_name("families.json").read_text(encoding="utf-8"))


def with_keywords(own: str, base: str) -> str:
    """Return a docstring with those `Args` of a base, after its own, that it does not have."""
    theirs = next((part for part in SECTION.split(inspect.cleandoc(base)) if _title(part) == "Args"), "")
    text, *sections = SECTION.split(inspect.cleandoc(own))
    found = {_title(section): section.rstrip() for section in sections}
    ours = found.pop("Args", "Args:")
    names = {entry[1] for entry in ENTRY.finditer(ours)}
    new = [entry[0].rstrip() for entry in ENTRY.finditer(theirs) if entry[1] not in names]
    return "\n\n".join([text.rstrip(), "\n".join([ours, *new]), *found.values()]) if new else own


def joined(own: str, shared: str) -> str:
    """Return a docstring with the `Args` of another before its own, and the other's sections that it does not have."""
    text, *sections = SECTION.split(inspect.cleandoc(own))
    _, *others = SECTION.split(inspect.cleandoc(shared))
    found, taken = ({_title(section): section.rstrip() for section in parts} for parts in (sections, others))
    if "Args" in found and "Args" in taken and taken["Args"] not in found["Args"]:
        taken["Args"] += found.pop("Args").removeprefix("Args:")
    found = taken | found
    order = ["Args", *(title for title in found if title not in ("Args", "Reference")), "Reference"]
    return "\n\n".join([text.rstrip(), *(found[title] for title in order if title in found)])


def _title(section: str) -> str:
    return section.partition(":")[0]


def _flat(text: str) -> str:
    return " ".join(text.split())
