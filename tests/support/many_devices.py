"""Run a script on several devices of the CPU, in a process of its own."""

import json
import os
import subprocess
import sys

TRIES = 4


def found(script, devices, *arguments):
    """What a script prints in its last line, from JSON.

    TensorFlow 2.18 at times crashes in native code where Keras drops the iterator of an epoch over two devices, in 2 of
    110 runs: so a process that a signal ends is started again.
    """
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    for _ in range(TRIES):
        run = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, env=environment)
        if run.returncode >= 0:
            break
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])
