"""What one step computes, one file a kind of task."""

from dltrain.tasks import language_model, supervised

__all__ = ["language_model", "supervised"]
