"""The Keras side: model.compile(loss=keras_xent.get(spec)), model.fit.

KERAS_BACKEND=jax python -m demo.keras_side --config demo/configs/digits_sgd.yaml --spec demo/specs/focal.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_xent
from demo import curves, data, settings
from demo.result import Result
from demo.settings import Settings

FRAMEWORK = f"Keras {keras.__version__} ({keras.backend.backend()})"
OPTIMIZERS = {"torch.optim.SGD": keras.optimizers.SGD, "torch.optim.AdamW": keras.optimizers.AdamW}
ARGUMENTS = {"lr": "learning_rate", "eps": "epsilon", "momentum": "momentum", "weight_decay": "weight_decay"}
"""Arguments of those optimizers in torch and in Keras. `betas` becomes `beta_1` and `beta_2`."""


class Recorder(keras.callbacks.Callback):
    """Record the loss of the whole training set before training and after each epoch."""

    def __init__(self, split: data.Split) -> None:
        super().__init__()
        self.split = split
        self.result = Result(FRAMEWORK)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._append_epoch_loss()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._append_epoch_loss()
        self.result.logged_losses.append(float(logs["loss"]))

    def _append_epoch_loss(self) -> None:
        logits = self.model(self.split.train_inputs, training=False)
        loss = self.model.loss(self.split.train_target, logits)
        self.result.epoch_losses.append(float(ops.convert_to_numpy(loss)))


class CosineDense(keras.layers.Dense):
    """A dense layer that gives the cosines of its input and each column of its kernel, without a bias."""

    def __init__(self, units: int) -> None:
        super().__init__(units, use_bias=False)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return ops.matmul(ops.normalize(inputs, axis=-1), ops.normalize(self.kernel, axis=0))


def network(sizes: list[int], seed: int, cosine: bool = False) -> keras.Model:
    """Return dense layers with tanh between them; the last one gives logits, or with `cosine` cosines."""
    hidden = [keras.layers.Dense(size, "tanh") for size in sizes[1:-1]]
    layers = [*hidden, CosineDense(sizes[-1]) if cosine else keras.layers.Dense(sizes[-1])]
    model = keras.Sequential([keras.Input((sizes[0],)), *layers])
    for layer, weights in zip(layers, data.initial_weights(sizes, seed), strict=True):
        layer.set_weights(weights[: len(layer.weights)])
    return model


def optimizer(name: str, arguments: dict[str, Any]) -> keras.optimizers.Optimizer:
    """Return the Keras optimizer that does the updates of the torch optimizer `name`.

    Under AdamW, both take lr * weight_decay of each weight away, biases included, apart from the gradient. Three
    differences remain, of which the numbers in the configs leave nothing (losses of digits_adamw.yaml in jax):

    - torch adds epsilon to the root of the second moment after the bias correction, Keras before it, where the root
      is 32 times smaller at the first step. Losses differ by 2e-5 at 1e-7, by 2e-6 at 1e-8, and not at 1e-12.
    - Keras computes 1 - beta_2^t in float32: 0.999 is rounded by 1.3e-5 of 1 - 0.999, losses differ by 6e-6. 1 - 2^-10
      is not rounded.
    - torch multiplies weights by 1 - lr * weight_decay, rounded to float32, Keras subtracts a part: losses differ by
      6e-6 at 1 - 1e-5, and not at 1 - 2^-16, which is not rounded.
    """
    arguments = dict(arguments)
    renamed = dict(zip(("beta_1", "beta_2"), arguments.pop("betas", ()), strict=False))
    renamed |= {ARGUMENTS[argument]: value for argument, value in arguments.items()}
    return OPTIMIZERS[name](**renamed)


def train(run: Settings, spec: dict[str, Any]) -> Result:
    """Train as `run` says on the loss of `spec`."""
    split = data.load(run.name, run.seed)
    loss = keras_xent.get(spec)
    model = network(run.sizes, run.seed)
    model.compile(optimizer=optimizer(run.optimizer, run.optimizer_arguments), loss=loss)
    recorder = Recorder(split)
    model.fit(
        split.train_inputs,
        split.train_target,
        batch_size=run.batch_size,
        epochs=run.max_epochs,
        shuffle=False,
        validation_data=(split.test_inputs, split.test_target),
        callbacks=[recorder],
    )
    result = recorder.result
    result.predictions = data.predictions(ops.convert_to_numpy(model(split.test_inputs, training=False)))
    result.curves = draw(loss, run.sizes[-1])
    return result


def draw(loss: keras.losses.Loss, outputs: int) -> dict[str, list[float]]:
    """Return the curve of `loss` and its row loss on each line."""
    values = {curves.CURVE: loss.curve(ops.convert_to_tensor(curves.LOG_ODDS))}
    rows = curves.row_by_row(loss)
    values |= {line.name: rows(line.target, line.logits) for line in curves.lines(loss.get_config(), outputs)}
    return {name: np.ravel(ops.convert_to_numpy(losses)).tolist() for name, losses in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.keras_side", description="The Keras side of the demo.")
    parser.add_argument("--config", type=Path, required=True, help="config of the Lightning side, for both")
    parser.add_argument("--spec", type=Path, required=True, help="JSON file with the loss spec")
    parser.add_argument("--epochs", type=int, help="epochs, instead of those of the config")
    parser.add_argument("--seed", type=int, help="seed, instead of that of the config")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    run = settings.read(options.config, max_epochs=options.epochs, seed=options.seed)
    result = train(run, json.loads(options.spec.read_text(encoding="utf-8")))
    if options.output is not None:
        result.write(options.output)


if __name__ == "__main__":
    main()
