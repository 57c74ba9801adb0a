"""The last linear layer with its loss on TensorFlow: loops over chunks of the logits, which XLA compiles in a graph."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from keras_xent.kernels.classes_of_tensorflow import Classes
from keras_xent.kernels.linear import (
    MOST_ROWS,
    Head,
    Work,
    all_logits,
    classes_of_chunk,
    pieces,
    rows_of_chunk,
    without,
)
from keras_xent.kernels.of_tensorflow import COMPILED_FROM
from keras_xent.kernels.passes import compute_dtype
from keras_xent.kernels.statistics import found

MANY_ROWS = 1 << 12
"""Where the number of rows is unknown, products are cut as for so many."""

# Autograph cannot convert functions with a gradient of their own.
untouched = tf.autograph.experimental.do_not_convert


@untouched  # type: ignore[untyped-decorator]
def total(head: Head, slopes: Any, work: Work) -> Any:
    """Return sum_i slopes_i l_i, whose gradients are computed at once; that of the slopes [N] are the losses."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of(slopes: Any, *layer: Any) -> Any:
        found, *gradients = _run(_gradient, Head(*layer), slopes, work)

        def backward(factor: Any, variables: Any = None) -> Any:
            scaled = [factor * tf.cast(each, factor.dtype) for each in gradients]
            given = factor * found, *_differentiable(scaled, factor * slopes, layer, work)
            return given if variables is None else (given, _of_variables(variables, factor * slopes, layer, work))

        return tf.reduce_sum(slopes * found), backward

    return of(slopes, *_given(head))


@untouched  # type: ignore[untyped-decorator]
def losses(head: Head, work: Work) -> Any:
    """Return the losses [N]; the gradient computes the logits again."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of(*layer: Any) -> Any:
        (found,) = _run(_losses, Head(*layer), tf.ones(()), work)

        def backward(slopes: Any, variables: Any = None) -> Any:
            _, *gradients = _run(_gradient, Head(*layer), slopes, work)
            given = _differentiable(gradients, slopes, layer, work)
            return given if variables is None else (given, _of_variables(variables, slopes, layer, work))

        return found, backward

    return of(*_given(head))


def _given(head: Head) -> list[Any]:
    return [each for each in head if each is not None]


def _differentiable(gradients: Sequence[Any], slopes: Any, layer: Sequence[Any], work: Work) -> Any:
    """Return the gradients of sum_i slopes_i losses_i; their own gradient comes from all logits at once."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of(*inputs: Any) -> Any:
        def backward(*cotangents: Any) -> Any:
            with tf.GradientTape() as outer:
                outer.watch(inputs)
                with tf.GradientTape() as inner:
                    inner.watch(inputs)
                    slopes, *layer = inputs
                    head, data = without(Head(*layer), work.data, slopes)
                    value = tf.reduce_sum(slopes * work.losses_of(all_logits(head), *data))
                first = inner.gradient(value, layer)
            return outer.gradient(first, inputs, cotangents, unconnected_gradients="zero")

        return [tf.cast(each, like.dtype) for each, like in zip(gradients, layer, strict=True)], backward

    return of(slopes, *layer)


