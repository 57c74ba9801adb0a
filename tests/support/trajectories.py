"""What both sides of a trajectory share: losses, batches, network and optimizers. NumPy only, and no framework.

keras_trajectories.py and lightning_trajectories.py train each loss in each dtype with each optimizer, and write the
loss of every step and the weights after the last one, as JSON.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS, ROWS, FEATURES, HIDDEN, CLASSES = 50, 16, 6, 8, 4
SEED = 0
IGNORED = -1
DTYPES = ("float32", "float64")

OPTIMIZERS = {
    "SGD": {"lr": 2**-6, "momentum": 1 - 2**-3},
    "AdamW": {"lr": 2**-7, "betas": (1 - 2**-3, 1 - 2**-10), "eps": 1e-16, "weight_decay": 2**-6},
}
"""Arguments of torch.optim, with which Keras does the same updates: `optimizer` of demo/keras_side.py says why.

All but epsilon are binary fractions: TensorFlow casts 0.9 to float64 by way of float32, where it is off by 2e-8.
At 4 times the rate of SGD the largest gradient here, that of a sum, turns roundings into 100 eps of the loss.
"""


@dataclass(frozen=True)
class Setup:
    """How a loss is trained.

    Args:
        config: Its arguments; not the defaults alone, for they leave paths out.
        target: Which of `TARGETS` it takes.
        outputs: Size of the network's output.
        cosine: Whether the output is cosines.
        has_weights: Whether its rows have sample weights.
    """

    config: dict[str, Any] = field(default_factory=dict)
    target: str = "labels"
    outputs: int = CLASSES
    cosine: bool = False
    has_weights: bool = False


COUNTS = {"class_counts": [40.0, 20.0, 10.0, 5.0]}
WEIGHTS = {"class_weight": [0.5, 1.0, 2.0, 1.5]}
POSITIVE = {"pos_weight": [0.5, 1.0, 2.0, 1.5]}
UNKNOWN = {"ignore_index": IGNORED}

SETUPS = {
    "ArcFaceCrossEntropy": Setup({"margin": 0.25, "scale": 4.0, **UNKNOWN}, cosine=True),
    "AsymmetricLoss": Setup({"gamma_pos": 1.0, "gamma_neg": 3.0, **POSITIVE}, "multi-label"),
    "BiTemperedLogistic": Setup({"t1": 0.7, "t2": 1.3, **WEIGHTS}, "distribution"),
    "BinaryCrossEntropy": Setup({**POSITIVE, **UNKNOWN, "reduction": "weighted_mean"}, "multi-label", has_weights=True),
    "BinaryFocalCrossEntropy": Setup({"gamma": 1.5, "alpha": 0.25, "label_smoothing": 0.1}, "multi-label"),
    "BinaryGeneralizedCrossEntropy": Setup({"q": 0.5, **UNKNOWN}, "multi-label"),
    "BinaryHinge": Setup(POSITIVE, "multi-label"),
    "BinaryJensenShannon": Setup({"temperature": 1.5}, "qualities"),
    "BinaryLabelRelaxation": Setup({"alpha": 0.2, "entropy_penalty": 0.1}, "multi-label"),
    "BinaryMeanAbsoluteError": Setup(UNKNOWN, "multi-label", has_weights=True),
    "BinaryPolyCrossEntropy": Setup({"epsilon": 2.0, "smooth_over": "others", "label_smoothing": 0.1}, "multi-label"),
    "BinarySquaredError": Setup(POSITIVE, "qualities"),
    "BinarySymmetricCrossEntropy": Setup({"alpha": 0.5, "hard_fraction": 0.75}, "multi-label"),
    "BinaryTaylorCrossEntropy": Setup({"order": 3}, "qualities", has_weights=True),
    "Bootstrapping": Setup({"beta": 0.8, **WEIGHTS}),
    "CategoricalCrossEntropy": Setup(
        {**WEIGHTS, **UNKNOWN, "label_smoothing": 0.1, "reduction": "weighted_mean"}, has_weights=True
    ),
    "CategoricalFocalCrossEntropy": Setup({"gamma": 1.5, **WEIGHTS, **UNKNOWN, "z_loss": 0.01}),
    "CategoricalGeneralizedCrossEntropy": Setup({"q": 0.5, "truncate_at": 0.25, **UNKNOWN}),
    "CategoricalHinge": Setup(WEIGHTS, has_weights=True),
    "CategoricalJensenShannon": Setup({"temperature": 0.75, **UNKNOWN}),
    "CategoricalLabelRelaxation": Setup({"alpha": 0.2}, "distribution"),
    "CategoricalMeanAbsoluteError": Setup({**WEIGHTS, "reduction": "weighted_mean"}),
    "CategoricalPolyCrossEntropy": Setup({"epsilon": -0.5, "label_smoothing": 0.1, "smooth_over": "others"}),
    "CategoricalSquaredError": Setup({"entropy_penalty": 0.1}, "distribution"),
    "CategoricalSymmetricCrossEntropy": Setup({"alpha": 0.5, "hard_fraction": 0.75, **UNKNOWN}),
    "CategoricalTaylorCrossEntropy": Setup({"order": 3, "reduction": "sum"}),
    "CosFaceCrossEntropy": Setup({"margin": 0.25, "scale": 4.0, **WEIGHTS}, cosine=True),
    "Distillation": Setup({"alpha": 0.75, "temperature": 2.0, **UNKNOWN}, "teacher and label"),
    "JensenShannonConsistency": Setup({"views": 3, "weight": 4.0, **UNKNOWN}, outputs=3 * CLASSES),
    "KLDivergence": Setup(WEIGHTS, "distribution", has_weights=True),
    "LDAMCrossEntropy": Setup({**COUNTS, "scale": 4.0, **UNKNOWN}, cosine=True),
    "LogitAdjustedCrossEntropy": Setup({**COUNTS, "tau": 0.5, "label_smoothing": 0.1}),
    "NormalizedCrossEntropy": Setup({"beta": 0.5, **UNKNOWN}),
    "OrdinalCrossEntropy": Setup({**WEIGHTS, **UNKNOWN}, outputs=CLASSES - 1),
    "QualityFocalLoss": Setup({"beta": 1.5}, "qualities"),
    "SparseCategoricalCrossEntropy": Setup({**UNKNOWN, "softcap": 5.0}, has_weights=True),
    "SquaredEarthMoverDistance": Setup({**WEIGHTS, **UNKNOWN}),
    "VarifocalLoss": Setup({"alpha": 0.5, "gamma": 1.5}, "qualities"),
}


def labels(generator: np.random.Generator, inputs: NDArray, setup: Setup) -> NDArray:
    """Class indices [N] that the inputs tell of, but not for certain; some are unknown, where the loss ignores them."""
    noisy = inputs[:, :CLASSES] + generator.normal(size=(len(inputs), CLASSES))
    return _some_unknown(generator, noisy.argmax(1), setup)


def multi_label(generator: np.random.Generator, inputs: NDArray, setup: Setup) -> NDArray:
    """Labels 0 and 1 [N, K]."""
    noisy = inputs[:, :CLASSES] + generator.normal(size=(len(inputs), CLASSES))
    return _some_unknown(generator, (noisy > 0).astype("float64"), setup)


def qualities(generator: np.random.Generator, inputs: NDArray, setup: Setup) -> NDArray:
    """Numbers in [0, 1] [N, K], half of them 0."""
    noisy = inputs[:, :CLASSES] + generator.normal(size=(len(inputs), CLASSES))
    return np.clip(np.tanh(noisy), 0, 1)


def distribution(generator: np.random.Generator, inputs: NDArray, setup: Setup) -> NDArray:
    """Rows that sum to 1 [N, K]."""
    mass = np.exp(inputs[:, :CLASSES] + generator.normal(size=(len(inputs), CLASSES)))
    return mass / mass.sum(1, keepdims=True)


def teacher_and_label(generator: np.random.Generator, inputs: NDArray, setup: Setup) -> NDArray:
    """Logits of a teacher, and the label as one more entry [N, K + 1]."""
    label = labels(generator, inputs, setup)
    teacher = 2 * inputs[:, :CLASSES] + generator.normal(size=(len(inputs), CLASSES))
    return np.concatenate([teacher, label[:, None]], 1)


TARGETS: dict[str, Callable[[np.random.Generator, NDArray, Setup], NDArray]] = {
    "labels": labels,
    "multi-label": multi_label,
    "qualities": qualities,
    "distribution": distribution,
    "teacher and label": teacher_and_label,
}


def _some_unknown(generator: np.random.Generator, target: NDArray, setup: Setup) -> NDArray:
    is_unknown = generator.uniform(size=target.shape) < 0.1
    return np.where(is_unknown, IGNORED, target) if "ignore_index" in setup.config else target


@dataclass(frozen=True)
class Run:
    """A loss, a dtype and an optimizer."""

    name: str
    dtype: str
    optimizer: str

    @property
    def setup(self) -> Setup:
        return SETUPS[self.name]

    @property
    def spec(self) -> dict[str, Any]:
        return {"loss": self.name, "config": self.setup.config}

    @property
    def sizes(self) -> list[int]:
        return [FEATURES, HIDDEN, self.setup.outputs]

    def batches(self) -> Iterator[tuple[NDArray, ...]]:
        """Yield inputs, target and, where the rows have them, sample weights, of each step."""
        generator = np.random.default_rng(SEED)
        for _ in range(STEPS):
            inputs = generator.normal(size=(ROWS, FEATURES))
            batch = [inputs, TARGETS[self.setup.target](generator, inputs, self.setup)]
            if self.setup.has_weights:
                batch.append(generator.uniform(0.5, 2.0, ROWS))
            yield tuple(self._in_dtype(array) for array in batch)

    def _in_dtype(self, array: NDArray) -> NDArray:
        """Return the values that both dtypes hold, so that the data of a loss is the same in both."""
        return array.astype("float32").astype(self.dtype) if array.dtype.kind == "f" else array


RUNS = [Run(*values) for values in product(SETUPS, DTYPES, OPTIMIZERS)]


def write(path: Path, train: Callable[[Run], tuple[Sequence[float], Sequence[NDArray]]], classes: list[str]) -> None:
    """Do all runs by `train`, which returns the losses and the weights, kernels [inputs, outputs] and biases [outputs].

    Args:
        path: JSON file to write.
        train: The training of a side.
        classes: The public losses of the side.
    """
    found = []
    for run in RUNS:
        losses, weights = train(run)
        found.append({"losses": list(losses), "weights": np.concatenate([each.ravel() for each in weights]).tolist()})
    path.write_text(json.dumps({"classes": classes, "runs": found}), encoding="utf-8")
