"""Two models on the same images, as columns of the AUC table and as CSV."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import DASH, Table, ends, interval_text, number
from agcnn_jax.evaluation.scoring.comparison import Difference
from agcnn_jax.metrics.auc_table import FEW_PATIENTS

NOTE = (
    "p: DeLong's paired test for images of the same patients (Obuchowski 1997) by the t "
    f"distribution, two-sided; {DASH} fewer than {FEW_PATIENTS} patients are positive, or as few "
    "negative. Intervals: 95 %, paired by patient, each for its finding alone. Of many findings, "
    "some intervals exclude 0 by chance; Holm's p allows for that."
)


def p_text(p: float | None) -> str:
    """Format a p value as medical journals do."""
    if p is not None and p < 0.001:
        return "< 0.001"
    return number(p)


def with_differences(table: Table, differences: Sequence[Difference]) -> Table:
    """Add the columns of first minus second to the table of two models' results."""
    cells = [
        (number(d.difference, sign="+"), interval_text(d.interval), p_text(d.p), p_text(d.holm))
        for d in differences
    ]
    cells += [("", "", "", "")] * (len(table.rows) - len(cells))
    return dataclasses.replace(
        table,
        groups=(*table.groups, ("first minus second", ("AUC", "95 % interval", "p", "p (Holm)"))),
        rows=tuple((*row, *more) for row, more in zip(table.rows, cells, strict=True)),
        below=(*table.below, NOTE),
    )


def comparison_csv(first: str, second: str, differences: Sequence[Difference]) -> str:
    """Write differences as CSV with full precision; cells are empty where one is not known."""
    return csv_text(
        ["finding", f"{first}_minus_{second}", "low", "high", "p", "p_holm"],
        ([d.name, d.difference, *ends(d.interval), d.p, d.holm] for d in differences),
    )
