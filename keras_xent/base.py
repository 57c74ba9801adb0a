"""The path of one call, for every variant.

target, logits -> ignored rows out -> target -> log-odds -> curve (+ regulariser) -> weights -> reduction
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Literal

import keras
from keras import KerasTensor as Tensor
from keras import ops
from keras.src.backend import get_keras_mask

from keras_xent import arguments, guard, log_odds, reduction, targets
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

    _has_looked, _has_warned = False, False

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

        In a replica of tf.distribute it is that of the rows of all replicas, over the number of replicas: what they
        return and their gradients add up to those of the whole batch, as Keras adds them. hard_fraction ranks the rows
        of each replica by themselves.

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
            return reduction.reduce(self._counted(y_pred, y_true, sample_weight, mask), self.reduction)

    def call(self, y_true: Any, y_pred: Any) -> Tensor:
        """Return the losses of the rows."""
        return reduction.reduce(self._counted(y_pred, y_true, None, None), "none")

    def parts(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return (weighted sum of the row losses, denominator), whose quotient is the loss.

        Add both over micro-batches or devices, then divide: that is the mean of the whole batch. With "sum" the
        denominator is 1, that of the whole sum: add the first number alone. hard_fraction ranks each part by itself.
        """
        if self.reduction == "none":
            raise ValueError('reduction must be "mean", "weighted_mean" or "sum" for parts(), got "none"')
        return reduction.parts(self._counted(y_pred, y_true, sample_weight, mask), self.reduction)

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
    def _rows(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, keras_mask: Any) -> Rows:
        """Take a call up to its rows."""

    def _counted(self, logits: Any, target: Any, sample_weight: Any, mask: Any, *, has_gradient: bool = True) -> Rows:
        """Take a call up to the rows that count."""
        keras_mask = get_keras_mask(logits)
        tensor = targets.checked_logits(logits)
        tensor = tensor if has_gradient else ops.stop_gradient(tensor)
        rows = self._rows(tensor, target, sample_weight, mask, keras_mask)
        if not targets.is_compiling() and not self._has_looked:
            self._look(logits, rows)
        return rows._replace(kept=reduction.hardest(rows.losses, rows.kept, self.hard_fraction))

    def _look(self, logits: Any, rows: Rows) -> None:
        """Warn, once, of probabilities where logits are wanted, or the reverse; read no values that cost a wait."""
        self._has_looked, doubt = self._doubt(logits, rows, None)
        if doubt is not None:
            self._has_warned = True
            guard.warn(f"{type(self).__name__} {doubt}")

    def _doubt(self, logits: Any, rows: Rows | None, check: bool | None) -> tuple[bool, str | None]:
        """Return whether what can be seen of a call is enough, and why its input seems to be of the wrong kind.

        Its values are read as `targets.read` does with `check`.
        """
        activation, logits = targets.activation_of(logits), targets.checked_logits(logits)
        axis, views = self._layout(logits)
        kind = {"has_classes": axis is not None, "from_logits": self.from_logits}
        doubt = guard.of_activation(activation, **kind)
        size = 1 if axis is None else logits.shape[axis]
        shape = tuple(logits.shape)
        is_known = None not in shape
        can_tell = is_known and (not self.from_logits or (axis is not None and math.prod(shape) >= guard.ROWS * size))
        values = targets.read(logits, check, axis) if can_tell and doubt is None else None
        if values is None:
            return doubt is not None, doubt
        counted = None if rows is None else reduction.counted(rows)
        counts = None if counted is None else targets.read(counted, check)
        if counted is not None and counts is None:
            return False, None
        return True, guard.of_values(values, counts, keras.backend.standardize_dtype(logits.dtype), views, **kind)

    def _layout(self, logits: Tensor) -> tuple[int | None, int]:
        """Return the class axis of the logits, None if there is none, and how many softmaxes lie along it."""
        return None, 1

    def _needs_logits(self) -> None:
        if not self.from_logits:
            raise ValueError(f"from_logits must be True for {type(self).__name__}, got False")

    def _is_of_package(self) -> bool:
        """Whether no method of it is a user's, who may have parameters there: kernels would give them no gradient."""
        is_ours = type(self).__module__.startswith(__name__.partition(".")[0] + ".")
        return is_ours and not any(callable(getattr(type(self), name, None)) for name in vars(self))

    @staticmethod
    def _expected(curve: Callable[[Tensor], Tensor], mass: Tensor, log_odds: Tensor) -> Tensor:
        """mass * curve(log_odds); 0 with gradient 0 for a class without mass where one of the two is infinite."""
        values = curve(log_odds)
        both = values + log_odds
        if targets.are_finite(both):
            return mass * values
        is_lost = (mass == 0) & ~ops.isnan(log_odds) & ~ops.isfinite(both)
        return ops.where(is_lost, 0.0, mass * curve(ops.where(is_lost, 0.0, log_odds)))


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
        softcap: Bound > 0 of the logits after the temperature, softcap * tanh(logits / softcap). None: no bound.
            It makes -softcap of -inf: mask no classes with that.
    """

    axis: int | None = None
    class_weight: Sequence[float] | None = None
    z_loss: float = 0.0
    softcap: float | None = None

    labels_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis is not None:
            self.axis = arguments.integer("axis", self.axis)
        if self.ignore_index is not None:
            self.ignore_index = arguments.integer("ignore_index", self.ignore_index)
        self.set_class_weight(self.class_weight)
        self.z_loss = arguments.number("z_loss", self.z_loss, "[0, inf)")
        if not self.from_logits and self.z_loss != 0.0:
            raise ValueError(f"z_loss must be 0 with from_logits=False, got {self.z_loss}")
        if self.softcap is not None:
            self.softcap = arguments.number("softcap", self.softcap, "(0, inf)")
            if not self.from_logits:
                raise ValueError(f"softcap must be None with from_logits=False, got {self.softcap}")

    def set_class_weight(self, class_weight: Sequence[float] | None) -> None:
        """Replace the class weights: K numbers >= 0, or None. Compiled code keeps those that it was traced with."""
        self.class_weight = None if class_weight is None else arguments.weights("class_weight", class_weight)
        self._class_weight = None if self.class_weight is None else targets.constant(self.class_weight)
        self._least_weight = 1.0 if self.class_weight is None else min(self.class_weight)

    def _layout(self, logits: Tensor) -> tuple[int | None, int]:
        axis = targets.class_axis(logits, self.axis)
        size = logits.shape[axis]
        return axis, 1 if size is None else max(1, size // self.count_classes(size))

    def count_classes(self, size: Any) -> Any:
        """Return the number of classes, given the size of the class axis of the logits; None if it is unknown."""
        return size

    def transformed(self, logits: Tensor) -> Tensor:
        """Return what the softmax takes, before it is divided by the temperature, of the logits [..., C]."""
        if self.softcap is None:
            return logits
        bound = self.softcap * self.temperature
        return bound * ops.tanh(logits / bound) * log_odds.poison(logits)  # tanh would make a number of +inf

    @property
    def divisor(self) -> float:
        """What the softmax divides its logits by."""
        return self.temperature

    def margin_of(self, logits: Tensor, label: Tensor | None) -> Tensor | float:
        """Return what the logit of a class lacks as the true one: of the class `label` [...], or of each [..., C]."""
        return 0.0

    def score(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return what the curve takes [...] of the class `label` [...]: its log-odds."""
        return log_odds.of_label(logits, label, self.divisor, self.from_logits, self.margin_of(logits, label))

    def scores(self, logits: Tensor) -> Tensor:
        """Return what the curve takes [..., C] of every class: their log-odds."""
        return log_odds.of_classes(logits, self.divisor, self.from_logits, self.margin_of(logits, None))

    def of_target(self, logits: Tensor, target: Tensor, class_weight: Tensor | None) -> Tensor:
        """Return the losses [...] of targets [..., C], given the weights [C] of the classes."""
        masses = target if class_weight is None else target * class_weight
        return ops.sum(self._expected(self.curve, masses, self.scores(logits)), -1)

    def regulariser(self, logits: Tensor, inputs: Tensor) -> Tensor | None:
        """Return what each row's loss [...] gets whatever its target is, given its `transformed` logits and its own."""
        value = None
        if self.z_loss != 0.0:
            value = self.z_loss * log_odds.log_partition(logits, self.divisor) ** 2
        if self.entropy_penalty != 0.0:
            penalty = -self.entropy_penalty * log_odds.entropy(logits, self.divisor, self.from_logits)
            value = penalty if value is None else value + penalty
        return value

    def _keeps(self, *methods: str) -> bool:
        return all(getattr(type(self), method) is getattr(CategoricalLoss, method) for method in methods)

    @property
    def _takes_label_alone(self) -> bool:
        """Whether the log-odds of its label are all that is taken of a row of logits."""
        is_plain = self.from_logits and self.z_loss == self.entropy_penalty == 0.0 and self.softcap is None
        return is_plain and self._keeps("score", "transformed", "regulariser", "margin_of")

    def _has_closed_form(self) -> bool:
        """Whether a smoothed label needs no log-odds but those of its label: cross-entropies."""
        return False

    @property
    def _goes_by_label(self) -> bool:
        """Whether a label needs no scores of all classes."""
        return self.label_smoothing == 0.0 or self._has_closed_form()

    def _of_label(
        self,
        logits: Tensor,
        label: Tensor,
        class_weight: Tensor | None,
        weights: Tensor | None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Return the losses [...] of labels [...] and their `weights`; rows that do not count may hold any logits."""
        share, others = 1.0, None
        if self.label_smoothing > 0.0:
            classes = logits.shape[-1] or ops.cast(ops.shape(logits)[-1], targets.compute_dtype(logits))
            share, other_share = targets.smoothed_shares(classes, self.label_smoothing, self.smooth_over)
            score, others = log_odds.of_label_and_others(logits, label, self.divisor, class_weight, counts)  # [...]
            others = other_share * others
        elif counts is None:
            score = self.score(logits, label)
        else:
            score = log_odds.of_label(logits, label, self.divisor, self.from_logits, counts=counts)
        if self.label_smoothing > 0.0:
            weights = share * ops.ones_like(score) if weights is None else share * weights
        if weights is None:
            losses = self.curve(score)
        elif isinstance(share, float) and targets.take_any_loss(share * self._least_weight):
            losses = weights * self.curve(score)
        else:
            losses = self._expected(self.curve, weights, score)
        return losses if others is None else losses + others

    def _rows(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, keras_mask: Any) -> Rows:
        axis = targets.class_axis(logits, self.axis)
        classes = self.count_classes(logits.shape[axis])
        target, is_labels = targets.labels_or_distribution(target, logits, axis, classes, labels_only=self.labels_only)
        logits = targets.class_axis_last(logits, axis)  # [..., C]

        rows = ops.cast(logits[..., 0], targets.compute_dtype(logits))
        sample_weight = targets.sample_weight_per_row(sample_weight, rows)
        kept = targets.mask_per_row(mask, keras_mask, rows)
        if is_labels and self.ignore_index is not None:
            kept = targets.both(kept, targets.differs(target, self.ignore_index))
        active = kept if sample_weight is None else targets.both(kept, sample_weight != 0)
        is_ranked = self.hard_fraction < 1.0
        # The kernel leaves rows out by itself, and needs no copy of the logits for it.
        is_direct = (
            is_labels
            and self._goes_by_label
            and self._takes_label_alone
            and not (is_ranked and sample_weight is not None)
        )
        if not is_direct:
            logits = ops.cast(logits, targets.compute_dtype(logits))
            logits = targets.harmless_logits(logits, kept, sample_weight, ranked=is_ranked)

        validity = None
        if is_labels:
            classes = self.count_classes(ops.shape(logits)[-1])
            target, validity = targets.checked_labels(target, classes, active, self.check_labels)
        elif kept is not None:
            target = targets.harmless_logits(target, kept, None, ranked=False)
        class_weight = weights = None
        if self._class_weight is not None:
            class_weight = targets.per_class("class_weight", self._class_weight, logits, classes)  # [C]
        if is_labels and class_weight is not None:
            weights = targets.per_label(class_weight, target)  # [...]
        elif not is_labels and self.reduction == "weighted_mean":
            weights = ops.sum(target if class_weight is None else target * class_weight, -1)

        if is_direct:
            losses = self._of_label(logits, target, class_weight, weights, active)
        else:
            rows_of = partial(self._losses, class_weight=class_weight, is_labels=is_labels)
            losses = log_odds.rowwise(rows_of, logits, target) if self._is_of_package() else rows_of(logits, target)
        # Under another floatx, Keras' torch backend promotes what a Python number takes part in.
        losses = ops.cast(losses, targets.compute_dtype(logits))
        losses = losses if validity is None else losses * ops.cast(validity, losses.dtype)
        return Rows(losses, weights, kept, sample_weight)

    def _losses(self, inputs: Tensor, target: Tensor, class_weight: Tensor | None, is_labels: bool) -> Tensor:
        """Return the losses [...] of labels [...] or distributions [..., C], given logits [..., C], row by row."""
        logits = self.transformed(inputs)  # [..., C]
        if is_labels and self._goes_by_label:
            weights = None if class_weight is None else targets.per_label(class_weight, target)  # [...]
            losses = self._of_label(logits, target, class_weight, weights)
        else:
            distribution = (
                ops.cast(log_odds.is_class(target, logits), logits.dtype) if is_labels else target
            )  # [..., C]
            smoothed = targets.smoothed(distribution, self.label_smoothing, self.smooth_over)
            losses = self.of_target(logits, smoothed, class_weight)
        regulariser = self.regulariser(logits, inputs)
        return losses if regulariser is None else losses + regulariser


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
        self._pos_weight = None if self.pos_weight is None else targets.constant(self.pos_weight)

    def slope(self, log_odds: Tensor) -> Tensor:
        """Return the derivative of the curve, elementwise.

        A class that defines `curve` may define this beside it, to save automatic differentiation.
        """
        raise NotImplementedError

    def balance(self) -> tuple[float, float]:
        """Return the weights of labels 1 and 0 beside `pos_weight`."""
        return 1.0, 1.0

    def of_target(self, x: Tensor, target: Tensor, weight_1: Tensor | float, weight_0: Tensor | float) -> Tensor:
        """Return the losses of targets, elementwise, given the log-odds x of label 1 and the weights of both labels."""
        positive = self._expected(self.curve, target * weight_1, x)
        return positive + self._expected(self.curve, (1 - target) * weight_0, -x)

    @property
    def _takes_label_alone(self) -> bool:
        """Whether the loss of a label is its weight > 0 times the curve."""
        given = self.pos_weight if isinstance(self.pos_weight, tuple) else (self.pos_weight,)
        has_weights = targets.take_any_loss(*self.balance(), *(weight for weight in given if weight is not None))
        return self.label_smoothing == 0.0 and type(self).of_target is BinaryLoss.of_target and has_weights

    def _rows(self, logits: Tensor, target: Any, sample_weight: Any, mask: Any, keras_mask: Any) -> Rows:
        logits = ops.cast(logits, targets.compute_dtype(logits))
        target = targets.binary_target(target, logits)
        pos_weight = None
        if self._pos_weight is not None:
            pos_weight = targets.per_class("pos_weight", self._pos_weight, logits)  # [] or [L]

        sample_weight = targets.sample_weight_per_row(sample_weight, logits)
        kept = targets.mask_per_row(mask, keras_mask, logits)
        if self.ignore_index is not None:
            kept = targets.both(kept, targets.differs(target, self.ignore_index))
        active = kept if sample_weight is None else targets.both(kept, sample_weight != 0)
        logits = targets.harmless_logits(logits, kept, sample_weight, ranked=self.hard_fraction < 1.0)

        target, validity, is_label = targets.checked_probabilities(target, active, self.check_labels)
        target = ops.cast(target, logits.dtype)

        x = log_odds.of_positive(logits, self.temperature, self.from_logits)
        given = () if pos_weight is None else (pos_weight,)
        weights = self._weights(target, pos_weight) if self.reduction == "weighted_mean" else None
        if is_label and self._takes_label_alone:
            losses = self._elementwise(self._of_label, self._slope_of_label, x, target, *given)
        else:
            losses = self._elementwise(self._of_smoothed, self._slope_of_smoothed, x, target, *given)

        if self.entropy_penalty != 0.0:
            losses = losses - self.entropy_penalty * log_odds.binary_entropy(logits, self.temperature, self.from_logits)
        # Under another floatx, Keras' torch backend promotes what a Python number takes part in.
        losses = ops.cast(losses, targets.compute_dtype(logits))
        losses = losses if validity is None else losses * ops.cast(validity, losses.dtype)
        return Rows(losses, weights, kept, sample_weight)

    def _elementwise(
        self, function: Callable[..., Tensor], slope: Callable[..., Tensor], x: Tensor, *others: Tensor
    ) -> Tensor:
        """Return function(x, *others), which a loss of this package leaves to the kernel."""
        if not self._is_of_package():
            return function(x, *others)
        return log_odds.elementwise(function, slope if self._has_slope() else None, x, *others)

    def _has_slope(self) -> bool:
        """Whether `slope` is that of the curve, and the loss of a target the mean of the curve over both labels."""
        methods = ("slope", "curve", "of_target")
        slope, curve, of_target = (next(base for base in type(self).__mro__ if name in vars(base)) for name in methods)
        return slope is curve and of_target is BinaryLoss

    def _weights(self, target: Tensor, pos_weight: Tensor | None = None) -> Tensor | None:
        """Return the weights of targets, elementwise; None where all are 1."""
        if pos_weight is None and self.balance() == (1.0, 1.0):
            return None
        weight_1, weight_0 = self._label_weights(pos_weight)
        return target * weight_1 + (1 - target) * weight_0

    def _label_weights(self, pos_weight: Tensor | None) -> tuple[Tensor | float, float]:
        """Return the weights of labels 1 and 0."""
        weight_1, weight_0 = self.balance()
        return (weight_1 if pos_weight is None else weight_1 * pos_weight), weight_0

    def _of_label(self, x: Tensor, label: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        weights, losses = self._weights(label, pos_weight), self.curve(x * log_odds.sign(label))
        return losses if weights is None else weights * losses

    def _slope_of_label(self, x: Tensor, label: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        weights, sign = self._weights(label, pos_weight), log_odds.sign(label)
        slope = self.slope(x * sign) * sign
        return slope if weights is None else weights * slope

    def _of_smoothed(self, x: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        smoothed = targets.smoothed_binary(target, self.label_smoothing, self.smooth_over)
        return self.of_target(x, smoothed, *self._label_weights(pos_weight))

    def _slope_of_smoothed(self, x: Tensor, target: Tensor, pos_weight: Tensor | None = None) -> Tensor:
        smoothed = targets.smoothed_binary(target, self.label_smoothing, self.smooth_over)
        weight_1, weight_0 = self._label_weights(pos_weight)
        positive = self._expected(self.slope, smoothed * weight_1, x)
        return positive - self._expected(self.slope, (1 - smoothed) * weight_0, -x)
