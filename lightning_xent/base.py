"""The call of every loss, from the inputs to one number; `categorical` and `binary` compute the losses of the rows.

target, logits -> ignored rows out -> target -> log-odds -> curve (+ regulariser) -> weights -> reduction
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lightning_xent import reading, reduction, watch
from lightning_xent.kernels import tensors
from lightning_xent.reduction import Rows
from shared_specs.common import arguments
from shared_specs.common.options import Options

EXAMPLE = """
Example:
    >>> import torch, lightning_xent
    >>> loss = lightning_xent.{name}({arguments})
    >>> logits, target = torch.tensor({logits}), torch.tensor({target})
    >>> round(loss(logits, target).item(), 4)
    {value}
"""


@dataclass(kw_only=True, eq=False, repr=False)
class Loss(Options, nn.Module, ABC):
    """Base of every loss: the common keywords, the call, and its reduction."""

    _example = EXAMPLE

    __jit_unused_properties__: ClassVar[list[str]] = []

    def __init_subclass__(cls, **options: Any) -> None:
        """Let TorchScript script a network that holds a loss. It reads no code of a loss, so it cannot call one."""
        super().__init_subclass__(**options)
        cls.__jit_unused_properties__ = [name for name in dir(cls) if isinstance(getattr(cls, name, None), property)]
        torch.jit.unused(cls.forward)

    @property
    def __jit_ignored_attributes__(self) -> list[str]:
        """The names of the fields; TorchScript does not know the types of all."""
        return [field.name for field in fields(self)]

    def __new__(cls, *positional: Any, **keywords: Any) -> Self:
        loss = super().__new__(cls, *positional, **keywords)
        super(Options, loss).__init__()  # here, because Dynamo cannot enter methods of a module before this
        return loss

    def __post_init__(self) -> None:
        self._watch = watch.Watch()
        self.fields_changed()
        self._is_built = True

    def _refuse_tensor(self, name: str, value: Any) -> None:
        if tensors.is_compiling() and arguments.is_array(value):  # Dynamo reads no values
            raise arguments.without_value(name, value)
        if isinstance(value, Tensor) and tensors.has_tangent(value):
            raise arguments.not_plain(name, f"a {type(value).__name__} that gradients train")

    def forward(
        self, logits: Tensor, target: Any, sample_weight: Any = None, mask: Any = None, denominator: Any = None
    ) -> Tensor:
        """Return the loss in the compute dtype: float64 for float64 logits, float32 for all others.

        Args:
            logits: Floating point, of any rank.
            target: Labels or distributions, as the class says.
            sample_weight: A number, or weights whose shape is a leading part of the rows' shape.
                A row of weight 0 adds exactly 0, but "mean" counts it.
            mask: True for rows that count, in a leading part of the rows' shape.
            denominator: Divides the sum of the row losses, in place of the denominator of `reduction`. A number >= 0 or
                a scalar tensor, such as the number of rows of all micro-batches of a step. 0 gives a loss of 0.

        Raises:
            ValueError: A shape that does not fit, a label out of range (see `check_labels`), or a `denominator`
                that is negative (a tensor: where labels are read too), is not a scalar, or comes with the reduction
                "none".
            TypeError: Logits that are not floating point, class indices that are not integers, or an input that does
                not hold numbers.
        """
        rows = self._watched(logits, target, sample_weight, mask, adds_up=self.reduction != "none")
        return reduction.reduce(rows, self.reduction, denominator, self.check_labels)

    def parts(self, logits: Tensor, target: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return (weighted sum of the row losses, denominator), whose quotient is the loss.

        Add both over micro-batches or devices, then divide: that is the mean of the whole batch. With "sum" the
        denominator is 1, so add the sums only. hard_fraction ranks the rows of each part separately.
        """
        if self.reduction == "none":
            raise ValueError('reduction must be "mean", "weighted_mean" or "sum" for parts(), got "none"')
        return reduction.parts(self._watched(logits, target, sample_weight, mask, adds_up=True), self.reduction)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities that the loss computes from the logits, in the compute dtype.

        Temperature and softcap apply. Margins, logit adjustment and class weights do not: only training needs them. The
        gradient reaches the logits, and small probabilities keep their digits.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define probabilities()")

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())

    @abstractmethod
    def curve(self, log_odds: Tensor) -> Tensor:
        """Return the loss of a class, elementwise, given its log-odds m, p = sigmoid(m)."""

    @abstractmethod
    def _rows(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None) -> Rows:
        """Return the rows of a call: their losses and weights, and which are kept."""

    def _added_rows(
        self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None
    ) -> Rows:
        """Return the rows of a call whose reduction adds them up, which the loss may have done already."""
        return self._rows(logits, target, sample_weight, mask, check_labels)

    def _rows_of_shards(
        self, logits: Any, target: Any, sample_weight: Any, mask: Any, check_labels: bool | None
    ) -> Rows | None:
        """Return the rows of a DTensor without its logits being gathered, or None."""
        return None

    def _watched(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, *, adds_up: bool) -> Rows:
        """Return the rows of a user's call; the first one may warn of its input."""
        rows = self._counted(logits, target, sample_weight, mask, self.check_labels, adds_up=adds_up)
        if tensors.is_compiling() or not self._watch.has_looked:  # Dynamo would compile again once it has looked
            logits = reading.checked_logits(logits)  # of a DTensor no value is read
            self._watch.look(self._kind(logits), logits, rows)
        return rows

    def _counted(
        self,
        logits: Tensor,
        target: Any,
        sample_weight: Any,
        mask: Any,
        check_labels: bool | None,
        *,
        adds_up: bool = False,
    ) -> Rows:
        """Return the rows of a call after `hard_fraction`; where only their sum is wanted, `adds_up` saves memory."""
        target, sample_weight, mask = map(reading.whole, (target, sample_weight, mask))
        given, rows = (target, sample_weight, mask, check_labels), None
        if reading.is_distributed(logits):
            rows = self._rows_of_shards(logits, *given)
        if rows is None:
            logits = reading.checked_logits(reading.whole(logits))
            rows = (self._added_rows if adds_up else self._rows)(logits, *given)
        kept = reduction.hardest(rows.losses, rows.kept, self.hard_fraction)
        return Rows(rows.losses, rows.weights, kept, rows.sample_weight, rows.size)

    @staticmethod
    def _expected(curve: Callable[[Tensor], Tensor], mass: Tensor, log_odds: Tensor) -> Tensor:
        """mass * curve(log_odds); 0 with gradient 0 where the mass is 0 and the curve or the log-odds are infinite."""
        values = curve(log_odds)
        both = values + log_odds
        if reading.are_finite(both):
            return mass * values
        is_lost = (mass == 0) & ~torch.isnan(log_odds) & ~torch.isfinite(both)
        return torch.where(is_lost, 0.0, mass * curve(torch.where(is_lost, 0.0, log_odds)))
