"""What is written while a run goes on."""

from dltrain.recording.base import Recorder
from dltrain.recording.metrics_file import MetricsFile
from dltrain.recording.progress import Progress
from dltrain.recording.tensorboard import TensorBoard

__all__ = ["MetricsFile", "Progress", "Recorder", "TensorBoard"]
