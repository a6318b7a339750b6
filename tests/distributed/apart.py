"""One rank of several, as on a machine of its own: with its own folder, and other versions."""

import os

import torch
from processes import command_line


def apart(*words: object) -> None:
    """`dltrain WORDS` in the folder `nodeRANK`.

    UNLIKE=torch in the environment gives rank 1 another version of torch.
    """
    rank = os.environ["RANK"]
    os.chdir(f"node{rank}")
    if os.environ.get("UNLIKE") == "torch" and rank == "1":
        torch.__version__ = "1.0"
    command_line(*words)
