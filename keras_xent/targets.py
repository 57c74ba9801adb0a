"""Brings targets, masks and weights into the layout of the rows: shapes, label ranges, ignored rows, smoothing."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops
from numpy.typing import NDArray

from keras_xent import private
from keras_xent.shapes import are_known, class_count, is_at_least
from shared_specs.common import arguments, guard

_BACKEND = keras.backend.backend()

if _BACKEND == "torch":
    from keras_xent.kernels import tensors
if _BACKEND == "tensorflow":
    from keras_xent.kernels import tensorflow_graph
if _BACKEND == "jax":
    from keras_xent.kernels import jax_trace


UNIT = "labels in [0, 1] (clip labels that rounding put outside)"
CURE = "pass ignore_index=... to skip the rows of one label"

CORNER = 16
"""Number of entries read along each axis of the rows when values are checked: few, for a batch of any size."""
LARGEST_LABELS = {"bfloat16": 2**8, "float16": 2**11}
"""Narrow dtypes hold all whole numbers up to these; float32 up to 2^24."""


def whole(value: Any) -> Any:
    """Return a torch DTensor as one tensor, the same on every rank; the gradient has the placements of the DTensor."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def checked_logits(logits: Any) -> Tensor:
    """Return logits that are floating point, as a tensor."""
    logits = _tensor("y_pred", logits)
    if not _is_floating(logits):
        raise TypeError(f"y_pred must be a floating-point tensor, got {_dtype(logits)}")
    return logits


def compute_dtype(logits: Tensor) -> str:
    """Return float64 for float64 logits, float32 for all others."""
    return "float64" if _dtype(logits) == "float64" else "float32"


def class_axis(logits: Tensor, axis: int | None) -> int:
    """Return the class axis as a number >= 0; None is Keras': the last."""
    rank = len(logits.shape)
    if rank == 0:
        raise ValueError("y_pred must have a class axis, got a scalar")
    if axis is None:
        axis = rank - 1
    if not -rank <= axis < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for y_pred of rank {rank}, got {axis}")
    if logits.shape[axis] == 0:
        raise ValueError(f"y_pred must have at least one class on axis {axis}, got shape {tuple(logits.shape)}")
    return axis % rank


def class_axis_last(tensor: Tensor, axis: int) -> Tensor:
    """Return `tensor` with its class axis moved to the end."""
    return tensor if axis == len(tensor.shape) - 1 else ops.moveaxis(tensor, axis, -1)  # [..., C]


def labels_or_distribution(
    target: Any, logits: Tensor, axis: int, classes: int | None, *, labels_only: bool
) -> tuple[Tensor, bool]:
    """Return (labels [...], True) or (distribution [..., C], False), by the shape of the target.

    A distribution may be of integers.
    """
    target = _tensor("y_true", target, logits)
    given, before, after = tuple(target.shape), tuple(logits.shape)[:axis], tuple(logits.shape)[axis + 1 :]
    rows, columns, shape = (*before, *after), (*before, 1, *after), (*before, classes, *after)
    # Size 1 beside an unknown number of classes means a label: with one class the loss would always be 0.
    is_column = _fits(given, columns) and given[axis] == 1 and not are_known(shape[axis])
    if _fits(given, shape) and not labels_only and not is_column:
        is_known = given[axis] is not None and (are_known(given[axis]) or given[axis] == shape[axis])
        if not is_known and not _is_floating(target):
            one_hot = "their number" if classes is None else classes
            raise ValueError(
                f"y_true must have a static size on axis {axis}, that of the classes: 1 for labels, {one_hot} for "
                "one-hot; tf.ensure_shape sets it"
            )
        is_checked = not _is_floating(target) and _dtype(target) != "bool"
        target = _wide(target) if is_checked else ops.cast(target, compute_dtype(logits))
        return class_axis_last(target, axis), False  # [..., C]
    if not _fits(given, rows) and not _fits(given, columns):
        wanted = f"class indices of shape {rows}" + ("" if labels_only else f" or a distribution of shape {shape}")
        logits_shape = tuple(logits.shape)
        fits = [place for place in range(1, len(logits_shape)) if _fits(given, _without(logits_shape, place))]
        hint = f"; it fits classes on axis {fits[0]}: set axis={fits[0]}" if fits else ""
        raise ValueError(f"y_true must be {wanted}, got shape {given}{hint}")
    if _dtype(target) == "bool":
        raise TypeError("y_true must hold class indices of an integer dtype, got bool")
    if len(given) > len(rows) and given[axis] == 1:
        target = ops.squeeze(target, axis)
    elif len(given) > len(rows):
        target = ops.reshape(target, _without(sizes(target), axis))  # fails where it is not 1
    return fitted("y_true", _wide(target), class_axis_last(logits, axis)[..., 0]), True  # [...]


