"""What the backends of Keras ask of the loss of the last layer: graphs, sizes unknown to them, memory, derivatives."""

from functools import partial

import keras
import numpy as np
import pytest

import keras_xent
from keras_xent import kernels, log_odds
from sides import name as side_name
from sides import side

only_tensorflow = pytest.mark.skipif(side_name != "keras-tensorflow", reason="what only TensorFlow has")
only_jax = pytest.mark.skipif(side_name != "keras-jax", reason="what only JAX has")

LOSSES = {
    "reduced": keras_xent.CategoricalFocalCrossEntropy(ignore_index=3, z_loss=0.01, axis=-1),
    "kernel": keras_xent.CategoricalCrossEntropy(ignore_index=3, axis=-1),
    "hardest": keras_xent.CategoricalCrossEntropy(ignore_index=3, hard_fraction=0.5, axis=-1),
}


def layer(shape=(4, 3), features=5, classes=7):
    """Hidden states with NaN in the rows with the label 3, kernel, bias and labels, as arrays."""
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(*shape, features)), rng.normal(size=(features, classes))
    labels = rng.integers(0, classes, shape)
    labels.flat[1::4] = 3
    hidden[labels == 3] = np.nan
    return [array.astype("float32") for array in (hidden, kernel, rng.normal(size=classes))], labels


def close(found, wanted, tolerance=1e-5):
    for got, want in zip(found, wanted, strict=True):
        got, want = (np.asarray(keras.ops.convert_to_numpy(each)) for each in (got, want))
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max()))


def without_nan(arrays):
    return [np.nan_to_num(array) for array in arrays]


@pytest.mark.skipif(side_name == "keras-jax", reason="JAX has float64 only if it was asked for before it started")
def test_float64_is_computed_in_float64():
    rng = np.random.default_rng(0)
    hidden, kernel, bias = (keras.ops.convert_to_tensor(rng.normal(size=size)) for size in ((6, 5), (5, 7), (7,)))
    logits = keras.ops.convert_to_numpy(hidden) @ keras.ops.convert_to_numpy(kernel) + keras.ops.convert_to_numpy(bias)
    labels = np.arange(6)
    for loss in (keras_xent.CategoricalCrossEntropy(), keras_xent.CategoricalFocalCrossEntropy(label_smoothing=0.1)):
        found, want = loss.linear(labels, hidden, kernel, bias), loss(labels, keras.ops.convert_to_tensor(logits))
        assert keras.backend.standardize_dtype(found.dtype) == "float64"
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), keras.ops.convert_to_numpy(want), rtol=1e-13)


@pytest.mark.skipif(side_name == "keras-jax", reason="JAX has float64 only if it was asked for before it started")
@pytest.mark.parametrize("classes", [1, 7, 48])
def test_sums_over_classes_keep_float64(classes):
    values = np.random.default_rng(0).random((2, classes))
    sums = np.cumsum(values, -1) - values
    found = keras.ops.convert_to_numpy(log_odds.sums_before(keras.ops.convert_to_tensor(values)))
    np.testing.assert_allclose(found, sums, rtol=1e-13, atol=1e-14)
    found = keras.ops.convert_to_numpy(log_odds.sums_after(keras.ops.convert_to_tensor(values[:, ::-1].copy())))
    np.testing.assert_allclose(found, sums[:, ::-1], rtol=1e-13, atol=1e-14)


@pytest.mark.skipif(side_name == "keras-torch", reason="its chunks are those of lightning_xent")
@pytest.mark.parametrize(
    ("rows", "classes", "size"),
    [
        (8192, 256_000, None),
        (1024, 500_000, None),
        (1024, 4_000_000, 32_521),  # 123 chunks of almost 256 MiB
        (None, 4_000_000, 32_521),
        (4, 4_000_000, None),
        (4, 10_000_000, 5_000_000),
    ],
)
def test_classes_of_a_chunk(rows, classes, size):
    head = kernels.linear.Head(keras.KerasTensor((rows, 64)), keras.KerasTensor((64, classes)))
    assert kernels.linear.classes_of_chunk(rows, head, 2) == size


