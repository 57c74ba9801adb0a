"""The next word of a text."""

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from demo.data import Split, initial_kernels
from demo.examples import text
from demo.examples.example import Example, LogitsOf, Observed

VOCABULARY = 10_000
"""As in the config."""

LENGTH = 32
TEST_SHARE = 0.1
WORD = re.compile(r"\w+(?:[.'-]\w+)*")
WRITTEN, TEMPERATURE = 60, 0.7
"""Words that the network writes after each beginning, and how it draws them."""

SEEN = 5
"""Words that the network looks back on."""

BEGINNINGS = ("the value of the", "return a list of", "if the argument is")
AT_ONCE = 32
"""Rows whose logits are in memory together: 41 MB."""

NOT_A_WORD = ["", "<unknown>"]


class LanguageModelling(Example):
    about = "Python's documentation topics and the docstrings of its standard library: which word comes next?"
    score_name = "log-likelihood of a word"
    margin = 0.3

    def load(self, seed: int) -> Split:
        """Return word numbers [N, 32] and the word after each [N, 32]; no paragraph is in both parts."""
        paragraphs = list(dict.fromkeys(text.topic_paragraphs() + text.docstring_paragraphs()))
        parts = [WORD.findall("\n".join(part).lower()) for part in text.held_out(paragraphs, seed, TEST_SHARE)]
        numbers = text.vocabulary((word for part in parts for word in part), VOCABULARY)
        train, test = (_rows([numbers.get(word, text.UNKNOWN) for word in part]) for part in parts)
        order = np.random.default_rng([seed, 7]).permutation(len(train))
        train = train[order]
        # One block of memory each, as torch wants it.
        rows = [np.ascontiguousarray(part) for part in (train[:, :-1], train[:, 1:], test[:, :-1], test[:, 1:])]
        return Split(*rows, class_names=[*NOT_A_WORD, *numbers])

    def last_kernel(self, shape: tuple[int, int], seed: int) -> NDArray:
        size, words = shape
        # The random numbers after those of the network.
        return initial_kernels([(words, size), (3, size, size), (3, size, size), shape], seed)[-1]

    def score(self, split: Split, predicted: NDArray) -> float:
        """Return the mean log-probability [nats] of the test words, given their own log-probabilities."""
        return float(np.mean(predicted))

    def baseline(self, split: Split) -> float:
        """Return the score of the unigram model: frequencies in the training rows, and one more of each word."""
        counts = np.bincount(split.train_target.ravel(), minlength=len(split.class_names)) + 1
        return self.score(split, np.log(counts / counts.sum())[split.test_target])

    def observe(self, logits_of: LogitsOf, split: Split) -> Observed:
        found = []
        for start in range(0, len(split.test_target), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            log_probability = log_softmax(logits_of(split.test_inputs[rows]), axis=-1)  # [32, 32, V]
            found.append(np.take_along_axis(log_probability, split.test_target[rows, :, None], axis=-1).ravel())
        texts = [_continued(beginning, logits_of, split.class_names, seed) for seed, beginning in enumerate(BEGINNINGS)]
        return {"log_likelihood": float(np.mean(np.concatenate(found))), "texts": texts}

    def result(self, split: Split, observed: Observed) -> float:
        return observed["log_likelihood"]

    def report(self, split: Split, observed: Observed) -> str:
        words = f"{split.train_target.size} words to train on, {split.test_target.size} to test on, "
        words += f"{len(split.class_names)} different ones."
        perplexity, unigram = np.exp(-observed["log_likelihood"]), np.exp(-self.baseline(split))
        lines = [words, f"Perplexity {perplexity:.1f}; of the unigram model: {unigram:.1f}", "", "The network goes on:"]
        return "\n".join([*lines, *(f"- {written}" for written in observed["texts"])])


def _rows(numbers: list[int]) -> NDArray[np.int64]:
    """Return the text in rows [N, 33] whose last word is the first one of the next row."""
    starts = range(0, len(numbers) - LENGTH, LENGTH)
    return np.array([numbers[start : start + LENGTH + 1] for start in starts])


def _continued(beginning: str, logits_of: LogitsOf, names: Iterable[str], seed: int) -> str:
    """Return `beginning` and the words that the network draws after it."""
    names, generator = list(names), np.random.default_rng(seed)
    written = [names.index(word) for word in beginning.split()]
    for _ in range(WRITTEN):
        logits = logits_of(np.array([written[-SEEN:]]))[0, -1, : len(names)]
        logits[: len(NOT_A_WORD)] = -np.inf
        # The largest of logits with Gumbel noise is a draw from their softmax.
        written.append(int(np.argmax(logits / TEMPERATURE + generator.gumbel(size=len(logits)))))
    return " ".join(names[number] for number in written)
