"""Text that ships with Python: its documentation topics, and the docstrings of its standard library."""

import ast
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

BLANK_LINES = re.compile(r"\n\s*\n")
UNKNOWN = 1
"""Number of a word outside the vocabulary; 0 is padding."""


def topic_paragraphs() -> list[str]:
    """Return the paragraphs of Python's documentation topics, each once: some topics repeat others."""
    return _paragraphs(topics[name] for name in sorted(topics))


def docstring_paragraphs() -> list[str]:
    """Return the paragraphs of the docstrings in the modules of the standard library, packages left out, each once."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return _paragraphs(text for file in files for text in _docstrings(ast.parse(file.read_bytes())))


def held_out(paragraphs: list[str], seed: int, share: float) -> tuple[list[str], list[str]]:
    """Return the paragraphs to train on and those to test on, about `share` of them, both in their order."""
    is_test = np.random.default_rng([seed, 4]).random(len(paragraphs)) < share
    train = [text for text, test in zip(paragraphs, is_test, strict=True) if not test]
    return train, [text for text, test in zip(paragraphs, is_test, strict=True) if test]


def vocabulary(words: Iterable[str], size: int) -> dict[str, int]:
    """Return the numbers of the most frequent words, from 2 to size - 1 at most; ties in alphabetical order."""
    counts = sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
    return {word: number for number, (word, _) in enumerate(counts[: size - 2], start=2)}


def _paragraphs(texts: Iterable[str]) -> list[str]:
    stripped = (paragraph.strip("\n") for text in texts for paragraph in BLANK_LINES.split(text))
    return list(dict.fromkeys(filter(None, stripped)))


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
