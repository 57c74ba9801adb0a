"""XentModule in situations of users: memory, process groups, other batches, checkpoints. Named after found faults."""

import pytest
import torch
from torch import multiprocessing
from torchmetrics import Metric

import lightning_xent
from benchmarks.memory import torch_cpu
from lightning_xent.metrics import EpochMean, Report, predictions
from lightning_xent.module import XentModule

CLASSES = 20_000
LOSSES = {
    "labels": lightning_xent.CategoricalCrossEntropy(),
    "tokens": lightning_xent.CategoricalCrossEntropy(axis=-1),
    "focal, bounded": lightning_xent.CategoricalFocalCrossEntropy(temperature=2.0, softcap=30.0),
    "smoothed": lightning_xent.CategoricalCrossEntropy(label_smoothing=0.1, ignore_index=3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_C3_memory_of_a_validation_batch(name):
    """Beside its logits: parts of them, never all as exponentials, probabilities or in another dtype."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 16, CLASSES) if name == "tokens" else (64, CLASSES)
    logits = torch.randn(shape, generator=generator)
    target = torch.randint(0, CLASSES, shape[:-1], generator=generator)
    module = XentModule(torch.nn.Identity(), LOSSES[name]).eval()
    with torch.no_grad():
        module.validation_step((logits, target), 0)
        peak = torch_cpu(lambda: module.validation_step((logits, target), 0))
    assert peak <= 0.3 * logits.numel() * logits.element_size()


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("classes", [1, 3, 1001])
def test_A2_every_state_is_a_sum_on_the_device(is_binary, classes):
    """NCCL gathers neither lists that lie on the CPU nor parts of different sizes."""
    metrics = [each for each in Report(is_binary, classes).modules() if isinstance(each, Metric)]
    assert len(metrics) >= 3
    for metric in metrics:
        assert not metric.compute_on_cpu
        for state in metric.metric_state.values():
            assert isinstance(state, torch.Tensor)


def gathered(rank, port, results):
    """Two reports on one GPU whose group has no backend for tensors on the CPU, as that of NCCL."""
    torch.distributed.init_process_group("cuda:gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    report = Report(False, 2).to("cuda")
    logits = torch.tensor([[3.0, 0.0], [60.0, 0.0], [60.0, 0.0]], device="cuda")[rank::2]
    report.update(predictions(LOSSES["labels"], logits, torch.tensor([0, 1, 0], device="cuda")[rank::2]))
    results[rank] = report.compute()["ece"].item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a group for CUDA tensors alone needs such tensors")
def test_A2_a_process_group_for_cuda_tensors_alone():
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(gathered, (29_511, results), nprocs=2)
        assert dict(results) == {0: pytest.approx(0.317525, abs=1e-6), 1: pytest.approx(0.317525, abs=1e-6)}


def test_A2_a_report_by_hand():
    """Two hits, confidences of sigmoid(3) + 2, all in the last bin."""
    report = Report(False, 2)
    logits, target = torch.tensor([[3.0, 0.0], [60.0, 0.0], [60.0, 0.0]]), torch.tensor([0, 1, 0])
    report.update(predictions(LOSSES["labels"], logits, target))
    assert report.compute()["ece"].item() == pytest.approx((torch.tensor(3.0).sigmoid().item() + 2 - 2) / 3, abs=1e-6)


def test_A2_means_of_many_rows_keep_count():
    mean = EpochMean()
    for total, denominator in ((2.0**24, 2.0**24), (0.0, 1.0), (0.0, 1.0), (3.0, 1.0)):
        mean.update(torch.tensor(total), torch.tensor(denominator))
    assert mean.compute().item() == pytest.approx((2**24 + 3) / (2**24 + 3), rel=1e-7)


def test_A2_tails_of_the_report():
    """-log p of 1 - 1e-10 and of 1e-10, which a softmax in float32 would round to 0 and lose."""
    m = torch.tensor(23.0, dtype=torch.float64)
    logits, target = torch.tensor([[23.0, 0.0], [23.0, 0.0]]), torch.tensor([0, 1])
    for row in (0, 1):
        report = Report(False, 2)
        report.update(predictions(LOSSES["labels"], logits[row : row + 1], target[row : row + 1]))
        want = torch.nn.functional.softplus(-m if row == 0 else m).item()
        assert report.compute()["nll"].item() == pytest.approx(want, rel=1e-6)
