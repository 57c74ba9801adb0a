"""`pytest --xent-adapter module:function`: each test vector is a test of the losses that the adapter offers.

Equal passes, a difference by a named convention is an expected failure (xfailed, with the convention as its reason),
wrong fails, and what is not offered is skipped. Without the option nothing is imported or collected.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shared_specs.conformance.runner import Outcome, Run
    from shared_specs.load import Case

OPTIONS = {
    "cases": ("*", "which vectors: a glob of ids or losses, such as 'categorical-focal/*'"),
    "dtype": ("float32", "float64, float32, bfloat16 or float16"),
    "mode": (None, "eager or compiled"),
    "device": ("cpu", "cpu, or cuda for torch"),
}

RUN: "pytest.StashKey[Run]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, all of which begin with --xent."""
    group = parser.getgroup("xent", "test vectors of cross-entropy losses (crossent)")
    group.addoption(
        "--xent-adapter", metavar="MODULE:FUNCTION", help="run the vectors against the losses of an adapter"
    )
    for name, (default, text) in OPTIONS.items():
        group.addoption(f"--xent-{name}", default=default, metavar=name.upper(), help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Import the adapter, if there is one; here, because xdist does not show what its workers refuse to collect."""
    adapter = config.getoption("--xent-adapter")
    if adapter is None:
        return
    from shared_specs.conformance import runner

    try:
        given = {name: config.getoption(f"--xent-{name}") for name in OPTIONS}
        config.stash[RUN] = runner.prepare(adapter=adapter, **given)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)  # so that -k and -m choose among them too
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each vector, if there is an adapter."""
    run = config.stash.get(RUN, None)
    if run is not None:
        items += session.genitems(Vectors.from_parent(session, name=run.adapter.name, nodeid=run.adapter.name, run=run))


class Vectors(pytest.Collector):
    """The vectors of an adapter."""

    def __init__(self, *, run: "Run", **given: Any) -> None:
        super().__init__(**given)
        self.run = run

    def collect(self) -> Iterator["Vector"]:
        """Yield a test for each case."""
        for case in self.run.cases:
            yield Vector.from_parent(self, name=case.id, run=self.run, case=case)


class Vector(pytest.Item):
    """One case, as a test."""

    def __init__(self, *, run: "Run", case: "Case", **given: Any) -> None:
        super().__init__(**given)
        self.run, self.case = run, case

    def runtest(self) -> None:
        """Pass, fail, skip or fail as expected, as the outcome says."""
        outcome = self.run.outcome(self.case)
        if outcome.name == "not offered":
            pytest.skip(outcome.message or "not offered")
        if outcome.name == "differs":
            pytest.xfail(str(outcome.convention))
        if outcome.name == "wrong":
            raise Wrong(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *given: Any) -> Any:
        """Say what is wrong, in place of a traceback of this plugin."""
        if not isinstance(excinfo.value, Wrong):
            return super().repr_failure(excinfo, *given)
        case = self.case
        lines = [f"{case.id}: {case.comment}", f"{case.loss}(**{case.config})"]
        lines += [f"{name} = {array.tolist()}" for name, array in case.inputs.items()]
        return "\n".join([*lines, str(excinfo.value.outcome.message)])

    def reportinfo(self) -> tuple[str, None, str]:
        """Return where the test is from, as reports show it."""
        return self.run.adapter.name, None, self.case.id


class Wrong(Exception):
    """The outcome of a case that failed."""

    def __init__(self, outcome: "Outcome") -> None:
        super().__init__(outcome.message)
        self.outcome = outcome
