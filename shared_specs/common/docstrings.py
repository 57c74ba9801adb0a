"""Docstrings of classes whose parameters stand in a mixin."""

import inspect
import re
from collections.abc import Iterable

SECTION = re.compile(r"^(?=(?:Args|Returns|Raises|Reference):)", re.MULTILINE)


def take_sections(owner: type, mixins: Iterable[type]) -> None:
    """Add the sections of the mixins' docstrings to that of a class. `python -OO` has no docstrings."""
    for mixin in mixins:
        if owner.__doc__ and mixin.__doc__:
            owner.__doc__ = joined(owner.__doc__, mixin.__doc__)


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
