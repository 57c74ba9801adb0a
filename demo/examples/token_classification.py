"""Punctuation restored: what follows each word of a text in lower case?"""

import re

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from demo.data import Split
from demo.examples import text
from demo.examples.example import IGNORED, Example, kept

CLASS_NAMES = ["nothing", "comma", "full stop", "colon"]
MARKS = {",": 1, ".": 2, ":": 3}
VOCABULARY = 3000
"""As in the config."""

SHORTEST, LONGEST = 8, 32
"""Words a row. Rows end anywhere: with the end of a sentence, their length would give the full stop away."""

TEST_SHARE = 0.15
WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*|[0-9]+|[.,:]")


class TokenClassification(Example):
    about = "the text of Python's documentation topics in lower case: which mark followed each word?"
    score_name = "macro F1"
    margin = 0.06

    def load(self, seed: int) -> Split:
        """Return word numbers [N, 32], 0 where a row has ended, and the marks [N, 32], -1 there."""
        parts = [_words(part) for part in text.held_out(_prose(), seed, TEST_SHARE)]
        numbers = text.vocabulary((word for word, _ in parts[0]), VOCABULARY)
        generator = np.random.default_rng([seed, 5])
        train, test = (_rows(part, numbers, generator) for part in parts)
        return Split(*train, *test, CLASS_NAMES)

    def score(self, split: Split, predicted: NDArray) -> float:
        target = split.test_target
        labels = range(len(CLASS_NAMES))
        return float(f1_score(kept(target, target), kept(predicted, target), labels=labels, average="macro"))

    def baseline(self, split: Split) -> float:
        """Return the best score without context: each word's own most frequent mark, or nothing everywhere."""
        counts = np.zeros((VOCABULARY, len(CLASS_NAMES)))
        target = split.train_target
        np.add.at(counts, (kept(split.train_inputs, target), kept(target, target)), 1)
        return max(super().baseline(split), self.score(split, counts.argmax(1)[split.test_inputs]))


def _prose() -> list[str]:
    """Return paragraphs of sentences, without code, grammar and tables, which are indented or have no full stop."""
    return [part for part in text.topic_paragraphs() if re.match(r"(\* )?[A-Z]", part) and part.endswith((".", ":"))]


def _words(paragraphs: list[str]) -> list[tuple[str, int]]:
    """Return each word in lower case, with the class of the mark behind it."""
    words: list[tuple[str, int]] = []
    for token in WORD.findall(" ".join(paragraphs)):
        if token not in MARKS:
            words.append((token.lower(), 0))
        elif words:
            words[-1] = (words[-1][0], MARKS[token])
    return words


def _rows(
    words: list[tuple[str, int]], numbers: dict[str, int], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the text in rows of 8 to 32 words, in random order."""
    rows = []
    while words:
        length = int(generator.integers(SHORTEST, LONGEST + 1))
        row, words = words[:length], words[length:]
        padding = [(0, IGNORED)] * (LONGEST - len(row))
        rows.append([*((numbers.get(word, text.UNKNOWN), mark) for word, mark in row), *padding])
    table = generator.permutation(np.array(rows))  # [N, 32, 2]
    return np.ascontiguousarray(table[..., 0]), np.ascontiguousarray(table[..., 1])
