"""Web pages: the demo, on which a person tries the model, and the documentation of the API."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from html import escape as escape_exactly
from importlib.resources import files
from typing import Any

from fastapi.responses import HTMLResponse, Response

from dltrain.core.data_spec import Column, DataSpec, ImageInputs, TableInputs
from dltrain.reporting import html
from dltrain.reporting.html import escape
from dltrain.serving.schemas import typical_value

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Another model may be served at the same address later.
    "Cache-Control": "no-cache",
}
_MEDIA_TYPES = {"demo.js": "text/javascript", "demo.css": "text/css"}
_HEAD = (  # without an icon, a browser would request one
    '<link rel="icon" href="data:,"><link rel="stylesheet" href="static/demo.css">'
)
CANVAS_PIXELS = 280


@dataclass(frozen=True)
class ModelInfo:
    """Description of the served model.

    Attributes:
        name: Name of the experiment.
        run: Path of the run directory.
        checkpoint: Name of the checkpoint.
        task: Name of the task.
        device: Device on which the model computes.
        target: Name of what the model predicts, such as the target column of a table.
    """

    name: str
    run: str
    checkpoint: str
    task: str
    device: str
    target: str


def demo_responses(spec: DataSpec, info: ModelInfo) -> dict[str, Response]:
    """Return the demo page and the files that it links to, by path."""
    responses: dict[str, Response] = {
        "/": HTMLResponse(demo_page(spec, info), headers=SECURITY_HEADERS)
    }
    for name, kind in _MEDIA_TYPES.items():
        content = (files("dltrain.serving") / "static" / name).read_bytes()
        responses[f"/static/{name}"] = Response(content, headers=SECURITY_HEADERS, media_type=kind)
    return responses


def demo_page(spec: DataSpec, info: ModelInfo) -> str:
    """Return the page that sends a drawing, a text or a row to /predict and shows the response."""
    if isinstance(spec.inputs, TableInputs):
        kind, form = "rows", _row_form(spec.inputs.columns)
    elif isinstance(spec.inputs, ImageInputs):
        kind, form = "images", _image_form(spec.inputs, channels=spec.input_shape[0])
    else:
        kind, form = "texts", _text_form()
    body = (
        f"<main><h1>{escape(info.name)}</h1>"
        f"{html.paragraph(f'Checkpoint {info.checkpoint} of {info.run}', 'soft')}"
        '<div class="demo"><section class="card" aria-labelledby="input-heading">'
        f'<h2 id="input-heading">Input</h2><form id="form" data-kind="{kind}">{form}</form>'
        '</section><section class="card result" aria-labelledby="result-heading">'
        f'<h2 id="result-heading">Predicted {escape(info.target)}</h2>'
        '<div id="result" aria-live="polite"><p class="soft">The prediction appears here.</p>'
        "</div></section></div>"
        "<noscript><p>This page needs JavaScript; the API does not.</p></noscript>"
        '<p><a href="docs">API documentation</a> · <a href="metrics">Metrics</a></p></main>'
    )
    script = '<script defer src="static/demo.js"></script>'
    return html.document(info.name, body, head=_HEAD + script, policy=_POLICY)


def _image_form(inputs: ImageInputs, channels: int) -> str:
    # The background of a drawing is dark where the training images are dark on average.
    is_dark = sum(inputs.mean) / len(inputs.mean) < 0.5
    background, ink = ("#000", "#fff") if is_dark else ("#fff", "#000")
    canvas = (
        '<div><p class="name" id="canvas-name">Draw an image with the mouse or a finger</p>'
        f'<canvas id="canvas" width="{CANVAS_PIXELS}" height="{CANVAS_PIXELS}" '
        f'data-background="{background}" data-ink="{ink}" role="img" '
        'aria-labelledby="canvas-name"></canvas></div>'
        '<button type="button" id="clear" class="secondary">Clear</button>'
        if channels == 1
        else ""
    )
    name = "Or choose an image file" if canvas else "Choose an image file"
    return (
        f'{canvas}<div><label class="name" for="file">{name}</label>'
        '<input type="file" id="file" accept="image/*"></div>'
        '<img id="preview" alt="The chosen image" hidden>'
    )


def _text_form() -> str:
    return (
        '<div><label class="name" for="text">Text</label>'
        '<textarea id="text" rows="5" required></textarea></div><button>Predict</button>'
    )


def _row_form(columns: tuple[Column, ...]) -> str:
    fields = "".join(_field(number, column) for number, column in enumerate(columns))
    return f'<div class="fields">{fields}</div><button>Predict</button>'


def _field(number: int, column: Column) -> str:
    """Return an input of a number, initially typical of the training data, or of a category."""
    attributes = f'id="field{number}" data-column="{escape_exactly(column.name)}"'
    if column.categories:
        options = "".join(
            f'<option value="{escape_exactly(name)}">{escape(name)}</option>'
            for name in column.categories
        )
        control = f"<select {attributes}>{options}</select>"
    else:
        value = f"{typical_value(column):.15g}"
        control = f'<input {attributes} type="number" step="any" required value="{value}">'
    name = f'<label class="name" for="field{number}">{escape(column.name)}</label>'
    return f"<div>{name}{control}</div>"


def docs_page(description: dict[str, Any], url: str) -> str:
    """Return the OpenAPI description of the service at a URL as a page without external resources.

    The pages that FastAPI offers load their scripts from a CDN.
    """
    info = description["info"]
    title = f"{info['title']}: API documentation"
    parts = [
        f"<h1>{escape(title)}</h1>",
        html.paragraph(info["description"]),
        '<p><a href="./">Demo</a> · <a href="openapi.json">OpenAPI description</a></p>',
    ]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method.upper(), path, operation, url.rstrip("/")))
    schemas = description["components"]["schemas"].items()
    shown = [html.section(name, html.preformatted(_json(schema))) for name, schema in schemas]
    parts.append(html.section("Schemas", *shown, level=2))
    return html.document(title, f"<main>{''.join(parts)}</main>", head=_HEAD, policy=_POLICY)


def _operation(method: str, path: str, operation: dict[str, Any], url: str) -> str:
    parts = [html.paragraph(operation["summary"])]
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        body = json.dumps(content["application/json"]["example"], ensure_ascii=False)
        parts.append(html.preformatted(shlex.join(["curl", url + path, "--json", body])))
    if "multipart/form-data" in content:
        words = ["curl", url + path, "-F", "files=@image.png"]
        parts.append(html.preformatted(shlex.join(words)))
    rows = [(status, found["description"]) for status, found in operation["responses"].items()]
    table = html.table(("status", "meaning"), rows, "words")
    return html.section(f"{method} {path}", *parts, table, level=2)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
