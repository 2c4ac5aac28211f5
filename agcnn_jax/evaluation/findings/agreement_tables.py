"""The agreement of predictions, NIH's labels and radiologists as a table and as CSV."""

from __future__ import annotations

from collections.abc import Sequence

from agcnn_jax.data.text import csv_text
from agcnn_jax.evaluation.files.table import Table, ends, interval_text, number
from agcnn_jax.evaluation.scoring.cohort import Cohort, headline, leakage
from agcnn_jax.evaluation.scoring.radiologists import FINDINGS, POOLED, Agreement
from agcnn_jax.metrics.auc_table import FEW_PATIENTS
from agcnn_jax.metrics.interval import Estimate

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


def agreement_table(
    rows: Sequence[Agreement], cohort: Cohort, notes: Sequence[str], digits: int = 3
) -> Table:
    """Build the table, a row for each finding and set of images, with notes below it."""
    below = (*notes, leakage(cohort) or "")

    def cells(share: Estimate) -> tuple[str, str]:
        return number(share.value, digits), interval_text(share.interval)

    def cell(share: Estimate) -> str:
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
        above=(headline(cohort),),
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


def agreement_csv(rows: Sequence[Agreement]) -> str:
    """Write the table as CSV with full precision; cells are empty where a number is not known."""
    names = {
        "auc": "radiologists",
        "nih_auc": "nih",
        "nih_sensitivity": "sensitivity",
        "nih_ppv": "ppv",
    }
    header = ["finding", "set", "images", "positives", "positive_patients"]
    lines = []
    for row in rows:
        shares = (getattr(row, name) for name in names.values())
        numbers = [x for share in shares for x in (share.value, *ends(share.interval))]
        counts = (row.images, row.positives, row.positive_patients)
        lines.append([row.finding, row.subset, *counts, *numbers])
    header += [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    return csv_text(header, lines)
