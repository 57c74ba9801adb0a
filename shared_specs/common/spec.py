"""Builds a loss from its spec, which JSON or YAML can hold."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NotRequired, TypedDict, TypeVar

from shared_specs.common import arguments

T = TypeVar("T")

FOREIGN = {
    "crossentropy": "CategoricalCrossEntropy",
    "nll": "CategoricalCrossEntropy",
    "softmaxcrossentropy": "CategoricalCrossEntropy",
    "softmaxcrossentropywithintegerlabels": "CategoricalCrossEntropy",
    "softcrossentropy": "CategoricalCrossEntropy",
    "labelsmoothingcrossentropy": "CategoricalCrossEntropy",
    "softtargetcrossentropy": "CategoricalCrossEntropy",
    "bce": "BinaryCrossEntropy",
    "bcewithlogits": "BinaryCrossEntropy",
    "softbcewithlogits": "BinaryCrossEntropy",
    "sigmoidbinarycrossentropy": "BinaryCrossEntropy",
    "multilabelsoftmargin": "BinaryCrossEntropy",
    "sigmoidfocal": "BinaryFocalCrossEntropy",
    "sigmoidfocalcrossentropy": "BinaryFocalCrossEntropy",
    "binaryfocallosswithlogits": "BinaryFocalCrossEntropy",
    "focal": "CategoricalFocalCrossEntropy or BinaryFocalCrossEntropy",
    "kldiv": "KLDivergence",
    "convexkldivergence": "KLDivergence",
    "jsdcrossentropy": "JensenShannonConsistency",
    "gce": "CategoricalGeneralizedCrossEntropy",
    "sce": "CategoricalSymmetricCrossEntropy",
    "asl": "AsymmetricLoss",
    "asymmetriclossmultilabel": "AsymmetricLoss",
    "corn": "OrdinalCrossEntropy",
    "emd": "SquaredEarthMoverDistance",
    "brier": "CategoricalSquaredError",
    "hinge": "CategoricalHinge or BinaryHinge",
    "amsoftmax": "CosFaceCrossEntropy",
    "poly": "CategoricalPolyCrossEntropy or BinaryPolyCrossEntropy",
    "polylosscrossentropy": "CategoricalPolyCrossEntropy",
    "balancedsoftmax": "LogitAdjustedCrossEntropy",
}
"""Names of losses elsewhere, in small letters without underscores and "loss": the names here."""
MOST_HINTS = 4


class LossSpec(TypedDict):
    """A loss as data: the name of a public class and its keywords."""

    loss: str
    config: NotRequired[dict[str, Any]]


def build(spec: Any, classes: Mapping[str, type[T]]) -> T:
    """Return the loss that a spec, or the name of a class, describes, given the public classes by their names."""
    if isinstance(spec, str):
        spec = {"loss": spec}
    if isinstance(spec, type):
        raise TypeError(f"spec must be a loss, its spec or its name, got the class {spec.__name__}: call it")
    if not isinstance(spec, Mapping) or "loss" not in spec or not spec.keys() <= {"loss", "config"}:
        raise ValueError(f'spec must be a mapping with the keys "loss" and "config", got {spec!r}')
    name, config = spec["loss"], spec.get("config") or {}
    check_name(name, list(classes))
    if not isinstance(config, Mapping):
        raise ValueError(f"config must be a mapping of keywords of {name}, got {config!r}")
    keywords = [field.name for field in fields(classes[name])]  # type: ignore[arg-type]
    unknown = [keyword for keyword in config if keyword not in keywords]
    if unknown:
        raise arguments.unknown_keyword(name, unknown[0], keywords)
    values = {keyword: value if keyword == "name" else arguments.parsed(value) for keyword, value in config.items()}
    return classes[name](**values)


def check_name(name: Any, classes: Sequence[str]) -> None:
    """Raise a ValueError, with the loss that may be meant, unless `name` is one of the classes."""
    if isinstance(name, str) and name in classes:
        return
    meant = meant_by(name, classes) if isinstance(name, str) else ""
    wanted = "the name of a loss" if meant else f"one of {', '.join(classes)}"
    raise ValueError(f"loss must be {wanted}, got {name!r}{meant and ': '}{meant}")


def meant_by(name: str, classes: Sequence[str]) -> str:
    """Return a hint at the loss that a name may mean; an empty string if there is none."""
    core = name.casefold().replace("_", "").removesuffix("loss")
    ours = {each.casefold(): each for each in classes}
    if core in FOREIGN:
        return f"here it is {FOREIGN[core]}"
    alike = [each for small, each in ours.items() if core and core in small]
    if core in ours or not 0 < len(alike) <= MOST_HINTS:
        alike = [ours[small] for small in difflib.get_close_matches(core, ours, 1)]
    return f"did you mean {' or '.join(map(repr, alike))}?" if alike else ""


def public_classes(package: Any) -> dict[str, Any]:
    """Return the public losses of a package, by their names."""
    public = {name: getattr(package, name) for name in package.__all__}
    return {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and issubclass(value, package.base.Loss)
    }
