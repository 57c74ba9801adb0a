"""The notebooks are listed, end in a picture that is described, and check what their text says. The build runs them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/notebooks"
INDEX = (FOLDER / "index.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md")) if path.stem != "index"}
MOST_SECONDS, MOST_LINES = 120, 40
WIDTH = 8
"""Inches of a picture: 800 pixels."""


def cells(page):
    """The header and the code of each cell."""
    fenced = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    assert len(fenced) == page.count("```{")
    parts = [re.match(r"(---\n.*?\n---\n|(?::[^\n]*\n)+\n|)(.*)", cell, flags=re.DOTALL) for cell in fenced]
    return [part.groups() for part in parts]


def is_hidden(header):
    return "remove-cell" in header


def test_every_notebook_is_listed():
    contents = re.findall(
        r"^docs/notebooks/(\w+)$", (ROOT / "docs/contents.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert contents[0] == "index"
    assert len(contents) == len(set(contents))
    linked = re.findall(r"^\| \[.*?\]\((\w+)\.md\) \| [^|]+\? \|", INDEX, re.MULTILINE)
    assert set(PAGES) == set(contents) - {"index"} == set(linked)
    assert contents[1:] == linked


@pytest.mark.parametrize("name", PAGES)
class TestNotebook:
    def test_it_says_what_it_asks_and_how_long_it_takes(self, name):
        start = PAGES[name].split("\n## ")[0]
        assert re.search(r"^# .+$", start, re.MULTILINE)
        assert "?" in start
        (seconds,) = re.findall(r"^Runs in less than (\d+) seconds on two idle CPU cores\.$", start, re.MULTILINE)
        assert int(seconds) <= MOST_SECONDS

    def test_cells_are_short_python(self, name):
        for _, code in cells(PAGES[name]):
            ast.parse(code)
            assert code.count("\n") <= MOST_LINES, code

    def test_it_ends_in_a_picture(self, name):
        code = [code for header, code in cells(PAGES[name]) if not is_hidden(header)][-1]
        assert code.endswith("plt.show()\n")

    def test_pictures_are_described_and_800_pixels_wide(self, name):
        for header, code in cells(PAGES[name]):
            sizes = re.findall(r"figsize=\((\S+),", code)
            assert sizes == [str(WIDTH)] * code.count("plt.show()")
            alternatives = re.findall(r"^    alt: >-\n((?: {6}.*\n)+)", header, re.MULTILINE)
            assert len(alternatives) == len(sizes)
            assert all(len(text.split()) >= 20 for text in alternatives)

    def test_it_checks_what_it_says(self, name):
        header, code = cells(PAGES[name])[-1]
        assert is_hidden(header)
        assert code.startswith("# What the text says of this run.\n")
        assert code.count("assert ") >= 3

    def test_torch_is_the_backend_where_both_frameworks_are(self, name):
        code = "".join(code for _, code in cells(PAGES[name]))
        if "import keras\n" in code and "import torch\n" in code:
            assert code.index('os.environ["KERAS_BACKEND"] = "torch"') < code.index("import keras\n")

    def test_links_lead_somewhere(self, name):
        targets = re.findall(r"\]\((\S+?)(?:#[\w-]+)?\)", PAGES[name])
        assert targets
        for target in targets:
            assert (FOLDER / target).is_file(), target
