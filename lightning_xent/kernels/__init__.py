"""The kernels in torch: for class indices, for distributions, and for any elementwise or rowwise function.

Nothing here calls a compiler: `torch.compile` is the user's to call.
"""

import torch
from torch import Tensor
from torch.nn import Parameter

from lightning_xent.kernels import cuda, distribution, labels, linear, tensors
from lightning_xent.kernels.elementwise import elementwise, elementwise_sum, rowwise
from lightning_xent.kernels.plain import OfLabel, expm1

__all__ = [
    "OfLabel",
    "all_of_label",
    "applies",
    "elementwise",
    "elementwise_sum",
    "expm1",
    "linear",
    "of_distribution",
    "of_label",
    "of_label_and_others",
    "reads_once",
    "rowwise",
    "takes_chunks",
]


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


def takes_chunks(*layer: Tensor) -> bool:
    """Whether a layer can be computed in chunks: under torch.compile, not under other traces and transforms."""
    if tensors.is_compiling():
        is_plain = all(type(each) in (Tensor, Parameter) for each in layer)
        is_dynamo = torch.compiler.is_dynamo_compiling()
        return is_dynamo and is_plain and not (tensors.is_transformed() or tensors.has_hooks())
    return all(
        tensors.is_plain(each) and not tensors.is_traced(each) and not tensors.has_tangent(each) for each in layer
    )


def reads_once(logits: Tensor, *constants: Tensor | None) -> bool:
    """Whether `all_of_label` and the `counts` of `of_distribution` can be asked for: only Triton has them."""
    return tensors.is_plain(logits) and cuda.runs_on(logits.device) and applies(logits, *constants)


def all_of_label(
    logits: Tensor,
    label: Tensor,
    counts: Tensor | None,
    class_weight: Tensor | None,
    temperature: float,
    softcap: float | None,
    *,
    others: bool,
    log_partition: bool,
    entropy: bool,
) -> OfLabel:
    """`of_label`, after a softcap, and what else is wanted, from one read of the logits [..., C], of any float dtype.

    Where `counts` [...] is False, logits are not read, all is 0, and the gradient is exactly 0.
    """
    wanted = {"others": others, "log_partition": log_partition, "entropy": entropy}
    log_odds, *rest = cuda.of_label(logits, label, counts, class_weight, temperature, softcap, **wanted)
    found = dict(zip((name for name, is_wanted in wanted.items() if is_wanted), rest, strict=True))
    return OfLabel(log_odds, *map(found.get, wanted))


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


def of_distribution(logits: Tensor, masses: Tensor, temperature: float, counts: Tensor | None = None) -> Tensor:
    """sum_c m_c (-log p_c) [...], given `logits` [..., C] and masses m >= 0 [..., C], which get no gradient.

    Where `counts` [...] is False, neither is read, the sum is 0, and the gradient is exactly 0; see `reads_once`.
    """
    if cuda.runs_on(logits.device):
        return cuda.of_distribution(logits, masses, counts, temperature)
    return distribution.of_distribution(logits, masses, temperature)
