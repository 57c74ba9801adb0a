"""Facts that a class states about its methods."""

from collections.abc import Collection, Mapping


def drop_overridden(owner: type, facts: Mapping[str, Collection[str]], proofs: Mapping[str, str]) -> None:
    """Set a fact to False if a class, its mixins included, overrides a method that the fact is about.

    `facts` maps the attribute that states a fact to the methods that it is about, `proofs` some of these attributes to
    the method that makes the fact true. A class that overrides a method keeps the fact if it states it again, and
    defines its proof again.
    """
    for fact, methods in facts.items():
        stated = max(_place(owner, name) for name in (fact, proofs.get(fact, fact)))
        if any(_place(owner, method) < stated for method in methods):
            setattr(owner, fact, False)


def _place(owner: type, name: str) -> int:
    """Return the place, among a class and its bases, of the one that an attribute comes from."""
    return next(place for place, base in enumerate(owner.__mro__) if name in vars(base))
