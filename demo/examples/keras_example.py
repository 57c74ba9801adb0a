"""The Keras side of an example: network, loss, optimizer and rows of the LightningCLI config, and model.fit.

KERAS_BACKEND=jax python -m demo.examples.keras_example demo/configs/segmentation.yaml --output keras.json
"""

import argparse
from pathlib import Path
from typing import Any

import keras
from keras import ops
from numpy.typing import NDArray

import keras_xent
from demo.command_line import whole_number
from demo.examples import EXAMPLES, keras_last_layer, settings
from demo.examples.keras_networks import NETWORKS
from demo.examples.recording import IN_CHUNKS, WHOLE, Record, RecorderOfSide
from demo.examples.settings import ExampleSettings
from demo.keras_side import FRAMEWORK, optimizer

EXACT = "epoch_loss"
"""Name of the exact loss on the progress bar."""


class EpochMean(keras.metrics.Metric):
    """The loss over all rows of an epoch, from the sums and denominators of its batches.

    Keras' own `loss` weights batches by their rows: another mean, where rows are ignored or weighted.
    """

    def __init__(self, loss: keras.losses.Loss) -> None:
        super().__init__(name=EXACT)
        self.loss = loss
        self.total = self.add_weight(name="total", initializer="zeros")
        self.denominator = self.add_weight(name="denominator", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        total, denominator = self.loss.parts(y_true, y_pred, sample_weight)
        self.total.assign_add(total)
        self.denominator.assign_add(denominator)

    def result(self) -> Any:
        return ops.divide_no_nan(self.total, self.denominator)


class Recorder(RecorderOfSide, keras.callbacks.Callback):
    """Record the losses of each epoch, and what the example observes."""

    predicting: keras.Model | None = None
    """Returns logits, where the model that is trained does not."""

    def __init__(self, run: ExampleSettings) -> None:
        super().__init__()
        self.example = EXAMPLES[run.name]
        self.split = self.example.load(run.seed)
        self.batch_size = run.batch_size
        self.record = Record(FRAMEWORK)

    def logits(self, inputs: NDArray) -> NDArray:
        return (self.predicting or self.model).predict_on_batch(inputs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        name = EXACT if EXACT in logs else "loss"
        self.record.train_losses.append(float(logs[name]))
        self.record.test_losses.append(float(logs[f"val_{name}"]))


def train(run: ExampleSettings) -> Record:
    """Train as `run` says."""
    if run.layer is not None:
        return train_last_layer(run)
    recorder = Recorder(run)
    split, loss = recorder.split, keras_xent.get(run.loss)
    model = NETWORKS[run.network](**run.network_arguments)
    metrics = [EpochMean(loss)]
    model.compile(optimizer=optimizer(run.optimizer, run.optimizer_arguments), loss=loss, metrics=metrics)
    test = split.test_inputs, split.test_target
    before = model.evaluate(*test, batch_size=run.batch_size, verbose=0, return_dict=True)
    recorder.record.test_losses.append(before[EXACT])
    model.fit(
        split.train_inputs,
        split.train_target,
        batch_size=run.batch_size,
        epochs=run.epochs,
        shuffle=False,
        validation_data=test,
        callbacks=[recorder],
    )
    recorder.observe()
    return recorder.record


def train_last_layer(run: ExampleSettings) -> Record:
    """Train as `run` says, where the last layer has the loss, which Keras weights by rows: no row is ignored."""
    recorder, steps = Recorder(run), keras_last_layer.StepLosses()
    split, record = recorder.split, recorder.record
    network, layer, model, recorder.predicting = keras_last_layer.models(run, split)
    model.compile(optimizer(run.optimizer, run.optimizer_arguments))
    record.memory = keras_last_layer.memory_of(run, network, layer, split)
    record.first_steps = {IN_CHUNKS: steps.losses, WHOLE: keras_last_layer.steps_of_all_logits(run, split)}
    train, test = [split.train_inputs, split.train_target], [split.test_inputs, split.test_target]
    record.test_losses.append(model.evaluate(test, batch_size=run.batch_size, verbose=0))
    callbacks, options = [recorder, steps], {"batch_size": run.batch_size, "epochs": run.epochs, "shuffle": False}
    model.fit(train, validation_data=(test,), callbacks=callbacks, **options)
    recorder.observe()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.examples.keras_example", description=__doc__.split("\n")[0])
    parser.add_argument("config", type=Path, help="config of the Lightning side, for both")
    parser.add_argument("--epochs", type=whole_number(1), help="epochs, instead of those of the config")
    parser.add_argument("--seed", type=whole_number(0), help="seed, instead of that of the config")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    record = train(settings.read(options.config, options.epochs, options.seed))
    if options.output is not None:
        record.write(options.output)


if __name__ == "__main__":
    main()