def _of_variables(variables: Sequence[Any], slopes: Any, layer: Sequence[Any], work: Work) -> Any:
    """Return the gradients of sum_i slopes_i losses_i in variables of the loss itself."""
    head, data = without(Head(*layer), work.data, slopes)

    def of_chunk(sums: Any, hidden: Any, slopes: Any, *data: Any) -> tuple[Any, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            value = tf.reduce_sum(slopes * work.losses_of(all_logits(head._replace(hidden=hidden)), *data))
        found = tape.gradient(value, variables, unconnected_gradients="zero")
        return [total + tf.convert_to_tensor(part) for total, part in zip(sums, found, strict=True)], []

    zeros = [tf.zeros_like(each) for each in variables]
    rows = partial(rows_of_chunk, head=head, copies=work.copies)
    return _each(of_chunk, zeros, rows, (head.hidden, slopes, *data), [])[0]


def _run(function: Callable[..., Any], head: Head, slopes: Any, work: Work) -> Any:
    """Return function(layer, slopes, data): in a graph, XLA compiles it if there are many classes."""
    run = partial(function, work)
    if _is_compiled(head):
        run = tf.function(run, jit_compile=True, autograph=False)
    return run(_given(head), slopes, work.data)


def _is_compiled(head: Head) -> bool:
    return not tf.executing_eagerly() and head.kernel.shape[1] >= COMPILED_FROM


def _losses(work: Work, layer: Sequence[Any], slopes: Any, data: Any) -> Any:
    """Return the losses [N]. The slopes are there for `_gradient`; TensorFlow warns of an argument named _."""
    head = Head(*layer)
    rows, classes = _chunks(head, work)

    def of_chunk(sums: Any, hidden: Any, *data: Any) -> tuple[Any, Any]:
        some = head._replace(hidden=hidden)
        if work.by_label is None or classes is None:
            return sums, [work.losses_of(all_logits(some), *data)]
        whole = Classes(some, data, work.by_label, classes).statistics()
        return sums, [work.by_label.losses_of(found(whole, work.by_label.reads), *data)]

    return _each(of_chunk, [], rows, (head.hidden, *data), [(compute_dtype(head.hidden), ())])[1]


def _gradient(work: Work, layer: Sequence[Any], slopes: Any, data: Any) -> Any:
    """Return the losses [N], and the gradients of sum_i slopes_i losses_i in the layer."""
    head = Head(*layer)
    wide = compute_dtype(head.hidden)
    some, data = without(head, data, slopes)
    rows, classes = _chunks(head, work)

    def of_chunk(sums: Any, hidden: Any, slopes: Any, *data: Any) -> tuple[Any, Any]:
        logits = all_logits(head._replace(hidden=hidden))
        with tf.GradientTape() as tape:
            tape.watch(logits)
            values = work.losses_of(logits, *data)
        of_logits = tape.gradient(values, logits, slopes, unconnected_gradients="zero")
        sums = [
            _with_product(sums[0], hidden, of_logits),
            *(each + tf.reduce_sum(tf.cast(of_logits, wide), 0) for each in sums[1:]),
        ]
        return sums, [values, tf.matmul(of_logits, head.kernel, transpose_b=True)]

    def by_classes(sums: Any, hidden: Any, slopes: Any, *data: Any) -> tuple[Any, Any]:
        by_label = work.by_label
        assert by_label is not None and classes is not None
        of_rows = Classes(head._replace(hidden=hidden), data, by_label, classes)
        whole = of_rows.statistics()
        with tf.GradientTape() as tape:
            tape.watch(whole)
            values = by_label.losses_of(found(whole, by_label.reads), *data)
        of_statistics = tape.gradient(values, whole, slopes, unconnected_gradients="zero")
        of_hidden, *products = of_rows.gradients(whole.peak, of_statistics)
        sums = [each + tf.reshape(part, tf.shape(each)) for each, part in zip(sums, products, strict=True)]
        return sums, [values, tf.cast(of_hidden, hidden.dtype)]

    features, size = head.kernel.shape
    count = 1
    if features and classes is None and _is_compiled(head):
        count = pieces(rows_of_chunk(head.hidden.shape[0] or MANY_ROWS, head, work.copies), features)
    zeros = [tf.zeros(tf.shape(each), wide) for each in layer[1:]]
    zeros[0] = tf.reshape(zeros[0], [count, -1, size])
    kinds = [(wide, ()), (head.hidden.dtype, head.hidden.shape[1:])]
    function = of_chunk if classes is None else by_classes
    sums, (values, of_hidden) = _each(function, zeros, rows, (some.hidden, slopes, *data), kinds)
    return [values, of_hidden, tf.reshape(sums[0], tf.shape(head.kernel)), *sums[1:]]


def _chunks(head: Head, work: Work) -> tuple[Callable[..., Any], int | None]:
    """Return a function that gives the rows of a chunk, and its classes; None: all."""
    classes = None
    if work.by_label is not None:
        classes = classes_of_chunk(head.hidden.shape[0], head, work.copies)
    if classes is None:
        return partial(rows_of_chunk, head=head, copies=work.copies), None
    return lambda count, least=max, most=min: most(count, MOST_ROWS), classes


def _with_product(sums: Any, hidden: Any, of_logits: Any) -> Any:
    """Return sums [P, D / P, C] + hidden.T @ of_logits in P pieces: the whole product would be as large as the sums."""
    count = sums.shape[0]
    turned = tf.reshape(tf.transpose(hidden), [count, -1, tf.shape(hidden)[0]])

    def product(place: Any) -> Any:
        return tf.cast(tf.matmul(turned[place], of_logits), sums.dtype)

    if count == 1:
        return sums + product(0)[None]

    def step(place: Any, array: Any) -> Any:
        return place + 1, array.write(place, array.read(place) + product(place))

    array = tf.TensorArray(sums.dtype, count, clear_after_read=False, element_shape=sums.shape[1:]).unstack(sums)
    _, array = tf.while_loop(lambda place, _: place < count, step, (tf.constant(0), array), parallel_iterations=1)
    return array.stack()


def _each(
    function: Callable[..., Any],
    sums: Any,
    rows_of: Callable[..., Any],
    arrays: Sequence[Any],
    kinds: Sequence[Any],
) -> tuple[Any, Any]:
    """Return the sums and the values, joined, of (sums, values) = function(sums, *chunk) over chunks of the arrays.

    `rows_of` gives the rows of a chunk, given the number of all. `kinds` are the dtypes and the shapes, without the
    rows, of the values.
    """
    count = arrays[0].shape[0]
    if count is None:
        count = tf.shape(arrays[0])[0]
        rows = rows_of(count, least=tf.maximum, most=tf.minimum)
    else:
        rows = rows_of(count)
        if count <= rows:
            return function(sums, *arrays)
    chunks = -(-count // rows)
    missing = chunks * rows - count
    arrays = [tf.pad(each, [[0, missing]] + [[0, 0]] * (each.shape.rank - 1)) for each in arrays]
    if tf.executing_eagerly():
        found = []
        for first in range(0, count, rows):
            sums, part = function(sums, *(each[first : first + rows] for each in arrays))
            found.append(part)
        return sums, [tf.concat(parts, 0)[:count] for parts in zip(*found, strict=True)]
    shapes = [tf.concat([[chunks, rows], tf.shape(each)[1:]], 0) for each in arrays]
    cut = [tf.reshape(each, shape) for each, shape in zip(arrays, shapes, strict=True)]
    size = rows if isinstance(rows, int) else None
    for piece, each in zip(cut, arrays, strict=True):
        piece.set_shape([None, size, *each.shape[1:]])
    values = [tf.TensorArray(dtype, chunks, element_shape=[size, *shape]) for dtype, shape in kinds]

    def step(place: Any, sums: Any, values: Any) -> Any:
        sums, found = function(sums, *(tf.gather(each, place) for each in cut))
        return place + 1, sums, [array.write(place, each) for array, each in zip(values, found, strict=True)]

    _, sums, values = tf.while_loop(
        lambda place, *_: place < chunks, step, (tf.constant(0), sums, values), parallel_iterations=1
    )
    joined = [array.concat()[:count] for array in values]
    return sums, joined
