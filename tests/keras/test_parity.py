"""The two packages mirror each other, and layers point one way. Runs on keras-torch, which has what both import."""

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import lightning_xent
from shared_specs.common.spec import public_classes
from sides import side

keras_xent = side.package

ROOT = Path(__file__).parents[2]
PACKAGES = {"keras_xent": Path(keras_xent.__file__).parent, "lightning_xent": Path(lightning_xent.__file__).parent}
ONE_SIDED = {
    # These train with loops of torch.
    "integrations/__init__.py",
    "integrations/transformers.py",
    # Keras needs no module class: model.compile takes the loss, fit and evaluate know the parts of a batch.
    "batches.py",
    "evaluation.py",
    "lightning.py",
    "module.py",
    "training.py",
    # JAX shards tensors itself, and torch leaves it to the caller.
    "shards.py",
    # Keras has its own classes of metrics, Lightning has torchmetrics.
    "metrics/classification.py",
    "metrics/losses.py",
    "metrics/prediction.py",
    "metrics/report.py",
    # Keras uses these too, on its torch backend.
    "kernels/blocks.py",
    "kernels/cuda.py",
    "kernels/distribution.py",
    "kernels/elementwise.py",
    "kernels/labels.py",
    "kernels/linear_gradients.py",
    "kernels/linear_traced.py",
    "kernels/plain.py",
    "kernels/sharded.py",
    "kernels/sharded_linear.py",
    "kernels/tensors.py",
    "kernels/triton_code.py",
    "kernels/work.py",
    # torch has no other backends, and needs no private names.
    "kernels/classes_of_jax.py",
    "kernels/classes_of_tensorflow.py",
    "kernels/jax_trace.py",
    "kernels/linear_of_jax.py",
    "kernels/linear_of_tensorflow.py",
    "kernels/linear_of_torch.py",
    "kernels/of_jax.py",
    "kernels/of_tensorflow.py",
    "kernels/passes.py",
    "kernels/tensorflow_graph.py",
    "kernels/xla.py",
    "private.py",
    "shapes.py",
}
CLASSES = list(public_classes(keras_xent))


def sources(package):
    folder = PACKAGES[package]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


def imports(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def definitions(source):
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]


def test_same_files():
    different = set(sources("lightning_xent")) ^ set(sources("keras_xent")) ^ ONE_SIDED
    assert not different, f"these files have to stand in both packages, or in ONE_SIDED: {sorted(different)}"


def test_same_public_names():
    different = set(keras_xent.__all__) ^ set(lightning_xent.__all__)
    assert not different, f"__all__ of one package lacks {sorted(different)}"
    assert keras_xent.__all__ == lightning_xent.__all__, "__all__ of the packages has another order"


@pytest.mark.parametrize("path", [path for path in sources("keras_xent") if path.startswith("losses/")])
def test_same_definitions_in_a_variant(path):
    assert definitions(sources("keras_xent")[path]) == definitions(sources("lightning_xent")[path])


