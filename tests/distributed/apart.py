"""One rank of several, as on a machine of its own: with its own folder, and other versions.

`dltrain` in the folder `nodeRANK`; UNLIKE=torch gives rank 1 another version of torch, and
WORLD_OF=2 has it wait for a second rank, which never comes.
"""

import os
import sys

RANK = os.environ["RANK"]
os.chdir(f"node{RANK}")

os.environ["WORLD_SIZE"] = os.environ.get("WORLD_OF", os.environ["WORLD_SIZE"])

import torch  # noqa: E402

if os.environ.get("UNLIKE") == "torch" and RANK == "1":
    torch.__version__ = "1.0"

from dltrain.cli import main  # noqa: E402

sys.argv = ["dltrain", *sys.argv[1:]]
main()