def teacher_and_label(target: Any, logits: Any, axis: int | None, *, has_label: bool) -> tuple[Tensor, Tensor | None]:
    """Return the teacher's logits, in the shape of `logits`, and the class indices [...] that follow them or None."""
    target, axis = _tensor("y_true", target, logits), class_axis(logits, axis)
    shape, classes = tuple(logits.shape), logits.shape[axis]
    wanted = (*shape[:axis], None if classes is None else classes + int(has_label), *shape[axis + 1 :])
    if not _fits(tuple(target.shape), wanted):
        holds = "the teacher's logits" + (" and the class index" if has_label else "")
        raise ValueError(f"y_true must hold {holds} in shape {wanted}, got shape {tuple(target.shape)}")
    dtype = _dtype(target)
    if not _is_floating(target) or (has_label and is_at_least(classes, LARGEST_LABELS.get(dtype, 2**24) + 1)):
        raise TypeError(f"y_true must have a floating-point dtype that holds all {classes} labels, got {dtype}")
    if not has_label:
        return fitted("y_true", ops.cast(target, logits.dtype), logits), None
    # ops.split does not trace under torch.compile(fullgraph).
    before = (slice(None),) * axis
    teacher, label = target[(*before, slice(-1))], target[(*before, -1)]
    return fitted("y_true", ops.cast(teacher, logits.dtype), logits), label


def binary_target(target: Any, logits: Tensor) -> Tensor:
    """Return a binary target in the shape of the logits; one of the two may lack an axis of size 1."""
    target = _tensor("y_true", target, logits)
    given, wanted = tuple(target.shape), tuple(logits.shape)
    extra, missing = _axis_too_many(given, wanted), _axis_too_many(wanted, given)
    if missing is not None:
        target = ops.expand_dims(target, missing)
    elif extra is not None:
        target = ops.squeeze(target, extra)
    elif not _fits(given, wanted):
        raise ValueError(
            f"y_true must have the shape of y_pred, {wanted}, got shape {given}; only an axis of size 1, the last or "
            "axis 1, may be missing"
        )
    return fitted("y_true", _wide(target), logits)


