"""The scored images, described for tables and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from agcnn_jax.evaluation.scoring.references import Setting
from agcnn_jax.run.lineage import Overlap

SYNTHETIC = "SYNTHETIC IMAGES"
SYNTHETIC_NOTE = f"{SYNTHETIC}: these numbers say nothing about patients."


@dataclasses.dataclass(frozen=True)
class Cohort:
    """The scored images, and what a reader must know about them.

    Attributes:
        split: the subset, such as "test"; None for predictions whose split is not known.
        protocol: the split protocol; None for predictions whose split is not known.
        backbone: as in the config, such as "densenet121"; None when not known.
        setting: how the run was trained, to find the paper's run; None when not known.
        provenance: where the images come from.
        synthetic: a program made them, so that scores must not be compared with patients'.
        images: number of images.
        patients: number of patients.
        overlap: the images and patients that the weights were trained on; None when not known.
        positives: number of images with each label.
        positive_patients: number of patients with at least one image of each label.
        images_digest: identifies the set of images, see `Split.digests`; None when not known.
        crops: of each image, as in `config.eval.crops`; None when not known.
    """

    split: str | None
    protocol: str | None
    backbone: str | None
    setting: Setting | None
    provenance: str
    synthetic: bool
    images: int
    patients: int
    overlap: Overlap | None
    positives: dict[str, int]
    positive_patients: dict[str, int]
    images_digest: str | None = None
    crops: str | None = None


def describe_cohort(
    label_matrix: np.ndarray,
    labels: Sequence[str],
    patient_ids: Sequence[Any] | np.ndarray,
    *,
    split: str | None,
    protocol: str | None,
    backbone: str | None,
    provenance: str,
    synthetic: bool,
    overlap: Overlap | None,
    setting: Setting | None = None,
    images_digest: str | None = None,
    crops: str | None = None,
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
        synthetic=synthetic,
        images=len(label_matrix),
        patients=len(np.unique(patients)),
        overlap=overlap,
        positives={label: int(column.sum()) for label, column in columns.items()},
        positive_patients={
            label: len(np.unique(patients[column])) for label, column in columns.items()
        },
        images_digest=images_digest,
        crops=crops,
    )


def headline(cohort: Cohort) -> str:
    """Describe the scored images in one line."""
    parts = [cohort.backbone, cohort.split and f"{cohort.split} split"]
    subset = ", ".join(part for part in parts if part)
    if subset and cohort.protocol:
        subset += f" of the {cohort.protocol} protocol"
    counts = f"{cohort.images:,} images of {cohort.patients:,} patients"
    return f"{subset}{': ' if subset else ''}{counts}; {cohort.provenance}"


def leakage(cohort: Cohort) -> str | None:
    """Say how many of the images and patients the weights were trained on; None if not known."""
    overlap = cohort.overlap
    if overlap is None:
        return None
    counts = overlap.in_words(cohort.images, cohort.patients)
    text = f"{counts[0].upper()}{counts[1:]}."
    if overlap.images:
        return f"{text} These AUCs say little about images that were not trained on."
    if overlap.patients:
        return f"{text} Expect lower AUCs on patients never seen."
    return text
