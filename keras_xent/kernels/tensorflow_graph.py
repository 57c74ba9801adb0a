"""What only TensorFlow needs: assertions in a graph, replicas, and a gather."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

SHAPES = "y_true, and its weights and mask, must fit the shape of y_pred"


def is_symbolic(tensor: Any) -> bool:
    """Whether a graph computes a tensor later."""
    return bool(tf.is_symbolic_tensor(tensor))


def is_on_cpu(tensor: Any) -> bool:
    """Whether a symbolic tensor is computed on the CPU: its own device says so, or there is no other."""
    if tensor.device:
        return "cpu" in str(tensor.device).lower()
    return all(device.device_type == "CPU" for device in tf.config.get_visible_devices())


def replicas() -> int:
    """Number of replicas of tf.distribute that share a batch; 1 outside of a replica."""
    is_whole = tf.distribute.in_cross_replica_context()
    return 1 if is_whole else int(tf.distribute.get_strategy().num_replicas_in_sync)


def sum_over_replicas(values: Any) -> Any:
    """Return the sum of the values of all replicas."""
    return tf.distribute.get_replica_context().all_reduce("SUM", values)


def default_graph() -> Any:
    """Return the graph that is being traced."""
    return tf.compat.v1.get_default_graph()


def of_class(values: Any, label: Any) -> Any:
    """The entry [..., 1] of `values` [..., C] at `label` [..., 1].

    ops.take_along_axis is slower, and in Keras 3.8 XLA cannot compile it for unknown shapes.
    """
    return tf.gather(values, label, batch_dims=label.shape.rank - 1)


def with_class(values: Any, label: Any, new: Any) -> Any:
    """`values` [N, C] with the entries `new` [N] at the classes `label` [N].

    XLA writes them in place. A comparison with all class numbers takes up to 1.6 times as long on the CPU. Indices of
    int64 would fail in tf.vectorized_map.
    """
    places = tf.stack([tf.range(tf.shape(values)[0]), tf.cast(label, tf.int32)], -1)
    return tf.tensor_scatter_nd_update(values, places, new)


def without_class(values: Any, label: Any) -> Any:
    """`values` [N, C] with 0 at the classes `label` [N]."""
    return with_class(values, label, tf.zeros_like(values[:, 0]))


def of_shape_of(tensor: Any, like: Any) -> Any:
    """Return a tensor whose shape is asserted to be that of `like`.

    If an operation needs equal shapes and one is static, TensorFlow's optimiser assumes it for the other one and
    removes the assertion. So the static sizes of `like` are checked by an operation of their own.
    """
    return of_shape(tf.ensure_shape(tensor, like.shape), tf.shape(like))


def of_shape(tensor: Any, shape: Any) -> Any:
    """Return a tensor whose shape is asserted; under XLA, which drops assertions, the reshape fails.

    A reshape alone is not enough: TensorFlow's optimiser removes it if the known parts of both shapes are equal.
    """
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(tensor), shape, message=SHAPES)]):
        return tf.reshape(tensor, shape)


def asserted(target: Any, labels: Any, invalid: Any, wanted: Sequence[Any], cure: str) -> Any:
    """Return `target`, after an assertion that no entry of `labels` [...] is `invalid` [...]; XLA drops it.

    Args:
        target: The tensor that the loss uses.
        labels: The labels that the error shows.
        invalid: Whether each label counts and is out of range.
        wanted: What the labels must be, for the error.
        cure: What to do, for the error.
    """

    def fail() -> Any:
        flat = tf.reshape(invalid, [-1])
        # One more entry, because XLA compiles this for an empty batch too.
        place = tf.argmax(tf.cast(tf.concat([flat, [True]], 0), "int32"), output_type="int32")
        rest, position = place, []
        for size in reversed(tf.unstack(tf.shape(invalid))):
            position.append(rest % size)
            rest = rest // size
        label = tf.gather(tf.concat([tf.reshape(labels, [-1]), tf.zeros([1], labels.dtype)], 0), place)
        found = [label, "at", tf.stack(position[::-1]) if position else "[]"]
        data = [
            "y_true must hold",
            *wanted,
            "got",
            *found,
            "one of",
            tf.math.count_nonzero(flat),
            f"such labels; {cure}",
        ]
        # tf.vectorized_map runs this branch with no rows if none is bad: a constant would fail there.
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(tf.reduce_any(flat)), data, summarize=32)]):
            return tf.constant(False)

    # Without the condition, the data of the error would be computed at every step.
    checked = tf.cond(tf.reduce_any(invalid), fail, lambda: tf.constant(True))
    with tf.control_dependencies([checked]):
        return tf.identity(target)
