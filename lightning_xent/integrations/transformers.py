"""A loss for `Trainer(compute_loss_func=...)` of Transformers."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from lightning_xent.base import Loss
from lightning_xent.categorical import CategoricalLoss

IGNORED = -100
"""The label that Transformers leaves out when it counts the items of a step."""
NOT_SHIFTED = (
    *("ImageClassifierOutput", "MaskedLMOutput", "SemanticSegmenterOutput", "Seq2SeqLMOutput"),
    *("SequenceClassifierOutput", "TokenClassifierOutput"),
)
"""Outputs of models of Transformers whose position t does not predict label t + 1."""


def compute_loss(loss: Loss, shift_labels: bool = True) -> Callable[..., Tensor]:
    """Return a function of (outputs, labels, num_items_in_batch) for `Trainer(compute_loss_func=...)`.

    The sum of the losses of a micro-batch is divided by `num_items_in_batch`, the number of labels of the whole step,
    so that the gradient is that of the mean over all micro-batches and devices. If the Trainer gives no such number,
    as in an evaluation, the function returns the mean over the batch.

    The outputs of the model hold `logits`: of shape (B, T, V) for labels (B, T), as in language models, or in any other
    shape that the loss accepts with these labels.

    Args:
        loss: A loss with `ignore_index=-100`, the label that the Trainer does not count, and the reduction "mean".
            A binary loss of targets that ignore nothing needs no ignore_index.
        shift_labels: Whether position t predicts label t + 1, as in causal language models. False for classifiers,
            token classification, masked language models and encoder-decoders. Transformers before 5.0 also counts the
            first label of each sequence, which no position predicts: its mean is smaller by that share.

    Raises:
        TypeError: Another loss.
        ValueError: A loss with another `ignore_index`, another reduction or a hard_fraction below 1; a binary loss with
            shifted labels. When called, outputs without logits, a batch without labels, or labels that are shifted
            though they have no positions, or though the outputs are those of a model that predicts its own positions.
    """
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a loss of lightning_xent, got {type(loss).__name__}")
    is_categorical = isinstance(loss, CategoricalLoss)
    if loss.ignore_index != IGNORED and (is_categorical or loss.ignore_index is not None):
        raise ValueError(
            f"ignore_index of the loss must be {IGNORED}, the label that Transformers leaves out when it counts, "
            f"got {loss.ignore_index}: set ignore_index={IGNORED}"
        )
    if loss.reduction != "mean" or loss.hard_fraction < 1.0:
        raise ValueError(
            'loss must have the reduction "mean" and hard_fraction=1, since Transformers counts labels, got '
            f'reduction="{loss.reduction}" and hard_fraction={loss.hard_fraction}'
        )
    if shift_labels and not is_categorical:
        raise ValueError(f"shift_labels must be False for {type(loss).__name__}, whose targets are not tokens")

    def of_outputs(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        if not isinstance(labels, Tensor):
            raise ValueError(f'labels must be a tensor, got {labels!r}: the batch needs the key "labels"')
        logits = _logits(outputs)
        if shift_labels and (labels.ndim < 2 or type(outputs).__name__ in NOT_SHIFTED):
            got = f"{type(outputs).__name__} with labels of shape {tuple(labels.shape)}"
            raise ValueError(
                "shift_labels must be False for a model in which position t does not predict label t + 1, got "
                f"{got}: set compute_loss(loss, shift_labels=False)"
            )
        if shift_labels:  # the labels move, because logits[:, :-1] would be a copy
            labels = functional.pad(labels[..., 1:], (0, 1), value=IGNORED)
        if _has_classes_last(loss, logits, labels):
            logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        value: Tensor = loss(logits, labels, denominator=num_items_in_batch)
        return value

    return of_outputs


def _logits(outputs: Any) -> Tensor:
    """Return the logits of a Transformers model: `logits` by name, or the first of a tuple."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        logits = outputs["logits"]
    else:
        logits = outputs[0] if isinstance(outputs, tuple) and outputs else getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        raise ValueError(f"outputs must hold a tensor of logits, got {type(outputs).__name__}")
    return logits


def _has_classes_last(loss: Loss, logits: Tensor, labels: Tensor) -> bool:
    """Whether logits are (B, T, V) for labels (B, T); (B, C, H, W) for (B, H, W) has the class axis of torch."""
    if not isinstance(loss, CategoricalLoss) or loss.axis is not None or logits.ndim < 3:
        return False
    is_image = logits.ndim > 3 and labels.shape == (logits.shape[0], *logits.shape[2:])
    return not is_image and labels.shape == logits.shape[:-1]
