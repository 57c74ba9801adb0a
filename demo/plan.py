"""Many trainings in one process of each side: what the driver tells the sides, and what they tell it, as JSON files."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from tqdm import tqdm  # pytorch-lightning brings it

from demo import data
from demo.settings import Settings

CHANGES = {"noise": data.noisy, "imbalance": data.long_tailed}
"""What each experiment makes of the training rows, given a level and a seed."""

SCORES = {"noise": accuracy_score, "imbalance": balanced_accuracy_score}
"""What each experiment rates predictions by, given the target. Balanced accuracy is the mean of the recalls."""


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        method: Its row in the tables.
        level: Share of wrong labels, or imbalance ratio.
        seed: Seed of the split, of its change and of the initial weights.
        spec: Loss spec.
        cosine: Whether the last layer gives cosines.
        weighting: Keywords of `ClassWeighting`, or None for no class weights.
    """

    method: str
    level: float
    seed: int
    spec: dict[str, Any]
    cosine: bool = False
    weighting: dict[str, Any] | None = None


@dataclass(frozen=True)
class Plan:
    """All trainings of an experiment, which share its settings."""

    experiment: str
    settings: Settings
    jobs: list[Job]

    def split(self, job: Job) -> data.Split:
        """Return the rows of `job`: a matter of NumPy and seeds, the same on both sides."""
        return changed_split(self.experiment, job.level, job.seed)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Plan":
        plan = json.loads(path.read_text(encoding="utf-8"))
        return cls(plan["experiment"], Settings(**plan["settings"]), [Job(**job) for job in plan["jobs"]])


@dataclass
class Outcome:
    """What one training gave.

    Args:
        losses: Loss of the whole training set in one call, after the first epoch and after the last one.
        scores: Score on the test rows after each epoch.
        predictions: Class of each test row after the last epoch.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)


@dataclass
class Outcomes:
    """What one side tells the driver: an outcome for each job of the plan."""

    framework: str
    outcomes: list[Outcome]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Outcomes":
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(content["framework"], [Outcome(**outcome) for outcome in content["outcomes"]])


class OutcomeRecorder:
    """Fills the outcome of a training, epoch by epoch: what the callbacks of both sides share."""

    def __init__(self, plan: Plan, split: data.Split) -> None:
        self.outcome = Outcome()
        self.split = split
        self.score = SCORES[plan.experiment]
        self.epochs_of_losses = {0, plan.settings.max_epochs - 1}

    def append_score(self, logits: NDArray) -> None:
        """Add the score after an epoch, from the logits [N, C] of the test rows."""
        self.outcome.predictions = data.predictions(logits)
        self.outcome.scores.append(float(self.score(self.split.test_target, self.outcome.predictions)))


def changed_split(experiment: str, level: float, seed: int) -> data.Split:
    """Return digits with the training rows that `experiment` makes of them."""
    return CHANGES[experiment](data.load("digits", seed), level, seed)


def read_spec(path: Path) -> dict[str, Any]:
    """Return the loss spec in a file, which may hold the name alone."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    return {"loss": spec} if isinstance(spec, str) else spec


def seed_jobs(seeds: int, jobs_of: Callable[[int], Iterable[Job]]) -> list[Job]:
    """Return the jobs of the seeds 0, 1, ..."""
    return [job for seed in range(seeds) for job in jobs_of(seed)]


def train_all(arguments: list[str], framework: str, train: Callable[[Plan, Job], Outcome]) -> None:
    """Do the trainings of the plan in the file `arguments[0]`, with a progress bar, and write `arguments[1]`."""
    plan = Plan.read(Path(arguments[0]))
    name = framework.split(maxsplit=1)[0]
    outcomes = [train(plan, job) for job in _with_progress(plan.jobs, name)]
    Outcomes(framework, outcomes).write(Path(arguments[1]))


def _with_progress(jobs: list[Job], name: str) -> Iterator[Job]:
    with tqdm(jobs, desc=f"{name:9}", unit="training", ncols=100) as progress:
        for job in progress:
            progress.set_postfix_str(f"{job.method}, seed {job.seed}", refresh=False)
            yield job
