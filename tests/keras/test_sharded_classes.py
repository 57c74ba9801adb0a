"""Classes sharded over devices by JAX, which partitions the program: GSPMD and `keras.distribution.ModelParallel`.

The compiled program has to exchange a few numbers for each row, and no logits.
"""

from pathlib import Path

import numpy as np
import pytest

import many_devices
from keras_xent.log_odds import PARTS
from sides import name as side_name

pytestmark = pytest.mark.skipif(side_name != "keras-jax", reason="only JAX partitions a program over devices")

ROWS = 8
SUPPORT = Path(__file__).parents[1] / "support"


def test_the_same_value_and_gradient_without_a_gather_of_logits():
    """For all losses on two and four devices, and for models that train; in one process, whose start takes long."""
    found = many_devices.found(SUPPORT / "sharded_classes.py", 4)
    assert {devices: len(results) for devices, results in found["losses"].items()} == {"2": 4, "4": 34}
    for results in found["losses"].values():
        assert max(result["value"] for result in results.values()) < 1e-6
        assert max(result["gradient"] for result in results.values()) < 1e-5
        # The peak of a row and its place, of each device; sums of the parts of the classes.
        assert max(result["gathered"] for result in results.values()) <= ROWS * PARTS
    (alone, logs), *others = found["trained"]
    for weights, sharded_logs in others:
        np.testing.assert_allclose(weights, alone, atol=1e-6, rtol=0)
        np.testing.assert_allclose(sharded_logs, logs, rtol=1e-6)
    for of_cases in found["mapped"]:
        assert len(of_cases) == 3
        assert max(of_cases.values()) < 1e-5
    of_losses, error = found["explicit"]
    assert len(of_losses) == 3
    assert max(of_losses.values()) < 1e-6
    assert "call it inside jax.shard_map" in error
