"""The HTML of a report: page, style, sections, tables and embedded images."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from agcnn_jax.evaluation.files.table import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #fff; --line: #ccc; --soft: #f3f5f7;
  --faint: #5a6470; --link: #0a58ca; --warn: #fff3cd; --warn-ink: #5c4300; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #16191d; --line: #444b54;
  --soft: #20252b; --faint: #a5afba; --link: #8ab4f8; --warn: #4a3a05; --warn-ink: #ffe9a8; } }
body { margin: 0 auto; max-width: 80rem; padding: 1rem 1.25rem 3rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-top: 1px solid var(--line);
  padding-top: .8rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p, ul { max-width: 52rem; margin: .5rem 0; }
a { color: var(--link); }
nav { font-size: .9rem; line-height: 1.9; }
nav a { margin-right: .9rem; white-space: nowrap; }
.summary { font-size: 1.1rem; }
.warn { background: var(--warn); color: var(--warn-ink); padding: .6rem .9rem; border-radius: 6px;
  font-weight: 600; max-width: none; }
.notes { color: var(--faint); font-size: .9rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--page); }
thead th { border-bottom: 1px solid var(--line); font-weight: 600; white-space: normal;
  vertical-align: bottom; }
@media (min-width: 40.01rem) and (max-width: 88rem) { table { font-size: .78rem; }
  th, td { padding: .25rem .3rem; } td:not(:first-child) { white-space: normal; } }
thead tr.groups th { text-align: left; border-bottom: 0; }
thead tr.groups span { position: sticky; left: 10rem; }
tbody tr:hover td { background: var(--soft); }
tr.first-summary td { border-top: 1px solid var(--line); font-weight: 600; }
.edge { border-left: 1px solid var(--line); }
.words td, .words th { text-align: left; white-space: normal; overflow-wrap: break-word;
  max-width: 26rem; vertical-align: top; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
img { width: auto; max-width: min(100%, 68rem); height: auto; background: #fff;
  border-radius: 6px; display: block; }
@media (max-width: 40rem) { img { width: 48rem; max-width: none; }
  th:first-child, td:first-child { white-space: normal; min-width: 6rem; max-width: 9rem;
    overflow-wrap: break-word; } }
@page { size: A4 landscape; margin: 12mm; }
@media print { html { font-size: 11px; } body { max-width: none; padding: 0; font-size: 11px; }
  nav { display: none; } h2, h3 { break-after: avoid; } img, table { break-inside: avoid; }
  img { max-height: 170mm; } .scroll { overflow: visible; } }
"""


class Section(NamedTuple):
    """A part of the page: its heading, the name that links use, and its HTML."""

    heading: str
    name: str
    body: str


def page(title: str, head: str, sections: Sequence[Section], foot: str = "") -> str:
    """Make the whole page from HTML: `head`, links to the sections, the sections, and `foot`.

    Nothing is fetched, and no script runs.
    """
    links = "".join(f'<a href="#{one.name}">{text(one.heading)}</a>' for one in sections)
    body = "\n".join(
        f'<section id="{one.name}"><h2>{text(one.heading)}</h2>\n{one.body}</section>'
        for one in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{text(title)}</h1>\n{head}\n<nav>{links}</nav>\n{body}\n{foot}</body></html>\n"
    )


def text(value: object) -> str:
    """Escape a value for HTML."""
    return html.escape(str(value))


def paragraphs(lines: Iterable[str | None], kind: str = "") -> str:
    """Render lines as paragraphs, without those that are empty."""
    attribute = f' class="{kind}"' if kind else ""
    return "".join(f"<p{attribute}>{text(line)}</p>" for line in lines if line)


def bullets(lines: Iterable[str], kind: str = "notes") -> str:
    """Render lines as a list."""
    return f'<ul class="{kind}">{"".join(f"<li>{text(line)}</li>" for line in lines)}</ul>'


def image(data: bytes, image_format: str, description: str) -> str:
    """Embed an image file."""
    encoded = base64.b64encode(data).decode("ascii")
    source = f"data:image/{image_format};base64,{encoded}"
    # On a phone the image stays legible and scrolls.
    return f'<div class="scroll"><img alt="{text(description)}" src="{source}"></div>'


def table(content: Table, kind: str = "") -> str:
    """Render a table; the lines above and below it are left out."""
    edges: set[int] = set()
    # The first column stays in view while the others scroll, so its cells span no other column.
    names = ["<th></th>"]
    headers: list[str] = []
    for name, group in content.groups:
        others = len(group) - (not headers)
        if headers:
            edges.add(len(headers))
        if others:
            shown = f"<span>{text(name.rstrip(','))}</span>"
            names.append(f'<th{_edge(bool(headers))} colspan="{others}">{shown}</th>')
        headers += group
    rows = ""
    for r, row in enumerate(content.rows):
        first_summary = content.summary_rows and r == len(content.rows) - content.summary_rows
        kind_of_row = ' class="first-summary"' if first_summary else ""
        rows += f"<tr{kind_of_row}>{_cells(row, 'td', edges)}</tr>"
    named = any(name for name, _ in content.groups)
    groups = f'<tr class="groups">{"".join(names)}</tr>' if named else ""
    head = f"{groups}<tr>{_cells(headers, 'th', edges)}</tr>"
    return _scroll(f"<thead>{head}</thead><tbody>{rows}</tbody>", kind)


def plain_table(header: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """Render rows of cells under one header; without a header if that is empty."""
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{_cells(header, 'th')}</tr></thead>" if header else ""
    return _scroll(f"{head}<tbody>{body}</tbody>", kind)


def settings_table(settings: Mapping[str, object]) -> str:
    """Render names and values; nested mappings are flattened with dots."""
    return plain_table((), _flat(settings), "words")


def folded(name: str, body: str) -> str:
    """Hide HTML until the reader asks for it."""
    return f"<details><summary>{text(name)}</summary>{body}</details>"


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _cells(cells: Sequence[object], tag: str, edges: Collection[int] = ()) -> str:
    """Render cells; the columns in `edges` begin a group."""
    return "".join(
        f"<{tag}{_edge(i in edges)}>{text(cell)}</{tag}>" for i, cell in enumerate(cells)
    )


def _edge(begins: bool) -> str:
    return ' class="edge"' if begins else ""


def _scroll(inner: str, kind: str) -> str:
    return f'<div class="scroll"><table class="{kind}">{inner}</table></div>'
