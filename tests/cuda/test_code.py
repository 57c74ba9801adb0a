"""The code that Triton makes of the kernels for three cards: its bounds, and the page that has its figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by the environment triton")


@pytest.fixture(scope="module")
def found():
    """The figures, from a process of its own: in this one the kernels are interpreted."""
    command = [sys.executable, "-m", "docs.gpu", "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_code_keeps_within_bounds(found):
    """16 bytes at once where rows are aligned, and in the loop over a long row no thread waits for another."""
    for name, by_card in found["usage"].items():
        for card, usage in by_card.items():
            what = name, card, usage
            if card != "80":
                assert usage["registers"] <= (224 if "1024 bf16, all options" in name else 128), what
            assert usage["shared"] <= 8192, what
            assert usage["spills"] == 0 or card != "90", what
            if "50257" not in name and "merge" not in name:
                assert usage["load"] == 16, what
                assert usage["store"] == 16 or "forward" in name, what
            if ("8192" in name or "64 x" in name) and "merge" not in name:
                assert usage["looped"] > 0, what
                assert usage["exchanges"] == 0, what


def test_page_has_these_figures(found):
    import triton

    if triton.__version__.startswith("3.9."):
        assert found["is_same"], "run `python -m docs.gpu` with Triton 3.9"
