"""Draws curves.png and the picture of each loss in losses/: `python -m docs.pictures`.

Needs torch and the extra `plot`. The values are those of lightning_xent. With `--notebooks` it takes README's
pictures of trainings from the notebooks that `tox run -e docs` has run.
"""

import argparse
import base64
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

from docs.__main__ import NOTES, picture
from shared_specs import curves
from shared_specs.curves import Line

SEVEN = [
    Line("BinaryCrossEntropy", name="cross-entropy"),
    Line("BinaryPolyCrossEntropy", name="poly-1"),
    Line("BinaryFocalCrossEntropy", name="focal, gamma 2"),
    Line("BinaryGeneralizedCrossEntropy", name="generalized, q 0.7"),
    Line("BinaryTaylorCrossEntropy", name="Taylor, order 2"),
    Line("BinaryJensenShannon", name="Jensen-Shannon"),
    Line("BinaryMeanAbsoluteError", name="mean absolute error"),
]


RUN = NOTES.parent / "_build/jupyter_execute/docs/notebooks"
TRAININGS = {"noise.png": "label_noise", "imbalance.png": "imbalanced_classes"}


def last_picture(notebook: Path) -> bytes:
    """The last picture among the outputs of a notebook."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return base64.b64decode([each["image/png"] for each in data if "image/png" in each][-1])


def pictures() -> dict[str, list[Line]]:
    """The lines of each picture, by its path in docs."""
    notes = tomllib.loads(NOTES.read_text(encoding="utf-8"))
    losses = [loss for group in notes["group"] for loss in group["loss"]]
    own = {f"losses/{picture(loss)}": [Line(**line) for line in loss["curves"]] for loss in losses}
    return {"curves.png": SEVEN} | own


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description="Draw the pictures of docs.")
    parser.add_argument("--folder", type=Path, default=NOTES.parent, help="folder to write to, by default %(default)s")
    parser.add_argument("--notebooks", action="store_true", help="the pictures of trainings instead")
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    if given.notebooks:
        for name, notebook in TRAININGS.items():
            (folder / name).write_bytes(last_picture(RUN / f"{notebook}.ipynb"))
        return
    (folder / "losses").mkdir(parents=True, exist_ok=True)
    for name, lines in pictures().items():
        curves.draw(lines, folder / name, curves.package_of("lightning"))


if __name__ == "__main__":
    main()
