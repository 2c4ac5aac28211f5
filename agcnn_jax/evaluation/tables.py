"""The AUC table, for the terminal, Markdown, and spreadsheets."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.evaluation.bootstrap import Interval
from agcnn_jax.evaluation.cohort import (
    FEW_PATIENTS,
    SYNTHETIC_NOTE,
    Cohort,
    headline,
    leakage,
)
from agcnn_jax.evaluation.metrics import BranchAUC, mean_auc, paired_difference
from agcnn_jax.evaluation.references import (
    PAPER_PROTOCOL,
    PublishedRow,
    published_row,
)

DASH = "–"
_GAP = 2


@dataclasses.dataclass(frozen=True)
class Table:
    """A table before it is rendered.

    Attributes:
        above: lines before the table.
        groups: column groups: a name ("" for the row names) and the headers of its columns.
        rows: cells, as many as there are columns in all groups; the first is the row's name.
        summary_rows: how many of the last rows summarise rather than being findings.
        below: lines after the table.
    """

    above: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[str, ...], ...]
    summary_rows: int
    below: tuple[str, ...]


def paper_rows(branches: Sequence[str], cohort: Cohort) -> dict[str, PublishedRow]:
    """The paper's row for each branch it reports; none for phantoms or an unknown backbone."""
    if cohort.synthetic or cohort.backbone is None:
        return {}
    rows = {branch: published_row(cohort.backbone, branch) for branch in branches}
    return {branch: row for branch, row in rows.items() if row is not None}


def paper_mean(scores: BranchAUC, row: PublishedRow) -> float | None:
    """The paper's mean over the findings that have an AUC here, so that like meets like."""
    return row.mean(tuple(f for f in scores.findings if f not in scores.missing))


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number with fixed digits, or an en dash where there is none."""
    return DASH if value is None else f"{value:{sign}z.{digits}f}"


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """An interval as "[low, high]", or an en dash."""
    return DASH if interval is None else f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def mean_name(scores: BranchAUC) -> str:
    """The name of the mean's row, which says over how many findings it is."""
    of = mean_auc({finding: scores.auc[finding] for finding in scores.findings})
    return f"Mean ({of.present} of {len(scores.findings)})"


def build_table(results: Mapping[str, BranchAUC], cohort: Cohort, digits: int = 3) -> Table:
    """The AUC table: findings by branches, the mean, and the labels that are not findings.

    Args:
        results: per branch, from `metrics.auc_table`.
        cohort: what was scored. Paper columns appear where the paper has that backbone and branch
            and the images are radiographs.
        digits: decimals of the AUCs.
    """
    papers = paper_rows(list(results), cohort)
    first = next(iter(results.values()))
    others = [label for label in first.auc if label not in first.findings]
    groups: list[tuple[str, tuple[str, ...]]] = [("", ("Finding", "Positives"))]
    rows = [[finding, f"{cohort.positives[finding]:,}"] for finding in first.findings]
    rows.append([mean_name(first), ""])
    rows += [[f"{label} (apart)", f"{cohort.positives[label]:,}"] for label in others]
    for branch, scores in results.items():
        values = [*((scores.auc[f], scores.intervals[f]) for f in scores.findings)]
        values += [(scores.mean, scores.mean_interval)]
        values += [(scores.auc[label], scores.intervals[label]) for label in others]
        header = ["AUC", "95 % interval"]
        if paper := papers.get(branch):
            header += ["paper", "diff"]
            published = [paper.auc.get(finding) for finding in scores.findings]
            published += [paper_mean(scores, paper), *(None for _ in others)]
        for i, (value, interval) in enumerate(values):
            rows[i] += [number(value, digits), interval_text(interval)]
            if paper:
                theirs = published[i]
                delta = None if value is None or theirs is None else value - theirs
                rows[i] += [number(theirs), number(delta, sign="+")]
        groups.append((branch, tuple(header)))
    synthetic = (SYNTHETIC_NOTE,) if cohort.synthetic else ()
    return Table(
        above=(*synthetic, headline(cohort)),
        groups=tuple(groups),
        rows=tuple(map(tuple, rows)),
        summary_rows=1 + len(others),
        below=(*notes(results, cohort), *synthetic),
    )


