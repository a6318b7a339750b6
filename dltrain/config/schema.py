"""JSON Schema of configs, built from the registries, for completion and checks in editors."""

from __future__ import annotations

from dltrain.config.experiment import COMPONENTS, DEFAULTS, OPTIONS, Experiment
from dltrain.config.options import object_schema, typed_options
from dltrain.config.parse import parse
from dltrain.config.phases import REGISTRIES, clip_norm_option
from dltrain.config.schema_text import JsonSchema
from dltrain.config.tree import plain
from dltrain.core.registry import METRICS, Component, Registry, options_of

_EXTENDS = {
    "description": (
        "One or more configs to inherit from: files, relative to this one, or names of configs "
        "that come with dltrain."
    ),
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}
_EPOCHS_OR_STEPS = {
    "oneOf": [
        {"properties": {key: {"type": "integer"}}, "required": [key]} for key in ("epochs", "steps")
    ]
}


def json_schema() -> JsonSchema:
    """Return the JSON Schema (draft 2020-12) of a config with the registered components."""
    defaults = plain(parse(DEFAULTS, "defaults", []))
    properties: dict[str, JsonSchema] = {"extends": _EXTENDS}
    for option in options_of(Experiment):
        key = option.name
        if key in COMPONENTS:
            schema = _choice(COMPONENTS[key])
        elif key == "metrics":
            schema = {"type": "array", "items": _choice(METRICS)}
        elif key == "phases":
            schema = {"type": ["object", "null"], "additionalProperties": _phase()}
        elif key in OPTIONS:
            schema = OPTIONS[key].schema
        else:
            continue
        properties[key] = schema | {"description": option.doc}
        if key in defaults:
            properties[key]["default"] = defaults[key]
    required = [key for key in properties if key not in ("extends", "name", *defaults)]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dltrain config",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        # A file that extends another can omit required keys.
        "if": {"not": {"required": ["extends"]}},
        "then": {"required": required, "properties": {"train": _EPOCHS_OR_STEPS}},
    }


def _phase() -> JsonSchema:
    own = {key: _choice(registry) for key, registry in REGISTRIES.items()}
    own["clip_norm"] = clip_norm_option().documented_schema
    return {"type": "object", "properties": own, "additionalProperties": False}


def _choice(registry: Registry) -> JsonSchema:
    """Return the schema of a name, a mapping with a name, or options for an inherited name."""
    components = list(registry.values())
    bare = [
        {"const": component.name, "description": component.summary}
        for component in components
        if not any(option.required for option in component.options)
    ]
    nameless = {"type": "object", "not": {"required": ["name"]}}
    return {"anyOf": [*bare, *map(_component, components), nameless]}


def _component(component: Component) -> JsonSchema:
    schema = object_schema(typed_options(component.builder))
    name = {"const": component.name, "description": component.summary}
    schema["properties"] = {"name": name, **schema["properties"]}
    schema["required"] = ["name", *schema["required"]]
    return schema
