"""AUCs of every branch and finding, and their means, with confidence intervals over patients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agcnn_jax.metrics.auc import (
    Ranks,
    mean_auc,
    patient_influence,
    plain_auc,
    rank_scores,
)
from agcnn_jax.metrics.auc_interval import auc_interval
from agcnn_jax.metrics.influence import Influence, difference_interval, mean_interval, stack
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.metrics.known_labels import known_patients

FEW_PATIENTS = 10
"""The AUC of a finding with fewer positive patients than this says little."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean AUC with its uncertainty.

    Attributes:
        findings: the findings averaged over; each has an AUC.
        value: the mean; None without findings.
        interval: its interval, of a single finding that finding's; None where
            `influence.mean_interval` cannot give one.
        influence: of every patient on the AUCs of `findings`.
    """

    findings: tuple[str, ...]
    value: float | None
    interval: Interval | None
    influence: Influence = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class BranchAUC:
    """The AUCs of one branch.

    Attributes:
        auc: per label, "No Finding" included; None without a positive or without a negative.
        intervals: per label; None where `auc_interval` cannot give one.
        findings: the labels to average over, in the order of the table.
        missing: the findings without an AUC.
        mean: over the findings that have an AUC.
        frequent_mean: over the findings that `FEW_PATIENTS` or more patients have.
    """

    auc: dict[str, float | None]
    intervals: dict[str, Interval | None]
    findings: tuple[str, ...]
    missing: tuple[str, ...]
    mean: Mean
    frequent_mean: Mean


def auc_table(
    label_matrix: np.ndarray,
    scores: Mapping[str, np.ndarray],
    *,
    labels: Sequence[str],
    findings: Sequence[str],
    patient_ids: Sequence[Any] | np.ndarray,
) -> dict[str, BranchAUC]:
    """Compute the AUC of every branch and label, and their means, with intervals.

    Images of one patient resemble each other, so the patient is the unit that varies: intervals
    come from each patient's influence (see `auc_interval` and `influence`). Independent images
    would make them too narrow.

    The AUC of a label is that of the images whose label is known, and its interval that of their
    patients. A mean's interval adds up each patient's influences on the findings known of it.

    Args:
        label_matrix: 0, 1 or `MISSING`, `[N, C]`.
        scores: per branch, `[N, C]`: logits or probabilities, of which only the order matters.
        labels: names of the C columns.
        findings: the labels to average over.
        patient_ids: `[N]`, the patient of each image.

    Returns:
        Per branch, in the order of `scores`, its `BranchAUC`.

    Raises:
        ValueError: see `auc`; also if shapes disagree or a finding is not among the labels.
    """
    if unknown := set(findings) - set(labels):
        raise ValueError(f"findings {sorted(unknown)} are not among the labels {list(labels)}")
    shape = (len(patient_ids), len(labels))
    for name, matrix in (("labels", label_matrix), *scores.items()):
        if np.shape(matrix) != shape:
            raise ValueError(f"{name}: {np.shape(matrix)}, but images x labels are {shape}")
    _, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    patients = int(patient.max()) + 1 if len(patient) else 0
    known = {
        label: known_patients(label_matrix[:, c], patient, patients)
        for c, label in enumerate(labels)
    }
    return {
        branch: _branch_auc(
            {
                label: rank_scores(label_matrix[:, c], matrix[:, c], f"{branch} {label}")
                for c, label in enumerate(labels)
            },
            tuple(findings),
            patient,
            known,
        )
        for branch, matrix in scores.items()
    }


def _branch_auc(
    ranks: Mapping[str, Ranks],
    findings: tuple[str, ...],
    patient: np.ndarray,
    known: Mapping[str, np.ndarray],
) -> BranchAUC:
    """Summarise a branch from each label's ranks."""
    values = {label: plain_auc(one) for label, one in ranks.items()}
    influences = {
        label: patient_influence(ranks[label], patient, known[label])
        for label, value in values.items()
        if value is not None
    }
    intervals: dict[str, Interval | None] = dict.fromkeys(ranks)
    for label, influence in influences.items():
        images = len(ranks[label].positives), len(ranks[label].negatives)
        intervals[label] = auc_interval(values[label] or 0.0, influence, images)
    present = tuple(finding for finding in findings if finding in influences)
    frequent = [f for f in present if (influences[f].weights[0] > 0).sum() >= FEW_PATIENTS]

    def mean_over(names: Sequence[str]) -> Mean:
        influence = stack([influences[finding] for finding in names])
        value = mean_auc({finding: values[finding] for finding in names}).mean
        interval = intervals[names[0]] if len(names) == 1 else None
        if value is not None and len(names) > 1:
            interval = mean_interval(value, influence)
        return Mean(tuple(names), value, interval, influence)

    return BranchAUC(
        values,
        intervals,
        findings,
        missing=tuple(finding for finding in findings if finding not in present),
        mean=mean_over(present),
        frequent_mean=mean_over(frequent),
    )


def paired_difference(first: Mean, second: Mean) -> tuple[float, Interval | None] | None:
    """Subtract one branch's mean AUC from another's, with the interval of the difference.

    Both must come from one `auc_table` call and cover the same findings. The difference is taken
    patient by patient, which removes the variation that the branches share.

    Returns:
        `first - second` and its interval, or None if either has no mean.
    """
    if first.value is None or second.value is None:
        return None
    difference = first.value - second.value
    influence = first.influence.minus(second.influence)
    return difference, difference_interval(difference, influence)
