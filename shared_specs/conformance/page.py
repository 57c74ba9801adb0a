"""Writes the page and the summary of the conformance matrix: `python -m shared_specs.conformance.page`.

The page, docs/conformance/index.html, is one table, library x feature, with the failing cases. The summary is
docs/conformance.md. Both come from docs/conformance/results.json, which `shared_specs.conformance.matrix` writes.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from shared_specs.conformance import divergences, environments
from shared_specs.conformance.divergences import Divergence
from shared_specs.conformance.results import OUTCOMES

DOCS = environments.ROOT / "docs"
WRITTEN = "Written by `python -m shared_specs.conformance.page` from conformance/results.json."
MEANINGS = {
    "equal": "value and gradient are within the tolerance",
    "differs": "equal once a named convention is undone, such as what a mean divides by",
    "wrong": "beyond the tolerance, or an exception",
    "not offered": "the library has no such loss or option",
}
"""What the outcomes of a case mean."""
SEVERITY = ("wrong", "differs", "equal", "not offered")
"""The outcome of a cell is the first of these that one of its cases has."""
Results = Mapping[str, Any]

PAGE = """\
<!doctype html>
<!-- {written} -->
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Conformance - xent</title>
    <link rel="stylesheet" href="../pages/page.css">
    <link rel="stylesheet" href="conformance.css">
    <script>
      document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";
    </script>
    <script src="../pages/page.js" defer></script>
    <script src="conformance.js" defer></script>
  </head>
  <body>
    <nav class="bar" aria-label="Site">
      <a href="../../README.md">xent</a>
      <a href="../explorer/index.html">Curve explorer</a>
      <a href="index.html" aria-current="page">Conformance</a>
      <a href="../losses.md">Losses</a>
      <button type="button" id="theme" hidden>
        <svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6"/><path d="M8 2a6 6 0 0 1 0 12z"/></svg>
      </button>
    </nav>
    <main>
      <h1>Conformance</h1>
      <p>
        Does a loss of your library equal the one here? {cases} test vectors, computed with 150 digits, were run
        through the nearest call of {libraries} libraries and backends. One tolerance judged value and gradient.
      </p>
      <ul class="legend">
{legend}
      </ul>
      <p class="note">
        A cell has the worst outcome of its cases, and their largest error as a share of the tolerance: up to 1 passes.
        Its bar shows how many cases are wrong, differ and are equal. Open it for the numbers.
      </p>
      <noscript>
        <p>Without JavaScript the cells do not open. <a href="results.json">results.json</a> has their cases.</p>
      </noscript>
      <form class="filters" id="filters" hidden>
        <label>Feature or loss <input type="search" id="feature" autocomplete="off" spellcheck="false"></label>
        <label>Libraries
          <select id="library">
            <option value="">All</option>
            <option value="ours">Ours</option>
            <option value="others">All but ours</option>
{options}
          </select>
        </label>
        <label class="tick"><input type="checkbox" id="off">Only rows with a difference</label>
        <p id="count" role="status"></p>
      </form>
      <div class="matrix scrolls" tabindex="0" role="region" aria-label="Conformance matrix">
        <table id="matrix">
          <caption class="only-heard">Outcome of each feature and loss in each library</caption>
          <thead>
            <tr>
              <td></td>
{heads}
            </tr>
          </thead>
{bodies}
        </table>
      </div>
      <p id="none" hidden>No row or column is left. <a href="#">Show all</a>.</p>
      <h2>What was run</h2>
      <div class="scrolls" tabindex="0" role="region" aria-label="What was run">
        <table class="runs">
          <thead>
            <tr>{run_heads}</tr>
          </thead>
          <tbody>
{runs}
          </tbody>
        </table>
      </div>
      <p class="files">
        <a href="results.json">results.json</a> has all numbers, and <a href="../conformance.md">a summary</a> the
        conventions. <a href="../divergences.md">Divergences</a> reproduces each wrong result in a few lines.
      </p>
    </main>
    <dialog id="cell" aria-labelledby="cell-title">
      <header>
        <h2 id="cell-title"></h2>
        <button type="button" id="close" aria-label="Close"><span aria-hidden="true">&times;</span></button>
      </header>
      <div id="cell-content"></div>
      <p id="copied" role="status"></p>
    </dialog>
    <svg hidden>
      <symbol id="equal" viewBox="0 0 16 16"><path d="M3 6h10M3 10h10"/></symbol>
      <symbol id="differs" viewBox="0 0 16 16"><path d="M3 6h10M3 10h10M11 2.5 5 13.5"/></symbol>
      <symbol id="wrong" viewBox="0 0 16 16"><path d="m4 4 8 8M12 4l-8 8"/></symbol>
      <symbol id="not-offered" viewBox="0 0 16 16"><path d="M7.5 8h1"/></symbol>
    </svg>
    <script type="application/json" id="results">{data}</script>
  </body>
