"""Imports of the server process from which `processes.py` forks."""

import gc
import os

import hypothesis.strategies  # noqa: F401
import PIL.Image
import torch._dynamo  # imported by the first optimizer, and as slow as all other imports together
import torch.utils.tensorboard  # noqa: F401

import dltrain.cli
import dltrain.commands.train  # noqa: F401
from dltrain.config.plugins import load_entry_points, register_builtins

os.fsync = os.fstat  # as in conftest.py
PIL.Image.preinit()
register_builtins()
load_entry_points()
gc.freeze()  # garbage collection in a fork skips all objects created so far
