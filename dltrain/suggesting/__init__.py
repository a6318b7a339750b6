"""A config for the user's own data: what is seen in it, what is proposed, and why."""

from dltrain.suggesting.draft import Suggestion, render
from dltrain.suggesting.look import Hints, suggest

__all__ = ["Hints", "Suggestion", "render", "suggest"]
