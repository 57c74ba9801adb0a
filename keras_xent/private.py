"""The private names of Keras and TensorFlow that this package uses: there are no public ones for what they tell."""

from typing import Any

try:
    from keras.src.backend import get_keras_mask
except ImportError:  # the masks of layers then count on TensorFlow and torch, whose tensors carry them, not on JAX

    def get_keras_mask(x: Any) -> Any:
        """Return the mask that a tensor carries."""
        return getattr(x, "_keras_mask", None)


def keras_mask_of(logits: Any) -> Any:
    """Return the mask that Keras attached to predictions; None if there is none."""
    return get_keras_mask(logits)


def is_for_xla(graph: Any) -> bool:
    """Whether a graph of TensorFlow is traced for XLA, which drops assertions.

    Without these names it is False: under XLA a label out of range then gives NaN without a warning.
    """
    while graph is not None:
        context = getattr(graph, "_get_control_flow_context", lambda: None)()
        if context is not None and getattr(context, "IsXLAContext", lambda: False)():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
