"""The call of every loss, from the inputs to one number; `categorical` and `binary` compute the losses of the rows.

target, logits -> ignored rows out -> target -> log-odds -> curve (+ regulariser) -> weights -> reduction
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import private, reading, reduction, watch
from keras_xent.reduction import Rows
from shared_specs.common import arguments
from shared_specs.common.options import Options

EXAMPLE = """
Example:
    >>> import keras, keras_xent
    >>> loss = keras_xent.{name}({arguments})
    >>> logits, target = keras.ops.array({logits}), keras.ops.array({target})
    >>> round(float(loss(target, logits)), 4)
    {value}
"""


@dataclass(kw_only=True, eq=False, repr=False)
class Loss(Options, keras.losses.Loss, ABC):
    """Base of every loss: the common keywords, the call, and its reduction.

    Args:
        check_labels: Whether a label out of range raises. None: on CPU, where reading labels costs no
            synchronisation. A graph of TensorFlow raises too, by an assertion, which XLA drops. Where nothing can
            raise, under XLA, jax.jit or torch.compile, the loss of such rows is NaN. The loss warns of that when it is
            first traced, and names `check_model`. On JAX a report of the label itself, by a callback to the host, made
            steps of small networks 2 to 7 times slower. False: labels are never read, and there is no warning.
        name: Name of the loss in Keras; by default the name of the class in snake case.
    """

    name: str | None = arguments.field(None, arguments.text)

    _example = EXAMPLE

    _is_naming = False

    def __post_init__(self) -> None:
        self._take_name()
        self._watch = watch.Watch()
        self.fields_changed()
        self._is_built = True

    def __setattr__(self, name: str, value: Any) -> None:
        # Keras assigns a name and a reduction that the fields do not accept.
        of_base = super(Options, self) if self._is_naming else super()
        of_base.__setattr__(name, value)

    def _refuse_tensor(self, name: str, value: Any) -> None:
        if reading.is_compiling() and arguments.is_array(value):  # Dynamo reads no values
            raise arguments.without_value(name, value)
        if reading.has_tangent(value):
            raise arguments.not_plain(name, f"a {type(value).__name__} that gradients train")

    def fields_changed(self) -> None:
        if self.name is None:
            self._take_name()
        super().fields_changed()

    def _take_name(self) -> None:
        """Let Keras make up a name if none is given. It does not know all reductions, so it gets "none" meanwhile."""
        name, reduction_name = self.name, self.reduction
        self._is_naming = True
        super(Options, self).__init__(name=name, reduction="none")
        self._made_up_name = None if name else self.name
        self.reduction = reduction_name
        self._is_naming = False

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None, denominator: Any = None
    ) -> Tensor:
        """Return the loss in the compute dtype: float64 for float64 tensors, float32 for all others.

        In a replica of tf.distribute it is the loss of the rows of all replicas, divided by the number of replicas.
        Keras adds up what the replicas return, and their gradients: both sums are those of the whole batch.
        hard_fraction ranks the rows of each replica separately.

        Args:
            y_true: Labels or distributions, as the class says.
            y_pred: Logits: floating point, of any rank. Its Keras mask counts beside `mask`.
            sample_weight: A number, or weights whose shape is a leading part of the rows' shape.
                A row of weight 0 adds exactly 0, but "mean" counts it.
            mask: True for rows that count, in a leading part of the rows' shape.
            denominator: Divides the sum of the row losses, in place of the denominator of `reduction`. A number >= 0 or
                a scalar tensor, such as the number of rows of all micro-batches of a step, on all replicas. 0 gives a
                loss of 0.

        Raises:
            ValueError: A shape that does not fit, a label out of range (see `check_labels`), or a `denominator`
                that is negative (a tensor: where labels are read too), is not a scalar, or comes with the reduction
                "none".
            TypeError: Logits that are not floating point, class indices that are not integers, or an input that does
                not hold numbers.
        """
        if sample_weight is not None and not reading.is_compiling() and not self._watch.has_warned_of_fit:
            self._watch.look_at_fit(type(self).__name__, self._weight_of_classes())
        with keras.name_scope(self.name):
            rows = self._watched(y_pred, y_true, sample_weight, mask, adds_up=self.reduction != "none")
            return reduction.reduce(rows, self.reduction, denominator, self.check_labels)

    def call(self, y_true: Any, y_pred: Any) -> Tensor:
        """Return the losses of the rows."""
        return reduction.reduce(self._watched(y_pred, y_true, None, None), "none")

    def parts(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return (weighted sum of the row losses, denominator), whose quotient is the loss.

        Add both over micro-batches or devices, then divide: that is the mean of the whole batch. With "sum" the
        denominator is 1, so add the sums only. hard_fraction ranks the rows of each part separately.
        """
        if self.reduction == "none":
            raise ValueError('reduction must be "mean", "weighted_mean" or "sum" for parts(), got "none"')
        return reduction.parts(self._watched(y_pred, y_true, sample_weight, mask, adds_up=True), self.reduction)

    def probabilities(self, logits: Any) -> Tensor:
        """Return the probabilities that the loss computes from the logits, in the compute dtype.

        Temperature and softcap apply. Margins, logit adjustment and class weights do not: only training needs them. The
        gradient reaches the logits, and small probabilities keep their digits.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define probabilities()")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments that differ from their defaults, ready for JSON."""
        changed = super().get_config()
        if self.name == self._made_up_name:
            changed.pop("name", None)
        return changed

    def __reduce__(self) -> tuple[Any, ...]:
        return self.from_config, (self.get_config(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_config().items())})"

    @abstractmethod
    def curve(self, log_odds: Tensor) -> Tensor:
        """Return the loss of a class, elementwise, given its log-odds m, p = sigmoid(m)."""

    @abstractmethod
    def _rows(
        self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, keras_mask: Any, check_labels: bool | None
    ) -> Rows:
        """Return the rows of a call: their losses and weights, and which are kept."""

    def _added_rows(
        self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, keras_mask: Any, check_labels: bool | None
    ) -> Rows:
        """Return the rows of a call whose reduction adds them up, which the loss may have done already."""
        return self._rows(logits, target, sample_weight, mask, keras_mask, check_labels)

    def _watched(
        self,
        logits: Any,
        target: Any,
        sample_weight: Any,
        mask: Any,
        *,
        has_gradient: bool = True,
        adds_up: bool = False,
    ) -> Rows:
        """Return the rows of a user's call; the first one may warn of its input."""
        wanted = {"has_gradient": has_gradient, "adds_up": adds_up}
        rows = self._counted(logits, target, sample_weight, mask, self.check_labels, **wanted)
        if reading.is_compiling() or not self._watch.has_looked:  # Dynamo would compile again once it has looked
            logits = reading.whole(logits)
            self._watch.look(self._kind(reading.checked_logits(logits)), logits, rows)
        return rows

    def _counted(
        self,
        logits: Any,
        target: Any,
        sample_weight: Any,
        mask: Any,
        check_labels: bool | None,
        *,
        has_gradient: bool = True,
        adds_up: bool = False,
    ) -> Rows:
        """Return the rows of a call after `hard_fraction`; where only their sum is wanted, `adds_up` saves memory."""
        keras_mask = private.keras_mask_of(logits)
        logits, target, sample_weight, mask = map(reading.whole, (logits, target, sample_weight, mask))
        logits = reading.checked_logits(logits)
        logits = logits if has_gradient else ops.stop_gradient(logits)
        of_rows = self._added_rows if adds_up else self._rows
        rows = of_rows(logits, target, sample_weight, mask, keras_mask, check_labels)
        kept = reduction.hardest(rows.losses, rows.kept, self.hard_fraction)
        return Rows(rows.losses, rows.weights, kept, rows.sample_weight, rows.size)

    @staticmethod
    def _expected(curve: Callable[[Tensor], Tensor], mass: Tensor, log_odds: Tensor) -> Tensor:
        """mass * curve(log_odds); 0 with gradient 0 where the mass is 0 and the curve or the log-odds are infinite."""
        values = curve(log_odds)
        both = values + log_odds
        if reading.are_finite(both):
            return mass * values
        is_lost = ops.equal(mass, 0) & ~ops.isnan(log_odds) & ~ops.isfinite(both)
        return ops.where(is_lost, 0.0, mass * curve(ops.where(is_lost, 0.0, log_odds)))
