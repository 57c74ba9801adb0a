"""The kernels in torch: for class indices, for distributions, and for any elementwise or rowwise function.

Nothing here calls a compiler: `torch.compile` is the user's to call.
"""

from torch import Tensor

from lightning_xent.kernels import cuda, distribution, labels, tensors
from lightning_xent.kernels.elementwise import elementwise, rowwise

__all__ = ["applies", "elementwise", "of_distribution", "of_label", "of_label_and_others", "rowwise"]


def applies(logits: Tensor, *constants: Tensor | None) -> bool:
    """Whether the kernels accept these logits, and constants, which get no gradient.

    They accept none under transforms and forward derivatives, and under torch.compile only where Triton runs.
    """
    given = [logits, *(constant for constant in constants if constant is not None)]
    if type(logits) is not Tensor or any(constant.requires_grad for constant in given[1:]):
        return False
    if tensors.is_compiling():
        return cuda.runs_on(logits.device) and not tensors.is_transformed()
    return logits.device.type in ("cpu", "cuda") and not any(
        tensors.is_traced(tensor) or tensors.has_tangent(tensor) for tensor in given
    )


def of_label(logits: Tensor, label: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """Log-odds [...] of the class `label` [...] in `logits` [..., C], in float32 or float64.

    Where `counts` [...] is False the result is some finite number for any logits, and no gradient may flow back to it.
    """
    if cuda.runs_on(logits.device):
        (log_odds,) = cuda.of_label(logits, label, counts, None, temperature)
        return log_odds
    return labels.of_label(logits, label, counts, temperature)


def of_label_and_others(
    logits: Tensor, label: Tensor, counts: Tensor | None, class_weight: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """`of_label`, and sum_{c != y} w_c (-log p_c) [...] over all other classes, given their weights w [C]."""
    if cuda.runs_on(logits.device):
        log_odds, others = cuda.of_label(logits, label, counts, class_weight, temperature, others=True)
        return log_odds, others
    return labels.of_label_and_others(logits, label, counts, class_weight, temperature)


def of_distribution(logits: Tensor, masses: Tensor, temperature: float) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C], which get no gradient."""
    if cuda.runs_on(logits.device):
        return cuda.of_distribution(logits, masses, None, temperature)
    return distribution.of_distribution(logits, masses, temperature)
