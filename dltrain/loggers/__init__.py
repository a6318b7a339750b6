"""Loggers that receive metrics and events during training."""

from dltrain.loggers.base import Logger
from dltrain.loggers.jsonl import MetricsFile
from dltrain.loggers.progress import Progress
from dltrain.loggers.tensorboard import TensorBoard

__all__ = ["Logger", "MetricsFile", "Progress", "TensorBoard"]
