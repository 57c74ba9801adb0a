"""The Lightning side of an example: LightningCLI, with a recorder that tells the driver what the example observes.

python -m demo.examples.lightning_example fit --config demo/configs/segmentation.yaml --recorder.path lightning.json
"""

from demo.examples.lightning_parts import ExampleRecorder
from demo.lightning_parts import quiet
from demo.lightning_side import DemoCLI


class ExampleCLI(DemoCLI):
    """LightningCLI that also takes `--recorder.path FILE`, of the recorder of the examples."""

    recorder = ExampleRecorder


def main() -> None:
    quiet()
    ExampleCLI(save_config_callback=None)


if __name__ == "__main__":
    main()
