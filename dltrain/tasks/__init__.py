"""What one step computes, one file a kind of task."""

from dltrain.tasks import supervised

__all__ = ["supervised"]
