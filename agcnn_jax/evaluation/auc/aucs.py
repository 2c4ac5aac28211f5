"""The AUC table: its cells, its notes, and its values as CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agcnn_jax.data.patients import CHESTXRAY14
from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.auc.comparison import with_differences
from agcnn_jax.evaluation.files.table import DASH, Table, ends, interval_text, number
from agcnn_jax.evaluation.scoring.cohort import (
    MISSING_NOTE,
    SYNTHETIC_NOTE,
    Cohort,
    headline,
    leakage,
)
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.localisation import note
from agcnn_jax.evaluation.scoring.measures import NO_MEASURES, thresholds_note
from agcnn_jax.evaluation.scoring.references import (
    Comparison,
    PublishedRow,
    compare,
    load_published,
    published_on,
)
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC, Mean, paired_difference
from agcnn_jax.metrics.interval import Interval


def paper(branches: Sequence[str], cohort: Cohort) -> Comparison:
    """Find the paper's numbers to compare with, or the reason why there are none.

    Phantoms and predictions of unknown models get neither.
    """
    if cohort.synthetic or cohort.backbone is None:
        return Comparison({}, "", "")
    if cohort.collection != CHESTXRAY14:
        return Comparison({}, "", f"its images are {CHESTXRAY14}'s")
    if cohort.overlap is not None and cohort.overlap.images:
        return Comparison({}, "", "these images were trained on")
    if cohort.crops == "ten":
        return Comparison(
            {}, "", "it scores the centre of each image, these are means of ten crops"
        )
    return compare(cohort.backbone, cohort.setting, cohort.split, cohort.protocol, branches)


def published(cohort: Cohort) -> tuple[list[PublishedRow], str]:
    """Find other methods' results on the scored split, and a caution; see `published_on`.

    Nothing stands beside images of another collection, or that were trained on.
    """
    trained_on = cohort.overlap is not None and cohort.overlap.images
    other = cohort.collection != CHESTXRAY14
    if cohort.synthetic or trained_on or other:
        return [], ""
    return published_on(cohort.split, cohort.protocol, cohort.images_digest)


def mean_name(scores: BranchAUC) -> str:
    """Name the row of the mean by the number of findings it covers."""
    return f"Mean ({len(scores.mean.findings)} of {len(scores.findings)})"


def mean_rows(results: Mapping[str, BranchAUC]) -> list[tuple[str, dict[str, Mean]]]:
    """List the rows of means: the name, and the mean of each branch.

    A second row, over the findings that enough patients have, is added if it differs.
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
    """List a branch's rows: findings, means, and labels that are not findings."""
    scores = results[branch]

    def of_label(label: str) -> Row:
        theirs = published.auc.get(label) if published else None
        return scores.auc[label], scores.intervals[label], theirs

    def of_mean(mean: Mean) -> Row:
        # Over the findings that have an AUC here, so that both means cover the same findings.
        return mean.value, mean.interval, published.mean(mean.findings) if published else None

    return [
        *(of_label(finding) for finding in scores.findings),
        *(of_mean(means[branch]) for _, means in mean_rows(results)),
        *(of_label(label) for label in scores.auc if label not in scores.findings),
    ]


def aucs_table(evaluation: Evaluation) -> Table:
    """Build the AUC table with all its notes; for two files, with their differences too."""
    table = build_table(evaluation.results, evaluation.cohort, evaluation.digits)
    above = list(evaluation.notes)
    if evaluation.agreement:
        above.append("Against radiologists, all sets pooled; agreement.csv has each set apart.")
    if evaluation.localisation is not None:
        above.append(note(evaluation.localisation))
    measures = evaluation.measures
    below = [thresholds_note(measures)] if measures is not NO_MEASURES else []
    table = dataclasses.replace(table, below=(*above, *table.below, *below))
    return with_differences(table, evaluation.differences) if evaluation.compared else table


def build_table(results: Mapping[str, BranchAUC], cohort: Cohort, digits: int = 3) -> Table:
    """Build the table: findings by branches, means, and labels that are not findings.

    Args:
        results: per branch, from `metrics.auc_table`.
        cohort: the scored images. Paper columns appear if the images are radiographs and the
            paper has a run of this setting.
        digits: decimals of the AUCs.
    """
    papers = paper(list(results), cohort).rows
    first = next(iter(results.values()))
    others = [label for label in first.auc if label not in first.findings]
    means = mean_rows(results)
    counts = tuple(name.capitalize() for name in cohort.count_names)
    groups: list[tuple[str, tuple[str, ...]]] = [("", ("Finding", *counts))]
    rows = [[finding, *_counts(finding, cohort)] for finding in first.findings]
    rows += [[name, *("" for _ in cohort.count_names)] for name, _ in means]
    rows += [[f"{label} (apart)", *_counts(label, cohort)] for label in others]
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


