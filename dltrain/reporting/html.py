"""Parts of an HTML page. Text from a run is escaped: a class may be called `<script>`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dltrain.errors import visible

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--raised:#f5f6f8;--ink:#1c1e21;--soft:#565b63;
--rule:#d9dce1;--s0:#0b63c5;--s1:#c2410c;--s2:#15803d;--s3:#7e22ce;--s4:#8a6100;--s5:#0e7490;
--good:#15803d;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--paper:#15171a;--raised:#1e2125;--ink:#e8eaed;
--soft:#a5abb4;--rule:#363b42;--s0:#6cb1ff;--s1:#ff9d5c;--s2:#5fd38d;--s3:#c99bff;--s4:#f0c14b;
--s5:#4fd1e0;--good:#5fd38d;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:72rem;background:var(--paper);
color:var(--ink);font:1rem/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.35rem;margin:3rem 0 .5rem;padding-top:1rem;border-top:3px solid var(--rule);
overflow-wrap:anywhere}
h3{font-size:1.1rem;margin:2rem 0 .6rem}
p,dd,li{overflow-wrap:anywhere}
a{color:var(--s0)}
.soft,figcaption,th{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;
margin:1rem 0;padding:0}
.tiles div{background:var(--raised);border-radius:.5rem;padding:.6rem .8rem}
.tiles dt{color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}
.tiles dd{margin:0;font-size:1.25rem;font-weight:600}
.charts{display:grid;margin-top:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem;align-items:start}
figure{margin:0}
.chart{background:var(--raised);border-radius:.5rem;padding:.7rem}
.chart figcaption{color:var(--ink);font-weight:600;font-size:.95rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.1rem 0;padding:0;
font-size:.85rem}
.key{display:inline-block;width:1.1rem;height:.25rem;margin-right:.4rem;vertical-align:middle;
background:var(--c)}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
.grid{stroke:var(--rule);fill:none}
.ideal{stroke:var(--ink);stroke-dasharray:5 4;fill:none}
.line{stroke:var(--c);stroke-width:2;stroke-linejoin:round;fill:none}
.line.s1,.line.s3{stroke-dasharray:7 3}.line.again{stroke-dasharray:2 3}
.dot,.bar{fill:var(--c)}.bar{opacity:.75}.faint{opacity:.5}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}
.s5{--c:var(--s5)}
.scroll{overflow-x:auto;max-height:34rem}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--rule);font-weight:400}
@media(max-width:30rem){th,td{padding:.3rem .35rem}svg text{font-size:14px}}
th[scope=row]{white-space:nowrap}
th[scope=row],th:first-child,td:first-child{text-align:left}
td{font-variant-numeric:tabular-nums}
.words th[scope=row]{white-space:normal}
.words td,.words th{vertical-align:top;text-align:left;overflow-wrap:anywhere}
.matrix td{text-align:center;min-width:2.4rem;border:1px solid var(--paper);
background:color-mix(in srgb,var(--s0) calc(var(--share)*60%),var(--raised))}
.matrix th{white-space:nowrap}.matrix thead th{text-align:center}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(6rem,1fr));gap:.7rem}
.gallery.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr))}
.gallery figure{background:var(--raised);border-radius:.5rem;padding:.5rem}
.gallery img{width:100%;height:auto;image-rendering:pixelated;border-radius:.25rem;display:block}
.gallery figcaption{font-size:.82rem;line-height:1.35;margin-top:.3rem;overflow-wrap:anywhere}
.gallery blockquote{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
.sheet{max-width:100%;height:auto;image-rendering:pixelated;border-radius:.5rem}
.bad{color:var(--bad)}.good{color:var(--good)}
pre{background:var(--raised);border-radius:.5rem;padding:.8rem;overflow:auto;max-height:34rem;
font-size:.85rem;white-space:pre-wrap;overflow-wrap:anywhere}
.note{border-left:4px solid var(--s1);padding:.4rem .8rem;background:var(--raised)}
"""

# Nothing but what is in the page: no script, and nothing from elsewhere.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escape(text: str) -> str:
    """Text to be read on a page: markup, control characters and overrides of direction are shown.

    What a script reads, such as the value of an attribute, has to stay exact: `html.escape` is for
    that.
    """
    return html.escape(visible(text))


def document(title: str, body: str, *, head: str = "", policy: str = POLICY) -> str:
    """A whole page.

    Args:
        title: Its title.
        body: What it shows.
        head: Links to style sheets and scripts.
        policy: What a browser may load and run for it.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{head}</head>"
        f"<body>{body}</body></html>\n"
    )


def section(heading: str, *parts: str, level: int = 3) -> str:
    """A heading with what is under it; nothing where there is nothing."""
    if not (content := "".join(parts)):
        return ""
    return f"<section><h{level}>{escape(heading)}</h{level}>{content}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `note` stands out, `soft` stands back."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def tiles(values: dict[str, str]) -> str:
    """Figures that matter most."""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="tiles">{shown}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """A table whose first column names the rows."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    columns = f"<thead><tr>{columns}</tr></thead>" if head else ""
    return _scroll(f'<table class="{kind}">{columns}<tbody>{lines}</tbody></table>')


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix: truth in rows, predictions in columns, shade the share of the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(
            # A square root lets rare confusions be seen beside a diagonal near 1.
            f'<td style="--share:{(count / total) ** 0.5:.2f}">{count or ""}</td>'
            for count in row
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return _scroll(
        f'<table class="matrix"><thead><tr><th scope="col">true \\ predicted</th>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _scroll(content: str) -> str:
    """Wide content scrolls by itself, with the keyboard as well, and the page does not."""
    return f'<div class="scroll" tabindex="0" role="group" aria-label="table">{content}</div>'


def preformatted(text: str) -> str:
    """Text with its own lines."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def picture(pixels: Tensor, told: str, longest: int, kind: str = "") -> str:
    """An image inside the page.

    Args:
        pixels: (1 or 3, height, width) uint8.
        told: What it shows, for those who can't see it.
        longest: Bigger ones are made smaller, to this many pixels a side.
        kind: Its class in the style sheet.
    """
    from PIL import Image

    planes = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    image = Image.fromarray(planes.permute(1, 2, 0).squeeze(2).numpy())
    image.thumbnail((longest, longest))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img class="{kind}" width="{image.width}" height="{image.height}" '
        f'alt="{escape(told)}" src="data:image/png;base64,{data}">'
    )
