"""Several processes of one command on this machine, started by torch's own launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid

from dltrain.core.errors import print_warning


def is_launched() -> bool:
    """Whether a launcher, torchrun or `launch`, has started this process already."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(processes: int) -> int:
    """Runs this process's own command line in several processes, and waits for their end.

    Args:
        processes: How many; a GPU each where there are GPUs. They share the machine's cores.

    Returns:
        The exit code for this process: that of the first to fail, which has told why.
    """
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Where the user has not said how many threads torch is to have, all would take all cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // processes)))
    logging.disable(logging.CRITICAL)  # the processes tell what is to be told
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
        # The launcher itself ends by SIGTERM those that are left when one has failed.
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                what = f"process {rank} of {processes} was ended by signal {-failure.exitcode}"
                print_warning(what)
        _, first = error.get_first_failure()
        return max(first.exitcode, 1)
    return 0