def fitted(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    """Return a tensor in the shape of `like`. Sizes that only run time knows are checked there: an operation fails."""
    pairs = [pair for pair in zip(tensor.shape, like.shape, strict=True) if not are_known(*pair)]
    if all(None not in pair and pair[0] == pair[1] for pair in pairs):
        return tensor
    has_values = not isinstance(tensor, Tensor) and not isinstance(like, Tensor)
    with keras.name_scope(f"{name} must fit the shape of y_pred".replace(" ", "_")):
        if _BACKEND == "tensorflow" and has_values and not private.is_for_xla(tensorflow_graph.default_graph()):
            return tensorflow_graph.of_shape_of(tensor, like)
        if len(pairs) == 1 and has_values:
            return ops.reshape(tensor, ops.shape(like))
        # A reshape would accept another shape with as many entries; a stack accepts only equal shapes.
        pair = ops.stack([tensor, ops.zeros_like(like, dtype=tensor.dtype)])
        return ops.any(pair, 0) if _dtype(tensor) == "bool" else ops.cast(ops.sum(pair, 0), tensor.dtype)


def constant(values: float | Sequence[Any]) -> Any:
    """Return weights in float64: they are rounded once, at the call. On torch on the CPU: some devices lack float64."""
    array = np.array(values, "float64")
    # Dynamo cannot trace how Keras converts an array; under a trace of TensorFlow or JAX a tensor would leak.
    return tensors.on_cpu(array) if _BACKEND == "torch" else array


def per_class(name: str, values: Any, logits: Tensor, classes: int | None = None) -> Tensor:
    """Return weights [C], or [] for one number, in the compute dtype. C is that of `logits` [..., C], or `classes`."""
    wanted = tuple(logits.shape)[-1:] if classes is None else (classes,)
    if len(values.shape) == 1 and not _fits(tuple(values.shape), wanted):
        raise ValueError(
            f"{name} must have {wanted[0] if wanted else 'no'} numbers for y_pred of this shape, got {values.shape[0]}"
        )
    values = ops.convert_to_tensor(ops.cast(values, compute_dtype(logits)))
    if len(values.shape) == 1 and not are_known(*wanted) and not isinstance(logits, Tensor):
        values = _reshaped(values, (class_count(logits) if classes is None else classes,))
    return values


def sizes(tensor: Tensor) -> tuple[Any, ...]:
    """Return the run-time shape of `tensor`, for a reshape; a None of a KerasTensor becomes -1."""
    return tuple(-1 if size is None else size for size in ops.shape(tensor))


def in_shape_of(like: Tensor, flat: Tensor) -> Tensor:
    """Return the entries of a flat tensor in the shape of `like`."""
    if not isinstance(like, Tensor) or sum(size is None for size in like.shape) < 2:
        return ops.reshape(flat, sizes(like))
    place = ops.zeros_like(like, dtype="int32")  # a reshape of a KerasTensor takes one unknown size
    for axis in range(len(like.shape)):
        index = ops.cumsum(ops.ones_like(place), axis) - 1
        place = place * (ops.max(index, axis, keepdims=True, initial=-1) + 1) + index
    return ops.take(flat, place)


def of_labels(name: str, values: Any, logits: Tensor, axis: int | None) -> Tensor:
    """Return weights of labels in a shape that broadcasts against `logits`: [], [L] along `axis`, or as in torch."""
    given, shape, rank = tuple(values.shape), tuple(logits.shape), len(logits.shape)
    axis = label_axis(rank, axis)
    if len(given) == 0:
        return per_class(name, values, logits)
    if len(given) == 1:
        if rank == 0 or not _fits(given, (shape[axis],)):
            raise ValueError(guard.of_label_weights(name, given[0], shape, axis))
        is_last = axis == rank - 1
        values = per_class(name, values, logits) if is_last else ops.cast(values, compute_dtype(logits))
        return ops.reshape(ops.convert_to_tensor(values), (1,) * axis + (-1,) + (1,) * (rank - 1 - axis))
    wanted = shape[1:] if len(given) < rank else (1, *shape[1:])
    if len(given) > rank or any(
        size != 1 and not _fits((size,), (other,)) for size, other in zip(given, wanted[-len(given) :], strict=True)
    ):
        raise ValueError(f"{name} must broadcast against y_pred without its batch axis, {shape[1:]}, got shape {given}")
    values = ops.convert_to_tensor(ops.cast(values, compute_dtype(logits)))
    return ops.reshape(values, (1,) * (rank - len(given)) + given)


def label_axis(rank: int, axis: int | None) -> int:
    """Return the axis of the labels as a number >= 0; None is the last."""
    if axis is None:
        return max(0, rank - 1)
    if not -rank <= axis < rank:
        raise ValueError(f"axis must lie in [{-rank}, {rank - 1}] for y_pred of rank {rank}, got {axis}")
    return axis % rank


def per_label(values: Tensor, label: Tensor) -> Tensor:
    """Return the entry [...] of `values` [C] at each class index [...]."""
    return ops.take(values, label, axis=0)


def sample_weight_per_row(sample_weight: Any, rows: Tensor) -> Tensor | None:
    """Return sample weights in the shape of the rows [...]; they may be a scalar, or have a leading part of it."""
    if sample_weight is None:
        return None
    sample_weight = ops.cast(_tensor("sample_weight", sample_weight, rows), rows.dtype)
    return _along_rows("sample_weight", sample_weight, rows) * ops.ones_like(rows)  # [...]


def mask_per_row(mask: Any, keras_mask: Any, rows: Tensor) -> Tensor | None:
    """Return which rows [...] count by the mask and by Keras' mask; each may have a leading part of their shape."""
    masks = {"mask": mask, "the Keras mask of y_pred": keras_mask}
    kept = None
    for name, given in masks.items():
        if given is not None:
            given = _along_rows(name, ops.cast(_tensor(name, given, rows), "bool"), rows)
            kept = both(kept, ops.logical_and(given, ops.ones_like(rows, dtype="bool")))
    return kept


def scalar(name: str, value: Any, like: Tensor, check: bool | None) -> Tensor:
    """Return a number, or a tensor of one, as a scalar tensor beside `like`.

    Outside [0, inf) a number raises. So does a tensor that can be read, as labels are with `check`; others become NaN.
    """
    value = whole(value)
    if not ops.is_tensor(value) and not isinstance(value, Tensor | keras.Variable):
        return ops.convert_to_tensor(arguments.number(name, value, "[0, inf)"), like.dtype)
    if getattr(value, "ragged_rank", None) or getattr(value, "is_nested", False):
        raise ValueError(f"{name} must be a number or a scalar tensor, got a ragged tensor: pass one number")
    tensor = _tensor(name, value, like)
    if _dtype(tensor) == "bool":
        raise TypeError(f"{name} must be a number, got bool: pass the sum of {name} to count rows")
    shape = tuple(tensor.shape)
    if any(size not in (1, None) for size in shape):
        raise ValueError(f"{name} must be a number or a scalar tensor, got shape {shape}")
    tensor = ops.reshape(ops.cast(tensor, like.dtype), ())
    is_valid = ops.logical_and(tensor >= 0, tensor < math.inf)
    if not _readable(is_valid, check):
        return ops.where(is_valid, tensor, math.nan)
    if not bool(is_valid):
        raise ValueError(f"{name} must be a number in [0, inf), got a tensor of {array(tensor).item()}")
    return tensor


def differs(target: Tensor, value: float) -> Tensor:
    """Whether each target differs from `value`; integers are compared only with integers that their dtype holds."""
    if _is_floating(target):
        return target != value
    limits = np.iinfo(_dtype(target))
    is_possible = float(value).is_integer() and limits.min <= value <= limits.max
    return target != int(value) if is_possible else ops.ones_like(target, dtype="bool")


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return where both conditions hold; None stands for a condition that always holds."""
    if first is None or second is None:
        return second if first is None else first
    return ops.logical_and(first, second)


def harmless_logits(logits: Tensor, kept: Tensor | None, sample_weight: Tensor | None, ranked: bool) -> Tensor:
    """Return logits in which ignored rows can affect neither the loss nor its gradient.

    Ignored rows and rows of weight 0 become 0.5, which is a valid logit and a valid probability. If rows are `ranked`
    by their loss, rows of weight 0 keep their logits, but lose their gradient, which may be NaN.
    """
    has_weight = None if sample_weight is None else sample_weight != 0
    counts = kept if ranked else both(kept, has_weight)
    if counts is not None:
        logits = ops.where(_align(counts, logits), logits, ops.convert_to_tensor(0.5, logits.dtype))
    if ranked and has_weight is not None:
        logits = ops.where(_align(has_weight, logits), logits, ops.stop_gradient(logits))
    return logits


def checked_labels(
    labels: Tensor, classes: Any, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None]:
    """Return class indices [...] that are all in range, and a factor [...]: NaN for rows that were not, else 1.

    The factor is None if all are known to be in range. Rows that are not `active` may have any label.
    """
    valid = (labels >= 0) & (labels < ops.cast(classes, labels.dtype))
    if _is_floating(labels):
        whole = ops.equal(labels, ops.floor(labels))  # == of two KerasTensors is identity
        valid = valid & whole
        _checked(labels, whole, active, check_labels, classes, TypeError)
    labels, validity = _checked(labels, valid, active, check_labels, classes)
    return ops.cast(labels, "int32"), validity


def checked_distribution(
    target: Tensor,
    axis: int,
    active: Tensor | None,
    check_labels: bool | None,
    ignore_index: float | None,
    dtype: str,
) -> tuple[Tensor, Tensor | None]:
    """Return a distribution [..., C] in `dtype`, and a factor [...]: NaN for rows with integers other than 0 and 1.

    It is 1 for others, and None if all are known to be right. `axis` is the class axis in the user's layout. Rows that
    are not `active` may hold anything.
    """
    distribution = ops.cast(target, dtype)
    if _is_floating(target):
        return distribution, None
    is_wrong = ops.logical_or(target < 0, target > 1)  # [..., C]
    is_wrong = is_wrong if active is None else ops.logical_and(is_wrong, ops.expand_dims(active, -1))
    if not _readable(is_wrong, check_labels):
        if is_asserted(is_wrong, check_labels):
            wanted = ["integers in the shape of y_pred that are 0 or 1"]
            distribution = tensorflow_graph.asserted(distribution, target, is_wrong, wanted, CURE)
        return distribution, ops.where(ops.any(is_wrong, -1), math.nan, 1.0)
    if not bool(ops.any(is_wrong)):
        return distribution, None
    first = np.argwhere(array(is_wrong))[0].tolist()
    value, shape = array(target)[tuple(first)].item(), list(target.shape)
    first.insert(axis, first.pop())
    shape.insert(axis, shape.pop())
    raise ValueError(guard.of_integers("y_true", value, first, tuple(shape), axis, ignore_index))


def checked_probabilities(
    target: Tensor, active: Tensor | None, check_labels: bool | None
) -> tuple[Tensor, Tensor | None, bool]:
    """Return binary targets [...] that are all in range, a factor [...] of their rows, and whether all are labels.

    The factor is NaN for rows that were out of range, else 1; None if none was. Labels are integers, and floats that
    can be read and are 0 or 1. Floats that may have a gradient are not labels: the loss is linear in them.
    """
    is_float = _is_floating(target)
    if active is None and is_float and _are_binary(target, check_labels):  # and so in range
        return target, None, True
    target, validity = _checked(target, (target >= 0) & (target <= 1), active, check_labels, None)
    return target, validity, not is_float or _are_binary(target, check_labels)


def are_finite(values: Tensor) -> bool:
    """Whether all values can be read without synchronisation, and are finite."""
    if not _readable(values, None):
        return False
    is_finite = ops.isfinite(ops.sum(values))
    return _readable(is_finite, None) and bool(is_finite)  # under a trace, this is traced even for a constant


def read(tensor: Tensor, check: bool | None, axis: int | None = None) -> NDArray[Any] | None:
    """Return the first entries of `tensor` along each axis, and all along `axis`, which becomes the last, as an array.

    None if the tensor cannot be read: with `check` None, if that needs a synchronisation; with True, if there are no
    values.
    """
    if not _readable(tensor, check):
        return None
    index = tuple(slice(None if place == axis else CORNER) for place in range(len(tensor.shape)))
    if _BACKEND == "jax" or not index:  # on JAX an array needs no copy, and a slice would be compiled
        values = array(tensor)[index]
    else:
        tensor = tensor[index]
        if not _readable(tensor, check):  # under a trace, even the slice of a constant is traced
            return None
        values = array(tensor)
    return values if axis is None else np.moveaxis(values, axis, -1)


def array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array; floats of any dtype become float64."""
    if _BACKEND == "torch":  # Keras converts torch tensors in a way that NumPy deprecates
        tensor = tensor.detach().cpu()
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    values = ops.convert_to_numpy(tensor)
    return values if values.dtype.kind in "biu" else values.astype("float64")


def dtype_name(values: Any) -> str:
    """Return the name of the dtype of a tensor or array; float64 for numbers and lists."""
    return _dtype(values) if hasattr(values, "dtype") else "float64"


def activation_of(logits: Any) -> str | None:
    """Return "softmax or sigmoid" if Keras marked `logits` as the output of one, on TensorFlow and torch; else None."""
    return "softmax or sigmoid" if hasattr(logits, "_keras_logits") else None


def now(function: Callable[[str], None], text: str) -> None:
    """Call a function right here, even while torch.compile traces."""
    if _BACKEND == "torch":
        tensors.now(function, text)
    else:
        function(text)


def is_compiling() -> bool:
    """Whether torch.compile traces this code."""
    return _BACKEND == "torch" and tensors.is_compiling()


def has_tangent(value: Any) -> bool:
    """Whether a value is a tensor of torch with a forward derivative."""
    return _BACKEND == "torch" and ops.is_tensor(value) and tensors.has_tangent(value)


def take_any_loss(*weights: float) -> bool:
    """Whether all weights stay positive in float32, so that weight * inf is never 0 * inf; 1e-30 leaves a margin."""
    return all(weight >= 1e-30 for weight in weights)


def smoothed(distribution: Tensor, label_smoothing: float, smooth_over: str) -> Tensor:
    """Return a distribution [..., C] with the share `label_smoothing` spread over all classes, or over the others."""
    if label_smoothing == 0.0 or (smooth_over == "others" and distribution.shape[-1] == 1):
        return distribution
    classes = class_count(distribution)
    classes = classes if isinstance(classes, int) else ops.cast(classes, distribution.dtype)
    if smooth_over == "all":
        return (1 - label_smoothing) * distribution + label_smoothing / classes
    others = ops.sum(distribution, -1, keepdims=True) - distribution
    if isinstance(classes, int):
        return (1 - label_smoothing) * distribution + label_smoothing / (classes - 1) * others
    share = ops.where(ops.equal(classes, 1), 0.0, label_smoothing)  # run time may find one class
    return (1 - share) * distribution + share / ops.maximum(classes - 1, 1) * others


def smoothed_shares(classes: Any, label_smoothing: float, smooth_over: str) -> tuple[Any, Any]:
    """Return what `smoothed` makes of a one-hot target: the shares of the label and of each other class."""
    if smooth_over == "all":
        return 1 - label_smoothing + label_smoothing / classes, label_smoothing / classes
    if isinstance(classes, int):
        return (1.0, 0.0) if classes == 1 else (1 - label_smoothing, label_smoothing / (classes - 1))
    share = ops.where(ops.equal(classes, 1), 0.0, label_smoothing)
    return 1 - share, share / ops.maximum(classes - 1, 1)


def smoothed_binary(target: Tensor, label_smoothing: float, smooth_over: str) -> Tensor:
    """`smoothed` for the two classes (1 - target, target)."""
    if label_smoothing == 0.0:
        return target
    share = 0.5 if smooth_over == "all" else 1 - target
    return (1 - label_smoothing) * target + label_smoothing * share


def _checked(
    target: Tensor,
    valid: Tensor,
    active: Tensor | None,
    check_labels: bool | None,
    classes: int | None,
    error: type[Exception] = ValueError,
) -> tuple[Tensor, Tensor | None]:
    """Return the target with 0 in invalid places, and a factor [...] of the rows: NaN for those, else 1.

    If the target can be read, an invalid one raises `error` instead, and the factor is None.
    """
    safe = ops.where(valid, target, ops.zeros_like(target))
    invalid = ops.logical_not(valid) if active is None else active & ops.logical_not(valid)
    if not _readable(invalid, check_labels):
        if is_asserted(invalid, check_labels):
            range_of = ["class indices, whole numbers from 0 to", "" if classes is None else classes - 1]
            range_of = [UNIT] if classes is None else range_of
            safe = tensorflow_graph.asserted(safe, target, invalid, range_of, CURE)
        return safe, ops.where(invalid, math.nan, 1.0)
    if not bool(ops.any(invalid)):
        return safe, None
    positions = np.argwhere(ops.convert_to_numpy(invalid)).tolist()
    label = ops.convert_to_numpy(target)[tuple(positions[0])].item()
    wanted = UNIT if classes is None else f"class indices, whole numbers in [0, {classes - 1}]"
    raise error(
        f"y_true must hold {wanted}, got {label} at {positions[0]}, one of {len(positions)} such labels; {CURE}"
    )


def _are_binary(values: Tensor, check_labels: bool | None) -> bool:
    """Whether all values can be read, are 0 or 1, and have no gradient."""
    if getattr(values, "requires_grad", True) or not _readable(values, check_labels):
        return False
    return bool(ops.all(values * values == values))


def _readable(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether values can be read here: never under a trace; by default on the CPU only."""
    if isinstance(tensor, Tensor) or _is_traced(tensor) or getattr(tensor, "is_meta", False):
        return False
    if _BACKEND == "torch" and not tensors.is_plain(tensor):
        return False
    return "cpu" in str(tensor.device).lower() if check_labels is None else check_labels


def _tensor(name: str, value: Any, logits: Tensor | None = None) -> Tensor:
    """Return an argument as a tensor; lists of floats become float64, as in NumPy.

    Some devices of torch have no float64: a float64 tensor is cast first if the loss computes in float32.
    """
    if isinstance(value, keras.Variable):
        value = value.value
    if not ops.is_tensor(value) and not isinstance(value, keras.KerasTensor):
        value = np.asarray(value) if is_compiling() else guard.as_array(name, value)
        if _BACKEND == "jax" and value.dtype.name in ("int64", "uint32", "uint64"):
            # JAX would wrap 2^32 + 1 to label 1; the ends of int32 are as far out of range.
            value = np.minimum(value, 2**31 - 1) if value.dtype.kind == "u" else np.clip(value, -(2**31), 2**31 - 1)
            value = value.astype("int32")
    elif getattr(value, "ragged_rank", None) or getattr(value, "is_nested", False):
        raise ValueError(f"{name} must have rows of one length, got a ragged tensor; pad it, and pass a mask")
    elif _BACKEND == "torch" and ops.is_tensor(value) and not tensors.is_dense(value):
        got = f"got one of the layout {value.layout}"
        raise ValueError(f"{name} must be a dense tensor, {got}: pass {name}.to_dense()")
    if _lacks_float64(logits) and str(getattr(value, "dtype", "")).endswith("float64"):
        value = value.astype("float32") if isinstance(value, np.ndarray) else ops.cast(value, "float32")
    tensor = ops.convert_to_tensor(value, sparse=False)
    if getattr(value, "is_meta", False) and not tensor.is_meta:  # Keras makes up values
        raise ValueError(f"{name} must hold values, got a tensor on the meta device, which has none")
    if getattr(tensor.shape, "rank", 0) is None:
        raise ValueError(f"{name} must have a known rank, got a tensor of unknown shape; set it by tf.ensure_shape")
    if _dtype(tensor) == "string" or _dtype(tensor).startswith("complex"):
        raise TypeError(f"{name} must hold real numbers, got {_dtype(tensor)}")
    if hasattr(tensor, "read_value"):  # a variable of TensorFlow
        tensor = tensor.read_value()
    return tensors.plain(tensor) if _BACKEND == "torch" and ops.is_tensor(tensor) else tensor


def _lacks_float64(logits: Tensor | None) -> bool:
    """Whether logits in float32 are on a device that may have no float64."""
    if _BACKEND != "torch" or logits is None or isinstance(logits, keras.KerasTensor):
        return False
    return logits.device.type != "cpu" and compute_dtype(logits) == "float32"


def _axis_too_many(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> int | None:
    """Return the axis of size 1, the last or axis 1, without which `shape` is `other`; None if there is none."""
    last = len(shape) - 1
    places = (last, 1) if len(shape) == len(other) + 1 else ()
    return next((place for place in places if shape[place] == 1 and _fits(_without(shape, place), other)), None)


def _along_rows(name: str, values: Tensor, rows: Tensor) -> Tensor:
    """Return values with the rank of the rows [...]; they may have a leading part of the shape, also with a 1 added."""
    given, wanted = tuple(values.shape), tuple(rows.shape)
    if _fits(given, wanted[: len(given)]):
        return _leading(name, values, rows)
    extra, missing = _axis_too_many(given, wanted), _axis_too_many(wanted, given)
    if missing is not None:
        return fitted(name, ops.expand_dims(values, missing), rows)
    is_column = (
        given[-1:] == (1,) and _fits(given[:-1], wanted[: len(given) - 1]) and (len(given) > 1 or name != "mask")
    )
    if extra is None and is_column:
        extra = len(given) - 1
    if extra is None:
        raise ValueError(f"{name} must have the shape of the rows, {wanted}, or a leading part, got shape {given}")
    return _leading(name, ops.squeeze(values, extra), rows)


def _without(shape: tuple[int | None, ...], place: int) -> tuple[int | None, ...]:
    return shape[:place] + shape[place + 1 :]


def _reshaped(tensor: Tensor, shape: Any) -> Tensor:
    """Return a tensor in a shape of the same rank that only run time knows; fails if the tensor has another one."""
    return (tensorflow_graph.of_shape if _BACKEND == "tensorflow" else ops.reshape)(tensor, shape)


def _leading(name: str, values: Tensor, rows: Tensor) -> Tensor:
    """Return values with the rank of the rows [...]; they have a leading part of the rows' shape."""
    if not are_known(*values.shape, *rows.shape):
        like = rows
        for _ in range(len(rows.shape) - len(values.shape)):
            like = ops.sum(like, -1)  # an entry would not exist without rows
        values = fitted(name, values, like)
    return _align(values, rows)


def _align(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` with the rank of `like`, by axes of size 1 at the end."""
    for _ in range(len(like.shape) - len(values.shape)):
        values = ops.expand_dims(values, -1)
    return values


def _wide(target: Tensor) -> Tensor:
    """Return integers in a signed dtype that can hold any ignore_index; JAX has no int64 by default."""
    if _is_floating(target) or _dtype(target) in ("int32", "int64"):
        return target
    return ops.cast(target, "int32" if _BACKEND == "jax" else "int64")


def _fits(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether two shapes agree in rank, and in every size that both know before run time."""
    pairs = zip(given, wanted, strict=False)
    return len(given) == len(wanted) and all(not are_known(*pair) or pair[0] == pair[1] for pair in pairs)


def is_unwatched(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether labels go unchecked, because a trace can neither read nor assert them."""
    if check_labels is False or not _is_traced(tensor):
        return False
    return not is_asserted(tensor, check_labels) or private.is_for_xla(
        tensorflow_graph.default_graph()
    )  # which drops assertions


def is_asserted(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether a TensorFlow graph asserts the labels; by default only on the CPU."""
    if _BACKEND != "tensorflow" or check_labels is False or not _is_traced(tensor):
        return False
    return bool(check_labels) or tensorflow_graph.is_on_cpu(tensor)


def _is_traced(tensor: Tensor) -> bool:
    """Whether a tensor is traced: it stands for values of a later run."""
    if isinstance(tensor, Tensor):
        return False
    if _BACKEND == "tensorflow":
        return tensorflow_graph.is_symbolic(tensor)
    if _BACKEND == "jax":
        return jax_trace.is_traced(tensor)
    return tensors.is_traced(tensor)


def _is_floating(tensor: Tensor) -> bool:
    return keras.backend.is_float_dtype(_dtype(tensor))


def _dtype(tensor: Tensor) -> str:
    return keras.backend.standardize_dtype(tensor.dtype)
