"""Splits batches into the inputs of the network, the target, the sample weights and the mask."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

BY_NAME = ("input_ids", "pixel_values", "input_values", "input_features", "inputs_embeds")
"""Names of the inputs of Hugging Face models, which are passed by name."""
INPUTS = (*BY_NAME, "inputs", "input", "images", "image", "x")
TARGETS = ("labels", "label", "targets", "target", "y")
WEIGHTS = ("sample_weight", "sample_weights", "weight", "weights")
MASKS = ("mask", "loss_mask")
FORMS = "(inputs, target[, sample_weight[, mask]]) or a dictionary"


@dataclass(frozen=True)
class Keys:
    """Keys of batches that are dictionaries; None stands for the names above.

    Args:
        input: Key of the only input, or a list of keys of inputs that are passed to the network by name.
        target: Key of the target.
        weight: Key of the sample weights.
        mask: Key of the mask.
    """

    input: str | Sequence[str] | None = None
    target: str | None = None
    weight: str | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        """Check the keys, and keep them as plain strings and lists, which a checkpoint may hold."""
        several = None if self.input is None or isinstance(self.input, str) else self.input
        if several is not None and not (isinstance(several, Iterable) and all(isinstance(key, str) for key in several)):
            raise TypeError(f"input_key must be a string, a list of strings or None, got {several!r}")
        for name in ("target", "weight", "mask") if several is not None else ("input", "target", "weight", "mask"):
            key = getattr(self, name)
            if key is not None and not isinstance(key, str):
                raise TypeError(f"{name}_key must be a string or None, got {key!r}")
            object.__setattr__(self, name, None if key is None else str(key))
        if several is not None:
            object.__setattr__(self, "input", [str(key) for key in several])


@dataclass(frozen=True)
class Batch:
    """The parts of a batch; None for a part that it does not have."""

    inputs: tuple[Any, ...]
    """Inputs that are passed to the network by position."""
    named_inputs: dict[str, Any]
    """Inputs that are passed by name."""
    target: Any = None
    sample_weight: Any = None
    mask: Any = None


def split(model: nn.Module, batch: Any, *, needs_target: bool = True) -> Batch:
    """Return the parts of a batch.

    A batch is (inputs, target), with sample_weight and mask as third and fourth part if there are any, or a dictionary.
    If no target is needed it may also be (inputs,) or the inputs alone. The entries of a dictionary are found by the
    keys of an `XentModule`, or by their usual names. Without `input_key`, all entries that the network's `forward` has
    arguments for are passed by name, as Hugging Face models expect. If the usual name of the input is not among them,
    that input is passed by position.

    Args:
        model: The network, or the module that holds the network and the keys.
        batch: The batch.
        needs_target: Whether a batch without a target is an error.

    Raises:
        ValueError: A batch of another form, or without a part that is needed.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        keys = getattr(model, "batch_keys", None)
        is_module = isinstance(keys, Keys)
        parts = _of_mapping(model.network if is_module else model, batch, keys if is_module else Keys())  # type: ignore[arg-type]
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and 1 <= len(batch) <= 4:
        parts = Batch((batch[0],), {}, *batch[1:])
    elif needs_target or isinstance(batch, Sequence):
        size = f" of {len(batch)}" if isinstance(batch, Sequence) else ""
        raise ValueError(f"batch must be {FORMS}, got {type(batch).__name__}{size}")
    else:
        parts = Batch((batch,), {})
    if needs_target and parts.target is None:
        got = f"the keys {_listed(batch)}: set target_key" if isinstance(batch, Mapping) else "the inputs alone"
        raise ValueError(f"batch must be {FORMS}, with a target, got {got}")
    return parts


