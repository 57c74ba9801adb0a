"""The keywords of the losses: what they accept, which contradict each other, and what follows from them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

from shared_specs.common import arguments, docstrings, guard
from shared_specs.common.facts import drop_overridden


@dataclass(kw_only=True, eq=False, repr=False)
class Options:
    """The keywords of every loss.

    Args:
        from_logits: Whether the input holds logits. False: it holds probabilities; their log-odds are limited to
            +-16.118 (a probability of 1e-7), with gradient 0 beyond.
        label_smoothing: Share of the target that is spread over the classes, in [0, 1].
        smooth_over: "all": (1-e)t + e/K over all K classes, as in torch, Keras and optax; "others":
            (1-e)t + e(sum t - t)/(K-1), over the other classes only.
        ignore_index: Rows (binary: elements) with this label are ignored, even if their logits are NaN. Has no effect
            on soft targets; use `mask` there.
        temperature: Divides the logits, before everything else; > 0.
        entropy_penalty: Any finite number; -entropy_penalty * H(p), in nats, is added to the loss of each row.
        hard_fraction: Share of the kept rows that count, in (0, 1]. These are the rows with the largest loss before
            sample weights.
        check_labels: Whether a label out of range raises. None: on CPU, where reading labels costs no
            synchronisation. Where labels are not read, as under a trace, the loss of such rows is NaN. The loss warns
            of that when it is first traced, and names `check_model`. False: labels are never read, and there is no
            warning.
        reduction: "mean" over the kept rows, "weighted_mean" with the sample weights and the class weights of the
            targets, "sum" or "none". Keras' "sum_over_batch_size" is "mean" and its
            "mean_with_sample_weight" is "weighted_mean".
    """

    from_logits: bool = arguments.field(True, arguments.choice, (True, False))
    label_smoothing: float = arguments.field(0.0, arguments.number, "[0, 1]")
    smooth_over: Literal["all", "others"] = arguments.field("all", arguments.choice, ("all", "others"))
    ignore_index: int | float | None = arguments.field(None, arguments.number)
    temperature: float = arguments.field(1.0, arguments.number, "(0, inf)")
    entropy_penalty: float = arguments.field(0.0, arguments.number)
    hard_fraction: float = arguments.field(1.0, arguments.number, "(0, 1]")
    check_labels: bool | None = arguments.field(None, arguments.choice, (True, False))
    reduction: str = arguments.field("mean", arguments.reduction)

    logits_only: ClassVar[bool] = False
    """Whether `from_logits=False` raises."""
    takes_cosines: ClassVar[bool] = False
    """Whether the logits are cosines, which lie in [-1, 1]."""

    facts: ClassVar[Mapping[str, Collection[str]]] = {}
    """Class attributes that state a fact, with the methods that it is about.

    A subclass that overrides one of these methods has the fact False, unless it states it again.
    """
    proofs: ClassVar[Mapping[str, str]] = {}
    """For some facts, the method that makes it true; a class that states the fact again must define it again too."""
    _example: ClassVar[str] = ""
    """The section "Example" of a docstring, with fields in braces for what differs between losses."""

    _is_built = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Drop the facts that are about overridden methods, and document the keywords of mixins and bases."""
        super().__init_subclass__(**options)
        drop_overridden(cls, cls.facts, cls.proofs)
        docstrings.complete(cls, Options, cls._example)

    def __new__(cls, *positional: Any, **keywords: Any) -> Self:
        """Refuse a keyword that the loss does not have, and say which one may be meant."""
        arguments.refuse_positional(cls, positional)
        arguments.refuse_unknown(cls, keywords)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        """Assign an attribute. A value that a field does not accept raises, and the field keeps its value."""
        if name not in self.__dataclass_fields__:
            super().__setattr__(name, value)
            for fact in (fact for fact, methods in self.facts.items() if name in methods):
                super().__setattr__(fact, False)
            return
        self._refuse_tensor(name, value)
        check = arguments.check_of(type(self), name)
        before: Any = getattr(self, name, None)
        super().__setattr__(name, value if check is None else check(name, value))
        if not self._is_built:
            return
        try:
            self.fields_changed()
        except Exception:
            super().__setattr__(name, before)
            self.fields_changed()
            raise

    def fields_changed(self) -> None:
        """Raise if fields contradict each other, and compute what derives from them.

        Runs after construction and after each assignment of a field. A subclass calls the method of its base first.
        """
        if self.logits_only and not self.from_logits:
            raise ValueError(f"from_logits must be True for {type(self).__name__}, got False")
        if not self.from_logits and self.temperature != 1.0:
            raise ValueError(f"temperature must be 1 with from_logits=False, got {self.temperature}")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments that differ from their defaults, ready for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}
        return {name: arguments.listed(value) for name, value in changed.items()}

    def _refuse_tensor(self, name: str, value: Any) -> None:
        """Raise if a value for a field is a tensor whose numbers cannot be read here."""

    def _kind(self, logits: Any) -> guard.Kind:
        """Return what the loss takes, given logits."""
        return guard.Kind(type(self).__name__, self.from_logits, self.takes_cosines, self.temperature)

    def _weight_of_classes(self) -> str | None:
        """Return the keyword that weights the classes; None if none does."""
        return None


