"""The last layer of a network together with its loss."""

import copy
import math
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from lightning_xent.categorical import CategoricalLoss
from lightning_xent.kernels.linear import Best
from lightning_xent.spec import get, spec_of
from shared_specs.common import arguments
from shared_specs.common.spec import LossSpec


class LinearLoss(nn.Module):
    """The last linear layer with its loss: a call trains it without holding all logits; `logits` predicts.

    The weight may be shared with an embedding: `layer.weight = embedding.weight`. As the `loss` of an `XentModule`, it
    takes the output of the network as hidden states, and the module predicts logits.

    >>> layer = LinearLoss(16, 100_000, "CategoricalCrossEntropy", bias=False)
    >>> hidden, target = torch.zeros(8, 16), torch.arange(8)
    >>> print(f"{layer(hidden, target):.4f}")  # log(100000)
    11.5129

    Args:
        in_features: Number D of features of the hidden states.
        classes: Number of logits C.
        loss: A categorical loss, its spec or its name. The layer holds a copy with axis=-1, unless it has that.
        bias: Whether the layer has a bias.
        device: Where its weight and bias are made; None: torch's default.
        dtype: Their dtype; None: torch's default.

    Raises:
        ValueError: A number below 1, a loss whose `axis` is not the last, or one that has no `linear`.
        TypeError: What is not a categorical loss.
    """

    def __init__(
        self,
        in_features: int,
        classes: int,
        loss: CategoricalLoss | LossSpec | str,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = arguments.integer("in_features", in_features, 1)
        self.classes = arguments.integer("classes", classes, 1)
        self.loss = checked_loss(get(loss) if isinstance(loss, str | Mapping) else loss)
        self.weight = nn.Parameter(torch.empty(self.classes, self.in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.classes, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as torch.nn.Linear does: uniform within +-1 / sqrt(in_features)."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        hidden: Tensor,
        target: Any = None,
        sample_weight: Any = None,
        mask: Any = None,
        denominator: Any = None,
        *,
        gives_parts: bool = False,
        best: Best | None = None,
    ) -> Any:
        """Return the loss of the logits of hidden states [..., D], as `loss.linear` does; without target the logits.

        With `gives_parts` it returns what `parts` does, and `best` sees the logits. Everything goes through this call,
        before which `fully_shard` of FSDP puts a sharded weight together. A subclass may override it, to normalise the
        hidden states: as `forward(self, hidden, *given, **options)`, which passes all else on.
        """
        if target is None:
            return nn.functional.linear(hidden, self.weight, self.bias)
        if not gives_parts:
            return self.loss.linear(hidden, self.weight, target, self.bias, sample_weight, mask, denominator)
        return self.loss._linear_parts(hidden, self.weight, self.bias, target, sample_weight, mask, best=best)

    def parts(self, hidden: Tensor, target: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Tensor, Tensor]:
        """Return (weighted sum of the row losses, denominator), whose quotient is the loss."""
        found: tuple[Tensor, Tensor] = self(hidden, target, sample_weight, mask, gives_parts=True)
        return found

    def parts_and_predictions(
        self, hidden: Tensor, target: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return `parts`, and the class [N] of the largest logit of each row; None if the loss did not find it."""
        best = Best() if self.loss.passes_logits else None
        options = {} if best is None else {"best": best}
        total, denominator = self(hidden, target, sample_weight, mask, gives_parts=True, **options)
        return total, denominator, None if best is None else best.found

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., C] of hidden states [..., D]."""
        found: Tensor = self(hidden)
        return found

    def probabilities(self, hidden: Tensor) -> Tensor:
        """Return the probabilities [..., K] of the classes, as the loss computes them, for hidden states [..., D]."""
        rows = tuple(hidden.shape)[:-1]
        found = self.loss.probabilities(self.logits(hidden.reshape(-1, hidden.shape[-1])))
        return found.reshape(*rows, found.shape[-1])

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, classes={self.classes}, bias={self.bias is not None}"


class LayerSpec(TypedDict):
    """A layer as data: the spec of its loss, and {"in_features": D, "classes": C}, with "bias" if it is False."""

    loss: str
    config: NotRequired[dict[str, Any]]
    linear: dict[str, Any]


def checked_loss(loss: Any) -> CategoricalLoss:
    """Return a loss that a layer can have.

    Raises:
        ValueError: A loss whose class axis is not the last, or that has no `linear`.
        TypeError: A loss that is not categorical.
    """
    if not isinstance(loss, CategoricalLoss):
        raise TypeError(
            f"loss must be a categorical loss, got {type(loss).__name__}: a layer has a logit for each class"
        )
    if loss.axis is None:
        loss = copy.copy(loss)
        loss.axis = -1
    if loss.axis != -1:
        raise ValueError(f"loss must have axis=-1 or None, because the classes of a layer are last, got {loss.axis}")
    if not loss.reads_one_logits or not loss.from_logits:
        raise ValueError(f"loss must read one tensor of logits, got {loss!r}")
    return loss


def spec_of_layer(layer: LinearLoss) -> dict[str, Any] | None:
    """Return the spec from which `layer_of` builds a layer; None if it, or its loss, is a class of another package."""
    spec = spec_of(layer.loss) if type(layer) is LinearLoss else None
    size = {"in_features": layer.in_features, "classes": layer.classes, "bias": layer.bias is not None}
    return None if spec is None else {**spec, "linear": size}


def layer_of(spec: Mapping[str, Any]) -> LinearLoss:
    """Return the layer of a spec `{"loss": CLASS, "config": {...}, "linear": {"in_features": D, "classes": C}}`."""
    rest = {key: value for key, value in spec.items() if key != "linear"}
    size = spec["linear"]
    names = {"in_features", "classes", "bias"}
    if not isinstance(size, Mapping) or not {"in_features", "classes"} <= size.keys() <= names:
        raise ValueError(f'linear must have the keys "in_features", "classes" and, if wanted, "bias", got {size!r}')
    return LinearLoss(**size, loss=get(rest))  # type: ignore[arg-type]
