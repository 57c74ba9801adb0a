"""The kernels of the backend. On torch they are those of lightning_xent, which has some more.

What is of one backend stands in a file of its own: kernels, and what only that backend can tell of a tensor.
"""

import keras

IS_ON_TORCH = keras.backend.backend() == "torch"

if IS_ON_TORCH:
    from lightning_xent.kernels import (
        all_of_label,
        applies,
        elementwise,
        of_distribution,
        of_label,
        of_label_and_others,
        reads_once,
        rowwise,
        tensors,
    )
else:
    from keras_xent.kernels.xla import applies, of_label, of_label_and_others

__all__ = ["IS_ON_TORCH", "applies", "of_label", "of_label_and_others"]

if IS_ON_TORCH:
    __all__ += ["all_of_label", "elementwise", "of_distribution", "reads_once", "rowwise", "tensors"]
