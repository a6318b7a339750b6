"""Ranks that run as on separate machines, each in its own folder."""

import os
import signal
import time

import torch
from processes import command_line


def run_in_node_folder(*words: object) -> None:
    """Run `dltrain WORDS` in the folder `nodeRANK`.

    UNLIKE=torch in the environment simulates another version of torch on rank 1. With
    SIGTERM_WHILE_WAITING=1, rank 1 gets SIGTERM whenever it sleeps, as from a launcher that ends.
    """
    rank = os.environ["RANK"]
    os.chdir(f"node{rank}")
    if os.environ.get("UNLIKE") == "torch" and rank == "1":
        torch.__version__ = "1.0"
    if os.environ.get("SIGTERM_WHILE_WAITING") and rank == "1":
        time.sleep = lambda _seconds: signal.raise_signal(signal.SIGTERM)
    command_line(*words)
