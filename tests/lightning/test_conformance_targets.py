"""The targets of the conformance matrix that this environment has: what they get wrong is in docs/divergences.md."""

import pytest

from shared_specs.conformance import divergences, runner


@pytest.mark.parametrize("target", ["torch", "torchmetrics"])
def test_what_is_wrong_is_explained(target):
    run = runner.run(target, progress=False)
    wrong = [case["id"] for case in run.cases if case["outcome"] == "wrong"]
    assert divergences.unexplained(target, wrong) == []
    assert run.footer["equal"] > 0
    # No adapter fails by itself: errors come from the library, and only for batches of no rows.
    raised = [case["id"] for case in run.cases if case["outcome"] == "wrong" and "got" not in case]
    assert all(case.endswith(("/empty", "/all-ignored")) for case in raised)