def is_copy(batch: Batch) -> bool:
    """Whether the labels that count equal the tokens, as collators for causal models make them."""
    tokens, labels = batch.named_inputs.get("input_ids"), batch.target
    if not isinstance(tokens, Tensor) or not isinstance(labels, Tensor) or tokens.shape != labels.shape:
        return False
    is_label = labels >= 0  # Hugging Face marks padding with -100
    if tokens.ndim < 2 or tokens.is_floating_point() or not is_label.any():
        return False
    return bool(((tokens == labels) | ~is_label).all())


def logits_of(outputs: Any) -> Any:
    """Return the logits among the outputs of a network: `.logits` (Hugging Face) or the entry "out" (torchvision)."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        name = next((name for name in ("logits", "out") if name in outputs), None)
        return outputs if name is None else outputs[name]
    return getattr(outputs, "logits", outputs)


def hidden_of(outputs: Any) -> Any:
    """Return the hidden states among the outputs of a network: `.last_hidden_state` or the entry of that name."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        return outputs.get("last_hidden_state", outputs)
    return getattr(outputs, "last_hidden_state", outputs)


def _of_mapping(network: nn.Module, batch: Mapping[str, Any], keys: Keys) -> Batch:
    arguments, takes_any = _arguments(network)
    given = [] if keys.input is None else [keys.input] if isinstance(keys.input, str) else list(keys.input)
    # An entry that the network has an argument for, such as `mask`, is an input. `labels` is not, though Hugging Face
    # models have such an argument.
    chosen = [
        _key("target_key", keys.target, [name for name in TARGETS if name not in given], batch),
        _key("weight_key", keys.weight, [name for name in WEIGHTS if name not in [*given, *arguments]], batch),
        _key("mask_key", keys.mask, [name for name in MASKS if name not in [*given, *arguments]], batch),
    ]
    for name in given:
        _present("input_key", name, batch)
    inputs: tuple[Any, ...]
    if isinstance(keys.input, str):
        inputs, named = (batch[keys.input],), {}
    elif given:
        inputs, named = (), {name: batch[name] for name in given}
    else:
        rest = {name: value for name, value in batch.items() if name not in chosen}
        inputs, named = _inputs(arguments, takes_any, rest, batch)
    return Batch(inputs, named, *(None if key is None else batch[key] for key in chosen))


def _inputs(
    arguments: list[str], takes_any: bool, rest: dict[str, Any], batch: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs by position and by name, from the entries that are not target, weight or mask."""
    named = {name: value for name, value in rest.items() if name in arguments}
    found = [name for name in INPUTS if name in rest]
    if any(name in named for name in found) or (named and not found):
        return (), named
    if takes_any and any(name in BY_NAME for name in found):
        return (), rest
    if len(found) == 1:
        return (rest[found[0]],), {name: value for name, value in named.items() if name in arguments[1:]}
    wanted = ", ".join(INPUTS)
    raise ValueError(
        f"batch must have its input under one of the keys {wanted}, or under names of the network's arguments, got the "
        f"keys {_listed(batch)}: set input_key to the key of the input, or to a list of keys to pass by name"
    )


def _arguments(network: nn.Module) -> tuple[list[str], bool]:
    """Return the names of the arguments of a network, and whether it accepts any others."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # a network that is not Python code
        return [], True
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [parameter.name for parameter in parameters if parameter.kind in by_name]
    return names, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _key(argument: str, key: str | None, names: Sequence[str], batch: Mapping[str, Any]) -> str | None:
    """Return the key that was set, or else the usual name in the batch; None if there is none."""
    if key is not None:
        return _present(argument, key, batch)
    found = [name for name in names if name in batch]
    if len(found) > 1:
        raise ValueError(f"{argument} must be set for a batch that has the keys {' and '.join(map(repr, found))}")
    return found[0] if found else None


def _present(argument: str, key: str, batch: Mapping[str, Any]) -> str:
    if key not in batch:
        raise ValueError(f"{argument} must be a key of the batch, got {key!r} for the keys {_listed(batch)}")
    return key


def _listed(batch: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, batch))