@dataclass(kw_only=True, eq=False, repr=False)
class CategoricalOptions(Options):
    """The keywords of losses over K exclusive classes.

    Args:
        class_weight: K numbers >= 0 that multiply the loss of each class, or a dictionary
            {class: number} of all K classes, as in Keras' `fit`.
        z_loss: z_loss * logsumexp(logits / temperature)^2 is added to the loss of each row; >= 0.
        softcap: Bound > 0 of the logits after the temperature, softcap * tanh(logits / softcap). None: no bound. A
            logit of -inf becomes -softcap, so do not rule out classes by -inf.
        ignore_index: Rows with this label are ignored, even if their logits are NaN. Has no effect on soft targets; use
            `mask` there.
    """

    axis: int | None = arguments.field(None, arguments.integer)
    class_weight: Sequence[float] | Mapping[int, float] | None = arguments.field(None, arguments.weights)
    z_loss: float = arguments.field(0.0, arguments.number, "[0, inf)")
    softcap: float | None = arguments.field(None, arguments.number, "(0, inf)")
    ignore_index: int | float | None = arguments.field(None, arguments.integer)

    reads_log_odds: ClassVar[bool]
    """Whether the input of the curve are log-odds, so that the loss of a label needs no inputs of other classes."""
    is_linear: ClassVar[bool]
    """Whether the loss of a target is the expectation of the curve over its classes."""
    is_cross_entropy: ClassVar[bool]
    """Whether the curve is that of cross-entropy, which has closed forms for smoothed labels and for distributions."""
    passes_logits: ClassVar[bool]
    """Whether the softmax reads the logits unchanged, or only capped; `divisor` and `margin_in` say the rest."""
    has_plain_softmax: ClassVar[bool]
    """Whether the softmax divides the logits by the temperature, and takes no margin from the true class."""
    has_common_regulariser: ClassVar[bool]
    """Whether `regulariser` adds z_loss and entropy_penalty alone."""
    reads_one_logits: ClassVar[bool]
    """Whether the losses of the rows come from one tensor of logits, by `_given` and `_losses`, as `linear` needs."""

    def fields_changed(self) -> None:
        super().fields_changed()
        if not self.from_logits and self.z_loss != 0.0:
            raise ValueError(f"z_loss must be 0 with from_logits=False, got {self.z_loss}")
        if not self.from_logits and self.softcap is not None:
            raise ValueError(f"softcap must be None with from_logits=False, got {self.softcap}")

    def set_class_weight(self, class_weight: Sequence[float] | Mapping[int, float] | None) -> None:
        """Replace the class weights: K numbers >= 0, or None. Compiled code keeps the ones that it was traced with."""
        self.class_weight = class_weight

    def _kind_of_layer(self, size: int) -> guard.Kind:
        """Return what the loss takes, given logits [N, C] of a layer."""
        return guard.Kind(type(self).__name__, True, self.takes_cosines, self.temperature, axis=1, classes=size)

    def _weight_of_classes(self) -> str | None:
        return None if self.class_weight is None else "class_weight"

    @property
    def divisor(self) -> float:
        """What the softmax divides the logits by."""
        return self.temperature

    @property
    def _reads_statistics(self) -> bool:
        """Whether a loss of a label reads only what the classes of its row add up to, but for its smoothing."""
        return self.from_logits and self.reads_log_odds and self.passes_logits and self.has_common_regulariser

    @property
    def _is_of_statistics(self) -> bool:
        """Whether the loss of a label is a function of what the classes of its row add up to."""
        return self._reads_statistics and self._goes_by_label(has_margin=not self.has_plain_softmax)

    @property
    def _reads_what_kernels_know(self) -> bool:
        """Whether kernels give all that the loss of a label needs: log-odds, softcap, `z_loss`, `entropy_penalty`."""
        return self._reads_statistics and self.has_plain_softmax

    @property
    def _is_of_label_alone(self) -> bool:
        """Whether the loss of a row depends on its logits only through the log-odds of the label."""
        is_plain = self.z_loss == self.entropy_penalty == 0.0 and self.softcap is None
        return is_plain and self._reads_what_kernels_know

    @property
    def _is_plain_cross_entropy(self) -> bool:
        """Whether the loss of a distribution, but for its smoothing, is what the kernel for distributions computes."""
        return self.is_cross_entropy and self.is_linear and self._is_of_label_alone

    def _is_direct(self, is_labels: bool, reads_once: bool) -> bool:
        """Whether kernels take the logits as they are given, and leave rows out themselves, without a copy.

        `reads_once`: whether the kernels of `_in_one_read` can run.
        """
        if not is_labels:
            return reads_once and self._is_plain_cross_entropy
        takes_label = self._reads_what_kernels_know if reads_once else self._is_of_label_alone
        return takes_label and self._goes_by_label(has_margin=False)

    def _goes_by_label(self, has_margin: bool) -> bool:
        """Whether the loss of a label needs no inputs of the curve for the other classes."""
        if self.label_smoothing == 0.0:
            return True
        has_closed_form = self.is_cross_entropy and self.is_linear and self.from_logits and not has_margin
        return has_closed_form and take_any_loss(self.label_smoothing)


