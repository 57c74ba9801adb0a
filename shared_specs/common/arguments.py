"""Fields that carry their check: each check returns the canonical value or raises an error that names the argument."""

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from numbers import Real
from typing import Any, TypeVar

T = TypeVar("T")

REDUCTIONS = ("none", "sum", "mean", "weighted_mean")
FOREIGN = {
    "ignore_class": ("Keras", "ignore_index"),
    "apply_class_balancing": ("Keras", "alpha"),
    "weight": ("torch", "class_weight"),
    "size_average": ("torch", "reduction"),
    "reduce": ("torch", "reduction"),
    "ignored_index": ("smp", "ignore_index"),
    "smooth_factor": ("smp", "label_smoothing"),
    "dim": ("smp", "axis"),
    "smoothing": ("timm", "label_smoothing"),
    "num_splits": ("timm", "views"),
    "clip": ("timm", "margin"),
    "disable_torch_grad_focal_loss": ("timm", "detach_modulator"),
    "label_smoothing_factor": ("Transformers", "label_smoothing"),
    "weights": ("MMDetection", "class_weight"),
    "avg_non_ignore": ("MMDetection", "ignore_index"),
    "lse_square_scale": ("Liger and flash-attn", "z_loss"),
    "ce_weight": ("Liger", "class_weight"),
    "ignore_label": ("Caffe and HRNet", "ignore_index"),
    "padding_idx": ("Fairseq", "ignore_index"),
    "scale_pos_weight": ("XGBoost", "pos_weight"),
    "cls_num_list": ("LDAM's authors", "class_counts"),
    "max_m": ("LDAM's authors", "max_margin"),
    "s": ("ArcFace's, CosFace's and LDAM's authors", "scale"),
    "m": ("ArcFace's and CosFace's authors", "margin"),
    "k": ("the truncated loss's authors", "truncate_at"),
    "T": ("distillation's authors", "temperature"),
    "A": ("symmetric cross-entropy's authors", "log_zero"),
}
"""Keywords of other libraries: the library, and the name here."""
FAMILY = "the class says it: Binary... has a sigmoid, Categorical... a softmax"
IN_THE_CALL = "{} is an argument of the call: build the loss first, then call it"
LOGARITHMS = "{} has no counterpart: pass the exponentials"
DICE = "{} has no counterpart: add the Dice loss of another library"
BOTH_TARGETS = "leave {} out: class indices and distributions are accepted, and their shapes tell them apart"
WITHOUT_COUNTERPART = {
    "weight": "weight of torch is the sample_weight of the call here",
    "alpha": "alpha of focal losses is class_weight=[1 - alpha, alpha]; for two labels pos_weight=alpha / (1 - alpha)",
    "dtype": "leave dtype out: float64 is computed in float64, and all else in float32",
    "name": "name is a keyword of Keras: leave it out",
    "eps": "leave eps out: nothing is clipped",
    "clip": "leave clip out: nothing is clipped",
    "num_classes": "leave num_classes out: the logits have the classes",
    "embedding_size": "leave embedding_size out: the loss takes the cosines, and the last layer is yours",
    "loss_weight": "multiply the loss by loss_weight",
    "include_background": "include_background=False is class_weight=[0, 1, ...] here",
    "classes": "classes of smp is class_weight with 0 for the classes that are left out",
    "where": "where of optax is the mask of the call here",
    "target_threshold": "compare the target with the threshold before the call",
    "sum_classes": 'sum_classes is reduction="none" here, then a sum over the classes and a mean over the rows',
    "normalized": 'normalized is reduction="none" here, divided by the sum of the modulators',
    "reduced_threshold": "reduced_threshold has no counterpart: raise gamma, or use hard_fraction",
    "smooth_dense": "leave smooth_dense out: label_smoothing smooths distributions too",
    "delta": "delta of MONAI is class_weight=[1 - delta, delta, ...] here",
    "logit_scale": "logit_scale of flash-attn is temperature=1 / logit_scale here",
    "return_z_loss": "the z-loss is part of the loss: subtract the loss with z_loss=0 to get it alone",
    "num_items_in_batch": "num_items_in_batch of Transformers is the denominator of the call here",
    "avg_factor": "avg_factor of MMDetection is the denominator of the call here",
    **{name: BOTH_TARGETS.format(name) for name in ("to_onehot_y", "soft_label", "sparse_label", "one_hot")},
    **{name: LOGARITHMS.format(name) for name in ("log_target", "log_targets", "log_predictions")},
    **{name: DICE.format(name) for name in ("lambda_dice", "lambda_ce", "lambda_focal")},
    **{
        name: IN_THE_CALL.format(name)
        for name in (
            "logits",
            "labels",
            "target",
            "targets",
            "input",
            "inputs",
            "y_true",
            "y_pred",
            "sample_weight",
            "mask",
        )
    },
    **dict.fromkeys(("use_sigmoid", "use_softmax", "sigmoid", "softmax", "mode", "other_act", "activation"), FAMILY),
}
"""Keywords of other libraries that losses do not have: what to do instead."""
REDUCTION_SYNONYMS = {"sum_over_batch_size": "mean", "mean_with_sample_weight": "weighted_mean", None: "none"}


