"""Train on two devices of the CPU: `python two_devices.py DATA.npz CONFIG` prints what came of it."""

import contextlib
import json
import sys

import keras
import numpy as np

from keras_xent import SparseCategoricalCrossEntropy
from keras_xent.layers import LinearLoss
from keras_xent.metrics import MeanLoss

NAMES = ("first", "second")


def devices():
    """The scope of a strategy of TensorFlow, or JAX's way, which needs none."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        return strategy
    import jax

    assert len(jax.devices()) == 2
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=jax.devices()))
    return None


def train(strategy, loss_of, data, config):
    """A model of two outputs after an epoch: for each its kernel, the loss of both outputs and its own metric."""
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        features = keras.Input((3,))
        layers = {name: keras.layers.Dense(3, use_bias=False, name=name) for name in NAMES}
        model = keras.Model(features, {name: layer(features) for name, layer in layers.items()})
        for name, layer in layers.items():
            layer.set_weights([data[f"kernel_{name}"]])
        losses = {name: loss_of() for name in NAMES}
        metrics = {name: [MeanLoss(loss)] for name, loss in losses.items()}
        optimizer = keras.optimizers.SGD(config["rate"])
        model.compile(optimizer, losses, loss_weights=config["shares"], weighted_metrics=metrics)
    if strategy is None:
        assert len(layers["first"].kernel.value.devices()) == 2
    targets = {name: data[f"target_{name}"] for name in NAMES}
    options = {"sample_weight": data["weights"], "batch_size": config["batch"], "shuffle": False, "verbose": 0}
    logs = {name: values[0] for name, values in model.fit(data["inputs"], targets, **options).history.items()}
    return {
        name: [layer.get_weights()[0].tolist(), logs["loss"], logs[f"{name}_mean_loss"]]
        for name, layer in layers.items()
    }


def train_layer(strategy, loss, data, config):
    """The kernel of a layer with its loss after an epoch, and what `fit` and `evaluate` return."""
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        features, target, weights = keras.Input((3,)), keras.Input((), dtype="int32"), keras.Input(())
        layer = LinearLoss(3, loss, use_bias=False)
        model = keras.Model([features, target, weights], layer(features, target, sample_weight=weights))
        layer.set_weights([data["kernel_first"]])
        model.compile(keras.optimizers.SGD(config["rate"] * config["shares"]["first"]))
    given = [data[name] for name in ("inputs", "target_first", "weights")]
    options = {"batch_size": config["batch"], "verbose": 0}
    before = model.evaluate(given, **options)
    logs = model.fit(given, shuffle=False, **options).history["loss"]
    return [layer.get_weights()[0].tolist(), logs[0], before]


def add_up(strategy, loss, *arrays):
    """The sum of what replicas return that have every other row."""
    import tensorflow as tf

    shares = [
        strategy.experimental_distribute_values_from_function(
            lambda context, values=values: tf.constant(values[context.replica_id_in_sync_group :: 2])
        )
        for values in arrays
    ]
    return float(strategy.reduce("SUM", strategy.run(loss, shares), axis=None))


def main():
    data, config = dict(np.load(sys.argv[1])), json.loads(sys.argv[2])
    strategy, results = devices(), {}
    for reduction in config["reductions"]:

        def loss_of(reduction=reduction):
            return SparseCategoricalCrossEntropy(reduction=reduction, ignore_index=-1, class_weight=config["weights"])

        results[reduction] = train(strategy, loss_of, data, config)
        results[reduction]["layer"] = train_layer(strategy, loss_of(), data, config)
        if strategy is not None:
            results[reduction]["sum"] = add_up(strategy, loss_of(), data["target_first"], data["inputs"])
            with strategy.scope():
                results[reduction]["whole"] = float(loss_of()(data["target_first"], data["inputs"]))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
