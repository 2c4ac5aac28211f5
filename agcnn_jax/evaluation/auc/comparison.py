"""Two models on the same images: each finding's difference, tested, and the mean's."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import NamedTuple

from agcnn_jax.evaluation.auc.tables import DASH, Table, interval_text, number
from agcnn_jax.metrics.auc_table import FEW_PATIENTS, BranchAUC, Mean, paired_difference
from agcnn_jax.metrics.influence import Influence, difference_interval
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.metrics.paired_test import holm, paired_test

NOTE = (
    "p: DeLong's paired test for images of the same patients (Obuchowski 1997) by the t "
    f"distribution, two-sided; {DASH} fewer than {FEW_PATIENTS} patients are positive, or as few "
    "negative. Intervals: 95 %, paired by patient, each for its finding alone. Of many findings, "
    "some intervals exclude 0 by chance; Holm's p allows for that."
)


class Difference(NamedTuple):
    """One model's AUC minus another's, with its interval and p value; None where not known."""

    name: str
    difference: float | None
    interval: Interval | None
    p: float | None = None
    holm: float | None = None


def compare_models(first: BranchAUC, second: BranchAUC) -> list[Difference]:
    """Compare two results of one `auc_table` call, finding by finding, and their means.

    Returns:
        First minus second: the findings in their order, then the mean over those with an AUC.
    """
    tested = {}
    for i, finding in enumerate(first.mean.findings):
        influence = _of_finding(first.mean, i).minus(_of_finding(second.mean, i))
        difference = (first.auc[finding] or 0.0) - (second.auc[finding] or 0.0)
        tested[finding] = influence, paired_test(difference, influence)
    adjusted = dict(zip(tested, holm([test.p for _, test in tested.values()]), strict=True))
    rows = []
    for finding in first.findings:
        if finding not in tested:
            rows.append(Difference(finding, None, None))
            continue
        influence, test = tested[finding]
        interval = difference_interval(test.difference, influence)
        rows.append(Difference(finding, test.difference, interval, test.p, adjusted[finding]))
    if (mean := paired_difference(first.mean, second.mean)) is not None:
        rows.append(Difference("Mean", *mean))
    return rows


def _of_finding(mean: Mean, i: int) -> Influence:
    values, weights = mean.influence
    return Influence(values[:, i : i + 1], weights[:, i : i + 1])


def p_text(p: float | None) -> str:
    """Format a p value as medical journals do."""
    if p is not None and p < 0.001:
        return "< 0.001"
    return number(p)


def with_differences(table: Table, results: Mapping[str, BranchAUC]) -> Table:
    """Add the columns of first minus second to the table of two models' results."""
    first, second = results
    differences = compare_models(results[first], results[second])
    cells = [
        (number(d.difference, sign="+"), interval_text(d.interval), p_text(d.p), p_text(d.holm))
        for d in differences
    ]
    cells += [("", "", "", "")] * (len(table.rows) - len(cells))
    return Table(
        above=table.above,
        groups=(*table.groups, ("first minus second", ("AUC", "95 % interval", "p", "p (Holm)"))),
        rows=tuple((*row, *more) for row, more in zip(table.rows, cells, strict=True)),
        summary_rows=table.summary_rows,
        below=(*table.below, NOTE),
    )


def as_csv(first: str, second: str, differences: list[Difference]) -> str:
    """Write differences as CSV with full precision; cells are empty where one is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["finding", f"{first}_minus_{second}", "low", "high", "p", "p_holm"])
    for name, difference, interval, p, adjusted in differences:
        writer.writerow([name, difference, *(interval or (None, None)), p, adjusted])
    return text.getvalue()
