"""Our own losses as offers."""

from collections.abc import Callable

from shared_specs.conformance.offers import Offer, keras_on
from shared_specs.load import Case


def keras_xent_on(backend: str) -> Callable[[Case], Offer]:
    """The function `offer` of keras_xent on a backend."""
    keras_on(backend)
    import keras_xent

    def offer(case: Case) -> Offer:
        loss = getattr(keras_xent, case.loss)(**case.config)
        return Offer(lambda logits, target, **others: loss(target, logits, **others))

    return offer
