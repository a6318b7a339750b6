"""Ranks that run as on separate machines, each in its own folder."""

import os

import torch
from processes import command_line


def run_in_node_folder(*words: object) -> None:
    """Run `dltrain WORDS` in the folder `nodeRANK`.

    UNLIKE=torch in the environment simulates another version of torch on rank 1.
    """
    rank = os.environ["RANK"]
    os.chdir(f"node{rank}")
    if os.environ.get("UNLIKE") == "torch" and rank == "1":
        torch.__version__ = "1.0"
    command_line(*words)
