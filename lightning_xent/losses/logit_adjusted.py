"""Cross-entropy of logits that are adjusted by the frequencies of the classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lightning_xent import log_odds, weighting
from lightning_xent.categorical import Softmax
from lightning_xent.losses.cross_entropy import CategoricalCrossEntropy
from shared_specs.common import arguments


@dataclass(kw_only=True, eq=False, repr=False)
class LogitAdjustedCrossEntropy(CategoricalCrossEntropy):
    """Logit-adjusted cross-entropy: -sum_c t_c w_c log p_c, p = softmax(logits + tau log(class_counts)).

    tau = 1 is the balanced softmax. Predict with the plain logits; regularisers use them too. Only logits are accepted:
    `from_logits=False` raises ValueError.

    Args:
        class_counts: K numbers of training rows, > 0, or frequencies.
        tau: Strength of the adjustment, any finite number; 0 is cross-entropy.

    Reference: Menon et al., 2021, Long-tail Learning via Logit Adjustment, arXiv:2007.07314; Ren et al., 2020, Balanced
        Meta-Softmax for Long-Tailed Visual Recognition, arXiv:2007.10740.
    """

    class_counts: Sequence[float] = field(metadata=arguments.checked(arguments.counts))
    tau: float = arguments.field(1.0, arguments.number)

    logits_only: ClassVar[bool] = True

    def fields_changed(self) -> None:
        super().fields_changed()
        arguments.same_length("class_counts", self.class_counts, self.class_weight)
        largest = max(self.class_counts)
        self._adjustment = weighting.constant(tuple(self.tau * math.log(n / largest) for n in self.class_counts))

    def softmax_input(self, inputs: Tensor) -> Softmax:
        logits = self.capped(inputs)
        adjustment = weighting.per_class("class_counts", self._adjustment, logits)  # [C]
        # With logits near 4096, float32 would keep only three decimals of the sum.
        adjusted = log_odds.relative(logits) + self.divisor * adjustment
        return self.softmax(adjusted, unadjusted=logits)
