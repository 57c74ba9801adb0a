"""Train every run of trajectories.py in Keras.

Run as `python keras_trajectories.py FILE`, in the demo environment.
"""

import sys
from pathlib import Path

import keras

import keras_xent
from demo.keras_side import network, optimizer
from shared_specs.common.spec import public_classes
from trajectories import OPTIMIZERS, SEED, write


def train(run):
    """Train by `train_on_batch`, which returns the loss of its batch."""
    # The floatx is that of the metric that holds the loss, the policy that of the layers.
    keras.config.set_floatx(run.dtype)
    keras.config.set_dtype_policy(run.dtype)
    model = network(run.sizes, SEED, run.setup.cosine)
    steps = optimizer(f"torch.optim.{run.optimizer}", OPTIMIZERS[run.optimizer])
    model.compile(optimizer=steps, loss=keras_xent.get(run.spec), jit_compile=False)
    steps.build(model.trainable_variables)  # TensorFlow traces a step that makes variables twice
    losses = [float(model.train_on_batch(*batch)) for batch in run.batches()]
    return losses, model.get_weights()


if __name__ == "__main__":
    classes = list(public_classes(keras_xent))
    write(Path(sys.argv[1]), train, classes)
