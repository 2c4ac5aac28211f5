"""The report: a self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from agcnn_jax.evaluation.cohort import SYNTHETIC_NOTE, Cohort, headline, leakage
from agcnn_jax.evaluation.references import PAPER_SPLIT, published_rows
from agcnn_jax.evaluation.tables import Table, interval_text, number, paper
from agcnn_jax.metrics.auc_table import BranchAUC

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --page: #fff; --line: #ccc; --soft: #f3f5f7;
  --faint: #5a6470; --warn: #fff3cd; --warn-ink: #5c4300; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --page: #16191d; --line: #444b54;
  --soft: #20252b; --faint: #a5afba; --warn: #4a3a05; --warn-ink: #ffe9a8; } }
body { margin: 0 auto; max-width: 80rem; padding: 1rem 1.25rem 3rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.summary { font-size: 1.1rem; }
.warn { background: var(--warn); color: var(--warn-ink); padding: .6rem .9rem; border-radius: 6px;
  font-weight: 600; max-width: none; }
.notes { color: var(--faint); font-size: .9rem; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0;
  background: var(--page); }
thead th { border-bottom: 1px solid var(--line); font-weight: 600; }
thead tr:first-child th { text-align: center; border-bottom: 0; }
tbody tr:hover td { background: var(--soft); }
tr.first-summary td { border-top: 1px solid var(--line); font-weight: 600; }
.edge { border-left: 1px solid var(--line); }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.settings td:first-child { white-space: nowrap; }
img { width: 100%; max-width: 66rem; height: auto; background: #fff; border-radius: 6px;
  display: block; }
@media (max-width: 40rem) { img { width: 48rem; max-width: none; }
  .auc th:nth-child(2), .auc td:nth-child(2) { display: none; } }
"""


