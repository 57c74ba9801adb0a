"""What only Keras has: .keras files, masks, class_weight in fit, dtype policies, kinds of models and data."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_xent
from keyword_values import ALL_CONFIGS
from sides import name as side_name

if side_name != "keras-torch":
    from keras_xent.kernels import passes

only_tensorflow = pytest.mark.skipif(side_name != "keras-tensorflow", reason="what only TensorFlow has")


def classifier(loss, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(optimizer="sgd", loss=loss, **options)
    return model


def number(tensor):
    return float(keras.ops.convert_to_numpy(tensor))


def batch(rows=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, 3)).astype("float32"), rng.integers(0, 3, rows)


def test_every_argument_survives_a_keras_file_and_a_fresh_process(tmp_path):
    losses = [keras_xent.get({"loss": name, "config": config}) for name, config in (run.values for run in ALL_CONFIGS)]
    paths = [tmp_path / f"{position}.keras" for position in range(len(losses))]
    for loss, path in zip(losses, paths, strict=True):
        classifier(loss).save(path)
    script = (
        "import json, sys, keras, keras_xent;"
        "losses = [keras.models.load_model(path).loss for path in sys.argv[1:]];"
        "print(json.dumps([[type(loss).__name__, loss.get_config()] for loss in losses]))"
    )
    run = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [[type(loss).__name__, loss.get_config()] for loss in losses]


def test_config_holds_every_argument_of_a_model():
    loss = keras_xent.CategoricalFocalCrossEntropy(gamma=0.5, class_weight=[0.1, 2.0, 3.0], ignore_index=-1)
    model = classifier(loss)
    again = keras.Sequential.from_config(model.get_config())
    again.compile_from_config(model.get_compile_config())
    assert again.loss.get_config() == loss.get_config()


# Dynamo takes long to trace a step of Keras.
traced = pytest.mark.slow if side_name == "keras-torch" else ()


@pytest.mark.parametrize("jit_compile", [pytest.param(True, marks=traced), False])
def test_fit_reports_the_loss_of_the_batch(jit_compile):
    inputs, labels = batch()
    loss = keras_xent.SparseCategoricalCrossEntropy(class_weight=[1, 2, 3], reduction="weighted_mean")
    model = classifier(loss, jit_compile=jit_compile)
    want = number(loss(labels, model(inputs)))
    history = model.fit(inputs, labels, batch_size=8, verbose=0)
    assert history.history["loss"] == pytest.approx([want], rel=1e-6)


class Classifier(keras.Model):
    def __init__(self, classes=3):
        super().__init__()
        self.dense = keras.layers.Dense(classes)

    def call(self, inputs):
        return self.dense(inputs)


def functional():
    features = keras.Input((3,))
    return keras.Model(features, keras.layers.Dense(3)(features))


def sequential():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])


def mean_loss(logits, labels, weights=1.0):
    """Cross-entropy by its textbook formula, of weighted rows with a label >= 0."""
    logits, kept = np.asarray(logits, "float64"), labels >= 0
    log_total = np.log(np.exp(logits).sum(-1))
    losses = log_total - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return (kept * weights * losses).sum() / kept.sum()


@pytest.mark.parametrize("build", [sequential, functional, Classifier])
def test_kinds_of_models(build):
    """A step from the weights that predict, in closed form."""
    inputs, labels = batch()
    labels[:2] = -1
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss=keras_xent.CategoricalCrossEntropy(ignore_index=-1))
    logits = model.predict(inputs, verbose=0).astype("float64")
    kernel, bias = model.get_weights()
    history = model.fit(inputs, labels, batch_size=8, verbose=0)
    assert history.history["loss"] == pytest.approx([mean_loss(logits, labels)], rel=1e-6)
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    slopes = (labels >= 0)[:, None] * (probability - np.eye(3)[labels]) / 6
    np.testing.assert_allclose(model.get_weights()[0], kernel - 0.5 * inputs.T @ slopes, atol=1e-6)
    np.testing.assert_allclose(model.get_weights()[1], bias - 0.5 * slopes.sum(0), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fit_under_a_mixed_policy(policy):
    """Logits are of half precision, their loss is not; neither holds label 4097."""
    inputs, labels = batch()
    labels = np.where(np.arange(8) < 2, -1, 4095 + labels)
    keras.config.set_dtype_policy(policy)
    try:
        model = Classifier(4100)
        model.compile(optimizer="sgd", loss=keras_xent.CategoricalCrossEntropy(ignore_index=-1))
        logits = keras.ops.convert_to_numpy(keras.ops.cast(model(inputs), "float32"))
        before = model.get_weights()[0]
        history = model.fit(inputs, labels, batch_size=8, epochs=2, verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    assert history.history["loss"][0] == pytest.approx(mean_loss(logits, labels), rel=1e-5)
    assert history.history["loss"][1] < history.history["loss"][0]
    moved = np.abs(model.get_weights()[0] - before).max(0)
    assert set(np.argsort(moved)[-len(set(labels) - {-1}) :]) == set(labels) - {-1}


@only_tensorflow
def test_a_tf_dataset_with_weights():
    import tensorflow as tf

    inputs, labels = batch()
    labels[:3] = -1
    weight = np.linspace(0, 2, 8, dtype="float32")
    model = classifier(keras_xent.CategoricalCrossEntropy(ignore_index=-1))
    want = mean_loss(model.predict(inputs, verbose=0), labels, weight)
    data = tf.data.Dataset.from_tensor_slices((inputs, labels, weight)).batch(8)
    assert model.evaluate(data, verbose=0) == pytest.approx(want, rel=1e-6)
    assert model.fit(data, shuffle=False, verbose=0).history["loss"] == pytest.approx([want], rel=1e-6)


def test_class_weight_and_sample_weight_in_fit():
    inputs, labels = batch()
    weight = np.linspace(0, 1, 8, dtype="float32")
    loss = keras_xent.SparseCategoricalCrossEntropy()
    model = classifier(loss)
    by_class = np.array([1.0, 2.0, 3.0], "float32")[labels]
    want = number(loss(labels, model(inputs), sample_weight=by_class))
    assert model.evaluate(inputs, labels, sample_weight=by_class, verbose=0) == pytest.approx(want, rel=1e-6)
    history = model.fit(inputs, labels, batch_size=8, class_weight={0: 1.0, 1: 2.0, 2: 3.0}, verbose=0)
    assert history.history["loss"] == pytest.approx([want], rel=1e-6)
    want = number(loss(labels, model(inputs), sample_weight=weight))
    assert model.evaluate(inputs, labels, sample_weight=weight, verbose=0) == pytest.approx(want, rel=1e-6)


def test_embedding_masks_leave_padding_out():
    tokens = np.array([[1, 2, 0], [3, 0, 0]])
    labels = np.array([[1, 2, 0], [3, 0, 0]])
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,), dtype="int32"), keras.layers.Embedding(4, 4, mask_zero=True)])
    loss = keras_xent.SparseCategoricalCrossEntropy()
    model.compile(optimizer="sgd", loss=loss)
    logits = keras.ops.convert_to_tensor(keras.ops.convert_to_numpy(model(tokens)))
    want = number(loss(labels, logits, mask=tokens != 0))
    assert want != pytest.approx(number(loss(labels, logits)), rel=1e-3)
    assert want == pytest.approx(mean_loss(keras.ops.convert_to_numpy(logits), np.where(tokens, labels, -1)), rel=1e-6)
    assert model.evaluate(tokens, labels, verbose=0) == pytest.approx(want, rel=1e-6)
    padding = model.get_weights()[0][0]
    assert model.fit(tokens, labels, verbose=0).history["loss"] == pytest.approx([want], rel=1e-6)
    np.testing.assert_array_equal(model.get_weights()[0][0], padding)


def test_two_outputs():
    inputs, labels = batch()
    features = keras.Input((3,))
    outputs = {
        "kind": keras.layers.Dense(3, name="kind")(features),
        "flag": keras.layers.Dense(1, name="flag")(features),
    }
    model = keras.Model(features, outputs)
    losses = {"kind": keras_xent.CategoricalCrossEntropy(), "flag": keras_xent.BinaryCrossEntropy()}
    model.compile(optimizer="sgd", loss=losses, loss_weights={"kind": 1.0, "flag": 0.5})
    target = {"kind": labels, "flag": (labels > 0).astype("float32")}
    predicted = model(inputs)
    kind, flag = (number(losses[name](target[name], predicted[name])) for name in ("kind", "flag"))
    want = kind + 0.5 * flag
    assert model.evaluate(inputs, target, verbose=0)[0] == pytest.approx(want, rel=1e-6)


def test_label_257_survives_a_bfloat16_policy():
    """bfloat16 holds 256 and 258, not 257."""
    logits = np.zeros((1, 300), "float32")
    logits[0, 257] = 64.0
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(logits), "bfloat16")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        loss = keras_xent.SparseCategoricalCrossEntropy()
        assert number(loss(np.array([257]), tensor)) < 1e-20
        assert keras.backend.standardize_dtype(loss(np.array([257]), tensor).dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_whole_number_float_labels():
    """The symbolic build under tf.distribute passes integer labels as float64."""
    inputs, labels = batch()
    loss = keras_xent.SparseCategoricalCrossEntropy(ignore_index=1)
    assert number(loss(labels.astype("float64"), inputs)) == number(loss(labels, inputs))


@pytest.mark.parametrize("floatx", ["float64", "float16", "bfloat16"])
def test_floatx_does_not_matter(floatx):
    logits = keras.ops.convert_to_tensor(np.array([[0.0, 40.0], [1.0, 0.5]], "float32"))
    probabilities = keras.ops.convert_to_tensor(np.array([[0.0, 1.0], [0.25, 0.75]], "float32"))
    labels = np.array([0, 1])
    losses = [
        (keras_xent.CategoricalFocalCrossEntropy(hard_fraction=0.5, ignore_index=2, check_labels=False), logits),
        (keras_xent.CategoricalCrossEntropy(from_logits=False, entropy_penalty=0.5), probabilities),
    ]
    wants = [number(loss(labels, scores, sample_weight=0.1)) for loss, scores in losses]
    keras.config.set_floatx(floatx)
    try:
        for (loss, scores), want in zip(losses, wants, strict=True):
            got = loss(labels, scores, sample_weight=0.1)
            assert keras.backend.standardize_dtype(got.dtype) == "float32"
            assert number(got) == pytest.approx(want, rel=1e-6)
    finally:
        keras.config.set_floatx("float32")


def test_a_loss_built_under_a_trace_serves_outside():
    built = []

    def step(logits):
        built.append(keras_xent.CategoricalCrossEntropy(class_weight=[1, 2, 3]))
        return built[-1](labels, logits)

    logits, labels = batch()
    logits = keras.ops.convert_to_tensor(logits)
    if side_name == "keras-tensorflow":
        import tensorflow as tf

        step = tf.function(step)
    elif side_name == "keras-jax":
        import jax

        step = jax.jit(step)
    assert number(step(logits)) == pytest.approx(number(built[-1](labels, logits)), rel=1e-6)


@only_tensorflow
def test_labels_of_unknown_size():
    """A generator's labels (N, 1) have the shape (None, None): they may be one-hot, unless the loss takes none."""
    import tensorflow as tf

    logits, labels = batch()
    columns = tf.TensorSpec([None, None], tf.int64)
    for loss_class in (keras_xent.SparseCategoricalCrossEntropy, keras_xent.CategoricalCrossEntropy):
        loss = loss_class()
        step = tf.function(lambda labels, loss=loss: loss(labels, logits), input_signature=[columns])
        if loss_class.labels_only:
            assert number(step(labels[:, None])) == pytest.approx(number(loss(labels, logits)), rel=1e-6)
        else:
            with pytest.raises(ValueError, match="y_true must have a static size on axis 1"):
                step(labels[:, None])


