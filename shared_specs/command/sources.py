"""Reads the losses that `xent convert` takes, and writes them in four forms."""

import ast
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from shared_specs import curves
from shared_specs.common import arguments, docstrings, porting
from shared_specs.common.spec import LossSpec, meant_by

LIBRARIES = {
    **dict.fromkeys(("torch", "nn", "F"), "torch"),
    **dict.fromkeys(("keras", "losses", "tf", "tensorflow"), "keras"),
    **dict.fromkeys(("keras_xent", "lightning_xent"), "ours"),
}
"""The first word of the path of a class: whose losses are there."""
ARRAYS = ("tensor", "as_tensor", "Tensor", "FloatTensor", "array", "asarray", "constant", "convert_to_tensor")
"""Functions of torch, NumPy, TensorFlow and Keras that wrap plain numbers."""
CLASSES = {"torch": "torch.nn.CrossEntropyLoss", "keras": "keras.losses.BinaryCrossentropy"}
FORMS = ("spec", "keras", "lightning", "yaml")
SUFFIXES = (".json", ".yaml", ".yml")
SPEC_TEXT = "a spec, such as CategoricalFocalCrossEntropy:gamma=2"
WANTED = f'a call, such as "torch.nn.CrossEntropyLoss(label_smoothing=0.1)", {SPEC_TEXT}, or a JSON or YAML file'


class Named(NamedTuple):
    """A loss as it was found: the path of its class, and its keywords."""

    path: str
    values: Mapping[str, Any]
    is_serialised: bool = False
    """Whether it has the form of Keras' `serialize`, whose class names have no path."""

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.path.rpartition(".")[2]


def read(text: str, standard_input: Callable[[], str]) -> Named:
    """Return the loss in a file, in the standard input ("-"), in a call, or in a spec."""
    if text == "-":
        return _of_content(standard_input())
    path = Path(text)
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ValueError(f"there is no file {text}")
        return _of_content(path.read_text(encoding="utf-8"))
    return _of_text(text)


def spec_of(found: Named, *, targets: porting.Targets = "indices", classes: int | None = None) -> LossSpec:
    """Return the spec of the loss here that equals the loss found.

    Raises:
        TypeError: A keyword that the loss does not have.
        ValueError: A loss, or an argument of it, that has no equal here. The message says why.
    """
    library = _library_of(found)
    values = {keyword: arguments.parsed(value) for keyword, value in found.values.items()}
    if library == "torch":
        return porting.of_torch(found.name, values, targets)
    if library == "keras":
        return porting.of_keras(found.name, values, classes)
    return {"loss": found.name, "config": values}


def line(package: str, spec: LossSpec) -> str:
    """Return the line of Python that builds a loss."""
    given = ", ".join(f"{keyword}={value!r}" for keyword, value in spec["config"].items())
    return f"{package}.{spec['loss']}({given})"


def yaml_config(spec: LossSpec) -> str:
    """Return the part of a LightningCLI config that has the loss."""
    loss = {"class_path": f"lightning_xent.{spec['loss']}"}
    config = {"init_args": spec["config"]} if spec["config"] else {}
    return str(yaml().safe_dump({"model": {"loss": loss | config}}, sort_keys=False, default_flow_style=None)).rstrip()


def written(spec: LossSpec, form: str) -> str:
    """Return a loss in one of `FORMS`."""
    if form in ("keras", "lightning"):
        return line(f"{form}_xent", spec)
    return yaml_config(spec) if form == "yaml" else json.dumps(spec)


def yaml() -> Any:
    """Return the module of PyYAML."""
    try:
        return import_module("yaml")
    except ImportError:
        raise ValueError('PyYAML is not installed: pip install pyyaml, or the extra "cli"') from None


def _of_content(text: str) -> Named:
    """Return the loss in the text of a file."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        try:
            content = yaml().safe_load(text)
        except yaml().YAMLError as error:
            raise ValueError(f"the file is neither JSON nor YAML: {error}") from None
    return _of_text(content) if isinstance(content, str) else _of_config(content)


def _of_text(text: str) -> Named:
    """Return the loss of a call, or of a spec as the other commands take it."""
    text = text.strip()
    if text.startswith("{"):
        return _of_content(text)
    if "(" not in text:
        found = curves.read(text)
        return Named(found.loss, found.config)
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        call = None
    path = _path_of(call.func) if isinstance(call, ast.Call) else None
    if not isinstance(call, ast.Call) or path is None:
        raise ValueError(f"a loss must be {WANTED}, got {text!r}")
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"the arguments of {path} must be given by keyword, as in {path}(reduction='sum'), got {text}")
    return Named(path, {str(keyword.arg): _value(str(keyword.arg), keyword.value) for keyword in call.keywords})


def _path_of(node: ast.expr) -> str | None:
    """Return a dotted name; None for other expressions."""
    if isinstance(node, ast.Attribute):
        owner = _path_of(node.value)
        return None if owner is None else f"{owner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def _value(keyword: str, node: ast.expr) -> Any:
    """Return a plain value, or the numbers in a tensor or array; nothing is run."""
    if isinstance(node, ast.Call) and node.args and (_path_of(node.func) or "").rpartition(".")[2] in ARRAYS:
        node = node.args[0]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(
            f"{keyword} must be plain numbers or text, or torch.tensor([...]), got {ast.unparse(node)}: write its "
            "value, nothing is run"
        ) from None


def _of_config(content: Any) -> Named:
    """Return the loss in a config: a spec, Keras' `serialize`, a class_path with init_args, a LightningCLI config."""
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
        content = content.get("init_args", content)
        if not isinstance(content, Mapping) or "loss" not in content:
            raise ValueError("the config must have model.loss or model.init_args.loss")
    if isinstance(content, Mapping) and isinstance(content.get("loss"), Mapping):
        content = content["loss"]
    if isinstance(content, Mapping) and isinstance(content.get("loss"), str):
        unknown = content.keys() - {"loss", "config"}
        if unknown:
            raise ValueError(f'a spec has the keys "loss" and "config", got {min(unknown, key=str)!r} too')
        return Named(content["loss"], content.get("config") or {})
    _, values = porting.named(content)
    if "class_path" in content:
        return Named(content["class_path"], values)
    module = (content.get("module") or content.get("registered_name") or "").replace(">", ".")
    path = module if module.endswith(content["class_name"]) else f"{module}.{content['class_name']}".lstrip(".")
    return Named(path, values, True)


def _library_of(found: Named) -> str:
    """Return whose loss it is: that of "torch", of "keras", or "ours"."""
    owner, _, _ = found.path.rpartition(".")
    ours = [name for family in docstrings.families().values() for name in family]
    known = {"torch": {*porting.TORCH, *porting.NOT_OF_TORCH}, "keras": {*porting.KERAS, *porting.NOT_OF_KERAS}}
    if owner:
        library = LIBRARIES.get(owner.partition(".")[0])
        if library is None:
            meant = meant_by(found.name, ours)
            raise ValueError(
                f"{found.path} is not a loss of torch.nn or keras.losses, which are converted{meant and ': '}{meant}"
            )
        if library in CLASSES and found.name.islower():
            raise ValueError(f"{found.path} is a function: pass the call of a class, such as {CLASSES[library]}()")
        return library
    owners = [library for library, names in known.items() if found.name in names]
    if found.is_serialised and "keras" in owners:
        return "keras"
    owners += ["ours"] if found.name in ours or not owners else []
    if len(owners) > 1:
        raise ValueError(
            f"{found.name} is a loss of {owners[0]} and one of this project: write keras.losses.{found.name} or "
            f"keras_xent.{found.name}"
        )
    return owners[0]
