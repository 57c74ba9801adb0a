"""Takes the step in one trainer: `python -m shared_specs.conformance.trainers NAME`.

For two processes of torch: `python -m torch.distributed.run --standalone --nproc-per-node=2 -m ...`. For two devices of
Keras, the environment variable WORLD_SIZE is 2.
"""

import argparse
from importlib import import_module

from shared_specs.conformance.means import TRAINERS


def main() -> None:
    """Run one trainer."""
    parser = argparse.ArgumentParser(
        prog="python -m shared_specs.conformance.trainers",
        description="Take one step in a trainer; print its gradient beside the right one, as JSON.",
    )
    parser.add_argument("trainer", choices=sorted({trainer.module for trainer in TRAINERS}))
    import_module(f"{__package__}.{parser.parse_args().trainer}").main()


if __name__ == "__main__":
    main()