def field(default: T, check: Callable[..., Any], *details: Any) -> T:
    """Declare a dataclass field with its default and its check, `check(name, value, *details)`.

    A loss runs the check at construction and at each assignment. If the default is None, None is accepted unchecked.
    """
    return dataclasses.field(default=default, metadata=checked(check, *details, optional=default is None))


def checked(check: Callable[..., Any], *details: Any, optional: bool = False) -> Mapping[str, Any]:
    """Return the metadata that gives a field this check; for fields without a default."""

    def check_field(name: str, value: Any) -> Any:
        return None if optional and value is None else check(name, value, *details)

    accepts = RANGES[check](*details) if check in RANGES else ""
    return {"check": check_field, "range": f"{accepts} or None" if optional and accepts else accepts}


def check_of(owner: type, name: str) -> Callable[[str, Any], Any] | None:
    """Return the check of a field. If a subclass redeclares it without one, the check of the base applies."""
    return _metadata(owner, name).get("check")


def is_required(declared: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING


def range_of(owner: type, name: str) -> str:
    """Return what a field accepts, such as "[0, inf)"; an empty string if its check does not say."""
    return str(_metadata(owner, name).get("range", ""))


def _metadata(owner: type, name: str) -> Mapping[str, Any]:
    for base in owner.__mro__:
        declared = getattr(base, "__dataclass_fields__", {}).get(name)
        if declared is not None and "check" in declared.metadata:
            return declared.metadata
    return {}


def refuse_unknown(owner: type, keywords: Collection[str]) -> None:
    """Raise a TypeError for the first unknown keyword of a dataclass, and suggest the one that may be meant."""
    declared: Collection[str] = owner.__dataclass_fields__  # type: ignore[attr-defined]
    if all(keyword in declared for keyword in keywords):
        return
    _, *taken = inspect.signature(owner.__init__).parameters.values()  # type: ignore[misc]
    names = [item.name for item in taken]  # also those of a subclass with its own constructor
    unknown = [keyword for keyword in keywords if keyword not in names]
    if unknown and all(item.kind is not inspect.Parameter.VAR_KEYWORD for item in taken):
        raise unknown_keyword(owner.__name__, unknown[0], names)


def refuse_positional(owner: type, positional: Sequence[Any]) -> None:
    """Raise a TypeError for an argument without its keyword, unless a subclass has a constructor that accepts it."""
    if not positional:
        return
    _, *taken = inspect.signature(owner.__init__).parameters.values()  # type: ignore[misc]
    if all(item.kind is inspect.Parameter.KEYWORD_ONLY for item in taken):
        raise TypeError(
            f"{owner.__name__} takes its arguments by keyword, as in {owner.__name__}(ignore_index=-1), got "
            f"{positional[0]!r} without one"
        )


def unknown_keyword(owner: str, keyword: str, names: Sequence[str]) -> TypeError:
    """Return the error of a keyword that is not one of `names`, with the one that may be meant."""
    meant = meant_by(keyword, names) or f"its keywords are {', '.join(names)}"
    return TypeError(f"{owner} got an unexpected keyword argument {keyword!r}: {meant}")


def meant_by(keyword: str, names: Sequence[str]) -> str:
    """Return a hint at the name that a keyword may mean; an empty string if there is none."""
    whose, ours = FOREIGN.get(keyword, ("", None))
    if ours in names:
        return f"{keyword} of {whose} is {ours} here"
    if keyword in WITHOUT_COUNTERPART:
        return WITHOUT_COUNTERPART[keyword]
    close = difflib.get_close_matches(keyword, names, 1)
    return f"did you mean {close[0]!r}?" if close else ""


def number(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Return `value` as a float in `interval`, which is written like "[0, 1)"; infinity and NaN are never in it."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    item = plain(name, value)
    if isinstance(item, Real) and not isinstance(item, bool):
        result = _as_float(item)
        above = result > low or (result == low and interval[0] == "[")
        below = result < high or (result == high and interval[-1] == "]")
        if above and below:
            return result
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}")


def weights(name: str, value: Any) -> tuple[float, ...]:
    """Return a list, tuple, array or tensor of weights >= 0, or a dictionary {class: weight}, as a tuple of floats."""
    items = plain(name, value)
    if isinstance(items, Mapping):
        items = _in_order_of_classes(name, items)
    if not isinstance(items, Sequence) or isinstance(items, str | bytes) or not items:
        raise ValueError(f"{name} must be a non-empty flat sequence of numbers in [0, inf), got {value!r}")
    return tuple(number(f"{name}[{position}]", item, "[0, inf)") for position, item in enumerate(items))


def weight_or_weights(name: str, value: Any) -> Any:
    """Return one weight >= 0 as a float, several as nested tuples. A sequence of one number is that number."""
    value = plain(name, value)
    if isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a number or a sequence with one per label, got {value!r}: the weights {{0: a, 1: b}} of "
            "both classes are pos_weight = b / a"
        )
    result, _ = _nested(name, value)
    return result[0] if isinstance(result, tuple) and len(result) == 1 and not isinstance(result[0], tuple) else result


