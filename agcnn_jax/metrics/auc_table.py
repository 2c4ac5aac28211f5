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
    weighted_aucs,
)
from agcnn_jax.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    effective_patients,
    patient_resamples,
    percentile_interval,
)
from agcnn_jax.metrics.influence import Influence, difference_interval, mean_interval, stack

FEW_PATIENTS = 10
"""The AUC of a finding with fewer positive patients than this says little."""


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean AUC with its uncertainty.

    Attributes:
        findings: the findings averaged over; each has an AUC.
        value: the mean; None without findings.
        interval: its interval; None where `influence.mean_interval` cannot give one.
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
        intervals: per label; None where fewer than two patients are positive or fewer than two
            are negative, since patients are resampled.
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
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, BranchAUC]:
    """Compute the AUC of every branch and label, and their means, with intervals.

    Images of one patient resemble each other, so the patient is the sampling unit. The interval of
    a label resamples whole patients with replacement (see `percentile_interval`); the interval of a
    mean comes from each patient's influence (see `influence`). Sampling images would make both too
    narrow.

    Args:
        label_matrix: 0 or 1, `[N, C]`.
        scores: per branch, `[N, C]`: logits or probabilities, of which only the order matters.
        labels: names of the C columns.
        findings: the labels to average over.
        patient_ids: `[N]`, the patient of each image.
        resamples: R, the number of resamples; 0 gives labels no intervals.
        seed: of the resampling.
        level: coverage of the intervals.

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
    ranks = {
        branch: [
            rank_scores(label_matrix[:, c], matrix[:, c], f"{branch} {label}")
            for c, label in enumerate(labels)
        ]
        for branch, matrix in scores.items()
    }
    samples = {branch: np.full((resamples, len(labels)), np.nan) for branch in ranks}
    row = 0
    for counts in patient_resamples(patients, resamples if patients else 0, seed):
        weights = counts[:, patient]
        for branch, branch_ranks in ranks.items():
            for c, label_ranks in enumerate(branch_ranks):
                samples[branch][row : row + len(counts), c] = weighted_aucs(label_ranks, weights)
        row += len(counts)
    return {
        branch: _branch_auc(
            dict(zip(labels, ranks[branch], strict=True)),
            dict(zip(labels, samples[branch].T, strict=True)),
            tuple(findings),
            patient,
            level,
        )
        for branch in ranks
    }


def _branch_auc(
    ranks: Mapping[str, Ranks],
    samples: Mapping[str, np.ndarray],
    findings: tuple[str, ...],
    patient: np.ndarray,
    level: float,
) -> BranchAUC:
    """Summarise a branch from each label's ranks and resampled AUCs `[R]`."""
    values: dict[str, float | None] = {}
    intervals: dict[str, Interval | None] = {}
    positive_patients: dict[str, int] = {}
    for label, one in ranks.items():
        values[label] = plain_auc(one)
        positive_patients[label] = len(np.unique(patient[one.positives]))
        # One patient cannot show how patients vary.
        varies = min(positive_patients[label], len(np.unique(patient[one.negatives]))) >= 2
        intervals[label] = None
        if varies:
            sides = (patient[one.positives], patient[one.negatives])
            effective = min(map(effective_patients, sides))
            intervals[label] = percentile_interval(samples[label], level, effective)
    patients = int(patient.max()) + 1 if len(patient) else 0
    present = tuple(finding for finding in findings if values[finding] is not None)
    influences = {f: patient_influence(ranks[f], patient, patients) for f in present}

    def mean_over(chosen: Sequence[str]) -> Mean:
        influence = stack([influences[finding] for finding in chosen], patients)
        value = mean_auc({finding: values[finding] for finding in chosen}).mean
        interval = None if value is None else mean_interval(value, influence, level)
        return Mean(tuple(chosen), value, interval, influence)

    return BranchAUC(
        values,
        intervals,
        findings,
        missing=tuple(finding for finding in findings if finding not in present),
        mean=mean_over(present),
        frequent_mean=mean_over([f for f in present if positive_patients[f] >= FEW_PATIENTS]),
    )


def paired_difference(
    first: Mean, second: Mean, level: float = LEVEL
) -> tuple[float, Interval | None] | None:
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
    return difference, difference_interval(difference, influence, level)