</html>
"""


def anchor(name: str) -> str:
    """The name of a feature, loss or library in an address."""
    return re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-")


def outcome(counts: Mapping[str, Any]) -> str:
    """The outcome of a cell."""
    return next((name for name in SEVERITY if counts.get(name)), "not offered")


def share(worst: Any) -> str:
    """An error in two digits; an empty string for none."""
    if worst is None:
        return ""
    number = float(worst)
    if number == 0 or 0.001 <= number < 1000:
        return f"{number:.0f}" if number >= 100 else f"{number:.2g}" if number >= 0.01 else f"{number:.1g}"
    return "&infin;" if number == float("inf") else re.sub(r"e\+?(-?)0*", r"e\1", f"{number:.0e}")


def picture(name: str) -> str:
    """The sign of an outcome."""
    return f'<svg class="{anchor(name)}" aria-hidden="true"><use href="#{anchor(name)}"/></svg>'


def cell(target: Mapping[str, Any], name: str) -> str:
    """One cell of the matrix."""
    counts = target["cells"].get(name, {})
    found = outcome(counts)
    number = share(counts.get("worst"))
    text = f"{picture(found)}<i>{found}</i>{f'<b>{number}</b>' if number else ''}"
    return f'<td{shares(counts)}><a href="#cell={anchor(target["target"])},{anchor(name)}">{text}</a></td>'


def shares(counts: Mapping[str, Any]) -> str:
    """The shares of the cases that are wrong, and of those that are not equal, for the bar below a cell."""
    offered = sum(counts.get(name, 0) for name in SEVERITY[:3])
    wrong, differs = counts.get("wrong", 0), counts.get("differs", 0)
    if not wrong + differs:
        return ""
    return f' style="--wrong-share:{wrong / offered:.0%};--off-share:{(wrong + differs) / offered:.0%}"'


def body(title: str, names: Sequence[str], targets: Sequence[Mapping[str, Any]]) -> str:
    """The rows of one group."""
    rows = [
        f'            <tr data-name="{anchor(name)}"><th scope="row">{words(name)}</th>'
        f"{''.join(cell(target, name) for target in targets)}</tr>"
        for name in names
    ]
    head = f'<tr class="group"><th scope="rowgroup" colspan="{len(targets) + 1}"><span>{title}</span></th></tr>'
    return "\n".join(["          <tbody>", f"            {head}", *rows, "          </tbody>"])


def words(name: str) -> str:
    """A name that may break between its words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[-_])(?=\w)", "<wbr>", escape(name))


def where(target: Mapping[str, Any]) -> str:
    """How a target was run, in words."""
    framework = target["framework"]
    version = next((found for name, found in target["versions"].items() if name.split("-")[0] == framework), None)
    names = [f"{framework} {version}" if version else framework, target["mode"], target["dtype"], target["device"]]
    return ", ".join(names)


RUN = ("Library", "Version", "Run in", "Equal", "Differs", "Wrong", "Not offered")


def run(target: Mapping[str, Any]) -> str:
    """The row of a target below the matrix."""
    numbers = "".join(f"<td>{target['counts'].get(name, 0)}</td>" for name in OUTCOMES)
    version = escape(target.get("version") or "")
    return (
        f'            <tr><th scope="row">{words(target["target"])}</th><td>{version}</td>'
        f"<td>{escape(where(target))}</td>{numbers}</tr>"
    )


def judged(results: Results, sections: Sequence[Divergence]) -> Iterator[dict[str, Any]]:
    """The targets, our own ones first: their wrong cases with the section that explains them.

    The error of a cell with wrong cases is that of the wrong ones.
    """
    for target in sorted(results["targets"], key=lambda target: not target["own"]):
        cells = dict(target["cells"])
        failing = [dict(found) for found in target["failing"]]
        for found in failing:
            if found["outcome"] != "wrong":
                continue
            found |= next(
                ({"explained": each.anchor} for each in sections if each.explains(target["target"], found["id"])), {}
            )
            case = results["cases"][found["id"]]
            for name in (case["loss"], *case["features"]):
                errors = [each["worst"] for each in (cells[name], found) if each.get("worst") is not None]
                cells[name] = {**cells[name], "worst": max(errors, key=float, default=None)}
        yield {**target, "cells": cells, "failing": failing}


