"""The AUC table as text for the terminal and as Markdown."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from agcnn_jax.evaluation.auc.tables import Table

_GAP = 2


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
