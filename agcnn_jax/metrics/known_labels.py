"""Labels that may not be known: a finding is measured on the images whose label of it is."""

from __future__ import annotations

import numpy as np

MISSING = 255
"""A label that is not known, in the uint8 matrix of labels, where others are 0 or 1."""


def known_rows(labels: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keep the images whose label is known.

    Args:
        labels: of one finding, `[N]`: 0, 1 or `MISSING`.
        columns: what else is known of the images, each `[N, ...]`.

    Returns:
        The labels, now 0 or 1, and the columns, each `[M, ...]` for the M images left.
    """
    known = labels != MISSING
    if known.all():
        return labels, *columns
    return labels[known], *(column[known] for column in columns)


def known_patients(labels: np.ndarray, patient: np.ndarray, patients: int) -> np.ndarray:
    """Tell of each of K patients whether the label of at least one image is known, bool `[K]`.

    Args:
        labels: of one finding, `[N]`: 0, 1 or `MISSING`.
        patient: int `[N]`, the index of each image's patient.
        patients: K.
    """
    return np.bincount(patient[labels != MISSING], minlength=patients) > 0
