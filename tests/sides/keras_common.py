"""What the Keras backends share."""

import os

import keras

import keras_xent as package

if keras.backend.backend() != os.environ["KERAS_BACKEND"]:
    raise RuntimeError(f"Keras runs on {keras.backend.backend()}, wanted {os.environ['KERAS_BACKEND']}")


def call(loss, logits, target, sample_weight=None, mask=None):
    return loss(target, logits, sample_weight=sample_weight, mask=mask)


def parts(loss, logits, target, sample_weight=None, mask=None):
    return loss.parts(target, logits, sample_weight=sample_weight, mask=mask)
