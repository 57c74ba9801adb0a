"""Writes migrating.md: runs each old call and its new one on the same inputs, and says by how much they differ.

The calls are in migrating.toml. Each framework has a process of its own, and what they measured goes to migrating.json.
"""

import argparse
import difflib
import importlib
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from docs.__main__ import anchor, blocks

CALLS, MEASURED, PAGE = (Path(__file__).with_suffix(suffix) for suffix in (".toml", ".json", ".md"))
SIDES = ("torch", "tensorflow", "jax")
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5
"""Two calls are the same up to these differences, relative to the largest entry: some peers only have float32."""
REPEATED = 1e-4
"""A number may differ this much from the last run, because machines round differently."""


class Row(NamedTuple):
    """An old call and its new call; `twin` and `twin_inputs` are for the other package, if it needs another call."""

    library: str
    side: str
    setup: str
    old: str
    new: str
    inputs: Sequence[str] = ("logits", "index")
    after: str = ""
    twin: str | None = None
    twin_inputs: Sequence[str] | None = None
    why: str = ""

    @property
    def key(self) -> str:
        """The name of the row in migrating.json."""
        return f"{self.library}: {self.old}"

    def call(self, side: str) -> str:
        """The new call in the package of a side: Keras has the target first."""
        is_twin = (side == "torch") != (self.side == "torch")
        loss = self.twin if is_twin and self.twin else self.new
        logits, target, *others = self.twin_inputs if is_twin and self.twin_inputs else self.inputs
        first = [logits, target] if side == "torch" else [target, logits]
        return f"{loss}({', '.join([*first, *others])}){self.after}"


def read_calls() -> dict[str, Any]:
    """The contents of migrating.toml."""
    return tomllib.loads(CALLS.read_text(encoding="utf-8"))


def rows_of(calls: dict[str, Any]) -> list[Row]:
    """All rows, each with its own key."""
    rows = [
        Row(library["title"], library["side"], library["setup"], **row)
        for library in calls["library"]
        for row in library["row"]
    ]
    if twice := {row.key for row in rows if sum(row.key == other.key for other in rows) > 1}:
        raise ValueError(f"{CALLS.name}: more than one row for {', '.join(sorted(twice))}")
    return rows


# ---- The inputs.


def arrays() -> dict[str, Any]:
    """The inputs by name: the float32 arrays that get a gradient, and all others."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows, classes = 8, 5

    def normal(*shape: int) -> Any:
        return (2 * rng.standard_normal(shape)).astype("float32")

    def with_holes(labels: Any, *holes: int) -> Any:
        copy = labels.copy()
        copy.flat[list(holes)] = -100
        return copy

    index = np.array([2, 0, 4, 1, 1, 3, 0, 2])
    labels = rng.integers(0, 2, (rows, classes)).astype("float32")
    pixels, words = rng.integers(0, classes, (2, 3, 4)), rng.integers(0, classes, (2, 6))
    return {
        "logits": normal(rows, classes),
        "images": normal(2, classes, 3, 4),
        "tokens": normal(2, 6, classes),
        "views": normal(3 * rows, classes),
        "wide": normal(rows, 300),
        "extreme": np.array([40.0, -150.0], "float32"),
        "index": index,
        "ignored": with_holes(index, 1, 6),
        "nothing": with_holes(index, *range(rows)),
        "one_hot": np.eye(classes, dtype="float32")[index],
        "soft": rng.dirichlet(np.ones(classes), rows).astype("float32"),
        "labels": labels,
        "gaps": with_holes(labels, 3, 11, 12, 30),
        "signs": 2 * labels - 1,
        "qualities": rng.uniform(size=(rows, classes)).astype("float32"),
        "teacher": normal(rows, classes),
        "pixels": pixels,
        "words": with_holes(words, 4, 5, 11),
        "wide_index": np.array([3, 257, 12, 290, 131, 40, 7, 258]),
        "wrong": np.array([0.0, 1.0], "float32"),
        "weight": np.array([0.5, 1.0, 1.5, 2.0, 3.0], "float32"),
        "row_weight": rng.uniform(0.5, 2.0, rows).astype("float32"),
        "kept": np.array([True, False, True, True, True, True, False, True]),
        "masks": rng.integers(0, 2, (2, classes, 3, 4)).astype("float32"),
    }


LEAVES = ("logits", "images", "tokens", "views", "wide", "extreme")
"""The inputs that get a gradient."""


def names_of(tensors: dict[str, Any], exponential: Callable[[Any], Any]) -> dict[str, Any]:
    """The inputs, and the probabilities that follow from the logits."""
    logits = tensors["logits"]
    exponentials = exponential(logits)
    total = sum(exponentials[:, label] for label in range(logits.shape[1]))
    probabilities, chances = exponentials / total[:, None], 1 / (1 + exponential(-logits))
    return tensors | {"probabilities": probabilities, "chances": chances}


# ---- One process of a framework.


Function = Callable[[dict[str, Any]], Any]
"""Tensors by name -> the value of a call."""


def torch_side(function: Function) -> tuple[Any, list[Any]]:
    """Value and gradients of a function of the inputs, in torch."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in arrays().items()}
    leaves = [tensors[name].requires_grad_() for name in LEAVES]
    value = function(names_of(tensors, torch.exp))
    gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)
    return value.detach().numpy(), [gradient.numpy() for gradient in gradients]


