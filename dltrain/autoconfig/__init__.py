"""Config suggestions for the user's own data, with reasons."""

from dltrain.autoconfig.config_draft import Suggestion, render
from dltrain.autoconfig.detection import Hints, suggest

__all__ = ["Hints", "Suggestion", "render", "suggest"]
