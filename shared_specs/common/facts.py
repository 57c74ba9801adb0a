"""Facts that a class states about its methods."""

from collections.abc import Collection, Mapping


def drop_overridden(owner: type, facts: Mapping[str, Collection[str]]) -> None:
    """Set a fact to False if a class, its mixins included, overrides a method that the fact is about.

    `facts` maps the attribute that states a fact to the methods that it is about. A class that states it beside the
    method keeps it.
    """
    for fact, methods in facts.items():
        stated = _place(owner, fact)
        if any(_place(owner, method) < stated for method in methods):
            setattr(owner, fact, False)


def _place(owner: type, name: str) -> int:
    """Return the place, among a class and its bases, of the one that an attribute comes from."""
    return next(place for place, base in enumerate(owner.__mro__) if name in vars(base))