def tensorflow_side(function: Function) -> tuple[Any, list[Any]]:
    """Value and gradients of a function of the inputs, in TensorFlow."""
    import tensorflow as tf

    tensors = {name: tf.convert_to_tensor(array) for name, array in arrays().items()}
    leaves = [tensors[name] for name in LEAVES]
    with tf.GradientTape() as tape:
        tape.watch(leaves)
        value = function(names_of(tensors, tf.exp))
        total = tf.reduce_sum(value)
    gradients = tape.gradient(total, leaves, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return value.numpy(), [gradient.numpy() for gradient in gradients]


def jax_side(function: Function) -> tuple[Any, list[Any]]:
    """Value and gradients of a function of the inputs, in JAX."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    tensors = {name: jnp.asarray(array) for name, array in arrays().items()}

    def summed(leaves: list[Any]) -> tuple[Any, Any]:
        value = function(names_of(tensors | dict(zip(LEAVES, leaves, strict=True)), jnp.exp))
        return value.sum(), value

    leaves = [tensors[name] for name in LEAVES]
    (_, value), gradients = jax.value_and_grad(summed, has_aux=True)(leaves)
    return np.asarray(value), [np.asarray(gradient) for gradient in gradients]


def run_calls(side: str) -> dict[str, Any]:
    """Run all new calls, and the old ones of this side's libraries."""
    differentiate = {"torch": torch_side, "tensorflow": tensorflow_side, "jax": jax_side}[side]
    if side == "torch":
        from benchmarks.torch_peers import make_torchvision_importable

        make_torchvision_importable()
    package = importlib.import_module("lightning_xent" if side == "torch" else "keras_xent")
    ours = "import torch" if side == "torch" else "import keras"
    calls = read_calls()
    results: dict[str, Any] = {"old": {}, "new": {}, "versions": {}}
    for row in rows_of(calls):
        results["new"][row.key] = run_call(differentiate, row.call(side), ours, vars(package))
        if row.side == side:
            results["old"][row.key] = run_call(differentiate, row.old, row.setup, {})
    for library in calls["library"]:
        if library["side"] == side:
            results["versions"][library["title"]] = version_of(library["package"])
    return results


def run_call(differentiate: Callable[..., Any], code: str, setup: str, names: dict[str, Any]) -> dict[str, Any]:
    """Value and gradient of a call, in lists, or its error."""

    def function(tensors: dict[str, Any]) -> Any:
        scope = names | tensors
        exec(setup, scope)
        return eval(code, scope)

    try:
        value, gradients = differentiate(function)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": value.ravel().tolist(), "gradient": [x for part in gradients for x in part.ravel().tolist()]}


def version_of(package: str) -> str:
    """Major and minor version of an installed package, or nothing."""
    try:
        return ".".join(importlib.metadata.version(package).split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return ""


# ---- The results of the processes.


def measure(rows: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """What migrating.json holds, and the rows that failed."""
    results = {side: in_process(side) for side in SIDES}
    measured: dict[str, Any] = {"versions": {}, "rows": {}}
    problems = []
    for side in SIDES:
        measured["versions"] |= results[side]["versions"]
    for row in rows:
        old, new = results[row.side]["old"][row.key], {side: results[side]["new"][row.key] for side in SIDES}
        found = [f"old call: {old['error']}"] if "error" in old else []
        found += [f"{row.call(side)} on {side}: {new[side]['error']}" for side in SIDES if "error" in new[side]]
        if not found:
            sides = [side for side in SIDES if relation(new[row.side], new[side]) != "same"]
            found = [f"{row.call(side)} on {side} is not what it is on {row.side}" for side in sides]
        problems += [f"{row.key}: {problem}" for problem in found]
        if not found:
            numbers = {"old": total(old), "new": total(new[row.side])}
            measured["rows"][row.key] = {"relation": relation(old, new[row.side]), **numbers}
    return measured, problems


def in_process(side: str) -> dict[str, Any]:
    """The results of the process of one framework: TensorFlow and torch in one process can crash."""
    # Messages about builds and devices do not matter here.
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": side}
    command = [sys.executable, "-m", "docs.migrating", "--side", side]
    process = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def relation(old: dict[str, Any], new: dict[str, Any]) -> str:
    """How two results compare: "same", "value" (another gradient), "factor" or "other"."""
    same_value = distance(old["value"], new["value"]) <= VALUE_TOLERANCE
    same_gradient = distance(old["gradient"], new["gradient"]) <= GRADIENT_TOLERANCE
    if same_value:
        return "same" if same_gradient else "value"
    if len(old["value"]) != len(new["value"]) or not math.isfinite(total(old)) or total(new) == 0:
        return "other"
    factor = sum(old["value"]) / sum(new["value"])
    if math.isclose(factor, 1.0, rel_tol=REPEATED):
        return "other"
    values, gradients = ([factor * x for x in new[name]] for name in ("value", "gradient"))
    is_factor = distance(old["value"], values) <= VALUE_TOLERANCE
    is_factor = is_factor and distance(old["gradient"], gradients) <= GRADIENT_TOLERANCE
    return "factor" if is_factor else "other"


def distance(old: Sequence[float], new: Sequence[float]) -> float:
    """The largest difference of two lists, relative to the largest entry of the old one."""
    if len(old) != len(new) or not all(map(math.isfinite, [*old, *new])):
        return math.inf
    largest = max(map(abs, old))
    difference = max(abs(x - y) for x, y in zip(old, new, strict=True))
    return 0.0 if difference == 0 else difference / largest if largest else math.inf


def total(result: dict[str, Any]) -> float:
    """The sum of a result, in six digits."""
    return float(f"{sum(result['value']):.6g}")


def settled(measured: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The new measurements; rows that did not change keep their old numbers."""
    rows = {key: row for key, row in before.get("rows", {}).items() if key in measured["rows"]}
    kept = {key: row for key, row in rows.items() if repeats(measured["rows"][key], row)}
    return measured | {"rows": measured["rows"] | kept}


def repeats(row: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether a row has the same result as before."""
    numbers = [(row[name], before[name]) for name in ("old", "new")]
    is_close = all(math.isclose(x, y, rel_tol=REPEATED) or (math.isnan(x) and math.isnan(y)) for x, y in numbers)
    return row["relation"] == before["relation"] and is_close


# ---- The page.


def page(calls: dict[str, Any], measured: dict[str, Any]) -> str:
    """The whole page."""
    rows = rows_of(calls)
    lines = ["# Migrating", "", "<!-- Written by `python -m docs.migrating`: edit docs/migrating.toml. -->", ""]
    lines += blocks(calls["introduction"])
    lines += [f"- [{library['title']}](#{anchor(library['title'])})" for library in calls["library"]]
    lines += ["- [Inputs](#inputs)", ""]
    for library in calls["library"]:
        title = library["title"]
        version = f"Version {measured['versions'][title]}. The old calls need `{library['setup']}`."
        lines += [f"## {title}", "", *blocks(version), *blocks(library["text"])]
        lines += ["| old call | new call | by how much | what differs |", "|---|---|---|---|"]
        lines += [table_row(row, measured["rows"][row.key]) for row in rows if row.library == title]
        lines.append("")
    return "\n".join([*lines, "## Inputs", "", *blocks(calls["inputs"]), *input_table(calls)]) + "\n"


def table_row(row: Row, measured: dict[str, Any]) -> str:
    """One line of a table."""
    other = "torch" if row.side != "torch" else "tensorflow"
    has_twin = row.twin or row.twin_inputs
    twin = f"{'In torch' if other == 'torch' else 'In Keras'} `{row.call(other)}`." if has_twin else ""
    cells = f"`{row.old}`", f"`{row.call(row.side)}`", verdict(measured), f"{row.why} {twin}".strip()
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def verdict(measured: dict[str, Any]) -> str:
    """By how much the calls differ, in words."""
    old, new = measured["old"], measured["new"]
    if measured["relation"] == "same":
        return "the same"
    if measured["relation"] == "value":
        return f"the same value, {old:.4g}; another gradient"
    return f"old = {old / new:.4g} x new" if measured["relation"] == "factor" else f"old {old:.4g}, new {new:.4g}"


def input_table(calls: dict[str, Any]) -> Iterator[str]:
    """The inputs, with their shapes."""
    shapes = {name: " x ".join(map(str, array.shape)) for name, array in arrays().items()}
    if set(shapes) != set(calls["input"]):
        raise ValueError(f"{CALLS.name}: the inputs are {set(shapes)}, but it describes {set(calls['input'])}")
    yield from ("| name | shape | meaning |", "|---|---|---|")
    for name, text in (calls["input"] | calls["derived"]).items():
        yield f"| `{name}` | {shapes.get(name, shapes['logits'])} | {text} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page or show what would change."""
    parser = argparse.ArgumentParser(prog="python -m docs.migrating", description="Write docs/migrating.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    parser.add_argument("--page", action="store_true", help="measure nothing: the page from migrating.json")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(run_calls(options.side)))
        return 0
    calls = read_calls()
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    if not options.page:
        found, problems = measure(rows_of(calls))
        if problems:
            sys.stderr.writelines(f"{problem}\n" for problem in problems)
            return 1
        measured = settled(found, measured)
    texts = {MEASURED: json.dumps(measured, indent=1) + "\n", PAGE: page(calls, measured)}
    changed = False
    for path, new in texts.items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        changed = changed or old != new
        if options.check:
            lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path.name, "now", n=0, lineterm="")
            sys.stdout.writelines(f"{line}\n" for line in lines)
        elif old != new:
            path.write_text(new, encoding="utf-8", newline="\n")
    return int(options.check and changed)


if __name__ == "__main__":
    sys.exit(main())
