"""What `xent list` and `xent show` print: families, keywords, and the curve in the terminal."""

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from shared_specs.common import arguments, docstrings
from shared_specs.curves import Drawn

WIDTH = 100
SIZE = (60, 12)
"""Width and height of a picture in the terminal, in characters: a tick every 2 of the log-odds."""


def names() -> list[str]:
    """Return the names of all losses."""
    return [name for family in docstrings.families().values() for name in family]


def listed() -> Iterator[str]:
    """Yield the lines of all families."""
    width = max(map(len, names()))
    for title, losses in docstrings.families().items():
        yield title
        yield from (f"  {name:{width}}  {line}" for name, line in losses.items())


def described(loss: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a class and its keywords, as data."""
    found = docstrings.described(loss)
    keywords = []
    for name, meaning in found.keywords.items():
        field = loss.__dataclass_fields__[name]  # type: ignore[attr-defined]
        is_required = arguments.is_required(field)
        keyword = {"name": name, "range": arguments.range_of(loss, name), "meaning": meaning}
        keywords.append(keyword if is_required else keyword | {"default": field.default})
    about, *more = found.paragraphs
    return {
        "loss": loss.__name__,
        "about": about,
        "more": more,
        "keywords": keywords,
        "reference": found.reference,
        "config": dict(config),
    }


def shown(description: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of what `described` returns."""
    yield description["loss"]
    for paragraph in (description["about"], *description["more"]):
        yield from (*textwrap.wrap(paragraph, WIDTH), "")
    config = description["config"]
    for keyword in description["keywords"]:
        name = keyword["name"]
        default = f"default {keyword['default']!r}" if "default" in keyword else "required"
        facts = [*([f"here {config[name]!r}"] if name in config else []), default, keyword["range"]]
        yield f"  {name}: {'; '.join(filter(None, facts))}"
        yield from textwrap.wrap(keyword["meaning"], WIDTH, initial_indent="      ", subsequent_indent="      ")
    yield ""
    yield from textwrap.wrap(f"Reference: {description['reference']}", WIDTH)


def plotted(drawn: Drawn) -> Iterator[str]:
    """Yield the lines of two pictures: the loss of a row, and its pull."""
    try:
        plotille: Any = import_module("plotille")
    except ImportError:
        yield 'No curve: plotille is not installed: pip install plotille, or the extra "cli"'
        return
    axis = "cosine of the label" if drawn.are_cosines else "log-odds of the label"
    for title, values in (("loss of one row", drawn.values), ("its pull (minus the slope)", drawn.pulls)):
        figure = plotille.Figure()
        figure.width, figure.height, figure.with_colors = *SIZE, False
        figure.x_label, figure.y_label = axis, title
        figure.x_ticks_fkt = figure.y_ticks_fkt = lambda low, _: f"{round(low, 3):.3g}"
        figure.set_x_limits(drawn.places[0], drawn.places[-1])
        low, high = min(values), max(values)
        # What lies on the upper limit is not drawn.
        figure.set_y_limits(low, low + 1.02 * ((high - low) or 1))
        figure.plot(drawn.places, values)
        yield from (line.rstrip() for line in figure.show().splitlines())
        yield ""


def summary(found: Any) -> Iterator[str]:
    """Yield the lines of a conformance run: a table by losses, the conventions, and the wrong cases."""
    header, outcomes = found.header, ("equal", "differs", "wrong", "not offered")
    versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    yield f"{header['target']}: {header['cases']} cases in {header['dtype']}, {header['mode']}, on {header['device']}"
    yield f"{versions}, Python {header['python']}"
    yield ""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    worst: dict[str, float] = defaultdict(float)
    for case in found.cases:
        for name in (case["loss"], "all"):
            counts[name][case["outcome"]] += 1
            if case["outcome"] in ("equal", "differs"):
                worst[name] = max(worst[name], case.get("worst") or 0.0)
    width = max(map(len, [*counts, "loss"]))
    yield "  ".join(["loss".ljust(width), *outcomes, "worst"])
    for name in sorted(counts, key=lambda name: (name == "all", name)):
        numbers = [f"{counts[name][outcome] or '.':>{len(outcome)}}" for outcome in outcomes]
        yield "  ".join([name.ljust(width), *numbers, f"{worst[name]:5.2f}" if name in worst else "    ."])
    yield ""
    yield "worst: the largest error as a share of the tolerance, where value and gradient agree"
    conventions = Counter(case["convention"] for case in found.cases if case["outcome"] == "differs")
    yield from (
        f"differs: {convention} ({count} case{'s' * (count > 1)})" for convention, count in conventions.most_common()
    )
    yield from (f"wrong: {case['id']}: {case['message']}" for case in found.cases if case["outcome"] == "wrong")
