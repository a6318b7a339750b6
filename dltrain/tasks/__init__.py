"""What one step computes, one file a kind of task."""

from dltrain.tasks import gan, language_model, supervised

__all__ = ["gan", "language_model", "supervised"]
