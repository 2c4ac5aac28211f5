"""The agreement of predictions, NIH's labels and radiologists as a table and as CSV."""

from __future__ import annotations

import csv
import io
from typing import NamedTuple

from agcnn_jax.evaluation.auc.tables import Table, interval_text, number
from agcnn_jax.evaluation.scoring.radiologists import FINDINGS, POOLED, Agreement
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.operating_points import Share

NOTES = (
    "A finding's probability is the largest of the labels of ChestX-ray14 that it covers; Fracture "
    "has none. Sensitivity and PPV (positive predictive value) are those of NIH's labels, with the "
    "radiologists' as the truth.",
    "Intervals: 95 %, over patients; of an AUC as in the table of AUCs, of sensitivity and PPV "
    "Wilson's for clustered observations. "
    "The images were selected for reading, so PPV is not that of the whole data set, and each set "
    "was selected differently: pooled rows mix their prevalences. The images of the set 'val' are "
    "in NIH's train_val list.",
)


class Agreed(NamedTuple):
    """All agreements, for a reader and as CSV."""

    table: Table
    csv: str


def agreement_table(
    rows: list[Agreement], above: tuple[str, ...], below: tuple[str, ...], digits: int = 3
) -> Table:
    """Build the table, with lines above and below it."""

    def cells(share: Share) -> tuple[str, str]:
        return number(share.value, digits), interval_text(share.interval)

    def cell(share: Share) -> str:
        interval = f" {interval_text(share.interval, 2)}" if share.interval else ""
        return f"{number(share.value, 2)}{interval}"

    lines = [
        (
            f"{row.finding}, {row.subset}",
            f"{row.images:,}",
            f"{row.positives:,}",
            *cells(row.radiologists),
            *cells(row.nih),
            cell(row.sensitivity),
            cell(row.ppv),
        )
        for row in rows
    ]
    few = [
        name
        for (name, *_), row in zip(lines, rows, strict=True)
        if row.radiologists.value is not None and row.positive_patients < FEW_PATIENTS
    ]
    rough = f"Fewer than {FEW_PATIENTS} positive patients, so rough at best: {'; '.join(few)}."
    pair = ("AUC", "95 % interval")
    return Table(
        above=above,
        groups=(
            ("", ("Finding, set", "Images", "Positives")),
            ("against radiologists", pair),
            ("against NIH's labels", pair),
            ("NIH's labels [95 % interval]", ("sensitivity", "PPV")),
        ),
        rows=tuple(lines),
        summary_rows=len(FINDINGS) if rows[-1].subset == POOLED else 0,
        below=(*below, *([rough] if few else []), *NOTES),
    )


def agreement_csv(rows: list[Agreement]) -> str:
    """Write the table as CSV with full precision; cells are empty where a number is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = {
        "auc": "radiologists",
        "nih_auc": "nih",
        "nih_sensitivity": "sensitivity",
        "nih_ppv": "ppv",
    }
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    writer.writerow(["finding", "set", "images", "positives", "positive_patients", *ends])
    for row in rows:
        known: list[float | None] = []
        for share in (getattr(row, name) for name in names.values()):
            known += [share.value, *(share.interval or (None, None))]
        counts = (row.images, row.positives, row.positive_patients)
        writer.writerow([row.finding, row.subset, *counts, *known])
    return text.getvalue()
