"""Check loss specs by building their losses: prints the data sets that each fits, as JSON, or one line on stderr.

python -m demo.check demo/specs/focal.json demo/specs/poly.json
"""

import json
import sys
from pathlib import Path

import torch

import lightning_xent
from demo.data import OUTPUTS
from lightning_xent.base import Loss
from lightning_xent.binary import BinaryLoss

SPECS = Path(__file__).parent / "specs"


def fitting(path: Path) -> list[str]:
    """Return the data sets that the loss in `path` fits.

    Raises:
        ValueError: No such file, no JSON, or no loss that the demo can train on.
        TypeError: A keyword that the loss does not have.
    """
    loss = lightning_xent.get(_read(path))
    if not loss.from_logits:
        raise ValueError("from_logits must be True: the network of the demo gives logits")
    names = [name for name, outputs in OUTPUTS.items() if (outputs == 1) == isinstance(loss, BinaryLoss)]
    for name in names:
        _call(loss, OUTPUTS[name])
    return names


def _read(path: Path) -> object:
    if not path.is_file():
        raise ValueError(f"no such file; the demo has {', '.join(sorted(spec.stem for spec in SPECS.glob('*.json')))}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def _call(loss: Loss, outputs: int) -> None:
    """Call `loss` as the training will, on two rows of zeros."""
    target = torch.zeros((2, 1) if outputs == 1 else 2, dtype=torch.int64)
    loss.parts(torch.zeros(2, outputs), target)


def main(arguments: list[str]) -> int:
    for path in map(Path, arguments):
        try:
            print(json.dumps(fitting(path)))
        except (OSError, TypeError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
