"""YAML text to an `Experiment`: positions, `extends`, overrides, validation, errors."""

from dltrain.config.changes import HARMLESS, LENGTH, ROUNDING, changes, refuse_changes
from dltrain.config.experiment import Experiment, load
from dltrain.config.problems import ConfigError, Position, Problem
from dltrain.config.schema import json_schema

__all__ = [
    "HARMLESS",
    "LENGTH",
    "ROUNDING",
    "ConfigError",
    "Experiment",
    "Position",
    "Problem",
    "changes",
    "json_schema",
    "load",
    "refuse_changes",
]
