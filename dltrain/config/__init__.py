"""YAML text to an `Experiment`: positions, `extends`, overrides, validation, errors."""

from dltrain.config.experiment import Experiment, load
from dltrain.config.problems import ConfigError, Position, Problem
from dltrain.config.schema import json_schema

__all__ = ["ConfigError", "Experiment", "Position", "Problem", "json_schema", "load"]
