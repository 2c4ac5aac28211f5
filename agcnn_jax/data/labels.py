"""The labels of ChestX-ray14, and the ages in its table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agcnn_jax.metrics.known_labels import MISSING as MISSING

# In the paper's order (Section IV-A). AUC is averaged over the findings.
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
LABELS = (*FINDINGS, NO_FINDING)


def findings_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that are findings; `No Finding` is one if it is the only label."""
    return tuple(label for label in labels if label != NO_FINDING) or tuple(labels)


# NIH's first edition has 058Y, 012M and 003D, its second 58; DICOM has weeks too.
_AGE = re.compile(r"(\d{1,9})([YMWD]?)", re.IGNORECASE)
_AGE_UNITS_PER_YEAR = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}


def parse_age(text: str) -> int | None:
    """Read an age in whole years; -1 if there is none, None if the text is no age."""
    if not text:
        return -1
    match = _AGE.fullmatch(text)
    return int(match[1]) // _AGE_UNITS_PER_YEAR[match[2].upper()] if match else None
