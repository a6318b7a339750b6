"""Run a command in several processes on this machine, with torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid

from dltrain.core.errors import print_warning


def is_launched() -> bool:
    """Return whether a launcher, torchrun or `launch`, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(processes: int) -> int:
    """Run this process's own command line in several processes, and wait for them.

    Args:
        processes: Number of processes. Each uses one GPU if there are GPUs; they share the cores.

    Returns:
        Exit code for this process: that of the first process to fail, which has printed its error.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Without a number of threads from the user, each process would use all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    logging.disable(logging.CRITICAL)  # the processes print their own errors
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "dltrain", *sys.argv[1:])
    except SignalException as error:
        return 128 + error.sigval
    except ChildFailedError as error:
        # The launcher itself sends SIGTERM to the rest when one process has failed.
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                cause = f"signal {-failure.exitcode}"
                print_warning(f"process {rank} of {processes} was ended by {cause}")
        _, first = error.get_first_failure()
        return max(first.exitcode, 1)
    return 0
