"""A small file of conformance results, made by hand, for tests of its page and its summary."""

import json

FEATURES = ["class indices", "soft targets", "label smoothing", "reduction none", "tails"]
LOSSES = ["BinaryCrossEntropy", "CategoricalCrossEntropy"]
MACHINE = {"platform": "Linux", "processors": 2}


def cell(equal=0, differs=0, wrong=0, not_offered=0, **others):
    return {"equal": equal, "differs": differs, "wrong": wrong, "not offered": not_offered, **others}


def target(name, own, cells, failing=(), **others):
    counts = {key: sum(cells[loss].get(key, 0) for loss in LOSSES) for key in cell()}
    header = {"target": name, "own": own, "version": "1.2.3", "framework": "torch", "versions": {"torch": "2.13.0"}}
    setting = {"dtype": "float32", "mode": "eager", "device": "cpu", "date": "2026-11-29T10:00:00+00:00"}
    where = {"python": "3.11.2", "machine": MACHINE, "cases": sum(counts.values())}
    return header | setting | where | {"counts": counts, "cells": cells, "failing": list(failing)} | others


DIVERGENCES = """\
# Divergences

### The tail is lost

<!-- targets: timm; cases: */wrong-* -->

Why.

```python
print(1)  # 1
```
"""


def write(docs):
    """Write what page.py reads into a folder of documentation."""
    (docs / "conformance").mkdir(exist_ok=True)
    (docs / "conformance/results.json").write_text(json.dumps(results()), encoding="utf-8")
    (docs / "divergences.md").write_text(DIVERGENCES, encoding="utf-8")


def results():
    """Four targets, of which one has a wrong case, one an unnamed version and one offers nothing."""
    every = {name: cell(equal=4, worst=0.25) for name in [*FEATURES, *LOSSES]}
    summed = "mean divides by the sum of the <target> weights"
    some = every | {
        "class indices": cell(equal=1, differs=2, wrong=1, worst=0.5, conventions=[summed]),
        "soft targets": cell(not_offered=4, worst=None, reasons=["targets are indices"]),
        "tails": cell(equal=3, wrong=1, worst=0.125),
        "CategoricalCrossEntropy": cell(equal=1, differs=2, wrong=1, worst=0.5, conventions=[summed]),
    }
    failing = [
        {"id": "categorical-cross-entropy/wrong-tail", "outcome": "wrong", "worst": 1234567.0}
        | {"message": "loss: at (): want 1e-30, got 0.0", "got": {"loss": 0.0, "grad_logits": [[0.0, "NaN"]]}},
        {"id": "categorical-cross-entropy/weights", "outcome": "differs", "convention": summed, "worst": 0.5},
        {"id": "categorical-cross-entropy/more-weights", "outcome": "differs", "convention": summed, "worst": 0.25},
    ]
    indices = {"loss": "CategoricalCrossEntropy", "features": ["class indices"]}
    cases = {
        failing[0]["id"]: {"loss": "CategoricalCrossEntropy", "features": ["class indices", "tails"], "config": {}}
        | {"wanted": {"loss": 1e-30, "grad_logits": [[-1e-30, 1e-30]]}}
        | {"inputs": {"logits": {"kind": "float", "shape": [1, 2], "data": [[70.0, 0.0]]}}},
        failing[1]["id"]: indices | {"config": {"class_weight": [1.0, 2.0]}},
        failing[2]["id"]: indices | {"config": {"class_weight": [1.0, 4.0], "reduction": "mean"}},
    }
    nothing = {name: cell(not_offered=4, worst=None) for name in every}
    targets = [
        target("timm", False, some, failing),
        target("lightning_xent", True, every, version=None),
        target("optax", False, every | {"soft targets": cell(equal=4, worst=0.0)}, framework="jax", versions={}),
        target("scikit-learn", False, nothing, framework="numpy"),
    ]
    return {"format": 1, "kind": "matrix", "date": "2026-11-29T10:00:00+00:00", "features": FEATURES} | {
        "losses": LOSSES,
        "targets": targets,
        "cases": cases,
        "vectors": {"cases": 8},
    }