def _counts(label: str, cohort: Cohort) -> list[str]:
    return [f"{count:,}" for count in cohort.counts(label)]


def notes(results: Mapping[str, BranchAUC], cohort: Cohort) -> tuple[str, ...]:
    """Write the notes of the table: leakage, missing AUCs, intervals and the paper's setting."""
    lines = [leakage(cohort)]
    if cohort.crops == "ten":
        lines.append(
            "Probabilities are averaged over ten crops of each image: its centre, its corners, and "
            "their mirror images."
        )
    if cohort.missing:
        lines.append(MISSING_NOTE)
    first = next(iter(results.values()))
    unknown = [finding for finding in first.missing if not cohort.known(finding)]
    one_sided = [finding for finding in first.missing if cohort.known(finding)]
    for why, names in (
        ("no image is positive or none is negative", one_sided),
        ("the label is missing in all images", unknown),
    ):
        if names:
            lines.append(
                f"{DASH} no AUC, since {why}: {', '.join(names)}. The mean leaves them out."
            )
    means = mean_rows(results)
    lines.append(
        "Intervals: 95 %, from each patient's influence (clustered DeLong), each for its row "
        "alone; a finding's own holds the AUCs that a score test does not reject, with Hanley and "
        "McNeil's variance mixed in. "
        f"{DASH} nothing varies, or fewer than two patients are positive or negative."
    )
    few = [f for f in first.mean.findings if f not in first.frequent_mean.findings]
    if few:
        row = f"the row {means[0][0]!r}" + (", not the one below it," if len(means) > 1 else "")
        lines.append(
            f"Fewer than {FEW_PATIENTS} positive patients, so rough at best: {', '.join(few)}; "
            f"{row} includes them."
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
        lines.append(f"Not compared with the paper: {comparison.why_not}.")
    lines.append(published_means(cohort))
    return tuple(line for line in lines if line)


def published_means(cohort: Cohort) -> str | None:
    """List other methods' mean AUCs on the scored split, with their sources; None without any."""
    rows, caution = published(cohort)
    if not rows:
        return None
    findings = tuple(load_published()["findings"])
    methods = [
        f"{row.method}, {row.backbone}{_of_branch(row)} {number(row.mean(findings))}"
        for row in rows
    ]
    sources = "; ".join(dict.fromkeys(row.source for row in rows))
    caution = f" {caution}." if caution else ""
    means = "; ".join(methods)
    return f"Published means on this split ({rows[0].split}): {means}. {sources}.{caution}"


def _of_branch(row: PublishedRow) -> str:
    return "" if row.branch == "classification" else f" ({row.branch})"


def differences(
    results: Mapping[str, BranchAUC],
) -> list[tuple[str, float, Interval | None]]:
    """List fusion minus global for each row of means: its name, the mean, and the interval."""
    if not {"global", "fusion"} <= set(results):
        return []
    rows = []
    for name, means in mean_rows(results):
        paired = paired_difference(means["fusion"], means["global"])
        if paired is not None:
            rows.append((name, *paired))
    return rows


def aucs_csv(results: Mapping[str, BranchAUC], cohort: Cohort) -> str:
    """Write the table as CSV with full precision; cells are empty where an AUC is missing."""
    papers = paper(list(results), cohort).rows
    first = next(iter(results.values()))
    header = ["finding", *cohort.count_names]
    for branch in results:
        header += [f"{branch}_{column}" for column in ("auc", "low", "high")]
        header += [f"{branch}_{column}" for column in ("paper", "difference") if branch in papers]
    rows: list[list[Any]] = [[finding, *cohort.counts(finding)] for finding in first.findings]
    rows += [[name, *("" for _ in cohort.count_names)] for name, _ in mean_rows(results)]
    rows += [[x, *cohort.counts(x)] for x in first.auc if x not in first.findings]
    for branch in results:
        of_branch = branch_rows(results, branch, papers.get(branch))
        for row, (value, interval, theirs) in zip(rows, of_branch, strict=True):
            row += [value, *ends(interval)]
            if branch in papers:
                row += [theirs, None if value is None or theirs is None else value - theirs]
    return csv_text(header, rows)
