"""Means over an epoch: of a loss, of the negative log-likelihood, and perplexity."""

from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import reduction
from keras_xent.base import Loss
from keras_xent.losses.cross_entropy import BinaryCrossEntropy, CategoricalCrossEntropy
from keras_xent.metrics.sums import SumMetric


class LossMetric(SumMetric):
    """Base of the metrics that are the loss of all rows of an epoch.

    Args:
        loss: A loss of this package, of any reduction but "none".
        name: Name of the metric in Keras.
    """

    def __init__(self, loss: Loss, name: str) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss of keras_xent, got {loss!r}")
        if loss.reduction == "none":
            raise ValueError('reduction of the loss must be "mean", "weighted_mean" or "sum", got "none"')
        super().__init__((2,), name)
        self.loss = loss

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> None:
        """Count a batch, given as to the loss."""
        # Otherwise Keras' torch trainer would record a gradient.
        rows = self.loss._watched(y_pred, y_true, sample_weight, mask, has_gradient=False)
        self.add(ops.stack(reduction.parts(rows, self.loss.reduction)))

    def result(self) -> Tensor:
        """Return the loss of all rows so far; 0 if none counts."""
        total, denominator = ops.unstack(ops.convert_to_tensor(self.sums))
        return total if self.loss.reduction == "sum" else reduction.quotient(total, denominator)


@keras.saving.register_keras_serializable(package="keras_xent")
class MeanLoss(LossMetric):
    """Loss of all rows of an epoch at once: sum k s l / sum k for "mean", sum k s l / sum k s u for "weighted_mean".

    With "sum" it is the sum over all batches. hard_fraction ranks the rows of each batch separately.

    Args:
        loss: A loss of this package, of any reduction but "none"; the metric uses its keywords and shapes.
        name: Name of the metric in Keras.

    Raises:
        TypeError: Another loss.
        ValueError: A loss with the reduction "none".
    """

    def __init__(self, loss: Loss, name: str = "mean_loss") -> None:
        super().__init__(loss, name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        return {"loss": keras.saving.serialize_keras_object(self.loss), "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MeanLoss":
        """Build the metric from a config."""
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


@keras.saving.register_keras_serializable(package="keras_xent")
class CategoricalNegativeLogLikelihood(LossMetric):
    """Negative log-likelihood over K classes: sum s (-sum_c t_c log p_c) / sum s sum_c t_c, p = softmax(logits).

    In nats, in [0, inf]. Targets are class indices or distributions, one for each row: a position of the logits without
    the class axis.

    Args:
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited to +-16.118.
        ignore_index: Rows with this label are ignored, even if their logits are NaN.
        axis: Class axis of the logits. None: the last, as in Keras.
        name: Name of the metric in Keras.

    Reference: Good, 1952, Rational Decisions, doi:10.1111/j.2517-6161.1952.tb00104.x.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_index: int | None = None,
        axis: int | None = None,
        name: str = "categorical_negative_log_likelihood",
    ) -> None:
        options: Any = {"from_logits": from_logits, "ignore_index": ignore_index, "axis": axis}
        super().__init__(CategoricalCrossEntropy(reduction="weighted_mean", **options), name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        options = ("from_logits", "ignore_index", "axis")
        return {**{option: getattr(self.loss, option) for option in options}, "name": self.name}


@keras.saving.register_keras_serializable(package="keras_xent")
class Perplexity(CategoricalNegativeLogLikelihood):
    """Perplexity: exp of the negative log-likelihood of all rows, in [1, inf]; K for a uniform guess among K classes.

    Arguments and inputs are those of `CategoricalNegativeLogLikelihood`.

    Reference: Jelinek et al., 1977, Perplexity: A Measure of the Difficulty of Speech Recognition Tasks.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_index: int | None = None,
        axis: int | None = None,
        name: str = "perplexity",
    ) -> None:
        super().__init__(from_logits=from_logits, ignore_index=ignore_index, axis=axis, name=name)

    def result(self) -> Tensor:
        """Return the perplexity of all rows so far; 1 if none counts."""
        return ops.exp(super().result())


@keras.saving.register_keras_serializable(package="keras_xent")
class BinaryNegativeLogLikelihood(LossMetric):
    """Negative log-likelihood of labels 0 and 1: sum s -(t log p + (1 - t) log(1 - p)) / sum s, p = sigmoid(logits).

    In nats, in [0, inf]. Every element of the logits is a row, with a target in [0, 1]; multi-label is the same call.

    Args:
        from_logits: Whether the input holds logits. False: probabilities, whose log-odds are limited to +-16.118.
        ignore_index: Elements with this target are ignored, even if their logits are NaN.
        name: Name of the metric in Keras.

    Reference: Cox, 1958, The Regression Analysis of Binary Sequences, doi:10.1111/j.2517-6161.1958.tb00292.x.
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        ignore_index: float | None = None,
        name: str = "binary_negative_log_likelihood",
    ) -> None:
        options: Any = {"from_logits": from_logits, "ignore_index": ignore_index}
        super().__init__(BinaryCrossEntropy(reduction="weighted_mean", **options), name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor arguments, ready for JSON."""
        return {"from_logits": self.loss.from_logits, "ignore_index": self.loss.ignore_index, "name": self.name}
