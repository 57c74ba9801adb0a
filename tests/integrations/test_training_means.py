"""docs/training_means.md: with our losses, the step of every trainer has the gradient of all its rows at once."""

import pytest

from shared_specs.conformance import means

TRAINERS = [trainer for trainer in means.TRAINERS if not trainer.backend]


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.module)
def test_ours_has_the_gradient_of_the_whole_batch(trainer, devices):
    means.check(means.measured(trainer, devices))
