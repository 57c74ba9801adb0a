"""Docstrings of classes whose parameters stand in mixins and bases, and their examples."""

import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

SECTION = re.compile(r"^(?=(?:Args|Returns|Raises|Example|Reference):)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\w+): .*\n?(?: {8}.*\n?)*", re.MULTILINE)


def complete(owner: type, kind: type, example: str) -> None:
    """Add to a class's docstring the sections of its mixins, an example, and the keywords of its bases of a kind.

    `python -OO` has no docstrings.
    """
    if not owner.__doc__:
        return
    text = owner.__doc__
    for mixin in (base for base in owner.__bases__ if not issubclass(base, kind)):
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
