"""What users pass, as tensors: their shapes, and which of their values can be read here."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops
from numpy.typing import NDArray

from keras_xent import private
from keras_xent.shapes import are_known
from shared_specs.common import guard

_BACKEND = keras.backend.backend()
if _BACKEND == "torch":
    from keras_xent.kernels import tensors
if _BACKEND == "tensorflow":
    from keras_xent.kernels import tensorflow_graph
if _BACKEND == "jax":
    from keras_xent.kernels import jax_trace


CORNER = 16
"""Number of entries read along each axis of the rows when values are checked: few, for a batch of any size."""
LARGEST_LABELS = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24}
"""Float dtypes hold all whole numbers up to these."""


def whole(value: Any) -> Any:
    """Return a torch DTensor as one tensor, the same on every rank; the gradient has the placements of the DTensor."""
    return tensors.whole(value) if _BACKEND == "torch" else value


def checked_logits(logits: Any) -> Tensor:
    """Return logits that are floating point, as a tensor."""
    logits = as_tensor("y_pred", logits)
    if not is_floating(logits):
        hint = guard.SWAPPED.format("y_true, y_pred")
        raise TypeError(f"y_pred must be a floating-point tensor, got {dtype_of(logits)}: {hint}")
    return logits


def compute_dtype(logits: Tensor) -> str:
    """Return float64 for float64 logits, float32 for all others."""
    return "float64" if dtype_of(logits) == "float64" else "float32"


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
        return ops.any(pair, 0) if dtype_of(tensor) == "bool" else ops.cast(ops.sum(pair, 0), tensor.dtype)


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


def are_finite(values: Tensor) -> bool:
    """Whether all values can be read without synchronisation, and are finite."""
    if not is_readable(values, None):
        return False
    is_finite = ops.isfinite(ops.sum(values))
    return is_readable(is_finite, None) and bool(is_finite)  # under a trace, this is traced even for a constant


def read(tensor: Tensor, check: bool | None, axis: int | None = None) -> NDArray[Any] | None:
    """Return the first entries of `tensor` along each axis, and all along `axis`, which becomes the last, as an array.

    None if the tensor cannot be read: with `check` None, if that needs a synchronisation; with True, if there are no
    values.
    """
    if not is_readable(tensor, check):
        return None
    index = tuple(slice(None if place == axis else CORNER) for place in range(len(tensor.shape)))
    if _BACKEND == "jax" or not index:  # on JAX an array needs no copy, and a slice would be compiled
        values = array(tensor)[index]
    else:
        tensor = tensor[index]
        if not is_readable(tensor, check):  # under a trace, even the slice of a constant is traced
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
    return dtype_of(values) if hasattr(values, "dtype") else "float64"


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


def are_binary(values: Tensor, check_labels: bool | None) -> bool:
    """Whether all values can be read, are 0 or 1, and have no gradient."""
    if getattr(values, "requires_grad", True) or not is_readable(values, check_labels):
        return False
    return bool(ops.all(values * values == values))


def is_readable(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether values can be read here: never under a trace; by default on the CPU only."""
    if isinstance(tensor, Tensor) or is_traced(tensor) or getattr(tensor, "is_meta", False):
        return False
    if _BACKEND == "torch" and not tensors.is_plain(tensor):
        return False
    return "cpu" in str(tensor.device).lower() if check_labels is None else check_labels


def as_tensor(name: str, value: Any, logits: Tensor | None = None) -> Tensor:
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
    if dtype_of(tensor) == "string" or dtype_of(tensor).startswith("complex"):
        raise TypeError(f"{name} must hold real numbers, got {dtype_of(tensor)}")
    if hasattr(tensor, "read_value"):  # a variable of TensorFlow
        tensor = tensor.read_value()
    return tensors.plain(tensor) if _BACKEND == "torch" and ops.is_tensor(tensor) else tensor


def _lacks_float64(logits: Tensor | None) -> bool:
    """Whether logits in float32 are on a device that may have no float64."""
    if _BACKEND != "torch" or logits is None or isinstance(logits, keras.KerasTensor):
        return False
    return logits.device.type != "cpu" and compute_dtype(logits) == "float32"


def axis_too_many(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> int | None:
    """Return the axis of size 1, the last or axis 1, without which `shape` is `other`; None if there is none."""
    last = len(shape) - 1
    places = (last, 1) if len(shape) == len(other) + 1 else ()
    return next((place for place in places if shape[place] == 1 and fits(without_axis(shape, place), other)), None)


def without_axis(shape: tuple[int | None, ...], place: int) -> tuple[int | None, ...]:
    """Return a shape without one of its axes."""
    return shape[:place] + shape[place + 1 :]


def reshaped(tensor: Tensor, shape: Any) -> Tensor:
    """Return a tensor in a shape of the same rank that only run time knows; fails if the tensor has another one."""
    return (tensorflow_graph.of_shape if _BACKEND == "tensorflow" else ops.reshape)(tensor, shape)


def fits(given: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    """Whether two shapes agree in rank, and in every size that both know before run time."""
    pairs = zip(given, wanted, strict=False)
    return len(given) == len(wanted) and all(not are_known(*pair) or pair[0] == pair[1] for pair in pairs)


def is_unwatched(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether labels go unchecked, because a trace can neither read nor assert them."""
    if check_labels is False or not is_traced(tensor):
        return False
    if not is_asserted(tensor, check_labels):
        return True
    return private.is_for_xla(tensorflow_graph.default_graph())  # which drops assertions


def is_asserted(tensor: Tensor, check_labels: bool | None) -> bool:
    """Whether a TensorFlow graph asserts the labels; by default only on the CPU."""
    if _BACKEND != "tensorflow" or check_labels is False or not is_traced(tensor):
        return False
    return bool(check_labels) or tensorflow_graph.is_on_cpu(tensor)


def is_traced(tensor: Tensor) -> bool:
    """Whether a tensor is traced: it stands for values of a later run."""
    if isinstance(tensor, Tensor):
        return False
    if _BACKEND == "tensorflow":
        return tensorflow_graph.is_symbolic(tensor)
    if _BACKEND == "jax":
        return jax_trace.is_traced(tensor)
    return tensors.is_traced(tensor)


def is_floating(tensor: Tensor) -> bool:
    """Whether a tensor holds floats."""
    return keras.backend.is_float_dtype(dtype_of(tensor))


def dtype_of(tensor: Tensor) -> str:
    """Return the name of the dtype of a tensor."""
    return keras.backend.standardize_dtype(tensor.dtype)
