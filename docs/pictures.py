"""Draws curves.png, the curves of the losses over the log-odds of the true class: `python -m docs.pictures`.

Needs the extra `demo`. The values are those of lightning_xent.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")  # files only: no window, no display needed

import matplotlib.pyplot as plt

import lightning_xent

PICTURE = Path(__file__).with_name("curves.png")

LINES = {
    "cross-entropy": (lightning_xent.BinaryCrossEntropy, {}, "#000000", "-"),
    "poly-1": (lightning_xent.BinaryPolyCrossEntropy, {}, "#D55E00", "--"),
    "focal, gamma 2": (lightning_xent.BinaryFocalCrossEntropy, {}, "#0072B2", "-"),
    "generalized, q 0.7": (lightning_xent.BinaryGeneralizedCrossEntropy, {}, "#009E73", "-"),
    "Taylor, order 2": (lightning_xent.BinaryTaylorCrossEntropy, {}, "#56B4E9", "--"),
    "Jensen-Shannon": (lightning_xent.BinaryJensenShannon, {}, "#CC79A7", "-"),
    "mean absolute error": (lightning_xent.BinaryMeanAbsoluteError, {}, "#E69F00", "-"),
}
"""Colours that the colour-blind tell apart, of Okabe and Ito. A binary loss of label 1 is its curve at m = logit."""


def draw(path: Path) -> None:
    """Draw the curves, and their slopes: how strongly one row pulls."""
    log_odds = torch.linspace(-6, 6, 241, dtype=torch.float64)
    plt.rcParams["font.size"] = 12
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    for name, (kind, config, color, dash) in LINES.items():
        logits = log_odds.clone().requires_grad_()
        values = kind(**config, reduction="none")(logits, torch.ones_like(logits))
        (slopes,) = torch.autograd.grad(values.sum(), logits)
        for axes, line in ((left, values.detach()), (right, -slopes)):
            axes.plot(log_odds.numpy(), line.numpy(), color=color, linestyle=dash, linewidth=2, label=name)
    left.set(title="loss of one row", ylim=(0, 5))
    right.set(title="pull of one row (minus the slope)", ylim=(0, 1.35))
    for axes in (left, right):
        axes.set(xlabel="m, log-odds of the true class", xlim=(-6, 6))
        axes.axvline(0, color="black", linewidth=0.8, alpha=0.4)
        axes.grid(alpha=0.3)
    left.annotate("wrong", (-5.8, 0.12), alpha=0.6)
    left.annotate("right", (4.7, 0.12), alpha=0.6)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description="Draw docs/curves.png.")
    parser.add_argument("--output", type=Path, default=PICTURE, help="PNG file to write, by default %(default)s")
    draw(parser.parse_args(arguments).output)


if __name__ == "__main__":
    main()
