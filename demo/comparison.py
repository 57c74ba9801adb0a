"""The comparison of the methods of an experiment, and of both sides: means over the seeds, tables, what is wrong."""

import math
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean, stdev

from demo.plan import Job, Outcome, Outcomes, Plan
from demo.report import LIMIT, relative_differences

Values = dict[str, dict[str, list[float]]]
"""By method, by column of the table: the value of each seed."""

Columns = Callable[[Job, Outcome], dict[str, float]]
"""A row of the table, for one seed: the value in each column."""

CELL = 16
"""Width of a cell of the table: 0.925 +- 0.007 and a space at least."""

SCORE_LIMIT = 0.02
"""Largest difference of the mean scores of both sides: rounding grows with every step, and decides close rows."""


def collect(plan: Plan, side: Outcomes, columns: Columns) -> Values:
    """Return what `columns` makes of each outcome."""
    values: Values = defaultdict(lambda: defaultdict(list))
    for job, outcome in zip(plan.jobs, side.outcomes, strict=True):
        for column, value in columns(job, outcome).items():
            values[job.method][column].append(value)
    return values


def spread(values: list[float]) -> float:
    """Return the standard deviation of a sample; 0 of one value."""
    return stdev(values) if len(values) > 1 else 0.0


def table(title: str, keras: Values, lightning: Values) -> str:
    """Return mean and standard deviation of each method, both sides side by side in every column."""
    columns = list(next(iter(keras.values())))
    width = max(map(len, keras)) + 2
    lines = [title, " " * width + "".join(f"{column:^{2 * CELL}}" for column in columns).rstrip()]
    lines.append(" " * width + f"{'Keras':^{CELL}}{'Lightning':^{CELL}}" * len(columns))
    for method in keras:
        cells = (f"{_cell(side[method][column]):^{CELL}}" for column in columns for side in (keras, lightning))
        lines.append(f"{label(method):{width}}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def agreement(plan: Plan, keras: Outcomes, lightning: Outcomes) -> str:
    """Return one line on how much the sides differ."""
    differing, rows = 0, 0
    for first, second in zip(keras.outcomes, lightning.outcomes, strict=True):
        differing += sum(a != b for a, b in zip(first.predictions, second.predictions, strict=True))
        rows += len(first.predictions)
    worst = max(_first_losses(keras, lightning), key=lambda difference: (math.isnan(difference), difference))
    return (
        f"Keras and Lightning, {len(plan.jobs)} trainings each: the training losses after the first epoch differ by "
        f"{worst:.1e} relative at most, the classes predicted after the last one in {differing} of {rows} test rows."
    )


def problems(plan: Plan, keras: Outcomes, lightning: Outcomes) -> list[str]:
    """Return what makes an experiment fail: losses not finite, or other ones after the first epoch, other scores."""
    found = []
    for job, first, second, difference in zip(
        plan.jobs, keras.outcomes, lightning.outcomes, _first_losses(keras, lightning), strict=True
    ):
        name = f"{job.method}, level {job.level:g}, seed {job.seed}"
        if not all(map(math.isfinite, first.losses + second.losses)):
            found.append(f"{name}: a training loss is not finite")
        elif difference > LIMIT:
            found.append(f"{name}: the losses after the first epoch differ by {difference:.1e}, more than {LIMIT:g}")
    found += _differing_scores(
        *(
            collect(plan, side, lambda job, outcome: {f"level {job.level:g}": outcome.scores[-1]})
            for side in (keras, lightning)
        )
    )
    return found


def label(method: str) -> str:
    """Return the name of a method as tables and plots show it."""
    return method.replace("_", " ")


def _differing_scores(keras: Values, lightning: Values) -> list[str]:
    means = [
        (f"{method}, {column}", fmean(values), fmean(lightning[method][column]))
        for method, columns in keras.items()
        for column, values in columns.items()
    ]
    return [
        f"{name}: the mean scores are {first:.3f} and {second:.3f}, more than {SCORE_LIMIT:g} apart"
        for name, first, second in means
        if abs(first - second) > SCORE_LIMIT
    ]


def _first_losses(keras: Outcomes, lightning: Outcomes) -> list[float]:
    return relative_differences(*([outcome.losses[0] for outcome in side.outcomes] for side in (keras, lightning)))


def _cell(values: list[float]) -> str:
    return f"{fmean(values):.3f}" + (f" +- {spread(values):.3f}" if len(values) > 1 else "")
