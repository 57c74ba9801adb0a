"""The comparison of both sides: the table of the epochs, the report on the test rows, and what is wrong with them."""

import math

from sklearn.metrics import classification_report

from demo.data import Split
from demo.result import Result

LIMIT = 1e-5
"""Largest relative difference of two epoch losses that rounding in float32 may explain."""


def relative_differences(first: list[float], second: list[float]) -> list[float]:
    """Return abs(a - b) / max(abs(a), abs(b)), elementwise; 0 where both are 0, NaN where either is not finite."""
    pairs = zip(first, second, strict=True)
    return [abs(a - b) / (max(abs(a), abs(b)) or 1.0) if math.isfinite(a + b) else math.nan for a, b in pairs]


def worst(keras: Result, lightning: Result) -> float:
    """Return the largest relative difference of the epoch losses; NaN if there is one."""
    differences = relative_differences(keras.epoch_losses, lightning.epoch_losses)
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def table(keras: Result, lightning: Result) -> str:
    """Return the losses of both sides epoch by epoch, and their relative difference."""
    lines = [
        f"{keras.framework} and {lightning.framework}: loss of the whole training set, in float32",
        f"{'epoch':>7}  {'Keras loss':>14}  {'Lightning loss':>14}  relative difference",
    ]
    differences = relative_differences(keras.epoch_losses, lightning.epoch_losses)
    rows = zip(keras.epoch_losses, lightning.epoch_losses, differences, strict=True)
    for epoch, (first, second, difference) in enumerate(rows):
        lines.append(f"{epoch or 'initial':>7}  {first:14.8g}  {second:14.8g}  {difference:19.1e}")
    logged = relative_differences(keras.logged_losses, lightning.logged_losses)
    lines.append(
        f"The losses of the progress bars, means over the batches of an epoch, differ by {max(logged):.1e} at most "
        '(Lightning weights batches by the denominator of the loss, Keras by their rows: the same under "mean").'
    )
    return "\n".join(lines)


def classes(split: Split, keras: Result, lightning: Result) -> str:
    """Return precision, recall, F1 and support of each class; of both sides where their predictions differ."""
    target = split.test_target.ravel()
    pairs = zip(keras.predictions, lightning.predictions, strict=True)
    agreeing = sum(first == second for first, second in pairs)
    blocks = [f"Predictions agree on {agreeing} of {len(target)} test rows."]
    for result in [lightning] if agreeing == len(target) else [keras, lightning]:
        scores = classification_report(
            target, result.predictions, target_names=split.class_names, digits=4, zero_division=0
        )
        title = "Both sides" if agreeing == len(target) else result.framework
        blocks.append(f"{title}, on the test rows:\n{scores.rstrip()}")
    return "\n".join(blocks)


def problems(keras: Result, lightning: Result) -> list[str]:
    """Return what makes a run fail: loss curves that differ, are not finite, or do not fall."""
    found = []
    for result in (keras, lightning):
        losses = result.epoch_losses
        if not all(map(math.isfinite, losses)):
            found.append(f"{result.framework}: the loss is not finite: {losses}")
        elif losses[-1] >= losses[0]:
            found.append(f"{result.framework}: nothing was learnt: the loss went from {losses[0]:g} to {losses[-1]:g}")
    difference = worst(keras, lightning)
    if difference > LIMIT:
        found.append(f"the losses differ by {difference:.1e} relative, more than {LIMIT:g}")
    return found
