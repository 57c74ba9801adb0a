"""The functions of docs/contrastive.md: their memory, and a batch in two processes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torch.distributed.tensor import init_device_mesh
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from groups import leave_group
from lightning_xent import kernels
from lightning_xent.kernels.linear import Limits
from memory import peak_of

PAGE = Path(__file__).parents[2] / "docs/contrastive.md"


def of_page(name):
    """The function of this name that a block of the page defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (block,) = [each for each in blocks if f"def {name}(" in each and "lightning_xent" in each]
    names = {}
    exec(re.split(r"^torch\.", block, maxsplit=1, flags=re.MULTILINE)[0], names)
    return names[name]


def pairs(count, features=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, count, features, generator=generator, dtype=dtype)
    return [each.requires_grad_() for each in normalize(drawn, dim=-1)]


def clip_of_all_scores(images, texts, scale):
    scores, labels = scale * images @ texts.T, torch.arange(len(images))
    return (torch.nn.functional.cross_entropy(scores, labels) + torch.nn.functional.cross_entropy(scores.T, labels)) / 2


@pytest.mark.parametrize(("name", "rest"), [("clip", (14.0,)), ("siglip", (10.0, -10.0, 32))])
def test_memory_of_all_scores_is_never_taken(name, rest, monkeypatch):
    """At most 1/4 of the N x N scores beyond the gradients; the dense CLIP loss takes them twice at least."""
    count = 1024
    monkeypatch.setitem(kernels.linear.LIMITS, "cpu", Limits(4 * count * 16, 4 * count * 16, 0, 4 * count * 16))
    images, texts = pairs(count)
    scores = 4 * count * count
    taken = peak_of(lambda: of_page(name)(images, texts, *rest).backward())
    assert taken < scores / 4
    images, texts = pairs(count)
    assert peak_of(lambda: clip_of_all_scores(images, texts, 14.0).backward()) > 2 * scores


def test_siglip_is_the_same_for_any_number_of_rows():
    found = []
    for rows in (24, 7):
        images, texts = pairs(24, dtype=torch.float64)
        value = of_page("siglip")(images, texts, 10.0, -10.0, rows)
        found.append([value, *torch.autograd.grad(value, (images, texts))])
    torch.testing.assert_close(*found)


PAIRS, RANKS = 12, 2


def of_rank(rank, port, results):
    """The gradients of this rank's embeddings, and of a network under DistributedDataParallel."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    try:
        mesh, clip = init_device_mesh("cpu", (RANKS,)), of_page("clip_of_ranks")
        own = slice(rank * PAIRS // RANKS, (rank + 1) * PAIRS // RANKS)
        images, texts = (each.detach()[own].requires_grad_() for each in pairs(PAIRS, dtype=torch.float64))
        value = clip(images, texts, 14.0, mesh)
        embeddings = torch.autograd.grad(value, (images, texts))
        network = DistributedDataParallel(network_of_images())
        clip(normalize(network(images.detach()), dim=1), texts.detach(), 14.0, mesh).backward()
        results[rank] = value.item(), *(each.numpy() for each in embeddings), network.module.weight.grad.numpy()
        del network
    finally:
        leave_group()


def network_of_images():
    torch.manual_seed(1)
    return torch.nn.Linear(4, 4, bias=False, dtype=torch.float64)


def test_two_ranks_are_the_whole_batch():
    """The losses of the ranks have the mean of the batch as theirs, so their sum has RANKS times its gradient."""
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(of_rank, (29_541, results), nprocs=RANKS)
        values, of_images, of_texts, of_network = zip(*(results[rank] for rank in range(RANKS)), strict=True)
    images, texts = pairs(PAIRS, dtype=torch.float64)
    whole = clip_of_all_scores(images, texts, 14.0)
    whole.backward()
    assert sum(values) / RANKS == pytest.approx(whole.item(), rel=1e-6)
    for found, embeddings in ((of_images, images), (of_texts, texts)):
        torch.testing.assert_close(
            torch.from_numpy(np.concatenate(found)) / RANKS, embeddings.grad, rtol=1e-6, atol=1e-9
        )
    network = network_of_images()
    clip_of_all_scores(normalize(network(images.detach()), dim=1), texts.detach(), 14.0).backward()
    for found in of_network:
        torch.testing.assert_close(torch.from_numpy(found), network.weight.grad, rtol=1e-6, atol=1e-9)
