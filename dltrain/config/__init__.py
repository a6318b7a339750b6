"""YAML text to an `Experiment`: positions, `extends`, overrides, validation, errors."""

from dltrain.config.changes import (
    HARMLESS,
    LENGTH,
    PLACE,
    ROUNDING,
    changes,
    refuse_changes,
    values_of,
)
from dltrain.config.experiment import Experiment, load
from dltrain.config.problems import ConfigError, Position, Problem
from dltrain.config.schema import json_schema

__all__ = [
    "HARMLESS",
    "LENGTH",
    "PLACE",
    "ROUNDING",
    "ConfigError",
    "Experiment",
    "Position",
    "Problem",
    "changes",
    "json_schema",
    "load",
    "refuse_changes",
    "values_of",
]
