"""What the processes of `processes.py` have imported before they are forked."""

import gc
import os

import hypothesis.strategies  # noqa: F401
import PIL.Image
import torch._dynamo  # the first optimizer imports it, which takes as long as all the rest
import torch.utils.tensorboard  # noqa: F401

import dltrain.cli
import dltrain.commands.train  # noqa: F401
from dltrain.config.plugins import load_entry_points, register_builtins

os.fsync = os.fstat  # as in conftest.py
PIL.Image.preinit()
register_builtins()
load_entry_points()
gc.freeze()  # no collection in a fork looks at all that again
