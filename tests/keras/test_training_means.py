"""docs/training_means.md: with our losses, the step of Keras' fit has the gradient of all its rows at once.

Slow, because test_train_step.py and test_distribution.py hold the same losses to the same gradient in less time.
"""

import pytest

from shared_specs.conformance import means
from sides import name as side_name

(TRAINER,) = [trainer for trainer in means.TRAINERS if trainer.backend == side_name.removeprefix("keras-")]


@pytest.mark.slow
@pytest.mark.parametrize("devices", TRAINER.devices)
def test_ours_has_the_gradient_of_the_whole_batch(devices):
    means.check(means.measured(TRAINER, devices))
