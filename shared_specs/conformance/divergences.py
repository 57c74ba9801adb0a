"""docs/divergences.md: what other libraries get wrong, each with a program that shows it.

A section is a heading of the third level, a comment that says where it holds, its text and a python block:

    <!-- targets: torch, timm; cases: */all-ignored, */empty* -->

`targets` are those whose environment runs the block; `cases` are globs of the ids that it explains. In place of
targets, `requires: jax, some-package==1.0` names what an environment of its own installs. A `print(...)  # text` of
the block, in one line or more, prints this text; where it no longer does, the library has changed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from shared_specs.conformance import environments

PAGE = environments.ROOT / "docs/divergences.md"
SECTION = re.compile(
    r"^### (?P<title>[^\n]+)\n\n<!-- (?P<facts>[^\n]+) -->\n(?P<text>.*?)^```python\n(?P<code>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)
# See `make_torchvision_importable`.
IMPORTABLE = """\
import importlib.util
if importlib.util.find_spec("torchvision"):
    from shared_specs.conformance.adapters import _torch
    _torch.make_torchvision_importable()
"""
SAID = re.compile(r"^(?: *print\(.*)?\)  # (.*)$", flags=re.MULTILINE)


@dataclass(frozen=True)
class Divergence:
    """One section."""

    title: str
    code: str
    targets: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        """The address of the heading in a page."""
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")

    def explains(self, target: str, case: str) -> bool:
        """Whether this section is about a wrong case of a target."""
        return target in self.targets and any(fnmatchcase(case, glob) for glob in self.cases)


def read(page: Path = PAGE) -> list[Divergence]:
    """All sections with a program, in the order of the page."""
    found = []
    for section in SECTION.finditer(page.read_text(encoding="utf-8")):
        facts = dict(fact.split(": ", 1) for fact in section["facts"].split("; "))
        if unknown := facts.keys() - {"targets", "requires", "cases"}:
            raise ValueError(
                f"{page.name}, {section['title']!r}: a comment must have targets or requires, got {unknown}"
            )
        lists = {name: tuple(facts[name].split(", ")) for name in facts}
        found.append(Divergence(section["title"], section["code"], **lists))
    return found


def problem(python: Path, divergence: Divergence, **variables: str) -> str | None:
    """Run the program of a section: what it printed other than it says, or None."""
    process = environments.run(python, "-c", IMPORTABLE + divergence.code, **variables)
    wanted, got = SAID.findall(divergence.code), process.stdout.splitlines()
    if process.returncode == 0 and got == wanted:
        return None
    return f"{divergence.title}: want {wanted}, got {got}" + (f", exit {process.returncode}" * bool(process.returncode))


def unexplained(target: str, wrong: Sequence[str], page: Path = PAGE) -> list[str]:
    """The wrong cases of a target that no section is about."""
    sections = read(page)
    return [case for case in wrong if not any(section.explains(target, case) for section in sections)]
