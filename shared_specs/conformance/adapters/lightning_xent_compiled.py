"""lightning_xent under torch.compile."""

from shared_specs.conformance.adapters.lightning_xent import ARGUMENTS, DISTRIBUTION, REQUIREMENTS, offer

__all__ = ["ARGUMENTS", "DISTRIBUTION", "MODES", "REQUIREMENTS", "offer"]

MODES = ("compiled",)
