"""The Lightning side: LightningCLI, with the recorder as a callback.

python -m demo.lightning_side fit --config demo/configs/digits_sgd.yaml
"""

from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from demo.lightning_parts import Recorder, quiet


class DemoCLI(LightningCLI):
    """LightningCLI that also takes `--recorder.path FILE`."""

    recorder: type[Callback] = Recorder

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(self.recorder, "recorder")


def main() -> None:
    quiet()
    DemoCLI(save_config_callback=None)


if __name__ == "__main__":
    main()
