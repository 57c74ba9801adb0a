"""Values for every keyword of every loss, other than the defaults."""

from dataclasses import fields

import pytest

from examples import CLASSES, is_binary
from sides import is_keras, side

WHERE = "tests/support/keyword_values.py"
NUMBERS = {
    "label_smoothing": 0.1,
    "smooth_over": "others",
    "ignore_index": -1,
    "entropy_penalty": -0.25,
    "hard_fraction": 0.625,
    "check_labels": False,
    "reduction": "weighted_mean",
}
LOGITS = {"temperature": 1.5}
FAMILIES = {
    "Categorical": ({"axis": 1, "class_weight": [0.1, 2.0, 3.0]}, {"z_loss": 0.001, "softcap": 3.0}),
    "Binary": ({"axis": 1, "pos_weight": [0.1, 2.0, 3.0]}, {}),
}
OWN = {
    **{"gamma": 0.5, "alpha": 0.25, "beta": 0.5, "epsilon": 0.5, "q": 0.4, "truncate_at": 0.2, "log_zero": -2.0},
    **{"order": 3, "gamma_pos": 1.5, "gamma_neg": 2.5, "margin": 0.1, "detach_modulator": True, "mode": "hard"},
    **{"t1": 0.6, "t2": 1.4, "views": 3, "weight": 2.0, "tau": 0.5, "max_margin": 0.25, "scale": 8.0},
    "class_counts": [5.0, 3.0, 2.0],
}
OWN_DEFAULTS = {"views"}  # not changed here: the inputs are of that many views
REFUSED = {  # keywords of which a class takes nothing but the default
    "ArcFaceCrossEntropy": ("from_logits", "temperature"),
    "BiTemperedLogistic": ("from_logits",),
    "BinaryHinge": ("from_logits",),
    "CategoricalHinge": ("from_logits",),
    "CosFaceCrossEntropy": ("from_logits",),
    "Distillation": ("from_logits",),
    "LDAMCrossEntropy": ("from_logits",),
    "LogitAdjustedCrossEntropy": ("from_logits",),
    "OrdinalCrossEntropy": ("from_logits", "z_loss"),
}


def full_configs(name):
    """Configs that together give every keyword of a class another value than its default."""
    keywords = {field.name for field in fields(getattr(side.package, name))}
    family, family_logits = FAMILIES["Binary" if is_binary(name) else "Categorical"]
    own = {key: value for key, value in OWN.items() if key in keywords - OWN_DEFAULTS}
    refused = REFUSED.get(name, ())
    configs = [
        {**NUMBERS, **family, **own, **LOGITS, **family_logits},
        {**NUMBERS, **family, **own, "from_logits": False},
    ]
    if is_keras:
        configs = [{**config, "name": "own_name"} for config in configs]
    untried = keywords - OWN_DEFAULTS - set().union(*configs)
    assert not untried, (
        f"OWN in tests/support/keyword_values.py has no value for {', '.join(sorted(untried))} of {name}"
    )
    taken = [{key: value for key, value in config.items() if key not in refused} for config in configs]
    return taken[: 1 if "from_logits" in refused else 2]


ALL_CONFIGS = [
    pytest.param(name, config, id=f"{name}-{index}")
    for name in CLASSES
    for index, config in enumerate(full_configs(name))
]
