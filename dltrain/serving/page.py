"""The page on which a model is tried."""

from __future__ import annotations

import json
from html import escape as exact
from importlib.resources import files

from dltrain.reporting import html
from dltrain.reporting.html import escape
from dltrain.spec import Column, DataSpec, ImageInputs, TableInputs

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # The next model may be served at the same address.
    "Cache-Control": "no-cache",
}
_KINDS = {"try.js": "text/javascript", "try.css": "text/css"}
PAD_PIXELS = 280


def static_files() -> dict[str, tuple[bytes, str]]:
    """Name to content and media type of what the page links to."""
    folder = files("dltrain.serving") / "static"
    return {name: ((folder / name).read_bytes(), kind) for name, kind in _KINDS.items()}


def try_page(spec: DataSpec, run: str, checkpoint: str) -> str:
    """The page: a drawing, a text or a row goes to /predict, and the answer is shown."""
    if isinstance(spec.inputs, TableInputs):
        form = _row_form(spec.inputs.columns)
    elif isinstance(spec.inputs, ImageInputs):
        form = _picture_form(spec.inputs, channels=spec.input_shape[0])
    else:
        form = _text_form()
    body = (
        f"<main><h1>{escape(run)}</h1>{html.paragraph(checkpoint, 'soft')}"
        f'<div class="try">{form}<section aria-live="polite" id="answer"></section></div>'
        '<p><a href="docs">How to ask from a program</a> · <a href="metrics">Metrics</a></p>'
        "<noscript><p>This page needs JavaScript; a program does not.</p></noscript></main>"
    )
    head = (
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="static/try.css">'
        '<script defer src="static/try.js"></script>'
    )
    return html.document(run, body, head=head, policy=_POLICY)


def _picture_form(inputs: ImageInputs, channels: int) -> str:
    # Training's pictures were dark on the whole, or bright: the drawing is to be alike.
    ground, ink = (
        ("#000", "#fff") if sum(inputs.mean) / len(inputs.mean) < 0.5 else ("#fff", "#000")
    )
    pad = (
        f'<canvas id="pad" width="{PAD_PIXELS}" height="{PAD_PIXELS}" data-ground="{ground}" '
        f'data-ink="{ink}" role="img" aria-label="Draw here, or choose a picture">'
        '</canvas><button type="button" id="clear">Clear</button>'
        if channels == 1
        else ""
    )
    return (
        f'<form id="form" data-kind="images">{pad}<label>{"Or a picture" if pad else "A picture"} '
        '<input type="file" id="file" accept="image/*"></label></form>'
    )


def _text_form() -> str:
    return (
        '<form id="form" data-kind="texts"><label for="text">Text</label>'
        '<textarea id="text" rows="4" required></textarea><button>Predict</button></form>'
    )


def _row_form(columns: tuple[Column, ...]) -> str:
    fields = "".join(_field(number, column) for number, column in enumerate(columns))
    return (
        f'<form id="form" data-kind="rows"><div class="fields">{fields}</div>'
        "<button>Predict</button></form>"
    )


def _field(number: int, column: Column) -> str:
    """A number, with training's mean to begin with; or one of the categories."""
    place = f'id="field{number}" data-column="{exact(column.name)}"'
    if column.categories:
        options = "".join(
            f'<option value="{exact(name)}">{escape(name)}</option>' for name in column.categories
        )
        control = f"<select {place}>{options}</select>"
    else:
        mean = json.dumps(float(f"{column.mean:.4g}"))
        control = f'<input {place} type="number" step="any" required value="{mean}">'
    return f'<div><label for="field{number}">{escape(column.name)}</label>{control}</div>'
