"""Parts of an HTML page. Text of a run is escaped: a class may have the name `<script>`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dltrain.core.errors import escape_control_characters

LONG_TABLE_ROWS = 200
"""Longer tables scroll inside a box of fixed height."""

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
main>article:first-child>h2{font-size:1rem;font-weight:400;margin:0;padding:0;border:0}
h3{font-size:1.1rem;margin:2rem 0 .6rem}
p,dd,li{overflow-wrap:anywhere}
a{color:var(--s0)}
.soft,figcaption,th{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(var(--medium),minmax(0,14rem));gap:.6rem;
margin:1rem 0;padding:0}
@media(min-width:60rem){.tiles{grid-template-columns:repeat(var(--wide),minmax(0,14rem))}}
.tiles div{background:var(--raised);border-radius:.5rem;padding:.6rem .8rem}
.tiles dt{color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}
.tiles dd{margin:0;font-size:1.25rem;font-weight:600}
@media(max-width:36rem){.tiles{grid-template-columns:minmax(0,1fr);gap:.15rem}
.tiles div{display:flex;justify-content:space-between;align-items:baseline;gap:1rem;
padding:.35rem .7rem}.tiles dd{font-size:1rem;text-align:right}}
.charts{display:grid;margin-top:1rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,18.5rem),1fr));gap:1rem;align-items:start}
@media(min-width:60rem){.charts{
grid-template-columns:repeat(var(--wide,auto-fill),minmax(min(100%,18.5rem),1fr))}}
.beside{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:flex-start;margin-top:1rem}
.beside>*{max-width:100%}.beside>.chart{flex:0 1 25rem}
figure{margin:0}
.chart{background:var(--raised);border-radius:.5rem;padding:.7rem;max-width:36rem}
.scroll .chart{max-width:none}
.chart figcaption{color:var(--ink);font-weight:600;font-size:.95rem}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin:.1rem 0;padding:0;
font-size:.85rem}
.key{display:inline-block;width:1.1rem;height:.25rem;margin-right:.4rem;vertical-align:middle;
background:var(--c)}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:13px system-ui,sans-serif}
.grid{stroke:var(--rule);fill:none}
.ideal{stroke:var(--ink);stroke-dasharray:5 4;fill:none}
.line{stroke:var(--c);stroke-width:2;stroke-linejoin:round;fill:none}
.line.s1,.line.s3{stroke-dasharray:7 3}.line.again{stroke-dasharray:2 3}
.dot,.bar{fill:var(--c)}.bar{opacity:.75}.faint{opacity:.5}
.s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}.s4{--c:var(--s4)}
.s5{--c:var(--s5)}
.scroll{overflow-x:auto;background:linear-gradient(90deg,var(--paper) 30%,transparent) 0 0/2rem,
linear-gradient(270deg,var(--paper) 30%,transparent) 100% 0/2rem,
linear-gradient(90deg,var(--rule),transparent) 0 0/.7rem,
linear-gradient(270deg,var(--rule),transparent) 100% 0/.7rem;
background-repeat:no-repeat;background-attachment:local,local,scroll,scroll}
.scroll.long{max-height:34rem}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--rule);font-weight:400}
@media(max-width:36rem){th,td{padding:.3rem .35rem}svg text{font-size:14px}}
thead th{vertical-align:bottom}
th[scope=row]{white-space:nowrap}
th[scope=row],th:first-child,td:first-child{text-align:left}
td{font-variant-numeric:tabular-nums}
@media(max-width:36rem){.words th[scope=row]{white-space:normal}}
.words td,.words th{vertical-align:top;text-align:left}.words td{overflow-wrap:anywhere}
.matrix td{text-align:center;min-width:2.4rem;border:1px solid var(--paper);
background:color-mix(in srgb,var(--s0) calc(var(--share)*60%),var(--raised))}
.matrix th{white-space:nowrap}.matrix thead th{text-align:center}
@media(max-width:36rem){.matrix td,.matrix thead th{min-width:1.8rem;padding:.25rem .15rem;
font-size:.75rem}}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(9rem,1fr));gap:.7rem}
.gallery.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,19rem),1fr))}
.gallery figure{background:var(--raised);border-radius:.5rem;padding:.5rem}
.gallery img{width:100%;height:auto;image-rendering:pixelated;border-radius:.25rem;display:block}
.gallery figcaption{font-size:.82rem;line-height:1.35;margin-top:.3rem;overflow-wrap:anywhere}
.gallery blockquote{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
.sheet{max-width:100%;height:auto;image-rendering:pixelated;border-radius:.5rem}
.bad{color:var(--bad)}.good{color:var(--good)}
pre{background:var(--raised);border-radius:.5rem;padding:.8rem;overflow:auto;max-height:34rem;
font-size:.85rem;white-space:pre-wrap;overflow-wrap:anywhere}
article>section:last-child pre,main>section:last-child pre{max-height:none}
.note{border-left:4px solid var(--s1);padding:.4rem .8rem;background:var(--raised)}
"""