@pytest.mark.parametrize("name", CLASSES)
def test_same_keywords_and_defaults(name):
    keras_parameters = dict(inspect.signature(getattr(keras_xent, name)).parameters)
    torch_parameters = dict(inspect.signature(getattr(lightning_xent, name)).parameters)
    assert keras_parameters.pop("name").default is None
    assert {key: value.default for key, value in keras_parameters.items()} == {
        key: value.default for key, value in torch_parameters.items()
    }
    assert {value.kind for value in torch_parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert list(keras_parameters) == list(torch_parameters)


@pytest.mark.parametrize("name", CLASSES)
def test_docstrings_name_every_own_keyword_and_a_reference(name):
    """Own keywords are the fields that no base has that is a loss: those of mixins too, in the order of the fields."""
    for package in (keras_xent, lightning_xent):
        loss = getattr(package, name)
        inherited = {
            field.name for base in loss.__bases__ if issubclass(base, package.base.Loss) for field in fields(base)
        }
        own = [
            field.name for field in fields(loss) if field.name not in inherited or field.name in loss.__annotations__
        ]
        described = re.findall(r"^ {4}(\w+): ", inspect.getdoc(loss), flags=re.MULTILINE)
        assert described[: len(own)] == own
        assert sorted(described) == sorted(field.name for field in fields(loss))
        assert inspect.getdoc(loss).count("Reference: ") == 1


def test_bases_document_every_common_keyword():
    for package in (keras_xent, lightning_xent):
        for base in (package.base.Loss, package.categorical.CategoricalLoss, package.binary.BinaryLoss):
            described = re.findall(r"^ {4}(\w+): ", inspect.getdoc(base), flags=re.MULTILINE)
            assert sorted(described) == sorted(field.name for field in fields(base))


LAYERS = {
    "shapes.py": set(),
    "private.py": set(),
    "kernels": {"kernels", "shapes"},
    "log_odds.py": {"kernels", "shapes"},
    "reading.py": {"kernels", "private", "shapes"},
    "targets.py": {"kernels", "reading", "shapes"},
    "weighting.py": {"kernels", "reading", "shapes"},
    "reduction.py": {"kernels", "reading", "shapes", "weighting"},
    "watch.py": {"kernels", "reading", "reduction"},
    "base.py": {"kernels", "private", "reading", "reduction", "watch"},
    "shards.py": {"base", "categorical", "fused", "kernels", "reading", "reduction", "targets", "weighting"},
    "fused.py": {"categorical", "kernels", "private", "reading", "reduction", "shapes", "targets", "weighting"},
    "categorical.py": {
        "base",
        "fused",
        "kernels",
        "log_odds",
        "reading",
        "reduction",
        "shapes",
        "targets",
        "weighting",
        "shards",
    },
    "binary.py": {"base", "log_odds", "reading", "reduction", "targets", "weighting"},
    "batches.py": set(),
    "check.py": {"base", "batches", "binary", "categorical", "reading", "reduction", "targets", "watch"},
    "spec.py": {"base"},
    "layers.py": {"base", "categorical", "fused", "kernels", "private", "reading", "reduction", "spec", "weighting"},
    "evaluation.py": {"base", "binary", "metrics", "layers"},
    "training.py": {"base", "batches", "evaluation", "metrics", "reduction", "spec", "layers"},
    "module.py": {"base", "batches", "training", "layers"},
    "integrations/__init__.py": set(),
    "integrations/transformers.py": {"base", "categorical"},
    "lightning.py": {"base", "batches", "training", "layers"},
    "information.py": set(),
    "callbacks.py": {"base", "batches", "binary", "categorical", "check"},
    "metrics": {
        "base",
        "binary",
        "categorical",
        "fused",
        "layers",
        "log_odds",
        "losses",
        "metrics",
        "private",
        "reading",
        "reduction",
        "shards",
        "targets",
        "weighting",
    },
    "porting.py": {"base", "layers", "spec"},
    "__init__.py": {"check", "fused", "information", "layers", "losses", "porting", "spec"},
    "losses": {"binary", "categorical", "log_odds", "losses", "reading", "reduction", "shapes", "targets", "weighting"},
}
"""What a file of a package imports of the packages; of shared_specs it may import what is in `common`."""


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_point_one_way(package):
    for path, source in sources(package).items():
        folder = path.partition("/")[0]
        layer = folder if folder in LAYERS else path
        names = [name.split(".") for name in imports(source)]
        assert {name[1] for name in names if name[0] in PACKAGES} <= LAYERS[layer], path
        assert {name[1] for name in names if name[0] == "shared_specs"} <= {"common"}, path


FORBIDDEN = {
    "keras_xent": {"torch", "tensorflow", "jax", "lightning_xent"},
    "lightning_xent": {"keras", "tensorflow", "jax", "keras_xent"},
    "shared_specs": {"torch", "tensorflow", "jax", "keras", "keras_xent", "lightning_xent"},
}
OF_ONE_BACKEND = {  # files that one backend of Keras alone imports, and what it imports for torch
    "keras_xent/kernels/classes_of_jax.py": {"jax"},
    "keras_xent/kernels/classes_of_tensorflow.py": {"tensorflow"},
    "keras_xent/kernels/jax_trace.py": {"jax"},
    "keras_xent/kernels/linear_of_jax.py": {"jax"},
    "keras_xent/kernels/linear_of_tensorflow.py": {"tensorflow"},
    "keras_xent/kernels/linear_of_torch.py": {"lightning_xent"},
    "keras_xent/kernels/of_jax.py": {"jax"},
    "keras_xent/kernels/of_tensorflow.py": {"tensorflow"},
    "keras_xent/kernels/tensorflow_graph.py": {"tensorflow"},
    "keras_xent/kernels/__init__.py": {"lightning_xent"},
}
PRIVATE_KERAS = {"keras.src.backend.get_keras_mask"}


BELOW = {  # folders of shared_specs: what they may use of it; "" are its own files, the oracle among them
    "": ("shared_specs.load", "shared_specs.oracle", "shared_specs.textbook"),
    "common": ("shared_specs.common",),
}
WITH_FRAMEWORKS = {  # folders, and files, of which each is for one framework: a program imports the one that it needs
    *("conformance/adapters", "conformance/frameworks", "conformance/trainers"),
    *("command/keras_check.py", "command/lightning_check.py"),
}


def test_oracle_and_common_stay_apart():
    """What the oracle may not use, and what each package may use, stays apart; the programs are above both."""
    for folder, allowed in BELOW.items():
        for path in (ROOT / "shared_specs" / folder).glob("*.py"):
            names = [name for name in imports(path.read_text(encoding="utf-8")) if name.startswith("shared_specs.")]
            assert all(name.startswith(allowed) for name in names), (path, names)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_foreign_imports(package):
    for path in (ROOT / package).rglob("*.py"):
        place = path.relative_to(ROOT / package)
        if package == "shared_specs" and {place.as_posix(), place.parent.as_posix()} & WITH_FRAMEWORKS:
            continue
        names = list(imports(path.read_text(encoding="utf-8")))
        forbidden = FORBIDDEN[package] - OF_ONE_BACKEND.get(path.relative_to(ROOT).as_posix(), set())
        assert not {name.split(".")[0] for name in names} & forbidden, path
        allowed = PRIVATE_KERAS if path.name == "private.py" else set()
        assert {name for name in names if name.startswith("keras.src")} <= allowed, path
