"""Both sides of a run, each in a process of its own: TensorFlow and torch can crash in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

from demo.examples.settings import ExampleSettings
from demo.plan import Outcomes, Plan
from demo.result import Result
from demo.settings import Settings

BACKENDS = ("tensorflow", "jax", "torch")

ENVIRONMENT = {
    # The matrices are small: more threads cost more than they save.
    "OMP_NUM_THREADS": "1",
    # A GPU may multiply in TF32, with differences of 1e-3.
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    # torch's profiler, which measures memory, says when it starts and stops.
    "KINETO_LOG_LEVEL": "6",
    # TensorFlow logs as an error that it finds no GPU, and oneDNN that it is on.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


class SideError(Exception):
    """A process broke off; it has told why on stderr."""

    def __init__(self, module: str, returncode: int) -> None:
        super().__init__(f"{module} broke off with exit code {returncode}")
        # A process killed by signal n has the code -n here, and 128 + n in a shell.
        self.exit_code = returncode if returncode > 0 else 128 - returncode


def fitting_data(spec: Path) -> list[str]:
    """Return the data sets that the loss in `spec` fits.

    Raises:
        ValueError: A file that holds no loss, with the valid choices.
    """
    return fitting_data_of_all([spec])[0]


def fitting_data_of_all(specs: list[Path]) -> list[list[str]]:
    """Return the data sets that each loss fits, as `fitting_data` does; in one process, for torch loads slowly."""
    command = [sys.executable, "-m", "demo.check", *map(str, specs)]
    process = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if process.returncode == 2:
        raise ValueError(process.stderr.strip())
    if process.returncode != 0:
        sys.stderr.write(process.stderr)
        raise SideError("demo.check", process.returncode)
    return [json.loads(line) for line in process.stdout.splitlines()]


def train_keras(run: Settings, spec: Path, backend: str, config: Path, output: Path) -> Result:
    """Train in Keras; its progress bars go to the terminal."""
    arguments = ["--config", config, "--spec", spec, "--epochs", run.max_epochs, "--seed", run.seed, "--output", output]
    _run("demo.keras_side", arguments, KERAS_BACKEND=backend)
    return Result.read(output)


def train_lightning(run: Settings, spec: Path, config: Path, output: Path) -> Result:
    """Train in Lightning; its progress bars go to the terminal."""
    loss = json.loads(spec.read_text(encoding="utf-8"))  # on one line, for jsonargparse reads YAML, which allows no tab
    replaced = {
        "trainer.max_epochs": run.max_epochs,
        "model.init_args.network.init_args.seed": run.seed,
        "model.init_args.loss": json.dumps(loss),
        "data.init_args.seed": run.seed,
        "recorder.path": output,
    }
    arguments = [f"--{name}={value}" for name, value in replaced.items()]
    _run("demo.lightning_side", ["fit", "--config", config, *arguments])
    return Result.read(output)


def train_example(run: ExampleSettings, config: Path, backend: str, keras: Path, lightning: Path) -> None:
    """Train on an example in Keras, then in Lightning; their progress bars go to the terminal."""
    options = ["--epochs", run.epochs, "--seed", run.seed, "--output", keras]
    _run("demo.examples.keras_example", [config, *options], KERAS_BACKEND=backend)
    replaced = {
        "trainer.max_epochs": run.epochs,
        "model.init_args.network.init_args.seed": run.seed,
        "data.init_args.seed": run.seed,
        "recorder.path": lightning,
    }
    if run.layer is not None:
        replaced["model.init_args.loss.init_args.seed"] = run.seed
    arguments = [f"--{name}={value}" for name, value in replaced.items()]
    _run("demo.examples.lightning_example", ["fit", "--config", config, *arguments])


def train_plan(plan: Plan, backend: str, folder: Path) -> tuple[Outcomes, Outcomes]:
    """Do the trainings of `plan` in Keras, then in Lightning; a progress bar of each goes to the terminal."""
    plan.write(folder / "plan.json")
    files = folder / "keras.json", folder / "lightning.json"
    _run("demo.keras_plan", [folder / "plan.json", files[0]], KERAS_BACKEND=backend)
    _run("demo.lightning_plan", [folder / "plan.json", files[1]])
    return Outcomes.read(files[0]), Outcomes.read(files[1])


def _run(module: str, arguments: list[object], **variables: str) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # The process writes to the same terminal: what this one said before belongs above it.
    sys.stdout.flush()
    returncode = subprocess.run(command, env=_environment() | variables).returncode
    if returncode != 0:
        raise SideError(module, returncode)


def _environment() -> dict[str, str]:
    return dict(os.environ) | ENVIRONMENT
