"""lightning_xent."""

import lightning_xent
from shared_specs.conformance.offers import Offer
from shared_specs.load import Case

DISTRIBUTION, REQUIREMENTS = "crossent", ("torch",)
ARGUMENTS: dict[str, str] = {}


def offer(case: Case) -> Offer:
    return Offer(getattr(lightning_xent, case.loss)(**case.config))