def page(results: Results, sections: Sequence[Divergence] = ()) -> str:
    """The page of the results, given the sections that explain wrong ones."""
    targets = list(judged(results, sections))
    kept = ("target", "own", "version", "framework", "versions", "python", "machine", "dtype", "mode", "device", "date")
    data = {
        "features": results["features"],
        "losses": results["losses"],
        "targets": [{key: target[key] for key in (*kept, "cells", "failing") if key in target} for target in targets],
        "cases": results["cases"],
    }
    legend = [
        f"        <li>{picture(name)}<span><b>{name}</b>: {meaning}</span></li>" for name, meaning in MEANINGS.items()
    ]
    names = [target["target"] for target in targets]
    heads = [
        f'              <th scope="col" data-name="{anchor(name)}"><span>{words(name)}</span></th>' for name in names
    ]
    return PAGE.format(
        written=WRITTEN,
        cases=f"{max(target['cases'] for target in targets):,}",
        libraries=len(targets),
        legend="\n".join(legend),
        options="\n".join(f'            <option value="{anchor(name)}">{escape(name)}</option>' for name in names),
        heads="\n".join(heads),
        bodies="\n".join(
            body(title, results[key], targets) for title, key in (("Features", "features"), ("Losses", "losses"))
        ),
        run_heads="".join(f'<th scope="col">{name}</th>' for name in RUN),
        runs="\n".join(map(run, targets)),
        data=json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


SUMMARY = """\
# Conformance

<!-- {written} -->

Every test vector of [shared_specs](../shared_specs/README.md) was run through the nearest call of each library, and its
value and gradient were judged by the one tolerance of the vectors. [The matrix](conformance/index.html), library by
feature, shows each failing case with its inputs, what was wanted and what came. [Divergences](divergences.md)
reproduces what is wrong in a few lines, and [means in trainers](training_means.md) compares the steps of training
loops. The [curve explorer](explorer/index.html) draws the losses.

A case has one of four outcomes:

{outcomes}

`tox run -e conformance` installs each library in an environment of its own, runs all of them and writes this page.

## Libraries

The last column is the largest error in a cell of the matrix without a difference, as a share of the tolerance.

{libraries}

## Conventions

{conventions}
"""


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |".replace("|  |", "| |") for line in lines)


def summary(results: Results) -> str:
    """The summary of the results, in Markdown."""
    targets = list(judged(results, ()))
    libraries = [
        [
            f"`{target['target']}`",
            target.get("version") or "",
            where(target),
            *(target["counts"].get(name, 0) for name in OUTCOMES),
            largest(target),
        ]
        for target in targets
    ]
    conventions = [
        [f"`{target['target']}`", escape(convention, quote=False), count]
        for target in targets
        for convention, count in sorted(Counter(conventions_of(target)).items())
    ]
    return SUMMARY.format(
        written=WRITTEN,
        outcomes="\n".join(f"- **{name}**: {meaning}." for name, meaning in MEANINGS.items()),
        libraries=table([*(name.lower() for name in RUN), "error"], libraries),
        conventions=table(["library", "convention", "cases"], conventions),
    )


def conventions_of(target: Mapping[str, Any]) -> Iterator[str]:
    """The convention of each case that differs."""
    return (case["convention"] for case in target["failing"] if case["outcome"] == "differs")


def largest(target: Mapping[str, Any]) -> str:
    """The largest error among the cells without a difference, as a share of the tolerance."""
    cells = [counts for counts in target["cells"].values() if outcome(counts) == "equal"]
    return share(max((float(counts["worst"]) for counts in cells if counts.get("worst") is not None), default=None))


def files(docs: Path) -> dict[Path, str]:
    """The files to write, by their paths."""
    path = docs / "conformance/results.json"
    if not path.is_file():
        raise ValueError(f"{path} is not there: run `tox run -e conformance`")
    results, sections = json.loads(path.read_text(encoding="utf-8")), divergences.read(docs / "divergences.md")
    return {docs / "conformance/index.html": page(results, sections), docs / "conformance.md": summary(results)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write both files, or say which would change."""
    parser = argparse.ArgumentParser(prog="python -m shared_specs.conformance.page", description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the documentation (%(default)s)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    given = parser.parse_args(arguments)
    try:
        written = files(given.docs)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    changed = [path for path, text in written.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        if not given.check:
            path.write_text(written[path], encoding="utf-8", newline="\n")
        print(f"{path}: {'would change' if given.check else 'written'}")
    return int(given.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
