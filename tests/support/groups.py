"""The end of a process group of torch."""

import gc


def leave_group():
    """Leave the process group, without which its threads now and then abort the process at its end.

    A module of DistributedDataParallel must be gone by then. If it is the last to hold the group, it waits for the
    group's threads while it holds the lock of Python, which they may need: the process hangs.
    """
    import torch

    gc.collect()
    torch.distributed.destroy_process_group()