def test_symbolic_tensors():
    symbolic = keras.KerasTensor((None,), dtype="int32"), keras.KerasTensor((None, 5))
    assert keras_xent.CategoricalCrossEntropy(label_smoothing=0.1)(*symbolic).shape == ()
    assert keras_xent.CategoricalFocalCrossEntropy(reduction="none")(*symbolic).shape == (None,)


@only_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("config", [{}, {"label_smoothing": 0.1, "z_loss": 0.1}, {"hard_fraction": 0.5}])
def test_sizes_known_only_at_run_time(config, jit_compile):
    import tensorflow as tf

    loss = keras_xent.CategoricalFocalCrossEntropy(**config)
    shapes = [tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int64)]
    step = tf.function(lambda logits, labels: loss(labels, logits), input_signature=shapes, jit_compile=jit_compile)
    for rows in (4, 0):
        inputs, labels = batch(rows)
        assert number(step(inputs, labels)) == pytest.approx(number(loss(labels, inputs)), rel=1e-6)


only_jax = pytest.mark.skipif(side_name != "keras-jax", reason="the transformations of JAX")


@only_jax
@pytest.mark.parametrize("config", [{}, {"ignore_index": 3}], ids=str)
def test_jax_holds_no_second_tensor_of_many_classes(config):
    """Neither one-hot labels nor the exponentials: the gradient is all."""
    import jax
    import jax.numpy as jnp

    loss = keras_xent.CategoricalCrossEntropy(**config)
    logits, labels = jnp.ones((16, 20_000)), jnp.arange(16)
    step = jax.jit(jax.value_and_grad(lambda logits, labels: loss(labels, logits)))
    memory = step.lower(logits, labels).compile().memory_analysis()
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < 1.1 * logits.nbytes