@pytest.mark.skipif(side_name == "keras-torch", reason="its chunks are those of lightning_xent")
@pytest.mark.parametrize(
    ("rows", "features", "classes", "most"),
    [
        (2048, 512, 32_000, 256),  # 1/4 of the logits, twice
        (64, 8, 100, 64),  # 8 MiB
        (8192, 64, 256_000, 131),  # 256 MiB
        (1024, 64, 4_000_000, 32),  # the kernel
        (1024, 1024, 4_000_000, 128),
        (64, 1024, 4_000_000, 8),
        (1024, 1, 100_000_000, 1),
    ],
)
def test_rows_of_a_chunk(rows, features, classes, most):
    head = kernels.linear.Head(keras.KerasTensor((rows, features)), keras.KerasTensor((features, classes)))
    assert kernels.linear.rows_of_chunk(rows, head, 2) == most


# From 1000 classes on XLA compiles the loop.
@only_tensorflow
@pytest.mark.parametrize(
    ("name", "features", "classes", "jit_compile"),
    [
        ("kernel", 5, 7, False),
        ("kernel", 5, 1001, False),
        ("kernel", None, 1001, False),
        ("reduced", None, 7, True),
        ("hardest", 5, 1001, True),
    ],
)
@pytest.mark.parametrize("plan", ["rows", "classes"])
def test_graphs_of_unknown_sizes(name, features, classes, jit_compile, plan):
    import tensorflow as tf

    loss, (arrays, labels) = LOSSES[name], layer((4, 5), classes=classes)

    def step(target, hidden, kernel, bias, is_fused=True):
        with tf.GradientTape() as tape:
            tape.watch((hidden, kernel, bias))
            if is_fused:
                value = loss.linear(target, hidden, kernel, bias)
            else:
                value = loss(target, tf.einsum("...d,dc->...c", hidden, kernel) + bias)
        return value, *tape.gradient(value, (hidden, kernel, bias))

    signature = [tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None, None, features])]
    signature += [tf.TensorSpec([features, classes]), tf.TensorSpec([classes])]
    graph = tf.function(step, input_signature=signature, jit_compile=jit_compile)
    with side.planned(plan):
        for count in (4, 1):
            given = [arrays[0][:count], *arrays[1:]]
            wanted = step(labels[:count], *map(tf.constant, without_nan(given)), is_fused=False)
            close(graph(labels[:count], *map(tf.constant, given)), wanted)


class Scaled(keras_xent.CategoricalCrossEntropy):
    """A loss with a variable of its own."""

    def curve(self, log_odds):
        return super().curve(log_odds) * self.scale.value


