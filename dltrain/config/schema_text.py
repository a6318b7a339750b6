"""Describe what a JSON Schema accepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

JsonSchema = dict[str, Any]
Path = tuple[str | int, ...]


def schema_at(schema: JsonSchema, path: Path) -> JsonSchema:
    """Return the schema of a part of the value."""
    for step in path:
        inner = [part for branch in _branches(schema) for part in _parts(branch, step)]
        schema = inner[0] if len(inner) == 1 else {"anyOf": inner}
    return schema


def _branches(schema: JsonSchema) -> Iterator[JsonSchema]:
    """Yield the alternatives of a union, or the schema itself."""
    if "anyOf" not in schema:
        yield schema
    for branch in schema.get("anyOf", ()):
        yield from _branches(branch)


def _parts(schema: JsonSchema, step: str | int) -> Iterator[JsonSchema]:
    if isinstance(step, str):
        if "additionalProperties" in schema:
            yield schema["additionalProperties"]
    elif step < len(schema.get("prefixItems", ())):
        yield schema["prefixItems"][step]
    elif "items" in schema:
        yield schema["items"]


def words_allowed(schema: JsonSchema) -> list[str]:
    """Return the words among the accepted values and examples."""
    words: list[str] = []
    for branch in _branches(schema):
        words += branch.get("enum", ()) or branch.get("examples", ())
        words += [branch["const"]] if "const" in branch else []
        words += ["true", "false"] if branch.get("type") == "boolean" else []
    return [word for word in words if isinstance(word, str)]


def allows_text(schema: JsonSchema) -> bool:
    """Return whether text other than the listed words is accepted."""
    kinds = [b.get("type") for b in _branches(schema) if "enum" not in b and "const" not in b]
    return "string" in kinds


def describe(schema: JsonSchema) -> str:
    """Describe the accepted values, such as `a whole number above 0`; unions omit null."""
    texts = dict.fromkeys(_describe(branch) for branch in _branches(schema))
    return " or ".join([text for text in texts if text != "null"] or texts)


def _describe(schema: JsonSchema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type")
    if kind == "string":
        return schema.get("description", "text")
    if kind == "array":
        return f"a list of {_items(schema)}"
    return _WORDS.get(str(kind), "a mapping") + _bounds(schema)


_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "of at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
}


def _bounds(schema: JsonSchema) -> str:
    bounds = [f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema]
    return f" {' and '.join(bounds)}" if bounds else ""


def _items(schema: JsonSchema) -> str:
    if "prefixItems" in schema:
        return ", ".join(map(describe, schema["prefixItems"]))
    size = f"at least {schema['minItems']} values" if "minItems" in schema else "values"
    return f"{size}, each {describe(schema['items'])}"