SECOND_DERIVATIVES = [{}, {"label_smoothing": 0.1, "temperature": 1.5}, {"z_loss": 0.25, "entropy_penalty": 0.1}]


@only_jax
@pytest.mark.parametrize("classes", [4, 10_000])
@pytest.mark.parametrize("config", SECOND_DERIVATIVES, ids=str)
def test_transformations_of_jax(config, classes):
    """The second derivative along the gradient by central differences of the gradient."""
    import jax
    import jax.numpy as jnp

    loss = keras_xent.CategoricalCrossEntropy(**config)
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, classes)), "float32")
    labels = jnp.asarray([0, 1, 3])
    gradient = jax.grad(lambda logits: loss(labels, logits))
    direction = jnp.zeros_like(logits).at[:, :4].set(1.0)
    step = 1e-2
    want = (gradient(logits + step * direction) - gradient(logits - step * direction)) / (2 * step)
    forward_of_reverse = jax.jvp(gradient, (logits,), (direction,))[1]
    reverse_of_reverse = jax.grad(lambda logits: (gradient(logits) * direction).sum())(logits)
    np.testing.assert_allclose(forward_of_reverse, want, rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(reverse_of_reverse, forward_of_reverse, rtol=1e-4, atol=1e-6)
    rows = jax.vmap(lambda logits, label: loss(label[None], logits[None]))(logits, labels)
    np.testing.assert_allclose(rows.mean(), loss(labels, logits), rtol=1e-6)


@only_tensorflow
@pytest.mark.parametrize("classes", [4, 1000])
@pytest.mark.parametrize("config", SECOND_DERIVATIVES, ids=str)
def test_second_derivative_of_tensorflow(config, classes):
    import tensorflow as tf

    loss = keras_xent.CategoricalCrossEntropy(**config)
    logits = tf.constant(np.random.default_rng(0).normal(size=(3, classes)))
    direction = tf.constant(np.arange(3 * classes).reshape(3, classes) % 7 / 7)
    labels = tf.constant([0, 1, 3])

    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return tape.gradient(value, logits)

    with tf.GradientTape() as tape:
        tape.watch(logits)
        along = tf.reduce_sum(gradient(logits) * direction)
    got = tape.gradient(along, logits)
    want = (gradient(logits + 1e-5 * direction) - gradient(logits - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-9)


@only_tensorflow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_variables_of_tensorflow_are_logits_and_masks(smoothing):
    import tensorflow as tf

    loss = keras_xent.CategoricalCrossEntropy(label_smoothing=smoothing)
    values, labels, mask = np.eye(2, 5, dtype="float32"), tf.constant([0, 3]), np.array([True, False])
    want = number(loss(labels, tf.constant(values), mask=mask))
    for logits in (tf.Variable(values), keras.Variable(values)):
        with tf.GradientTape() as tape:
            value = loss(labels, logits, mask=tf.Variable(mask))
        assert number(value) == want
        variable = logits if isinstance(logits, tf.Variable) else logits.value
        assert np.abs(tape.gradient(value, variable)).sum() > 0


@only_tensorflow
def test_a_binary_target_on_a_tape_is_no_label():
    import tensorflow as tf

    logits, target = tf.constant([2.0, -3.0]), tf.constant([1.0, 0.0])

    def gradient(target):
        with tf.GradientTape() as tape:
            tape.watch(target)
            value = keras_xent.BinaryCrossEntropy(reduction="sum")(target, logits)
        return tape.gradient(value, target)

    np.testing.assert_allclose(gradient(target), tf.function(gradient)(target), rtol=1e-6)


def test_torch_is_loaded_for_its_own_backend_alone():
    loaded = {"torch", "lightning_xent"} & {name.partition(".")[0] for name in sys.modules}
    assert loaded == ({"torch", "lightning_xent"} if side_name == "keras-torch" else set())


GONE = """
import keras, numpy as np
import keras.src.backend as backend
own = backend.get_keras_mask
del backend.get_keras_mask
import keras_xent
backend.get_keras_mask = own  # Keras itself needs it
if keras.backend.backend() == "tensorflow":
    from keras_xent.kernels import tensorflow_graph
    tensorflow_graph.default_graph = object
assert keras_xent.private.get_keras_mask is not own
loss = keras_xent.CategoricalCrossEntropy(ignore_index=-1)
logits, target = np.array([[1.0, 0.0, 2.0], [0.5, 1.5, 0.0]], "float32"), np.array([2, -1])
print(float(loss(target, logits)))
model = keras.Sequential([keras.layers.Dense(3)])
model.compile("sgd", loss)
print(float(model.evaluate(logits, target, verbose=0)))
"""


def test_losses_work_without_the_private_names():
    """`private.py` lists them. Keras and TensorFlow may take them away."""
    run = subprocess.run([sys.executable, "-c", GONE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    values = [float(line) for line in run.stdout.splitlines()[-2:]]
    assert values[0] == pytest.approx(np.log(np.exp([1.0, 0.0, 2.0]).sum()) - 2.0, rel=1e-6)
    assert np.isfinite(values[1])


@pytest.mark.skipif(side_name == "keras-torch", reason="kernels of TensorFlow and JAX")
@pytest.mark.parametrize("classes", [5, 2**24, 2**24 + 3])
def test_the_other_classes_of_a_label_up_to_any_number(classes):
    """Numbers beyond 2^24 have no float32 of their own."""
    labels = np.array([0, classes - 2, classes - 1, -1, -100, 2**31 - 1], "int32")
    x = keras.ops.zeros((1, classes), "float32")
    for label in labels:
        others = keras.ops.convert_to_numpy(passes.are_others(keras.ops.convert_to_tensor(np.array([label])), x))
        assert np.flatnonzero(others != 1).tolist() == ([int(label)] if 0 <= label < classes else [])
        assert others.min() in (0, 1)


@pytest.mark.skipif(side_name != "keras-torch", reason="DTensor is torch's")
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_dtensor_becomes_whole(is_compiled):
    import torch
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    logits, label = torch.linspace(-2.0, 2.0, 20).sin().reshape(4, 5), torch.tensor([0, 4, 2, 3])
    loss = keras_xent.SparseCategoricalCrossEntropy(check_labels=False)
    whole = logits.clone().requires_grad_()
    (want,) = torch.autograd.grad(loss(label, whole), whole)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        placed = distribute_tensor(logits, init_device_mesh("cpu", (1,)), [Shard(1)]).requires_grad_()
        call = torch.compile(loss, backend="aot_eager", fullgraph=True) if is_compiled else loss
        (gradient,) = torch.autograd.grad(call(label, placed), placed)
        assert gradient.placements == placed.placements
        assert torch.allclose(gradient.to_local(), want)
    finally:
        torch.distributed.destroy_process_group()
