"""The path of one call, for every variant.

target, logits -> ignored rows out -> target -> log-odds -> curve (+ regulariser) -> weights -> reduction
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import keras
from keras import KerasTensor as Tensor
from keras import ops
from keras.src.backend import get_keras_mask
from keras.src.losses.loss import scale_loss_for_distribution

from keras_xent import arguments, log_odds, reduction, targets
from keras_xent.reduction import Rows


@dataclass(kw_only=True, eq=False, repr=False)
class Loss(keras.losses.Loss, ABC):
    """Base of every loss: the common keywords, the call, and its reduction.

    Args:
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited
            to +-16.118, those of 1e-7; the gradient beyond is 0.
        label_smoothing: Share of the target that is spread over the classes, in [0, 1].
        smooth_over: "all": (1-e)t + e/K over all K classes, as in torch, Keras and optax; "others":
            (1-e)t + e(sum t - t)/(K-1), over the other classes only.
        ignore_index: Rows (binary: elements) with this label count nowhere, whatever their logits hold. It is no
            label of a distribution: mask its rows.
        temperature: Divisor of the logits, > 0, before everything else.
        entropy_penalty: Any finite number; each row's loss gets -entropy_penalty * H(p), in nats.
        hard_fraction: Share of the kept rows that count, in (0, 1]: those of largest loss, without sample weights.
        check_labels: Whether a label out of range raises. None: on CPU, where reading labels costs no
            synchronisation. Where they are not read, as under a trace, the loss of their rows is NaN.
        reduction: "mean" over the kept rows, "weighted_mean" by sample weight and class weight of the
            target, "sum" or "none". Keras' "sum_over_batch_size" is "mean" and its
            "mean_with_sample_weight" is "weighted_mean".
        name: Name of the loss in Keras; by default that of the class in snake case.
    """

    from_logits: bool = True
    label_smoothing: float = 0.0
    smooth_over: Literal["all", "others"] = "all"
    ignore_index: int | float | None = None
    temperature: float = 1.0
    entropy_penalty: float = 0.0
    hard_fraction: float = 1.0
    check_labels: bool | None = None
    reduction: str = "mean"
    name: str | None = None

    def __post_init__(self) -> None:
        name, reduction_name = self.name, self.reduction
        if name is not None and not isinstance(name, str):
            raise ValueError(f"name must be a string or None, got {name!r}")
        super().__init__(name=name, reduction="none")
        self._is_named = bool(name)
        self.from_logits = arguments.choice("from_logits", self.from_logits, (True, False))
        self.label_smoothing = arguments.number("label_smoothing", self.label_smoothing, "[0, 1]")
        self.smooth_over = arguments.choice("smooth_over", self.smooth_over, ("all", "others"))
        self.temperature = arguments.number("temperature", self.temperature, "(0, inf)")
        self.entropy_penalty = arguments.number("entropy_penalty", self.entropy_penalty)
        self.hard_fraction = arguments.number("hard_fraction", self.hard_fraction, "(0, 1]")
        self.check_labels = arguments.choice("check_labels", self.check_labels, (None, True, False))
        self.reduction = arguments.reduction(reduction_name)
        if not self.from_logits and self.temperature != 1.0:
            raise ValueError(f"temperature must be 1 with from_logits=False, got {self.temperature}")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> Tensor:
        """Return the loss in the compute dtype: float64 for float64 tensors, float32 for all others.

        Args:
            y_true: Labels or distributions, as the class says.
            y_pred: Logits: floating point, of any rank. Its Keras mask counts beside `mask`.
            sample_weight: A number, or weights whose shape is a leading part of the rows' shape.
                A row of weight 0 adds exactly 0, but "mean" counts it.
            mask: True for rows that count, in the rows' shape.

        Raises:
            ValueError: A shape that does not fit, or a label out of range (see `check_labels`).
            TypeError: Logits that are not floating point, or class indices that are not integers.
        """
        with keras.name_scope(self.name):
            loss = reduction.reduce(self._rows(y_pred, y_true, sample_weight, mask), self.reduction)
        # Under tf.distribute Keras adds up the gradients of the replicas, each of which took its own mean.
        return scale_loss_for_distribution(loss) if "mean" in self.reduction else loss

    def call(self, y_true: Any, y_pred: Any) -> Tensor:
        """Return the losses of the rows."""
        return reduction.reduce(self._rows(y_pred, y_true, None, None), "none")

    def parts(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return (weighted sum of the row losses, denominator), whose quotient is the loss.

        Add both over micro-batches or devices, then divide: that is the mean of the whole batch. With "sum" the
        denominator is 1, that of the whole sum: add the first number alone. hard_fraction ranks each part by itself.
        """
        if self.reduction == "none":
            raise ValueError('reduction must be "mean", "weighted_mean" or "sum" for parts(), got "none"')
        return reduction.parts(self._rows(y_pred, y_true, sample_weight, mask), self.reduction)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments that differ from their defaults, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}
        if not self._is_named:
            changed.pop("name", None)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return self.from_config, (self.get_config(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.get_config().items())})"

    @abstractmethod
    def curve(self, log_odds: Tensor) -> Tensor:
        """Return the loss of a class, elementwise, given its log-odds m, p = sigmoid(m)."""

    @abstractmethod
    def _rows(self, logits: Any, target: Any, sample_weight: Any, mask: Any) -> Rows:
        """Take a call up to its rows."""

    def _expected(self, mass: Tensor, log_odds: Tensor) -> Tensor:
        """mass * curve(log_odds); 0 with gradient 0 for a class without mass, unless its log-odds are NaN."""
        counts = (mass != 0) | ops.isnan(log_odds)
        return ops.where(counts, mass * self.curve(ops.where(counts, log_odds, 0.0)), 0.0)


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalLoss(Loss):
    """Base of the losses over K exclusive classes; a variant adds its curve.

    A row is a position of the logits without the class axis. Its target is a class index (any integer dtype)
    or a distribution over the classes, of which the loss is the expectation: sum_c t_c w_c curve(m_c). Where
    K = 1, a target in the shape of the logits is a distribution.

    Args:
        axis: Class axis of the logits. None: the last, as in Keras.
        class_weight: K numbers >= 0 that multiply the loss of each class.
        z_loss: Factor >= 0 of logsumexp(logits / temperature)^2, which each row's loss gets.
    """

    axis: int | None = None
    class_weight: Sequence[float] | None = None
    z_loss: float = 0.0

    labels_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis is not None:
            self.axis = arguments.integer("axis", self.axis)
        if self.ignore_index is not None:
            self.ignore_index = arguments.integer("ignore_index", self.ignore_index)
        if self.class_weight is not None:
            self.class_weight = arguments.weights("class_weight", self.class_weight)
        self._class_weight = targets.constant(self.class_weight)
        self.z_loss = arguments.number("z_loss", self.z_loss, "[0, inf)")
        if not self.from_logits and self.z_loss != 0.0:
            raise ValueError(f"z_loss must be 0 with from_logits=False, got {self.z_loss}")

    def _rows(self, logits: Any, target: Any, sample_weight: Any, mask: Any) -> Rows:
        keras_mask = get_keras_mask(logits)
        logits = targets.floating_logits(logits)
        axis = targets.class_axis(logits, self.axis)
        target, is_labels = targets.labels_or_distribution(target, logits, axis, labels_only=self.labels_only)
        logits = targets.class_axis_last(logits, axis)  # [..., C]
        class_weight = targets.per_class("class_weight", self._class_weight, logits)  # [C]

        sample_weight = targets.sample_weight_per_row(sample_weight, logits[..., 0])
        kept = targets.mask_per_row(mask, keras_mask, logits[..., 0])
        if is_labels and self.ignore_index is not None:
            kept = targets.both(kept, targets.differs(target, self.ignore_index))
        active = kept if sample_weight is None else targets.both(kept, sample_weight != 0)
        logits = targets.harmless_logits(logits, kept, sample_weight, ranked=self.hard_fraction < 1.0)

        validity = None
        if is_labels:
            target, validity = targets.checked_labels(target, ops.shape(logits)[-1], active, self.check_labels)

        if is_labels and self.label_smoothing == 0.0:
            weights = None if class_weight is None else ops.take(class_weight, target, axis=0)  # [...]
            m = log_odds.of_label(logits, target, self.temperature, self.from_logits)  # [...]
            losses = self.curve(m) if weights is None else self._expected(weights, m)
        else:
            distribution = (
                ops.cast(log_odds.is_class(target, logits), logits.dtype) if is_labels else target
            )  # [..., C]
            smoothed = targets.smoothed(distribution, self.label_smoothing, self.smooth_over)
            if class_weight is not None:
                distribution, smoothed = distribution * class_weight, smoothed * class_weight
            weights = ops.sum(distribution, -1)  # [...]
            m = log_odds.of_classes(logits, self.temperature, self.from_logits)  # [..., C]
            losses = ops.sum(self._expected(smoothed, m), -1)  # [...]

        if self.z_loss != 0.0:
            losses = losses + self.z_loss * log_odds.log_partition(logits, self.temperature) ** 2
        if self.entropy_penalty != 0.0:
            losses = losses - self.entropy_penalty * log_odds.entropy(logits, self.temperature, self.from_logits)
        # Under another floatx, Keras' torch backend promotes what a Python number takes part in.
        losses = ops.cast(losses, logits.dtype)
        losses = losses if validity is None else losses * ops.cast(validity, losses.dtype)
        kept = reduction.hardest(losses, kept, self.hard_fraction)
        return Rows(losses, weights, kept, sample_weight)


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryLoss(Loss):
    """Base of the losses over two classes, elementwise; multi-label is the same call. A variant adds its curve.

    Every element of the logits is a row. Its target is in [0, 1], 1 for the positive label, of any dtype and of
    the shape of the logits; (N,) for (N, 1) and the reverse are taken. The loss is the expectation over the two
    labels: t w_1 curve(x) + (1 - t) w_0 curve(-x).

    Args:
        pos_weight: Weight >= 0 of label 1: a number (a sequence of one is one), or one per label, along the last axis.
    """

    pos_weight: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ignore_index is not None:
            self.ignore_index = arguments.number("ignore_index", self.ignore_index)
        if self.pos_weight is not None:
            self.pos_weight = arguments.weight_or_weights("pos_weight", self.pos_weight)
        self._pos_weight = targets.constant(self.pos_weight)

    def balance(self) -> tuple[float, float]:
        """Return the weights of labels 1 and 0 beside `pos_weight`."""
        return 1.0, 1.0

    def _rows(self, logits: Any, target: Any, sample_weight: Any, mask: Any) -> Rows:
        keras_mask = get_keras_mask(logits)
        logits = targets.floating_logits(logits)
        target = targets.binary_target(target, logits)
        pos_weight = targets.per_class("pos_weight", self._pos_weight, logits)  # [] or [L]

        sample_weight = targets.sample_weight_per_row(sample_weight, logits)
        kept = targets.mask_per_row(mask, keras_mask, logits)
        if self.ignore_index is not None:
            kept = targets.both(kept, targets.differs(target, self.ignore_index))
        active = kept if sample_weight is None else targets.both(kept, sample_weight != 0)
        logits = targets.harmless_logits(logits, kept, sample_weight, ranked=self.hard_fraction < 1.0)

        target, validity = targets.checked_probabilities(target, active, self.check_labels)
        target = ops.cast(target, logits.dtype)
        smoothed = targets.smoothed_binary(target, self.label_smoothing, self.smooth_over)

        x = log_odds.of_positive(logits, self.temperature, self.from_logits)
        balance_1, weight_0 = self.balance()
        weight_1 = balance_1 if pos_weight is None else balance_1 * pos_weight
        weights = target * weight_1 + (1 - target) * weight_0
        losses = self._expected(smoothed * weight_1, x) + self._expected((1 - smoothed) * weight_0, -x)

        if self.entropy_penalty != 0.0:
            losses = losses - self.entropy_penalty * log_odds.binary_entropy(logits, self.temperature, self.from_logits)
        # Under another floatx, Keras' torch backend promotes what a Python number takes part in.
        losses = ops.cast(losses, logits.dtype)
        losses = losses if validity is None else losses * ops.cast(validity, losses.dtype)
        kept = reduction.hardest(losses, kept, self.hard_fraction)
        return Rows(losses, weights, kept, sample_weight)
