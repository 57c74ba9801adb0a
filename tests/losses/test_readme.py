"""The code blocks of the README and of docs run, and print the numbers that they say; so does the README's first table.

Python and YAML blocks run here, the README's commands in CI.
"""

import importlib.metadata
import math
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest

from shared_specs.common.spec import public_classes
from sides import is_keras, side

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/losses").glob("*.md")])
    # The blocks of these run elsewhere: in test_training_loops.py, and where the matrix has installed other libraries.
    if path.name not in ("training_loops.md", "divergences.md")
}
OTHER_PAGES = [
    *("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("benchmarks/README.md", "benchmarks/RESULTS.md", "demo/README.md", "shared_specs/README.md", "tests/README.md"),
]
BLOCKS = [
    (f"{page}:{text.count(chr(10), 0, block.start()) + 2}", block[1], block[2])
    for page, text in PAGES.items()
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
]
# The blocks of one page are adapters, which test_conformance.py runs.
PYTHON = [
    (place, code)
    for place, language, code in BLOCKS
    if language == "python" and not place.startswith("docs/conformance_runner.md")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_block_is_of_a_known_kind():
    assert {language for _, language, _ in BLOCKS} <= {"bash", "console", "python", "yaml"}
    assert all(("keras_xent" in code) != ("lightning_xent" in code) for _, code in PYTHON)


def test_commands_are_those_that_ci_runs():
    blocks = [code for place, language, code in BLOCKS if language == "bash" and place.startswith("README.md")]
    commands = [re.sub(" *#.*", "", line) for line in "".join(blocks[1:]).splitlines()]
    assert commands == ['python -m pip install "tox>=4.28"', "tox run -e demo", "tox run"]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert re.search(r"tox run$", script, flags=re.MULTILINE)
    # The environment of its tests runs the demo as that of the demo does.
    environments, _, of_tests = (ROOT / "tox.ini").read_text(encoding="utf-8").partition("[testenv:demo-tests]")
    assert re.search(r"^ {4}demo-tests$", environments, flags=re.MULTILINE)
    assert "\n    python -m demo\n" in of_tests.split("\n[testenv:")[0]
    # What is installed has the name, the version and the extras of pyproject.
    wheel = f"./{PROJECT['name']}-{PROJECT['version']}-py3-none-any.whl"
    found = re.findall(r'pip install "(\S+)\[(\w+)\]"', blocks[0])
    assert [name for name, _ in found] == ["./xent", wheel]
    assert {extra for _, extra in found} <= set(PROJECT["optional-dependencies"])


def headings(path):
    """The addresses of the headings of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_links_lead_somewhere(page):
    for target, name in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("https://"):  # papers
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}, which is not there"
        assert not name or name in headings(path), f"{page} links to #{name} of {path.name}, which has no such heading"


def test_readme_is_short():
    assert README.count("\n") <= 150
    assert f"{len(public_classes(side.package))} losses" in README


def test_every_loss_is_in_the_table_of_all_losses():
    named = set(re.findall(r"`(\w+)`", PAGES["docs/which_loss.md"].split("## Every loss")[1]))
    assert set(public_classes(side.package)) <= named


def test_version_is_that_of_the_distribution():
    try:
        installed = importlib.metadata.version(PROJECT["name"])
    except importlib.metadata.PackageNotFoundError:
        installed = "0+unknown"
    assert side.package.__version__ == installed
    assert installed in (PROJECT["version"], "0+unknown")


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=place) for place, code in PYTHON if ("keras_xent" in code) == is_keras]
)
# The examples train without workers, loggers or a checkpoint folder of their own.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_python_blocks_print_what_they_say(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "block"})
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"^ *print\(.*\)  # (.*)$|^# (.*)$", code, flags=re.MULTILINE)
    for want in (inline or line for inline, line in said):
        assert any(want == "..." or want == line for line in printed), f"{want!r} is not in {printed}"


@pytest.mark.skipif(is_keras, reason="YAML configs are Lightning's")
@pytest.mark.filterwarnings("ignore")  # LightningCLI warns of its own use of jsonargparse
def test_yaml_config_runs_by_the_commands_beside_it(tmp_path, monkeypatch, capsys):
    """Fit, resume, test, predict: each command ends with what the page says."""
    import torch

    (config,) = (code for _, language, code in BLOCKS if language == "yaml")
    (program,) = (code for _, code in PYTHON if "LightningCLI(" in code)
    (commands,) = (code for _, language, code in BLOCKS if language == "bash" and "train.py fit" in code)
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    (tmp_path / "train.py").write_text(program, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    printed, epochs = {}, []
    for command in commands.splitlines():
        _, *arguments = shlex.split(command)
        monkeypatch.setattr("sys.argv", [*arguments, "--trainer.accelerator=cpu"])
        runpy.run_path(arguments[0], run_name="__main__")
        printed[arguments[1]] = capsys.readouterr().out
        if arguments[1] == "fit":
            epochs.append(torch.load("checkpoints/last.ckpt", weights_only=True)["epoch"] + 1)
    assert list(printed) == ["fit", "test", "predict"]
    assert epochs == [3, 6]
    assert "test_accuracy" in printed["test"]
    assert tuple(torch.load("logits.pt", weights_only=True).shape) == (64, 5)


# ---- The table of the first screen: what the other library gives, what ours gives, and the right value.


def torch_numbers():
    import torch
    from torch.nn import functional as F

    xent = side.package
    logit, zero = torch.tensor([-16.0]), torch.tensor([0.0])
    rows, none = torch.tensor([[2.0, -1.0], [0.5, 1.0]]), torch.tensor([-100, -100])
    batches = [
        (torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, -100])),
        (torch.tensor([[0.0, 3.0], [0.0, 1.0]]), torch.tensor([0, 0])),
    ]
    ignoring = xent.CategoricalCrossEntropy(ignore_index=-100)
    totals = [ignoring.parts(*batch) for batch in batches]
    mean = sum(math.log1p(math.exp(m)) for m in (-2, 3, 1)) / 3
    return {
        "torch `binary_cross_entropy_with_logits`": (
            F.binary_cross_entropy_with_logits(logit, zero),
            xent.BinaryCrossEntropy()(logit, zero),
            math.log1p(math.exp(-16)),
        ),
        "torch `cross_entropy(ignore_index=-100)`": (F.cross_entropy(rows, none), ignoring(rows, none), 0.0),
        "torch `cross_entropy`, mean over micro-batches": (
            sum(F.cross_entropy(*batch) for batch in batches) / 2,
            sum(total for total, _ in totals) / sum(count for _, count in totals),
            mean,
        ),
    }


def keras_numbers():
    import keras
    from keras import ops

    xent, losses = side.package, keras.losses
    logits = np.zeros((1, 300), "float32")
    logits[0, 257] = 8
    label = np.array([257])
    sparse = losses.SparseCategoricalCrossentropy(from_logits=True, dtype="bfloat16")
    focal = losses.CategoricalFocalCrossentropy(from_logits=True, alpha=1.0)

    def slope(loss):
        sure, first = side.tensor(np.array([[0.0, 20.0]]), "float32"), side.tensor(np.array([[1.0, 0.0]]), "float32")
        return side.numpy(side.value_and_gradient(lambda logits: loss(first, logits), sure, "eager")[1])[0, 0]

    return {
        'Keras `SparseCategoricalCrossentropy(dtype="bfloat16")`': (
            sparse(label, ops.cast(logits, "bfloat16")),
            xent.SparseCategoricalCrossEntropy()(label, ops.cast(logits, "bfloat16")),
            math.log1p(299 * math.exp(-8)),
        ),
        # The focal curve is -m (1 - p)^2 far out, where 1 - p is 1.
        "Keras `CategoricalFocalCrossentropy(alpha=1)`": (slope(focal), slope(xent.CategoricalFocalCrossEntropy()), -1),
    }


def test_first_screen_says_what_each_library_gives():
    table = re.findall(r"^\| (.*?) \| (\S+) \| (\S+) \|$", README, flags=re.MULTILINE)
    table = [(what, *map(float, numbers)) for what, *numbers in table if re.fullmatch(r"-?[\d.e-]+|nan", numbers[0])]
    assert len(table) == 5
    numbers = keras_numbers() if is_keras else torch_numbers()
    assert len(numbers) == sum(what.startswith(("torch", "Keras")[is_keras]) for what, _, _ in table)
    for title, (theirs, ours, right) in numbers.items():
        ((_, said, said_of_ours),) = [row for row in table if row[0].startswith(title)]
        # Two digits: backends round bfloat16 differently.
        assert float(theirs) == pytest.approx(said, rel=0.01, nan_ok=True), title
        assert float(ours) == pytest.approx(right, rel=1e-6), title
        assert said_of_ours == pytest.approx(right, rel=1e-3), title
