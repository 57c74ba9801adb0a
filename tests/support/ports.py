"""A port for the processes of a test."""

import random
import socket


def free_port() -> int:
    """Return a free port below 32768, from where on a system gives ports to whoever asks, also between two uses."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("found no free port in [20000, 30000)")
