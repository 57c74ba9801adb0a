"""The targets of torch: all cases of the dense losses, the layer, two processes; a device that is not there."""

import pytest
import torch

from shared_specs import load
from shared_specs.conformance import offers, runner


def test_all_cases_are_equal():
    found = runner.run("lightning_xent")
    wrong = {case["id"]: case["message"] for case in found.cases if case["outcome"] == "wrong"}
    assert not wrong
    assert found.footer["equal"] == found.header["cases"] == len(load.cases())


OF_A_LAYER = {
    "categorical-cross-entropy/index-target": None,
    "categorical-cross-entropy/soft-axis-first": None,
    "categorical-cross-entropy/mask-column": None,
    "categorical-cross-entropy/ignored-nonfinite": None,
    "categorical-cross-entropy/minus-infinity-elsewhere": "a layer gives no infinite logits: 0 * infinity is NaN",
    "categorical-cross-entropy/from-logits-alone": "linear() gives logits, not probabilities",
    "binary-cross-entropy/hard-labels": "linear() is a method of categorical losses",
    "distillation/teacher": "linear() has one layer, and Distillation compares several logits of a row",
    "categorical-taylor/rejects-order-zero": "bad input is judged only where an adapter states ARGUMENTS",
}


@pytest.mark.parametrize("case", OF_A_LAYER)
def test_layer_says_what_it_does_not_offer(case):
    (line,) = runner.run("lightning_xent-fused", cases=case).cases
    assert line["outcome"] == ("not offered" if OF_A_LAYER[case] else "equal"), line
    assert line.get("message") == OF_A_LAYER[case]


def test_two_processes_start_once_and_report_what_they_raise():
    run = runner.prepare("lightning_xent-sharded", cases="*/index-target")
    outcomes = [run.outcome(case) for case in run.cases]
    assert {outcome.name for outcome in outcomes} == {"equal"}
    bad = next(case for case in load.cases("CategoricalCrossEntropy") if case.error and case.error.kind == "label")
    with pytest.raises(RuntimeError, match="ValueError: target"):
        run.setting.evaluate(offers.of_target("lightning_xent-sharded").offer(bad).call, bad.inputs)
    assert run.outcome(run.cases[0]).name == "equal"


def test_two_processes_know_the_gradient_of_the_sum_alone():
    (case,) = runner.prepare("lightning_xent-sharded", cases="categorical-cross-entropy/index-target").cases
    call = offers.of_target("lightning_xent-sharded").offer(case).call
    logits = torch.from_numpy(case.inputs["logits"]).requires_grad_()
    with pytest.raises(ValueError, match="gradient of the sum alone"):
        (2.0 * call(logits, torch.from_numpy(case.inputs["target"]))).backward()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_device_that_is_not_there_is_one_error():
    with pytest.raises(ValueError, match=r"^device must be 'cpu' where torch .* finds no GPU, got 'cuda'$"):
        runner.run("lightning_xent", device="cuda")


@pytest.mark.parametrize("target", ["lightning_xent-fused", "lightning_xent-sharded"])
def test_mode_that_a_target_does_not_have(target):
    with pytest.raises(ValueError, match="mode must be 'eager' for this target"):
        runner.run(target, mode="compiled")
