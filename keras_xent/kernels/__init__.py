"""The kernels of the backend. On torch they are those of lightning_xent, which has some more.

What is of one backend stands in a file of its own: kernels, and what only that backend can tell of a tensor.
"""

import keras

from keras_xent.kernels.linear import ByLabel, Work
from keras_xent.kernels.statistics import Found, Reads

IS_ON_TORCH = keras.backend.backend() == "torch"

if IS_ON_TORCH:
    from keras_xent.kernels.linear_of_torch import all_logits, fuses, head, losses, total, work_of
    from lightning_xent.kernels import (
        all_of_label,
        applies,
        elementwise,
        elementwise_sum,
        expm1,
        of_distribution,
        of_label,
        of_label_and_others,
        reads_once,
        rowwise,
        tensors,
    )
else:
    from keras_xent.kernels.linear import all_logits, fuses, head
    from keras_xent.kernels.xla import applies, losses, of_label, of_label_and_others, total

__all__ = [
    "IS_ON_TORCH",
    "ByLabel",
    "Found",
    "Reads",
    "Work",
    "all_logits",
    "applies",
    "fuses",
    "head",
    "losses",
    "of_label",
    "of_label_and_others",
]
__all__ += ["total"]

if IS_ON_TORCH:
    __all__ += ["all_of_label", "elementwise", "elementwise_sum", "expm1", "of_distribution", "reads_once", "rowwise"]
    __all__ += ["tensors", "work_of"]