# The page uses its own content only: no script, and nothing from another origin.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def escape(text: str) -> str:
    """Escape text for a reader: markup, control characters and direction overrides become visible.

    Text that a script reads, such as the value of an attribute, must not change: use `html.escape`.
    """
    return html.escape(escape_control_characters(text))


def document(title: str, body: str, *, head: str = "", policy: str = POLICY) -> str:
    """Return a complete page.

    Args:
        title: Title of the page.
        body: Content of its body, HTML.
        head: Links to style sheets and scripts, HTML.
        policy: Content security policy: the resources that a browser may load and run.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{head}</head>"
        f"<body>{body}</body></html>\n"
    )


def section(heading: str, *parts: str, level: int = 3) -> str:
    """Return a heading and its content; an empty string where the content is empty."""
    if not (content := "".join(parts)):
        return ""
    return f"<section><h{level}>{escape(heading)}</h{level}>{content}</section>"


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph of class `note` (highlighted), `soft` (subdued) or none."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def tiles(values: dict[str, str]) -> str:
    """Return the most important values as tiles, a value under its name."""
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    )
    wide, medium = balanced_columns(len(values), 6), balanced_columns(len(values), 4)
    return f'<dl class="tiles" style="--wide:{wide};--medium:{medium}">{shown}</dl>'


def balanced_columns(count: int, most: int) -> int:
    """Return the number of columns that avoids a single item in the last row, if possible.

    Args:
        count: Number of items.
        most: Largest number of columns that fit.
    """
    if count <= most:
        return max(1, count)
    return min(range(2, most + 1), key=lambda n: (count % n == 1, -(-count // n), -count % n))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], kind: str = "") -> str:
    """Return a table whose first column names the rows."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    columns = f"<thead><tr>{columns}</tr></thead>" if head else ""
    shown = f'<table class="{kind}">{columns}<tbody>{lines}</tbody></table>'
    return _scroll(shown, long=len(rows) > LONG_TABLE_ROWS)


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Return a confusion matrix as a table.

    Args:
        names: Name of each class.
        counts: (classes, classes); rows are true classes, columns are predicted classes. The shade
            of a cell is its fraction of the row.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row) or 1
        cells = "".join(
            # The square root keeps rare confusions visible beside a diagonal near 1.
            f'<td style="--share:{(count / total) ** 0.5:.2f}">{count or ""}</td>'
            for count in row
        )
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return _scroll(
        f'<table class="matrix"><thead><tr><td></td>{head}</tr>'
        f"</thead><tbody>{''.join(lines)}</tbody></table>"
    )


def _scroll(content: str, *, long: bool = False) -> str:
    """Let a wide table scroll by itself, with the keyboard as well, instead of the page."""
    kind = "scroll long" if long else "scroll"
    return f'<div class="{kind}" tabindex="0" role="group" aria-label="table">{content}</div>'


def preformatted(text: str) -> str:
    """Return text whose line breaks and spaces are kept."""
    return f'<pre tabindex="0">{escape(text)}</pre>'


def image(pixels: Tensor, alt: str, max_side: int, kind: str = "") -> str:
    """Return an image that is embedded in the page.

    Args:
        pixels: (1 or 3, height, width) uint8.
        alt: Description for screen readers.
        max_side: Larger images are reduced to this many pixels on their longest side.
        kind: Its class in the style sheet.
    """
    from PIL import Image

    planes = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    drawn = Image.fromarray(planes.permute(1, 2, 0).squeeze(2).numpy())
    drawn.thumbnail((max_side, max_side))
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img class="{kind}" width="{drawn.width}" height="{drawn.height}" '
        f'alt="{escape(alt)}" src="data:image/png;base64,{data}">'
    )