@only_tensorflow
@pytest.mark.parametrize(("classes", "in_graph"), [(7, False), (7, True), (1001, True)])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("plan", ["rows", "classes"])
def test_a_variable_of_the_loss_gets_its_gradient(classes, in_graph, fraction, plan):
    import tensorflow as tf

    loss, (arrays, labels) = Scaled(ignore_index=3, hard_fraction=fraction), layer(classes=classes)
    loss.scale = keras.Variable(2.0)

    def step(is_fused, *given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            if is_fused:
                value = loss.linear(labels, *given)
            else:
                value = loss(labels, tf.einsum("...d,dc->...c", *given[:2]) + given[2])
        return value, *tape.gradient(value, (*given, loss.scale.value))

    with side.planned(plan):
        function = tf.function(step) if in_graph else step
        found = function(True, *map(tf.constant, arrays))
    close(found, step(False, *map(tf.constant, without_nan(arrays))))


@only_jax
@pytest.mark.parametrize("is_jitted", [False, True])
@pytest.mark.parametrize("plan", ["whole", "rows", "classes"])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_a_variable_of_the_loss_gets_its_gradient_in_jax(fraction, plan, is_jitted):
    import jax

    (arrays, labels), rate = layer(), np.float32(3.0)
    loss = Scaled(ignore_index=3, hard_fraction=fraction)
    loss.scale = keras.Variable(2.0)

    def value(scale, rate, *given, is_fused):
        with keras.StatelessScope([(loss.scale, scale)]):
            if is_fused:
                return rate * loss.linear(labels, *given)
            return rate * loss(labels, keras.ops.matmul(*given[:2]) + given[2])

    steps = [jax.value_and_grad(partial(value, is_fused=is_fused), (0, 1, 2, 3, 4)) for is_fused in (True, False)]
    with side.planned(plan):
        found = (jax.jit(steps[0]) if is_jitted else steps[0])(np.float32(2.0), rate, *arrays)
    wanted = steps[1](np.float32(2.0), rate, *without_nan(arrays))
    close(jax.tree.leaves(found), jax.tree.leaves(wanted))


@only_tensorflow
def test_a_graph_asserts_labels():
    import tensorflow as tf

    (arrays, labels), loss = layer(), LOSSES["kernel"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="whole numbers from 0 to"):
        tf.function(loss.linear)(tf.constant(labels + 7), *map(tf.constant, arrays))


@pytest.mark.skipif(side_name == "keras-torch", reason="that of lightning_xent: tests/lightning/test_linear.py")
@pytest.mark.parametrize("name", ["kernel", "hardest"])
@pytest.mark.parametrize("plan", ["rows", "classes"])
def test_second_derivatives(name, plan):
    loss, (arrays, labels) = LOSSES[name], layer()
    arrays = without_nan(arrays)

    def value(is_fused, hidden, kernel, bias):
        if is_fused:
            return loss.linear(labels, hidden, kernel, bias)
        return loss(labels, keras.ops.matmul(hidden, kernel) + bias)

    def second(is_fused):
        """The gradient of the squared norm of the gradient."""
        if side_name == "keras-jax":
            import jax

            def norm(*layer):
                first = jax.grad(value, (1, 2, 3))(is_fused, *layer)
                return sum((each**2).sum() for each in first)

            return jax.jit(jax.grad(norm, (0, 1, 2)))(*arrays)
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                found = value(is_fused, *tensors)
            first = inner.gradient(found, tensors)
            norm = sum(tf.reduce_sum(each**2) for each in first)
        return outer.gradient(norm, tensors)

    with side.planned(plan):
        close(second(True), second(False), 1e-4)


@only_jax
@pytest.mark.parametrize("is_jitted", [False, True])
def test_chunks_without_jit_and_gradients_of_targets(is_jitted):
    import jax

    loss, (arrays, _) = keras_xent.CategoricalCrossEntropy(), layer(shape=(5,))
    arrays = without_nan(arrays)
    target = np.random.default_rng(1).dirichlet(np.ones(7), 5).astype("float32")

    def fused(hidden, kernel, bias, target):
        return loss.linear(target, hidden, kernel, bias)

    def dense(hidden, kernel, bias, target):
        return loss(target, hidden @ kernel + bias)

    with side.planned("rows"):
        step = jax.grad(fused, (0, 1, 2, 3))
        close((jax.jit(step) if is_jitted else step)(*arrays, target), jax.grad(dense, (0, 1, 2, 3))(*arrays, target))


@only_jax
def test_memory_of_a_compiled_step():
    import jax

    loss, rows, classes = keras_xent.CategoricalCrossEntropy(check_labels=False), 1024, 8192
    given = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((rows, 512), (512, classes), (classes,))]
    labels = jax.ShapeDtypeStruct((rows,), "int32")
    steps = {
        "fused": lambda hidden, kernel, bias, labels: loss.linear(labels, hidden, kernel, bias),
        "dense": lambda hidden, kernel, bias, labels: loss(labels, hidden @ kernel + bias),
    }
    size = {
        name: jax.jit(jax.grad(step, (0, 1, 2))).lower(*given, labels).compile().memory_analysis().temp_size_in_bytes
        for name, step in steps.items()
    }
    logits = 4 * rows * classes
    assert size["dense"] >= logits
    assert size["fused"] <= 0.4 * logits


@only_jax
def test_a_label_out_of_range_under_jit_gives_nan():
    import jax

    (arrays, labels), loss = layer(), LOSSES["kernel"]
    value = jax.jit(lambda labels: loss.linear(labels, *arrays))(labels + 7)
    assert np.isnan(value)


def test_the_mask_of_hidden_states_counts():
    loss, (arrays, labels) = LOSSES["kernel"], layer()
    words = np.array([[1, 2, 0], [3, 0, 0], [1, 1, 1], [2, 0, 0]])
    embedding = keras.layers.Embedding(4, 5, mask_zero=True)
    hidden = embedding(words)
    kernel, bias = map(keras.ops.convert_to_tensor, arrays[1:])
    value = loss.linear(labels, hidden, kernel, bias)
    logits = keras.ops.matmul(hidden, kernel) + bias
    close([value], [loss(labels, keras.ops.convert_to_numpy(logits), mask=words != 0)])


def test_variables_and_several_dtypes():
    loss, (arrays, labels) = LOSSES["kernel"], layer()
    arrays = without_nan(arrays)
    hidden = keras.ops.cast(keras.ops.convert_to_tensor(arrays[0]), "bfloat16")
    kernel, bias = (keras.Variable(array) for array in arrays[1:])
    value = loss.linear(labels, hidden, kernel, bias)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    close([value], [loss(labels, keras.ops.matmul(keras.ops.cast(hidden, "float32"), kernel) + bias)])


