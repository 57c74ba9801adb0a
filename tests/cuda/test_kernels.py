"""The Triton kernels in the interpreter, beside formulas in extended precision: 512 eps at most, and nothing unwritten.

The cases and the formulas are those of support/kernel_cases.py, which the check on a GPU shares.
"""

import os

import pytest
import torch

from kernel_cases import (
    ALL,
    B16,
    DISTRIBUTIONS,
    LABELS,
    Case,
    check_distributions,
    check_labels,
    logits_of,
    run_distributions,
    run_labels,
)
from lightning_xent.kernels import cuda

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="run by the environment triton")


@pytest.fixture(autouse=True)
def poison():
    """Memory is full of NaN until it is written."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("case", LABELS, ids=lambda case: case.name)
def test_labels(case):
    run_labels(case)


@pytest.mark.parametrize("case", DISTRIBUTIONS, ids=lambda case: case.name)
def test_distributions(case):
    run_distributions(case)


def test_peaks_that_are_equal():
    x = torch.tensor([[1.0, 1.0, 0.0, 1.0], [-torch.inf, 2.0, 2.0, -torch.inf]])
    masses = torch.tensor([[0.5, 0.25, 0.0, 0.25], [0.0, 0.75, 0.25, 0.0]])
    check_distributions(Case("", (2, 4)), x, masses, None)


# ---- Rows shared by programs, large offsets, and what is not a number


@pytest.mark.parametrize("programs", [1, 64])
@pytest.mark.parametrize("classes", [17 * 2048, 17 * 2048 + 1])
def test_rows_are_shared(monkeypatch, programs, classes):
    """Few rows of many classes: the outputs and gradients of one program a row and of several."""
    grids = []
    launch = cuda._launch

    def noted(name, grid, *arguments, **options):
        grids.append((name, grid))
        launch(name, grid, *arguments, **options)

    monkeypatch.setattr(cuda, "PROGRAMS", programs)
    monkeypatch.setattr(cuda, "_launch", noted)
    case = Case("shared", (2, classes), "last", B16, ("others", "log_partition", "entropy"), ignored=True)
    x, generator = logits_of(case)
    x[1, 7:9] = -torch.inf
    label, weight = torch.tensor([3, classes - 1]), torch.rand(classes, generator=generator)
    weight[7:9] = 0
    check_labels(case, x, label, None, weight)
    masses = torch.rand(case.shape, generator=generator)
    masses[1, 7:9] = 0
    check_distributions(case, x, masses, torch.tensor([False, True]))
    merged = [name for name, _ in grids if name.endswith("merge")]
    assert merged == (["label_merge", "distribution_merge"] if programs == 64 else [])
    assert all((grid[1] > 1) == (programs == 64) for name, grid in grids if not name.endswith("merge"))


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((3, 40), (2**30, 1)), ((3, 2000), (2**30, 1)), ((2, 2, 40), (2**30, 2**29 + 8, 1)), ((3, 4, 5), (2**30, 1, 8)),
     ((1, 4, 3), (0, 1, 2**30))],
)  # fmt: skip
def test_offsets_beyond_32_bits(poison, shape, strides):
    """Pages of memory that no one touches take none."""
    torch.use_deterministic_algorithms(False)  # so nothing fills the memory
    memory = torch.empty(2**31 + 2**20, dtype=torch.bfloat16)
    x = memory.as_strided(shape, strides)
    x.copy_(torch.randn(shape))
    label = torch.arange(x.shape[:-1].numel()).reshape(shape[:-1]) % shape[-1]
    check_labels(Case("", shape, wanted=ALL), x, label, None, None)


@pytest.mark.parametrize("classes", [4, 1030])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_rows_that_are_not_finite(classes, softcap):
    """A NaN, +inf or label out of range spoils its row and no other; a rival of -inf has no mass."""
    x = torch.linspace(-1, 1, 7 * classes).reshape(7, classes)
    label = torch.tensor([1, 1, 1, 1, -1, classes, 1])
    x[0, 2], x[1, 1], x[2, 2] = torch.nan, torch.inf, torch.inf
    x[3, 3:] = -torch.inf
    x.requires_grad_()
    found = cuda.of_label(x, label, None, None, 1.0, softcap, **dict.fromkeys(ALL, True))
    is_nan = torch.tensor([True, True, True, False, True, True, False])
    for value in found[:1] if softcap is None else found:
        assert torch.equal(value.isnan(), is_nan)
    for value in found:
        assert torch.equal(value[is_nan], value[is_nan] * torch.nan) or value[is_nan].isnan().all()
    log_odds, _, log_partition, entropy = found
    (gradient,) = torch.autograd.grad((log_odds + log_partition + entropy).sum(), x)
    assert gradient[~is_nan].isfinite().all()
    assert (~gradient[[0, 1, 2]].isfinite()).any(-1).all()
    if softcap is None:
        check_labels(Case("", (1, 3), wanted=ALL), x.detach()[3:4, :3], label[3:4], None, None)
        assert (gradient[3, 3:] == 0).all()


def test_no_rivals():
    """Without rivals, or with rivals of -inf alone, the label is certain."""
    x = torch.tensor([[2.0, -torch.inf, -torch.inf], [2.0, 0.0, 0.0]], requires_grad=True)
    log_odds, log_partition, entropy = cuda.of_label(
        x, torch.tensor([0, 0]), None, None, 1.0, log_partition=True, entropy=True
    )
    assert (log_odds[0], log_partition[0], entropy[0]) == (torch.inf, 2.0, 0.0)
    (gradient,) = torch.autograd.grad(log_partition.sum() + entropy.sum(), x)
    assert torch.equal(gradient[0], torch.tensor([1.0, 0.0, 0.0]))
    assert cuda.of_label(torch.ones(2, 1), torch.tensor([0, 0]), None, None, 1.0)[0].tolist() == [torch.inf] * 2


def test_no_rows():
    x = torch.empty((0, 5), requires_grad=True)
    (found,) = cuda.of_label(x, torch.empty(0, dtype=torch.long), None, None, 1.0)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert found.shape == (0,) and gradient.shape == (0, 5)
