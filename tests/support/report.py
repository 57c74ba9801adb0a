"""Prints the matrix, side x loss: passed/total and the worst error, from the JSON lines of a run.

Usage: python tests/support/report.py FOLDER. Exits with 1 where a case failed or a side has no results.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

SIDES = ("keras-tensorflow", "keras-jax", "keras-torch", "lightning")


def main(folder: Path) -> int:
    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    cells = defaultdict(list)
    for row in rows:
        cells[row["side"], row["loss"]].append(row)
    losses = sorted({loss for _, loss in cells})
    width = max(map(len, losses), default=0)

    print("passed/total runs of the shared cases (worst error in units of eps*scale, the tolerance is 8)")
    print("".join([" " * width, *(f"{side:>24}" for side in SIDES)]))
    for loss in losses:
        print(f"{loss:{width}}" + "".join(f"{_cell(cells[side, loss]):>24}" for side in SIDES))
    environments = sorted({row["environment"] for row in rows})
    print(f"environments: {', '.join(environments) or 'none'}")

    missing = [side for side in SIDES if not any(cells[side, loss] for loss in losses)]
    if missing:
        print(f"no results of {', '.join(missing)}: was every environment of it skipped?", file=sys.stderr)
    return 1 if missing or not all(row["passed"] for row in rows) else 0


def _cell(rows: list[dict]) -> str:
    if not rows:
        return "-"
    worst = max((row["worst"] for row in rows if row["worst"] is not None), default=0.0)
    return f"{sum(row['passed'] for row in rows)}/{len(rows)} ({worst:.2g})"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
