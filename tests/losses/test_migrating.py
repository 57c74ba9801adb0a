"""The new calls of docs/migrating.md give on every side what was measured beside the old ones."""

import importlib
import json
import math

import numpy as np
import pytest

from docs import migrating
from sides import is_keras, side

MEASURED = json.loads(migrating.MEASURED.read_text(encoding="utf-8"))["rows"]
ROWS = migrating.rows_of(migrating.read_calls())
FRAMEWORK = "keras" if is_keras else "torch"


@pytest.fixture(scope="module")
def names():
    arrays = migrating.names_of(migrating.arrays(), np.exp)
    tensors = {name: side.tensor(array) for name, array in arrays.items()}
    return vars(side.package) | tensors | {FRAMEWORK: importlib.import_module(FRAMEWORK)}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.key, marks=[] if number % side.fast_share == 0 else [pytest.mark.slow])
        for number, row in enumerate(ROWS)
    ],
)
def test_new_call_gives_the_measured_value(row, names):
    value = side.numpy(eval(row.call("tensorflow" if is_keras else "torch"), dict(names)))
    assert math.isclose(value.sum(), MEASURED[row.key]["new"], rel_tol=migrating.REPEATED)
