"""The Keras side of an experiment: all its trainings, by model.compile(loss=keras_xent.get(spec)) and model.fit.

KERAS_BACKEND=jax python -m demo.keras_plan demo/output/noise/plan.json keras.json
"""

import sys

import keras
from keras import ops

import keras_xent
from demo import keras_side
from demo.plan import Job, Outcome, OutcomeRecorder, Plan, train_all
from keras_xent.callbacks import ClassWeighting


class Recorder(OutcomeRecorder, keras.callbacks.Callback):
    """Record the test score after each epoch, and the training loss after the first and the last one."""

    def __init__(self, *arguments: object) -> None:
        keras.callbacks.Callback.__init__(self)
        OutcomeRecorder.__init__(self, *arguments)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.append_score(ops.convert_to_numpy(self.model(self.split.test_inputs, training=False)))
        if epoch in self.epochs_of_losses:
            logits = self.model(self.split.train_inputs, training=False)
            loss = self.model.loss(self.split.train_target, logits)
            self.outcome.losses.append(float(ops.convert_to_numpy(loss)))


def train(plan: Plan, job: Job) -> Outcome:
    """Do one training of `plan`."""
    keras.utils.clear_session()  # hundreds of graphs would stay in memory
    split, settings = plan.split(job), plan.settings
    model = keras_side.network(settings.sizes, job.seed, job.cosine)
    optimizer = keras_side.optimizer(settings.optimizer, settings.optimizer_arguments)
    model.compile(optimizer=optimizer, loss=keras_xent.get(job.spec))
    recorder = Recorder(plan, split)
    callbacks = [recorder]
    if job.weighting is not None:
        callbacks.append(ClassWeighting(split.train_target, classes=settings.sizes[-1], **job.weighting))
    model.fit(
        split.train_inputs,
        split.train_target,
        batch_size=settings.batch_size,
        epochs=settings.max_epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return recorder.outcome


if __name__ == "__main__":
    train_all(sys.argv[1:], keras_side.FRAMEWORK, train)
