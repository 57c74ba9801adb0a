"""The last layer of a network together with its loss."""

import threading
from collections.abc import Mapping
from typing import Any

import keras
from keras import KerasTensor as Tensor
from keras import ops

from keras_xent import private, reading, reduction, weighting
from keras_xent.categorical import CategoricalLoss
from keras_xent.fused import TopK
from keras_xent.spec import get, spec_of
from shared_specs.common import arguments
from shared_specs.common.spec import LossSpec


@keras.saving.register_keras_serializable(package="keras_xent")
class LinearLoss(keras.layers.Layer):
    """The last linear layer with its loss: it trains without holding all logits, and predicts logits.

    Called with hidden states [..., D] and labels, it adds the loss to the model, as `add_loss` does, and returns the
    hidden states; compile the model without a loss. Called with hidden states alone, it returns logits [..., C].
    Sample and class weights of `fit` do not reach it: pass `sample_weight`, or give the loss its class weights. If a
    model on JAX calls a layer twice, Keras keeps the loss of the first call only; that holds for any `add_loss`.

    >>> layer = LinearLoss(100_000, "CategoricalCrossEntropy", kernel_initializer="zeros")
    >>> hidden, labels = np.zeros((8, 16), "float32"), np.arange(8)
    >>> layer(hidden, labels).shape, layer(hidden).shape
    ((8, 16), (8, 100000))
    >>> _ = layer(hidden, labels)
    >>> print(f"{float(layer.losses[0]):.4f}")  # log(100000)
    11.5129

    Args:
        units: Number of logits C.
        loss: A categorical loss, its spec or its name. Its class axis is the last.
        use_bias: Whether the layer has a bias.
        kernel_initializer: Initial kernel [D, C], as in keras.layers.Dense.
        bias_initializer: Initial bias [C].
        kernel_regularizer: Regularizer of the kernel.
        bias_regularizer: Regularizer of the bias.
        options: Those of keras.layers.Layer, such as `name` and `dtype`. Under mixed precision the products have the
            compute dtype, and the loss is float32.

    Raises:
        ValueError: A number below 1, a loss whose `axis` is not the last or whose reduction is "none", or one that has
            no `linear`.
        TypeError: A loss that is not categorical.
    """

    def __init__(
        self,
        units: int,
        loss: CategoricalLoss | LossSpec | str,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **options: Any,
    ) -> None:
        # Keras would cast sample weights and distributions too.
        super().__init__(**{**options, "autocast": False})
        self.units = arguments.integer("units", units, 1)
        is_of_keras = isinstance(loss, Mapping) and "class_name" in loss
        self.loss = checked_loss(keras.saving.deserialize_keras_object(loss) if is_of_keras else get(loss))
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel = self.bias = None
        self._added: tuple[tuple[Any, int], ...] = ()
        self.supports_masking = True

    def build(self, hidden_shape: tuple[int | None, ...]) -> None:
        """Make kernel and bias."""
        features = hidden_shape[-1]
        self.kernel = self.add_weight(
            (features, self.units), self.kernel_initializer, regularizer=self.kernel_regularizer, name="kernel"
        )
        if self.use_bias:
            self.bias = self.add_weight(
                (self.units,), self.bias_initializer, regularizer=self.bias_regularizer, name="bias"
            )
        self.input_spec = keras.InputSpec(min_ndim=1, axes={-1: features})
        self.built = True

    def call(
        self, hidden: Tensor, y_true: Any = None, sample_weight: Any = None, mask: Any = None, training: Any = None
    ) -> Tensor:
        """Return the logits [..., C] of hidden states [..., D]; given targets, add the loss and return the states.

        Args:
            hidden: Input [..., D] of the layer.
            y_true: Targets, as `loss.linear` takes them.
            sample_weight: As in a call of the loss.
            mask: As in a call of the loss. The mask that Keras attached to `hidden` counts beside it.
            training: Whether gradients are computed with the loss. Without it they are right, but take longer.
        """
        if y_true is None:
            return self.logits(hidden)
        states, kernel, bias = self._layer(hidden)
        # The cast to another dtype loses the mask that Keras attached.
        mask = weighting.mask_per_row(reading.whole(mask), private.keras_mask_of(hidden), hidden[..., 0])
        given = y_true, states, kernel, bias, sample_weight, mask
        value = self.loss._linear(*given, None, trains=training is not False)
        # Keras divides added losses by the number of replicas, which the loss has done already.
        self._add(value * reduction.replicas())
        return hidden

    def _add(self, value: Tensor) -> None:
        """Add the loss of the rows of all replicas to the model, once.

        The replicas of tf.distribute are threads that share the layer. While one waits for the sums of the others in
        this call, they begin theirs, so that Keras gives a later replica the losses of an earlier one. The later one
        adds its gradient with the value 0.
        """
        if reduction.replicas() == 1:
            self.add_loss(value)
            return
        own, losses = threading.get_ident(), self.losses
        self._added = tuple(each for each in self._added if any(each[0] is loss for loss in losses))
        calls = [thread for _, thread in self._added]
        if any(calls.count(other) > calls.count(own) for other in calls):
            value = value - ops.stop_gradient(value)
        self.add_loss(value)
        self._added += ((value, own),)

    def logits(self, hidden: Any) -> Tensor:
        """Return the logits [..., C] of hidden states [..., D], in the compute dtype."""
        hidden, kernel, bias = self._layer(hidden)
        logits = ops.matmul(hidden, kernel)
        return logits if bias is None else logits + bias

    def probabilities(self, hidden: Any) -> Tensor:
        """Return the probabilities [..., K] of the classes, as the loss computes them, for hidden states [..., D]."""
        return self.loss.probabilities(self.logits(hidden))

    def _layer(self, hidden: Any) -> list[Any]:
        given = [hidden, self.kernel, self.bias]
        return [None if each is None else ops.cast(each, self.compute_dtype) for each in given]

    def compute_output_spec(self, hidden: Tensor, y_true: Any = None, *rest: Any, **options: Any) -> Tensor:
        """Return the shape and dtype of the output; the loss is not called for that."""
        tensors = (y_true.indices, y_true.probabilities) if isinstance(y_true, TopK) else ()
        if any(isinstance(each, Tensor) for each in tensors):
            raise ValueError(
                "y_true must be a tuple (indices, probabilities) in a functional model, which does not see the tensors "
                "of a TopK: pass the tuple, or make the TopK in `call` of a model of your own"
            )
        if y_true is not None:
            return keras.KerasTensor(hidden.shape, hidden.dtype)
        return keras.KerasTensor((*hidden.shape[:-1], self.units), self.compute_dtype)

    def compute_output_shape(self, hidden_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the logits."""
        return (*hidden_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, with the loss as its spec."""
        config: dict[str, Any] = super().get_config()
        return {
            **config,
            "units": self.units,
            "loss": spec_of(self.loss) or keras.saving.serialize_keras_object(self.loss),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }


def checked_loss(loss: Any) -> CategoricalLoss:
    """Return a loss that a layer can have.

    Raises:
        ValueError: A loss whose class axis is not the last, whose reduction is "none", or that has no `linear`.
        TypeError: A loss that is not categorical.
    """
    if not isinstance(loss, CategoricalLoss):
        raise TypeError(
            f"loss must be a categorical loss, got {type(loss).__name__}: a layer has a logit for each class"
        )
    if loss.axis not in (None, -1):
        raise ValueError(f"loss must have axis=-1 or None, because the classes of a layer are last, got {loss.axis}")
    if not loss.reads_one_logits or not loss.from_logits:
        raise ValueError(f"loss must read one tensor of logits, got {loss!r}")
    if loss.reduction == "none":
        raise ValueError('loss must have the reduction "mean", "weighted_mean" or "sum", got "none"')
    return loss
