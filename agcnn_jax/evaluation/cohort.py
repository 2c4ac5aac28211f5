"""Which images were scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agcnn_jax.evaluation.references import Setting
from agcnn_jax.run.lineage import Overlap

SYNTHETIC_NOTE = "SYNTHETIC PHANTOMS, drawn by a program: these numbers say nothing about patients."


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Which images were scored, and what a reader must know about them.

    Attributes:
        split: the subset, such as "test"; None for predictions whose split is not known.
        protocol: the split protocol; None for predictions whose split is not known.
        backbone: as in the config, such as "densenet121"; None when not known.
        setting: what else tells the paper's runs apart; None when not known.
        provenance: a sentence on where the images come from.
        images: number of images.
        patients: number of patients.
        overlap: how much of it the weights were trained on; None for weights that say nothing.
        positives: per label, how many images have it.
        positive_patients: per label, how many patients have it in at least one image.
    """

    split: str | None
    protocol: str | None
    backbone: str | None
    setting: Setting | None
    provenance: str
    images: int
    patients: int
    overlap: Overlap | None
    positives: dict[str, int]
    positive_patients: dict[str, int]

    @property
    def synthetic(self) -> bool:
        """Whether the images are phantoms, whose scores must not be compared with patients'."""
        return "phantom" in self.provenance.lower()


def describe_cohort(
    label_matrix: np.ndarray,
    labels: Sequence[str],
    patient_ids: Sequence[Any] | np.ndarray,
    *,
    split: str | None,
    protocol: str | None,
    backbone: str | None,
    provenance: str,
    overlap: Overlap | None,
    setting: Setting | None = None,
) -> Cohort:
    """Count images, patients and positives of labels `[N, C]` (0 or 1) and patients `[N]`."""
    patients = np.asarray(patient_ids)
    columns = {label: label_matrix[:, c] == 1 for c, label in enumerate(labels)}
    return Cohort(
        split=split,
        protocol=protocol,
        backbone=backbone,
        setting=setting,
        provenance=provenance,
        images=len(label_matrix),
        patients=len(np.unique(patients)),
        overlap=overlap,
        positives={label: int(column.sum()) for label, column in columns.items()},
        positive_patients={
            label: len(np.unique(patients[column])) for label, column in columns.items()
        },
    )


def headline(cohort: Cohort) -> str:
    """One line on what was scored."""
    parts = [cohort.backbone, cohort.split and f"{cohort.split} split"]
    subset = ", ".join(part for part in parts if part)
    if subset and cohort.protocol:
        subset += f" of the {cohort.protocol} protocol"
    counts = f"{cohort.images:,} images of {cohort.patients:,} patients"
    return f"{subset}{': ' if subset else ''}{counts}; {cohort.provenance}"


def leakage(cohort: Cohort) -> str | None:
    """How much of this the weights were trained on; None if the weights do not tell."""
    overlap = cohort.overlap
    if overlap is None:
        return None
    said = overlap.in_words(cohort.images, cohort.patients)
    said = f"{said[0].upper()}{said[1:]}."
    if overlap.images:
        return f"{said} These AUCs say little about images that were not trained on."
    if overlap.patients:
        return f"{said} Expect lower AUCs on patients never seen."
    return said