def notes(results: Mapping[str, BranchAUC], cohort: Cohort) -> tuple[str, ...]:
    """What to know when reading the table: leakage, gaps, intervals, what the paper measured."""
    lines = [leakage(cohort)]
    first = next(iter(results.values()))
    if first.missing:
        lines.append(
            f"{DASH} no AUC, for want of a positive or a negative image: "
            f"{', '.join(first.missing)}. Missing ones are left out of the mean."
        )
    few = [f for f in first.findings if f not in first.missing and f in cohort.rare]
    lines.append("Intervals: 95 %, bootstrap over patients.")
    if few:
        lines.append(
            f"Fewer than {FEW_PATIENTS} positive patients, rough at best: {', '.join(few)}."
        )
    if "global" in results and "fusion" in results:
        paired = paired_difference(results["fusion"], results["global"])
        if paired is not None:
            lines.append(
                f"Mean of fusion minus global: {number(paired[0], sign='+')} "
                f"{interval_text(paired[1])}, paired by patient."
            )
    if paper_rows(list(results), cohort):
        lines.append("Paper: Guan et al. 2018, Table I (arXiv:1801.09927), random 70/10/20 split.")
        if cohort.protocol != PAPER_PROTOCOL:
            lines.append(
                f"The {cohort.protocol} protocol is not the paper's: "
                "differences are also differences between the splits."
            )
    return tuple(line for line in lines if line)


def as_text(table: Table, width: int = 120) -> str:
    """The table for a terminal; column groups that do not fit in `width` go below one another."""
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

    over = gap.join(name.center(_width([(name, group)], widths), " ") for name, group in block)
    rule = gap.join("-" * _width([(name, group)], widths) for name, group in block)
    body = [line(row) for row in table.rows]
    body.insert(len(body) - table.summary_rows, rule)
    return "\n".join([over.rstrip(), line(headers), rule, *body])


def as_markdown(table: Table) -> str:
    """The table as GitHub Markdown, notes as paragraphs."""
    headers = [f"{name} {header}".strip() for name, group in table.groups for header in group]
    first_summary = len(table.rows) - table.summary_rows
    lines = [f"| {' | '.join(headers)} |", "| --- " + "| ---: " * (len(headers) - 1) + "|"]
    for i, row in enumerate(table.rows):
        bold = [f"**{cell}**" if cell and i == first_summary else cell for cell in row]
        lines.append(f"| {' | '.join(bold)} |")
    return "\n\n".join([*table.above, "\n".join(lines), *table.below]) + "\n"


def as_csv(results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """The table with full precision: one row a finding, then the mean; empty where missing."""
    papers = paper_rows(list(results), cohort)
    first = next(iter(results.values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["finding", "positives"]
    for branch in results:
        header += [f"{branch}_{column}" for column in ("auc", "low", "high")]
        header += [f"{branch}_{column}" for column in ("paper", "difference") if branch in papers]
    writer.writerow(header)
    for label in [*first.findings, None, *(x for x in first.auc if x not in first.findings)]:
        row: list[Any] = (
            [mean_name(first), ""] if label is None else [label, cohort.positives[label]]
        )
        for branch, scores in results.items():
            value = scores.mean if label is None else scores.auc[label]
            interval = scores.mean_interval if label is None else scores.intervals[label]
            row += [value, *(interval or (None, None))]
            if paper := papers.get(branch):
                theirs = paper_mean(scores, paper) if label is None else paper.auc.get(label)
                delta = None if value is None or theirs is None else value - theirs
                row += [theirs, delta]
        writer.writerow(row)
    return text.getvalue()