def render_report(
    table: Table,
    cohort: Cohort,
    results: Mapping[str, BranchAUC],
    roc_png: bytes,
    films_jpeg: bytes | None,
    settings: Mapping[str, Any],
) -> str:
    """Render the page as HTML; images are embedded and nothing is fetched.

    Args:
        table: from `tables.build_table`.
        cohort: the scored images.
        results: per branch, its AUCs.
        roc_png: the ROC figure, a PNG file.
        films_jpeg: the films, a JPEG file; None omits their section.
        settings: names and values of the run's settings; nested mappings are flattened with dots.
    """
    backbone = f" with {cohort.backbone}" if cohort.backbone else ""
    title = f"AG-CNN{backbone}: {cohort.split} split"
    warning = f'<p class="warn">{_text(SYNTHETIC_NOTE)}</p>' if cohort.synthetic else ""
    sections = [
        warning,
        f'<p class="summary">{_text(summary(results, cohort))}</p>',
        "<h2>AUC per finding</h2>",
        _auc_table(table),
        _list(line for line in table.below if line != SYNTHETIC_NOTE),
        "<h2>ROC curves</h2>",
        _image(roc_png, "png", "ROC curves of each branch, one panel per finding"),
    ]
    if films_jpeg is not None:
        sections += [
            "<h2>Attention</h2>",
            "<p>Left: the film with the box that the local branch reads (blue) and any annotated "
            "boxes (yellow, dashed). Middle: the heat map. Right: the crop.</p>",
            _image(films_jpeg, "jpeg", "Films, heat maps, boxes and crops"),
        ]
    sections += ["<h2>Data</h2>", _data(cohort), _prevalence(cohort)]
    if not cohort.synthetic and cohort.split == PAPER_SPLIT:
        sections += [
            "<h2>Published means</h2>",
            "<p>Each mean comes from the split and method of its row, not from this run's.</p>",
            _published(),
        ]
    sections += ["<h2>Settings of the run</h2>", _settings(settings), warning]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{_text(title)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def summary(results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """State the last branch's mean AUC, its interval, and the paper's mean in a sentence or two."""
    branch, scores = list(results.items())[-1]
    images = f"{cohort.images:,} images of {cohort.patients:,} patients"
    if scores.mean.value is None:
        return f"There is no AUC: no finding is both present and absent in these {images}."
    text = (
        f"The {branch} branch reaches a mean AUC of {number(scores.mean.value)} "
        f"{interval_text(scores.mean.interval) + ' ' if scores.mean.interval else ''}over "
        f"{len(scores.mean.findings)} of {len(scores.findings)} findings, "
        f"on {images}."
    )
    row = paper([branch], cohort).rows.get(branch)
    theirs = row.mean(scores.mean.findings) if row else None
    if theirs is not None:
        text += f" The paper reports {number(theirs)} on its own random split."
    return text


def _text(value: object) -> str:
    return html.escape(str(value))


def _list(lines: Iterable[str]) -> str:
    return f'<ul class="notes">{"".join(f"<li>{_text(line)}</li>" for line in lines)}</ul>'


def _image(data: bytes, image_format: str, description: str) -> str:
    encoded = base64.b64encode(data).decode("ascii")
    source = f"data:image/{image_format};base64,{encoded}"
    # On a phone the image stays legible and scrolls.
    return f'<div class="scroll"><img alt="{_text(description)}" src="{source}"></div>'


def _auc_table(table: Table) -> str:
    edges: set[int] = set()
    names: list[str] = []
    headers: list[str] = []
    for name, group in table.groups:
        if headers:
            edges.add(len(headers))
            names.append(f'<th class="edge" colspan="{len(group)}">{_text(name)}</th>')
        else:
            names += ["<th></th>"] * len(group)
        headers += group
    rows = ""
    for r, row in enumerate(table.rows):
        first_summary = r == len(table.rows) - table.summary_rows
        kind = ' class="first-summary"' if first_summary else ""
        rows += f"<tr{kind}>{_cells(row, 'td', edges)}</tr>"
    head = f"<tr>{''.join(names)}</tr><tr>{_cells(headers, 'th', edges)}</tr>"
    return _scroll(f"<thead>{head}</thead><tbody>{rows}</tbody>", "auc")


def _cells(cells: Sequence[object], tag: str, edges: Collection[int] = ()) -> str:
    """Render cells; the columns in `edges` begin a group."""
    edge = ' class="edge"'
    return "".join(
        f"<{tag}{edge if i in edges else ''}>{_text(cell)}</{tag}>" for i, cell in enumerate(cells)
    )


def _scroll(inner: str, kind: str = "") -> str:
    return f'<div class="scroll"><table class="{kind}">{inner}</table></div>'


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    body = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    # The style centres the first row, which holds the names of column groups elsewhere.
    return _scroll(f"<thead><tr></tr><tr>{_cells(header, 'th')}</tr></thead><tbody>{body}</tbody>")


def _data(cohort: Cohort) -> str:
    lines = [headline(cohort), leakage(cohort)]
    if not cohort.synthetic:
        lines.append(
            "A program extracted the labels from radiology reports, not from the images; an AUC "
            "measures agreement with those labels."
        )
    return "".join(f"<p>{_text(line)}</p>" for line in lines if line)


def _prevalence(cohort: Cohort) -> str:
    rows = [
        (
            label,
            f"{count:,}",
            f"{100 * count / cohort.images:.1f} %",
            f"{cohort.positive_patients[label]:,}",
        )
        for label, count in cohort.positives.items()
    ]
    return _plain_table(("Label", "Images", "Prevalence", "Patients"), rows)


def _published() -> str:
    rows = []
    for row in published_rows():
        mean = row.mean(tuple(row.auc))
        printed = number(mean) + ("" if row.mean_reported is not None else " (computed)")
        rows.append((row.method, row.backbone, row.branch, row.split, printed))
    return _plain_table(("Method", "Backbone", "Branch", "Split", "Mean AUC"), rows)


def _settings(settings: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr>{_cells(item, 'td')}</tr>" for item in _flat(settings).items())
    return _scroll(f"<tbody>{rows}</tbody>", "settings")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