@dataclass(kw_only=True, eq=False, repr=False)
class BinaryOptions(Options):
    """The keywords of losses over two classes.

    Args:
        pos_weight: Weight >= 0 of label 1: a number (a sequence of one is one), one per label, along `axis`, or an
            array that broadcasts against the logits without their batch axis: (C, 1, 1) for images (B, C, H, W).
        axis: Axis of the logits that holds the labels of a `pos_weight` of one number per label. None: the last.
    """

    pos_weight: float | Sequence[Any] | None = arguments.field(None, arguments.weight_or_weights)
    axis: int | None = arguments.field(None, arguments.integer)

    is_linear: ClassVar[bool]
    """Whether the loss of a label is its weight times the curve, and that of a target is linear in it."""
    has_slope: ClassVar[bool]
    """Whether `with_slope` has the curve and its derivative, and the loss is linear in the target."""
    is_cross_entropy: ClassVar[bool]
    """Whether the curve is that of cross-entropy: curve(-m) = curve(m) + m, so smoothed labels need no other."""

    def fields_changed(self) -> None:
        super().fields_changed()
        if self.axis is not None and isinstance(self.pos_weight, tuple) and isinstance(self.pos_weight[0], tuple):
            raise ValueError(f"axis must be None where pos_weight has rows, which say where they lie, got {self.axis}")

    def balance(self) -> tuple[float, float]:
        """Return the weights of labels 1 and 0, without `pos_weight`."""
        return 1.0, 1.0

    @property
    def _is_of_label_alone(self) -> bool:
        """Whether the loss of a label follows from its weight, > 0, its log-odds and their curve, in `_of_label`."""
        if self._share_of_other > 0.0:
            # Beyond half, curve(m) and share * m in `_of_label` would nearly cancel.
            return self.is_cross_entropy and self._weight_of_classes() is None and self._share_of_other <= 0.5
        return self.is_linear and take_any_loss(*self.balance(), arguments.least(self.pos_weight))

    @property
    def _share_of_other(self) -> float:
        """What smoothing takes from a label, and gives to the other one."""
        return self.label_smoothing / 2 if self.smooth_over == "all" else self.label_smoothing

    def _weight_of_classes(self) -> str | None:
        if self.pos_weight is not None:
            return "pos_weight"
        return None if self.balance() == (1.0, 1.0) else "alpha"


def take_any_loss(*weights: float) -> bool:
    """Whether all weights stay positive in float32, so that weight * inf is never 0 * inf; 1e-30 leaves a margin."""
    return all(weight >= 1e-30 for weight in weights)
