"""Shard classes over four devices of JAX: `python sharded_classes.py` prints what came of it for every loss."""

import functools
import json
import re

import jax
import keras
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import examples
import keras_xent
from keras_xent.kernels import linear

ROWS, CLASSES = 8, 64
KEYWORDS = {
    "weighted": ("CategoricalCrossEntropy", {"class_weight": [0.5 + index % 3 for index in range(CLASSES)]}),
    "ignored": ("SparseCategoricalCrossEntropy", {"ignore_index": 3, "reduction": "weighted_mean"}),
    "smoothed": ("CategoricalCrossEntropy", {"label_smoothing": 0.25, "class_weight": [0.5, 2.0] * (CLASSES // 2)}),
    "smoothed focal": ("CategoricalFocalCrossEntropy", {"label_smoothing": 0.25}),
    "capped": ("CategoricalCrossEntropy", {"z_loss": 0.5, "softcap": 3.0, "temperature": 0.5}),
    "entropy": ("CategoricalCrossEntropy", {"entropy_penalty": 0.25}),
    "hard rows": ("CategoricalFocalCrossEntropy", {"hard_fraction": 0.5}),
    "rows": ("CategoricalPolyCrossEntropy", {"reduction": "none"}),
    "soft": ("CategoricalCrossEntropy", {}),
    "soft focal": ("CategoricalFocalCrossEntropy", {}),
}
CASES = {**KEYWORDS, **{name: (name, {}) for name in examples.CLASSES if not examples.is_binary(name)}}


def inputs_of(case, name):
    """Logits and targets; those of the ordinal loss, with a logit less than classes, get a class more."""
    logits, target = examples.inputs(name, rows=ROWS, classes=CLASSES + int(name == "OrdinalCrossEntropy"))
    if case.startswith("soft"):
        target = np.random.default_rng(1).dirichlet(np.ones(CLASSES), ROWS).astype("float32")
    return logits, target


def gathered(text):
    """The largest number of elements that an all-gather of a compiled program makes."""
    shapes = re.findall(r"= \(?\w+\[([\d,]*)\][^=]*? all-gather(?:-start)?\(", text)
    return max((int(np.prod([int(size) for size in shape.split(",") if size])) for shape in shapes), default=0)


@functools.cache
def on_one_device(case):
    """Inputs, the function of the loss and its gradient, and what it gives on one device."""
    name, config = CASES[case]
    logits, target = inputs_of(case, name)
    loss = examples.build(name, classes=CLASSES + int(name == "OrdinalCrossEntropy"), **config)

    def total(logits, target):
        value = loss(target, logits)
        factor = np.arange(1.0, value.size + 1, dtype="float32").reshape(value.shape)
        return (factor * value).sum()

    function = jax.value_and_grad(total)
    return logits, target, function, jax.jit(function)(logits, target)


def results(devices, cases):
    """For each case how far value and gradient are from those of one device, and what the program gathers."""
    sharding = NamedSharding(Mesh(np.array(devices), ("classes",)), PartitionSpec(None, "classes"))
    found = {}
    for case in cases:
        logits, target, function, want = on_one_device(case)
        program = jax.jit(function, in_shardings=(sharding, None), out_shardings=(None, sharding))
        compiled = program.lower(logits, target).compile()
        value, gradient = compiled(jax.device_put(logits, sharding), target)
        assert len(gradient.addressable_shards) == len(devices)
        found[case] = {
            "value": float(abs(value - want[0]) / max(1.0, abs(want[0]))),
            "gradient": float(np.abs(gradient - want[1]).max() / np.abs(want[1]).max()),
            "gathered": gathered(compiled.as_text()),
            "logits": int(np.prod(logits.shape)),
        }
    return found


def trained(devices):
    """The weights of a model after an epoch, with its last layer sharded over classes if there are devices."""
    inputs = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
    target = np.arange(16) % CLASSES
    if devices:
        mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", "model"), devices)
        layout = keras.distribution.LayoutMap(mesh)
        layout[".*classes.kernel"] = (None, "model")
        layout[".*classes.bias"] = ("model",)
        keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch"))
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(CLASSES, name="classes")])
    weights = np.random.default_rng(1)
    model.set_weights([weights.normal(size=weight.shape).astype("float32") for weight in model.get_weights()])
    if devices:
        assert len(model.layers[-1].kernel.value.devices()) == len(devices)
        assert model.layers[-1].kernel.value.addressable_shards[0].data.shape == (5, CLASSES // len(devices))
    loss = keras_xent.SparseCategoricalCrossEntropy(ignore_index=3, label_smoothing=0.1)
    model.compile(keras.optimizers.SGD(0.5), loss)
    logs = model.fit(inputs, target, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
    keras.distribution.set_distribution(None)
    return [np.concatenate([np.ravel(weight) for weight in model.get_weights()]).tolist(), logs]


MAPPED = {
    "smoothed": ("CategoricalCrossEntropy", {"label_smoothing": 0.25, "ignore_index": 3}),
    "weighted focal": ("CategoricalFocalCrossEntropy", {"class_weight": [1.0, 2.0] * (CLASSES // 2), "z_loss": 0.1}),
    "hard rows": ("CategoricalCrossEntropy", {"hard_fraction": 0.5}),
}


def mapped(devices, least, most_rows):
    """How far `linear` is from the loss of all logits, value and gradients, where jax.shard_map splits the rows."""
    mesh = jax.make_mesh((len(devices),), ("rows",), axis_types=(AxisType.Auto,), devices=devices)
    rows, everywhere, random = PartitionSpec("rows"), PartitionSpec(), np.random.default_rng(0)
    hidden, kernel = (
        random.normal(size=(4 * ROWS, 5)).astype("float32"),
        random.normal(size=(5, CLASSES)).astype("float32"),
    )
    labels, found = np.arange(4 * ROWS) % CLASSES, {}
    bounds = linear.LEAST, linear.MOST, linear.ROWS
    linear.LEAST, linear.MOST, linear.ROWS = least, least, most_rows
    for case, (name, config) in MAPPED.items():
        loss = getattr(keras_xent, name)(**config)

        def fused(hidden, kernel, labels, loss=loss):
            return jax.lax.psum(loss.linear(labels, hidden, kernel, denominator=ROWS), "rows")

        def dense(hidden, kernel, labels, loss=loss):
            return jax.lax.psum(loss(labels, hidden @ kernel, denominator=ROWS), "rows")

        got, want = (
            jax.jit(
                jax.value_and_grad(
                    jax.shard_map(of, mesh=mesh, in_specs=(rows, everywhere, rows), out_specs=everywhere), (0, 1)
                )
            )(hidden, kernel, labels)
            for of in (fused, dense)
        )
        found[case] = max(
            float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        )
    linear.LEAST, linear.MOST, linear.ROWS = bounds
    return found


def explicit(devices):
    """How far losses are from those of one device where the type of an array says how it is sharded."""
    found = {}
    with jax.set_mesh(jax.make_mesh((len(devices),), ("rows",), axis_types=(AxisType.Explicit,), devices=devices)):
        for name in ("CategoricalCrossEntropy", "CategoricalFocalCrossEntropy", "LDAMCrossEntropy"):
            config = {"class_counts": [1.0] * CLASSES} if name == "LDAMCrossEntropy" else {}
            loss = getattr(keras_xent, name)(class_weight=[0.5, 2.0] * (CLASSES // 2), **config)
            function = jax.jit(jax.value_and_grad(lambda logits, target, loss=loss: loss(target, logits)))
            logits, target = examples.inputs(name, rows=ROWS, classes=CLASSES)
            spread = [jax.device_put(each, PartitionSpec("rows")) for each in (logits, target)]
            pairs = zip(jax.tree.leaves(function(*spread)), jax.tree.leaves(function(logits, target)), strict=True)
            found[name] = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
        try:
            jax.jit(lambda hidden: keras_xent.CategoricalCrossEntropy().linear(target, hidden, np.eye(CLASSES)))(
                spread[0]
            )
        except ValueError as error:
            return found, str(error)
    return found, ""


if __name__ == "__main__":
    every = jax.devices()
    assert len(every) == 4
    losses = {2: results(every[:2], ["smoothed", "smoothed focal", "capped", "soft"]), 4: results(every, CASES)}
    found = {"losses": losses, "trained": [trained(every[:count]) for count in (0, 2, 4)]}
    found |= {"mapped": [mapped(every, *limits) for limits in ((64, 0), (64, 1000), (2**23, 0))]}
    found |= {"explicit": explicit(every)}
    print(json.dumps(found))