TOP = {
    "shape": ((np.zeros((2, 3), int), np.zeros((2, 4))), ValueError, "probabilities must have the shape"),
    "floats": ((np.zeros((2, 3)), np.zeros((2, 3))), TypeError, "indices must have an integer dtype"),
    "no classes": ((np.zeros((2, 0), int), np.zeros((2, 0))), ValueError, r"indices, \(..., k\)"),
    "a list of floats": (([[0.5, 1.0]], [[0.5, 0.5]]), TypeError, "indices must have an integer dtype"),
    "text": (([[0, "a"]], [[0.5, 0.5]]), TypeError, "indices must hold numbers, got strings"),
    "rest": ((np.zeros((2, 3), int), np.zeros((2, 3)), "keep"), ValueError, "rest must be one of"),
}


@pytest.mark.parametrize("name", TOP)
def test_what_top_k_refuses(name):
    arguments, error, message = TOP[name]
    with pytest.raises(error, match=message):
        keras_xent.TopK(*arguments)


@pytest.mark.parametrize("rest", ["drop", "spread"])
def test_top_k_of_lists(rest):
    indices, probabilities = [[2, 0], [1, 3]], [[0.5, 0.25], [0.5, 0.125]]
    found = keras.ops.convert_to_numpy(keras_xent.TopK(indices, probabilities, rest).dense(5, "float32"))
    others = [0.25 / 3, 0.375 / 3] if rest == "spread" else [0.0, 0.0]
    wanted = [[0.25, others[0], 0.5, others[0], others[0]], [others[1], 0.5, others[1], 0.125, others[1]]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


SYMBOLIC = {
    "labels": keras_xent.CategoricalCrossEntropy(class_weight=[1.0 + c for c in range(7)]),
    "none": keras_xent.CategoricalFocalCrossEntropy(reduction="none", z_loss=0.1),
    "hardest": keras_xent.CategoricalCrossEntropy(hard_fraction=0.5, ignore_index=3, label_smoothing=0.1),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_tensors(name):
    loss, (arrays, labels) = SYMBOLIC[name], layer((4,))
    arrays = without_nan(arrays)
    inputs = [keras.Input((5,)), keras.Input((7,), batch_size=5), keras.Input((), dtype="int32")]
    value = loss.linear(inputs[2], *inputs[:2])
    assert value.shape == ((None,) if name == "none" else ())
    found = keras.Function(inputs, value)([*arrays[:2], labels.astype("int32")])
    close([found], [loss(labels, keras.ops.matmul(*map(keras.ops.convert_to_tensor, arrays[:2])))])


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize(("dtype", "classes"), [("bfloat16", 257), ("float16", 2049)])
def test_labels_that_a_dtype_has_rounded(dtype, classes, is_fused):
    labels = keras.ops.cast(keras.ops.convert_to_tensor(np.array([3.0, 0.0])), dtype)
    for size in (classes, classes + 1):
        loss, hidden = keras_xent.CategoricalCrossEntropy(), keras.ops.ones((2, 1))
        kernel = keras.ops.convert_to_tensor(np.linspace(0, 1, size, dtype="float32")[None])
        given = (hidden, kernel) if is_fused else (keras.ops.matmul(hidden, kernel),)
        function = loss.linear if is_fused else loss
        if size == classes:
            close([function(labels, *given)], [function(np.array([3, 0]), *given)])
        else:
            with pytest.raises(TypeError, match=f"y_true must have an integer dtype, got {dtype}"):
                function(labels, *given)


def test_logits_that_are_no_cosines_warn():
    hidden, kernel = keras.ops.ones((6, 3)), 2 * keras.ops.ones((3, 4))
    with pytest.warns(UserWarning, match="cosines"):
        keras_xent.ArcFaceCrossEntropy().linear(np.zeros(6, int), hidden, kernel)


def test_top_k_of_other_rows_and_of_a_sparse_loss():
    arrays, _ = layer()
    top = keras_xent.TopK(np.zeros((4, 2, 1), int), np.ones((4, 2, 1), "float32"))
    for loss in (keras_xent.CategoricalCrossEntropy(), keras_xent.SparseCategoricalCrossEntropy()):
        with pytest.raises(ValueError, match="y_true must be"):
            loss.linear(top, *map(keras.ops.convert_to_tensor, arrays))
