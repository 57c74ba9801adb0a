"""The Lightning side: LightningCLI, with the recorder as a callback.

python -m demo.lightning_side fit --config demo/configs/digits_sgd.yaml
"""

import logging
import warnings

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from demo.lightning_parts import Recorder


class DemoCLI(LightningCLI):
    """LightningCLI that also takes `--recorder.path FILE`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Recorder, "recorder")


def main() -> None:
    # At INFO, Lightning tells which accelerators it looked for and which seed it set, and gives tips for its products.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Worker processes would only cost time: the data is a tensor in memory.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Lightning 2.6 calls a name that torch 2.13 has renamed.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated")
    DemoCLI(save_config_callback=None)


if __name__ == "__main__":
    main()
