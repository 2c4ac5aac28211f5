"""Tables before and after they are rendered: as text, Markdown and CSV."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from agcnn_jax.metrics.interval import Estimate, Interval

DASH = "–"
# Rounding errors of AUCs are about 1e-16.
_NO_WIDTH = 1e-12
_GAP = 2


@dataclasses.dataclass(frozen=True)
class Table:
    """A table before it is rendered.

    Attributes:
        groups: column groups: a name ("" for the row names) and the headers of its columns.
        rows: one cell per column of all groups; the first is the row's name.
        summary_rows: number of last rows that are not findings.
        above: lines before the table.
        below: lines after the table.
    """

    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]
    summary_rows: int = 0
    above: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


def plain_name(finding: str) -> str:
    """Return a finding's name as prose writes it."""
    return finding.replace("_", " ")


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Format a number with fixed digits, or None as an en dash."""
    return DASH if value is None else f"{value:{sign}z.{digits}f}"


def probability_text(value: float) -> str:
    """Format a probability with four digits that count, and with more if those would say 1."""
    text = f"{value:.4g}"
    return f"{value:.10g}" if text == "1" else text


def share_text(value: float | None) -> str:
    """Format a share as a percentage, or None as an en dash."""
    return DASH if value is None else f"{100 * value:.1f} %"


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """Format an interval as "[low, high]"; None, or one without a width, as an en dash."""
    # Where nothing varies, no uncertainty is seen, which does not mean that there is none.
    if interval is None or interval.high - interval.low < _NO_WIDTH:
        return DASH
    return f"[{number(interval.low, digits)}, {number(interval.high, digits)}]"


def as_text(table: Table, width: int = 120) -> str:
    """Format the table for a terminal; column groups that exceed `width` are stacked."""
    columns = list(zip(*table.rows, strict=True))
    headers = [header for _, group in table.groups for header in group]
    widths = [max(map(len, (h, *c))) for h, c in zip(headers, columns, strict=True)]
    groups: collections.deque[tuple[str, range]] = collections.deque()
    start = 0
    for name, group in table.groups:
        groups.append((name, range(start, start + len(group))))
        start += len(group)
    names = groups.popleft()
    blocks = []
    while groups:
        block = [names, groups.popleft()]
        while groups and _width([*block, groups[0]], widths) <= width:
            block.append(groups.popleft())
        blocks.append(_text_block(block, widths, headers, table))
    return "\n".join([*table.above, "", "\n\n".join(blocks), "", *table.below])


def _width(block: Sequence[tuple[str, range]], widths: Sequence[int]) -> int:
    return sum(widths[i] + _GAP for _, group in block for i in group) - _GAP


def _text_block(
    block: Sequence[tuple[str, range]], widths: Sequence[int], headers: Sequence[str], table: Table
) -> str:
    gap = " " * _GAP

    def line(cells: Sequence[str]) -> str:
        parts = [
            cells[i].ljust(widths[i]) if i == 0 else cells[i].rjust(widths[i])
            for _, group in block
            for i in group
        ]
        return gap.join(parts).rstrip()

    group_widths = [_width([group], widths) for group in block]
    names = gap.join(name.center(n) for (name, _), n in zip(block, group_widths, strict=True))
    rule = gap.join("-" * n for n in group_widths)
    body = [line(row) for row in table.rows]
    if table.summary_rows:
        body.insert(len(body) - table.summary_rows, rule)
    return "\n".join([names.rstrip(), line(headers), rule, *body])


def as_markdown(table: Table) -> str:
    """Format the table as GitHub Markdown, notes as paragraphs."""
    headers = [f"{name} {header}".strip() for name, group in table.groups for header in group]
    first_summary = len(table.rows) - table.summary_rows
    lines = [f"| {' | '.join(headers)} |", "| --- " + "| ---: " * (len(headers) - 1) + "|"]
    for i, row in enumerate(table.rows):
        bold = [f"**{cell}**" if cell and i == first_summary else cell for cell in row]
        lines.append(f"| {' | '.join(bold)} |")
    return "\n\n".join([*table.above, "\n".join(lines), *table.below]) + "\n"


def estimate_text(estimate: Estimate, digits: int = 3, sign: str = "") -> str:
    """Format a value with its interval; a value that is not known as an en dash."""
    if estimate.value is None:
        return DASH
    return f"{number(estimate.value, digits, sign)} {interval_text(estimate.interval, digits)}"


def ends(interval: Interval | None) -> tuple[float | None, float | None]:
    """Return an interval's ends as two cells of a CSV file."""
    return (interval.low, interval.high) if interval else (None, None)


def json_text(record: Any) -> str:
    """Write JSON, a line for each value; `ValueError` for NaN and infinity."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
