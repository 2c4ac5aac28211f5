"""AUCs of parts of the images, such as those of women or of one view."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from agcnn_jax.metrics.auc_table import FEW_PATIENTS, auc_table
from agcnn_jax.metrics.finding_metrics import enough_patients
from agcnn_jax.metrics.influence import mean_interval
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.metrics.known_labels import MISSING

UNKNOWN = "unknown"
MEAN = "Mean"
_AGES = ((18, "0-17"), (40, "18-39"), (60, "40-59"), (121, "60 and over"))


@dataclasses.dataclass(frozen=True)
class Subgroup:
    """The AUC of one finding and branch in one group of images, or the mean over findings.

    Attributes:
        attribute: what the images are grouped by, such as "sex".
        group: such as "F".
        images: number of the group's images.
        patients: number of their patients.
        branch: name of the branch or file.
        finding: a label, or `MEAN`.
        findings: the findings that a mean covers, the same in all groups of the attribute that
            are large enough; empty for a finding, and for a mean of another group.
        positives: number of positive images; None for a mean.
        positive_patients: number of their patients; None for a mean.
        auc: None where fewer than `FEW_PATIENTS` patients are positive or as few negative, and
            for the mean of a group that is too small, see `subgroup_aucs`.
        interval: as in `auc_table`; None without an AUC.
        known: number of images whose label is known; None for a mean.
    """

    attribute: str
    group: str
    images: int
    patients: int
    branch: str
    finding: str
    findings: tuple[str, ...]
    positives: int | None
    positive_patients: int | None
    auc: float | None
    interval: Interval | None
    known: int | None = None


def age_groups(ages: np.ndarray) -> np.ndarray:
    """Group ages in years `[N]`; ages below 0 or above 120 are unknown."""
    ages = np.asarray(ages)
    groups = np.full(len(ages), UNKNOWN, dtype="U16")
    for upper, name in reversed(_AGES):
        groups[(ages >= 0) & (ages < upper)] = name
    return groups


def image_groups(
    ages: Sequence[int] | None, sexes: Sequence[str] | None, views: Sequence[str] | None
) -> dict[str, np.ndarray]:
    """Group N images by sex, age in years and view; attributes that are None are left out."""
    groups = {
        "sex": None if sexes is None else np.array([sex or UNKNOWN for sex in sexes]),
        "age": None if ages is None else age_groups(np.array(ages, np.int64)),
        "view": None if views is None else np.array([view or UNKNOWN for view in views]),
    }
    return {attribute: of_image for attribute, of_image in groups.items() if of_image is not None}


def subgroup_aucs(
    groups: Mapping[str, np.ndarray],
    label_matrix: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    labels: Sequence[str],
    findings: Sequence[str],
    patients: np.ndarray,
) -> list[Subgroup]:
    """Compute the AUC of every group, branch and label, and each group's mean.

    A mean covers the findings that have an AUC in every large enough group of the attribute, so
    that these can be compared. A group is too small, and has no mean, if fewer than half as many
    findings have an AUC in it as in the attribute's best group: it would take the other findings
    from all means.

    Args:
        groups: per attribute, the group of each image, str `[N]`.
        label_matrix: 0, 1 or `MISSING`, `[N, C]`; see `auc_table`.
        scores: per branch, `[N, C]`.
        labels: names of the C columns.
        findings: the labels to average over.
        patients: int `[N]`, the patient of each image.
    """
    rows = []
    for attribute, of_image in groups.items():
        parts = {str(group): of_image == group for group in np.unique(of_image)}
        enough = {
            group: {
                label: enough_patients(label_matrix[in_group, c], patients[in_group], FEW_PATIENTS)
                for c, label in enumerate(labels)
            }
            for group, in_group in parts.items()
        }
        counts = {
            group: sum(enough[group][f] for f in findings) for group in parts if group != UNKNOWN
        }
        most = max(counts.values(), default=0)
        large = [group for group, count in counts.items() if count and 2 * count >= most]
        shared = tuple(f for f in findings if large and all(enough[one][f] for one in large))
        for group, in_group in parts.items():
            # The mean of the groups' own findings would compare different findings.
            findings_of_mean = shared if group in large else ()
            rows += _of_group(
                (attribute, group),
                label_matrix[in_group],
                {branch: matrix[in_group] for branch, matrix in scores.items()},
                patients[in_group],
                labels,
                enough[group],
                findings_of_mean,
            )
    return rows


def _of_group(
    place: tuple[str, str],
    label_matrix: np.ndarray,
    scores: Mapping[str, np.ndarray],
    patients: np.ndarray,
    labels: Sequence[str],
    enough: Mapping[str, bool],
    shared: tuple[str, ...],
) -> list[Subgroup]:
    """Compute the rows of one group, whose images are given."""
    columns = [c for c, label in enumerate(labels) if enough[label]]
    present = tuple(labels[c] for c in columns)
    results = auc_table(
        label_matrix[:, columns],
        {branch: matrix[:, columns] for branch, matrix in scores.items()},
        labels=present,
        findings=present,
        patient_ids=patients,
    )
    size = (len(patients), len(np.unique(patients)))
    rows = []
    for branch, result in results.items():
        for c, label in enumerate(labels):
            positive = label_matrix[:, c] == 1
            counts = (int(positive.sum()), len(np.unique(patients[positive])))
            auc, interval = result.auc.get(label), result.intervals.get(label)
            known = int((label_matrix[:, c] != MISSING).sum())
            rows.append(Subgroup(*place, *size, branch, label, (), *counts, auc, interval, known))
        if not shared:
            rows.append(Subgroup(*place, *size, branch, MEAN, (), None, None, None, None))
        else:
            places = [present.index(label) for label in shared]
            mean = float(np.mean([result.auc[label] for label in shared]))
            interval = result.intervals[shared[0]]
            if len(shared) > 1:
                interval = mean_interval(mean, result.mean.influence.of(places))
            rows.append(Subgroup(*place, *size, branch, MEAN, shared, None, None, mean, interval))
    return rows
