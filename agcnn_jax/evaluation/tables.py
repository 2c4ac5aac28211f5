"""The AUC table, for the terminal, Markdown, and spreadsheets."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.evaluation.cohort import SYNTHETIC_NOTE, Cohort, headline, leakage
from agcnn_jax.evaluation.references import Comparison, PublishedRow, compare
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC, Mean, paired_difference
from agcnn_jax.metrics.bootstrap import Interval

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


def paper(branches: Sequence[str], cohort: Cohort) -> Comparison:
    """What the paper has to compare with; nothing, without a word, for phantoms and predictions."""
    if cohort.synthetic or cohort.backbone is None:
        return Comparison({}, "", "")
    if cohort.overlap is not None and cohort.overlap.images:
        return Comparison({}, "", "these images were trained on")
    return compare(cohort.backbone, cohort.setting, cohort.split, cohort.protocol, branches)


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """A number with fixed digits, or an en dash where there is none."""
    return DASH if value is None else f"{value:{sign}z.{digits}f}"


def interval_text(interval: Interval | None, digits: int = 3) -> str:
    """An interval as "[low, high]", or an en dash."""
    return DASH if interval is None else f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def mean_name(scores: BranchAUC) -> str:
    """The name of the mean's row, which says over how many findings it is."""
    return f"Mean ({len(scores.mean.findings)} of {len(scores.findings)})"


def mean_rows(results: Mapping[str, BranchAUC]) -> list[tuple[str, dict[str, Mean]]]:
    """The rows of means: name, and the mean of each branch.

    The second, over the findings that enough patients have, is there where it is another mean.
    """
    first = next(iter(results.values()))
    rows = [(mean_name(first), {branch: one.mean for branch, one in results.items()})]
    frequent = first.frequent_mean.findings
    if 0 < len(frequent) < len(first.mean.findings):
        name = f"Mean, {FEW_PATIENTS}+ patients ({len(frequent)} of {len(first.findings)})"
        rows.append((name, {branch: one.frequent_mean for branch, one in results.items()}))
    return rows


Row = tuple[float | None, Interval | None, float | None]
"""An AUC, its interval, and what the paper reports."""


def branch_rows(
    results: Mapping[str, BranchAUC], branch: str, published: PublishedRow | None
) -> list[Row]:
    """A branch's rows: findings, means, and the labels that are not findings."""
    scores = results[branch]

    def of_label(label: str) -> Row:
        theirs = published.auc.get(label) if published else None
        return scores.auc[label], scores.intervals[label], theirs

    def of_mean(mean: Mean) -> Row:
        # Over the findings that have an AUC here, so that like meets like.
        return mean.value, mean.interval, published.mean(mean.findings) if published else None

    return [
        *(of_label(finding) for finding in scores.findings),
        *(of_mean(means[branch]) for _, means in mean_rows(results)),
        *(of_label(label) for label in scores.auc if label not in scores.findings),
    ]


def build_table(results: Mapping[str, BranchAUC], cohort: Cohort, digits: int = 3) -> Table:
    """The AUC table: findings by branches, means, and the labels that are not findings.

    Args:
        results: per branch, from `metrics.auc_table`.
        cohort: what was scored. Paper columns appear where the paper has a run of this setting
            and the images are radiographs.
        digits: decimals of the AUCs.
    """
    papers = paper(list(results), cohort).rows
    first = next(iter(results.values()))
    others = [label for label in first.auc if label not in first.findings]
    means = mean_rows(results)
    groups: list[tuple[str, tuple[str, ...]]] = [("", ("Finding", "Positives"))]
    rows = [[finding, f"{cohort.positives[finding]:,}"] for finding in first.findings]
    rows += [[name, ""] for name, _ in means]
    rows += [[f"{label} (apart)", f"{cohort.positives[label]:,}"] for label in others]
    for branch in results:
        published = papers.get(branch)
        header = ["AUC", "95 % interval", *(["paper", "diff"] if published else [])]
        of_branch = branch_rows(results, branch, published)
        for row, (value, interval, theirs) in zip(rows, of_branch, strict=True):
            row += [number(value, digits), interval_text(interval)]
            if published:
                delta = None if value is None or theirs is None else value - theirs
                row += [number(theirs), number(delta, sign="+")]
        groups.append((branch, tuple(header)))
    synthetic = (SYNTHETIC_NOTE,) if cohort.synthetic else ()
    return Table(
        above=(*synthetic, headline(cohort)),
        groups=tuple(groups),
        rows=tuple(map(tuple, rows)),
        summary_rows=len(means) + len(others),
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
    means = mean_rows(results)
    lines.append(
        "Intervals: 95 %, over patients: of findings by bootstrap, of means and differences from "
        "each patient's influence (clustered DeLong)."
    )
    few = [f for f in first.mean.findings if f not in first.frequent_mean.findings]
    if few:
        row = f"the row {means[0][0]!r}" + (", not the one below it," if len(means) > 1 else "")
        lines.append(
            f"Fewer than {FEW_PATIENTS} positive patients, rough at best: {', '.join(few)}; "
            f"{row} rests on them too."
        )
    for name, difference, interval in differences(results):
        lines.append(
            f"{name}, fusion minus global: {number(difference, sign='+')} "
            f"{interval_text(interval)}, paired by patient."
        )
    comparison = paper(list(results), cohort)
    if comparison.rows:
        only = "" if comparison.place == "Table I" else ", which has means only"
        lines.append(
            f"Paper: Guan et al. 2018 (arXiv:1801.09927), {comparison.place}{only}; random "
            "70/10/20 split."
        )
    elif comparison.why_not:
        lines.append(f"No numbers of the paper beside these: {comparison.why_not}.")
    return tuple(line for line in lines if line)


def differences(
    results: Mapping[str, BranchAUC],
) -> list[tuple[str, float, Interval | None]]:
    """For each row of means: its name, the mean of fusion minus global, and the interval."""
    if not {"global", "fusion"} <= set(results):
        return []
    found = []
    for name, means in mean_rows(results):
        paired = paired_difference(means["fusion"], means["global"])
        if paired is not None:
            found.append((name, *paired))
    return found


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
    """The table with full precision: one row a finding, then means; empty where missing."""
    papers = paper(list(results), cohort).rows
    first = next(iter(results.values()))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["finding", "positives"]
    for branch in results:
        header += [f"{branch}_{column}" for column in ("auc", "low", "high")]
        header += [f"{branch}_{column}" for column in ("paper", "difference") if branch in papers]
    writer.writerow(header)
    rows: list[list[Any]] = [[finding, cohort.positives[finding]] for finding in first.findings]
    rows += [[name, ""] for name, _ in mean_rows(results)]
    rows += [[x, cohort.positives[x]] for x in first.auc if x not in first.findings]
    for branch in results:
        of_branch = branch_rows(results, branch, papers.get(branch))
        for row, (value, interval, theirs) in zip(rows, of_branch, strict=True):
            row += [value, *(interval or (None, None))]
            if branch in papers:
                row += [theirs, None if value is None or theirs is None else value - theirs]
    writer.writerows(rows)
    return text.getvalue()
