"""A config for the user's own data: what is seen in it, what is proposed, and why."""

from dltrain.autoconfig.config_draft import Suggestion, render
from dltrain.autoconfig.detection import Hints, suggest

__all__ = ["Hints", "Suggestion", "render", "suggest"]