def listed(value: Any) -> Any:
    """Return tuples as lists, at any depth; other values unchanged."""
    return [listed(item) for item in value] if isinstance(value, tuple) else value


def least(value: Any) -> float:
    """Return the smallest weight in tuples of any depth; 1 for None."""
    if isinstance(value, tuple):
        return min([least(item) for item in value])  # a list: Dynamo in torch 2.6 cannot trace min of a map
    return 1.0 if value is None else float(value)


def _nested(name: str, value: Any) -> tuple[Any, tuple[int, ...]]:
    """Return weights >= 0 as nested tuples of floats, and their shape."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        return number(name, value, "[0, inf)"), ()
    found = [_nested(f"{name}[{position}]", item) for position, item in enumerate(value)]
    shapes = {shape for _, shape in found}
    if len(shapes) != 1:
        raise ValueError(
            f"{name} must be a number, or a non-empty array of numbers in rows of one length, got {value!r}"
        )
    return tuple(item for item, _ in found), (len(found), *shapes.pop())


def counts(name: str, value: Any) -> tuple[float, ...]:
    """Return the row counts of the classes, all > 0, as a tuple of floats."""
    result = weights(name, value)
    empty = [position for position, count in enumerate(result) if count == 0]
    if empty:
        raise ValueError(
            f"{name}[{empty[0]}] must be > 0, got 0: merge a class without rows into another, leave it out, "
            "or give it a pseudo-count such as 1"
        )
    return result


def same_length(name: str, values: Sized, class_weight: Sized | None) -> None:
    """Raise ValueError unless there are as many numbers as class weights."""
    if class_weight is not None and len(class_weight) != len(values):
        raise ValueError(f"{name} must have {len(class_weight)} numbers, as class_weight has, got {len(values)}")


def number_or_name(name: str, value: Any, interval: str, names: Collection[str]) -> Any:
    """Return `value` if it is one of `names`, otherwise as a number in `interval`."""
    if isinstance(value, str) and value in names:
        return str(value)
    try:
        return number(name, value, interval)
    except ValueError:
        wanted = f"a number in {interval} or {' or '.join(map(repr, names))}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}") from None


def integer(name: str, value: Any, minimum: int = -(2**63)) -> int:
    """Return a whole number as an int; bools are refused. Some config readers turn -1 into -1.0."""
    item = plain(name, value)
    is_number = isinstance(item, Real) and not isinstance(item, bool)
    if not is_number or not _as_float(item).is_integer() or not minimum <= item < 2**63:
        wanted = "an integer of 64 bits" if minimum < 0 else f"an integer >= {minimum}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return int(item)


def choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value` if it is one of `choices`."""
    value = plain(name, value)
    if not any(value is allowed or (type(value) is type(allowed) and value == allowed) for allowed in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def reduction(name: str, value: Any) -> str:
    """Return the canonical name of a reduction, given that name or Keras' spelling."""
    choice(name, value, (*REDUCTIONS, *REDUCTION_SYNONYMS))
    return str(REDUCTION_SYNONYMS.get(value, value))


def text(name: str, value: Any) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string or None, got {value!r}")
    return value


def parsed(value: Any) -> Any:
    """Return text that holds a number as that number, because PyYAML reads 1e-4 as text; all else unchanged."""
    if isinstance(value, list | tuple):
        return [parsed(item) for item in value]
    if isinstance(value, Mapping):
        return {parsed(key): parsed(item) for key, item in value.items()}
    for read in (int, float) if isinstance(value, str) else ():
        try:
            result = read(value)
        except ValueError:
            continue
        return result if math.isfinite(_as_float(result)) else value
    return value


def plain(name: str, value: Any) -> Any:
    """Return an array or tensor of any framework as a number or list; other values unchanged.

    Raises:
        TypeError: A tensor with a gradient, a parameter, a variable, or a tensor whose values are not known yet.
    """
    if value is None or type(value) in (bool, int, float, str, list, tuple, dict):
        return value
    is_parameter = any(base.__name__ == "Parameter" for base in type(value).__mro__) or hasattr(value, "trainable")
    if getattr(value, "requires_grad", False) is True or is_parameter:
        raise not_plain(name, f"a {type(value).__name__} that gradients train")
    try:
        result = as_python(value)
    except Exception:  # a traced tensor has no values: JAX and torch raise their own errors
        result = value
    if is_array(result):
        raise without_value(name, value)
    return result


def is_array(value: Any) -> bool:
    """Whether a value is an array or tensor of any framework, by its attributes."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def without_value(name: str, value: Any) -> TypeError:
    """Return the error of a parameter that is traced."""
    return not_plain(name, f"a {type(value).__name__} without a value: it is traced")


def not_plain(name: str, what: str) -> TypeError:
    """Return the error of a parameter that is no plain number."""
    return TypeError(
        f"{name} must be a plain number (or plain numbers), got {what}. A loss gives its parameters no gradient: pass "
        "float(value) to use its current value, or write a loss whose curve holds the parameter (docs/own_loss.md)"
    )


def _in_order_of_classes(name: str, given: Mapping[Any, Any]) -> list[Any]:
    """Return the values of a dictionary whose keys are the classes 0 to K - 1, in any order."""
    values = {integer(f"a key of {name}", key, 0): value for key, value in given.items()}
    missing = [label for label in range(len(values)) if label not in values]
    if missing:
        raise ValueError(
            f"{name} must have a number for each class from 0 to {max(values)}, got none for class {missing[0]}: write "
            "the list of all K numbers. In Keras' fit, a class without a weight has the weight 1.0"
        )
    return [values[label] for label in range(len(values))]


def _as_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def as_python(value: Any) -> Any:
    """Return an array or tensor of any framework as a number or list; other values unchanged."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value.numpy().tolist() if hasattr(value, "numpy") else value


RANGES: Mapping[Callable[..., Any], Callable[..., str]] = {
    number: lambda interval="(-inf, inf)": interval,
    number_or_name: lambda interval, names: " or ".join([interval, *map(repr, names)]),
    integer: lambda minimum=None: "integer" if minimum is None else f"integer >= {minimum}",
    weights: lambda: "numbers in [0, inf)",
    weight_or_weights: lambda: "number or numbers in [0, inf)",
    counts: lambda: "numbers in (0, inf)",
    choice: lambda choices: " or ".join(map(repr, choices)),
    reduction: lambda: " or ".join(map(repr, REDUCTIONS)),
    text: lambda: "text",
}
"""What each check accepts, in a few words, given its details."""
