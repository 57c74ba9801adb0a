"""Writes the verdicts of a test run as JSON lines, for the report."""

import gc
import importlib
import json
import os
import sys
from pathlib import Path

import pytest

# For docs, which is no package. At the end: what is tested is the installed packages.
sys.path.append(str(Path(__file__).parents[1]))

OF_SOME_SIDES = {
    "losses/test_compiled.py": ("keras-torch", "lightning"),  # inductor is torch's
    "losses/test_linear_compiled.py": ("keras-torch", "lightning"),
    "keras/test_parity.py": ("keras-torch",),  # it imports both packages
}
collect_ignore = [path for path, sides in OF_SOME_SIDES.items() if os.environ.get("XENT_SIDE") not in sides]

if "XENT_SIDE" in os.environ:
    # Names Keras' backend, before any test imports Keras.
    importlib.import_module("sides")


def pytest_addoption(parser):
    parser.addoption("--shard", default="0/1", help="I/N: every N-th test of those that are left, from the I-th on")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave the tests of one shard; the N shards have each test once."""
    first, count = map(int, config.getoption("shard").split("/"))
    kept = items[first::count]
    config.hook.pytest_deselected(items=[item for place, item in enumerate(items) if place % count != first])
    items[:] = kept


def pytest_collection_finish():
    """Garbage is not sought among collected tests and modules again and again; that took up to a tenth of the time."""
    if "hypothesis" in sys.modules:
        # At its first example it registers a source of random numbers, and warns where `gc` does not see who holds it.
        hypothesis = importlib.import_module("hypothesis")
        hypothesis.find(hypothesis.strategies.none(), lambda _: True)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def few_compiled_functions():
    """Free what JAX compiled: it keeps each operation for each shape, 5 GB a worker in a run of all tests."""
    yield
    if os.environ.get("XENT_SIDE") == "keras-jax":
        importlib.import_module("jax").clear_caches()


@pytest.fixture(scope="session")
def results_file(worker_id, pytestconfig):
    folder = os.environ.get("XENT_RESULTS")
    if folder is None:
        yield None
        return
    selection = pytestconfig.getoption("markexpr").replace(" ", "-") or "all"
    selection += "-" + pytestconfig.getoption("shard").replace("/", "-of-")
    path = Path(folder) / f"{os.environ['TOX_ENV_NAME']}-{selection}-{worker_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        yield file


@pytest.fixture
def record_verdict(results_file):
    """Record the verdicts on one case; an error case has none."""

    def record(case, dtype, mode, verdicts):
        if results_file is not None:
            row = {
                "side": os.environ["XENT_SIDE"],
                "environment": os.environ["TOX_ENV_NAME"],
                "loss": case.loss,
                "case": case.id,
                "dtype": dtype,
                "mode": mode,
                "passed": all(verdict.ok for verdict in verdicts),
                "worst": None if "tail" in case.flags else max((v.worst for v in verdicts), default=None),
            }
            print(json.dumps(row), file=results_file, flush=True)

    return record
