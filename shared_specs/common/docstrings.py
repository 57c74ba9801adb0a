"""Docstrings of classes whose parameters stand in a mixin."""

import inspect
import re
from collections.abc import Iterable

SECTIONS = re.compile(r"(.*?)(?:^Args:\n(.*?))?(?:^(Reference: .*))?", re.DOTALL | re.MULTILINE)


def take_sections(owner: type, mixins: Iterable[type]) -> None:
    """Add the sections of the mixins' docstrings to that of a class. `python -OO` has no docstrings."""
    for mixin in mixins:
        if owner.__doc__ and mixin.__doc__:
            owner.__doc__ = joined(owner.__doc__, mixin.__doc__)


def joined(own: str, shared: str) -> str:
    """Return a docstring with the `Args` of another before its own, and the other's `Reference` if it has none."""
    text, arguments, reference = _sections(own)
    _, shared_arguments, shared_reference = _sections(shared)
    described = "\n".join(part for part in (shared_arguments, arguments) if part)
    parts = [text, f"Args:\n{described}" if described else "", reference or shared_reference]
    return "\n\n".join(part for part in parts if part)


def _sections(docstring: str) -> list[str]:
    """Return the text, the arguments and the reference of a docstring."""
    match = SECTIONS.fullmatch(inspect.cleandoc(docstring))
    return [(part or "").rstrip() for part in match.groups()] if match else [docstring, "", ""]
