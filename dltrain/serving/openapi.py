"""The service in OpenAPI's words, and a page that shows them."""

from __future__ import annotations

import json
import shlex
from typing import Any, Literal

from pydantic import BaseModel

from dltrain.data.tokens import text_of
from dltrain.reporting import html
from dltrain.serving.limits import Limits
from dltrain.spec import DataSpec, TableInputs

VERSION = "1"
"""Of the interface, not of the model."""

Gives = Literal["label", "values", "text"]
"""What a model says of an input: a class with probabilities, values, or a text."""

_REFERENCE = "#/components/schemas/{model}"
_NULL = {"type": "null"}
_ERRORS = {
    "type": "object",
    "required": ["errors"],
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["message", "item"],
                "properties": {
                    "message": {"type": "string", "description": "What is wrong, and where."},
                    "item": {
                        "type": ["integer", "null"],
                        "description": "Number of the picture, row or text, from 0; null where it "
                        "is the whole request.",
                    },
                },
            },
        }
    },
}
_REFUSALS = {
    "400": "The body is no JSON or no form, or there is not one well-formed Host header.",
    "408": "The headers or the body took too long to arrive.",
    "413": "The body is too long, or all images together have too many pixels.",
    "415": "The body is of a type that this model does not take.",
    "421": "The Host header names another machine than the one that was asked.",
    "422": "An item is not what this model takes; the answer says which.",
    "500": "The model failed.",
    "503": "Too many requests are in work. Come again after Retry-After seconds.",
}


def describe(
    spec: DataSpec, gives: Gives, run: str, model: type[BaseModel], limits: Limits
) -> dict[str, Any]:
    """The OpenAPI 3.1 description of a service.

    Args:
        spec: What the model's data was like.
        gives: What it says of an input.
        run: What is served.
        model: What a request must be like.
        limits: How much it may ask.
    """
    inputs = model.model_json_schema(ref_template=_REFERENCE)
    inner = inputs.pop("$defs", {})
    schemas = {
        "Inputs": inputs,
        **inner,
        "Predictions": {
            "type": "object",
            "required": ["predictions"],
            "properties": {
                "predictions": {"type": "array", "items": {"$ref": _reference("Prediction")}}
            },
        },
        "Prediction": _prediction(spec, gives),
        "Errors": _ERRORS,
    }
    text = {"200": _response("As Prometheus takes it.", {"text/plain": {"type": "string"}})}
    health = {"200": _response("It answers.", {"application/json": {"type": "object"}})}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"dltrain serve {run}",
            "version": VERSION,
            "description": f"Predictions of a model. A request may have {limits.max_body:,} bytes "
            f"and {limits.max_items} items.",
        },
        "paths": {
            "/predict": {"post": _predict(spec)},
            "/healthz": {"get": {"summary": "Whether it runs, and what", "responses": health}},
            "/metrics": {"get": {"summary": "Counts and times", "responses": text}},
        },
        "components": {"schemas": schemas},
    }


def _reference(name: str) -> str:
    return _REFERENCE.format(model=name)


def _response(description: str, content: dict[str, Any]) -> dict[str, Any]:
    told = {kind: {"schema": schema} for kind, schema in content.items()}
    return {"description": description, "content": told}


def _predict(spec: DataSpec) -> dict[str, Any]:
    body: dict[str, Any] = {
        "application/json": {"schema": {"$ref": _reference("Inputs")}, "example": example(spec)}
    }
    if spec.inputs.kind == "image":
        files = {"type": "array", "items": {"contentMediaType": "application/octet-stream"}}
        form = {"type": "object", "properties": {"files": files}}
        body["multipart/form-data"] = {"schema": form}
    answers = {"200": {"application/json": {"$ref": _reference("Predictions")}}}
    refusals = {
        status: {"application/json": {"$ref": _reference("Errors")}} for status in _REFUSALS
    }
    told = {"200": "A prediction for each item, in their order.", **_REFUSALS}
    return {
        "summary": "Predictions, as dltrain predict --json gives them",
        "requestBody": {"required": True, "content": body},
        "responses": {
            status: _response(told[status], content)
            for status, content in {**answers, **refusals}.items()
        },
    }


def example(spec: DataSpec) -> dict[str, Any]:
    """A request that the model answers."""
    if isinstance(spec.inputs, TableInputs):
        row = {
            column.name: column.categories[0] if column.categories else round(column.mean, 6)
            for column in spec.inputs.columns
        }
        return {"rows": [row]}
    if spec.inputs.kind == "text":
        ids = range(len(spec.inputs.vocabulary))
        words = [n for n in ids if n not in (spec.inputs.padding, spec.inputs.unknown)][:4]
        return {"texts": [text_of(spec.inputs, words)]}
    return {"images": [[[0, 128], [255, 64]]]}


def _prediction(spec: DataSpec, gives: Gives) -> dict[str, Any]:
    """An item of the answer; what the model does not give is null."""
    value = {"type": ["number", "null"], "description": "null where it is not finite"}
    given: dict[str, Any] = {}
    if gives == "text":
        given["text"] = {"type": "string"}
    elif gives == "values":
        given["values"] = {"type": "array", "items": value}
    else:
        names = list(spec.class_names)
        given["label"] = {"enum": names}
        given["probabilities"] = {"type": "object", "properties": dict.fromkeys(names, value)}
    fields = ("label", "probabilities", "values", "text")
    name = {"type": "string", "description": "The text, the file's name, or the place."}
    return {
        "type": "object",
        "required": ["input", *fields],
        "properties": {"input": name, **{field: given.get(field, _NULL) for field in fields}},
    }


def docs_page(description: dict[str, Any], url: str) -> str:
    """The description for readers of the service at a URL, with nothing from elsewhere."""
    info = description["info"]
    parts = [
        f"<h1>{html.escape(info['title'])}</h1>",
        html.paragraph(info["description"]),
        '<p><a href="./">Try it</a> · <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(f"{method.upper()} {path}", operation, url))
    schemas = description["components"]["schemas"].items()
    shown = [html.section(name, html.preformatted(_json(schema))) for name, schema in schemas]
    parts.append(html.section("Schemas", *shown, level=2))
    icon = '<link rel="icon" href="data:,">'  # none, or a browser would ask for one
    return html.document(info["title"], f"<main>{''.join(parts)}</main>", head=icon)


def _operation(heading: str, operation: dict[str, Any], url: str) -> str:
    asked = url.rstrip("/") + heading.partition(" ")[2]
    parts = [html.paragraph(operation["summary"])]
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        body = json.dumps(content["application/json"]["example"], ensure_ascii=False)
        words = ["curl", asked, "--json", body]
        parts.append(html.preformatted(shlex.join(words)))
    if "multipart/form-data" in content:
        words = ["curl", asked, "-F", "files=@digit.png"]
        parts.append(html.preformatted(shlex.join(words)))
    answers = [(status, told["description"]) for status, told in operation["responses"].items()]
    return html.section(heading, *parts, html.table(("status", "means"), answers, "words"), level=2)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
