"""The area under the ROC curve: per finding, averaged, and with its uncertainty."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.evaluation.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    patient_resamples,
    percentile_interval,
)


class MeanAUC(NamedTuple):
    """The mean over the findings that have an AUC, and how many have one and have none."""

    mean: float | None
    present: int
    missing: int


@dataclasses.dataclass(frozen=True)
class BranchAUC:
    """What one branch scored.

    Attributes:
        auc: for every label, "No Finding" included, its AUC; None without a positive or a negative.
        intervals: for every label its interval; None where fewer than two patients are positive
            or fewer than two are negative, since patients are what is resampled.
        findings: the labels that the mean is over, in the order of the table.
        mean: mean AUC over the findings that have one; None when none has.
        mean_interval: the interval of `mean`.
        missing: the findings without an AUC.
        mean_resamples: float64 `[R]`, the mean AUC of every resample (NaN where it has none).
    """

    auc: dict[str, float | None]
    intervals: dict[str, Interval | None]
    findings: tuple[str, ...]
    mean: float | None
    mean_interval: Interval | None
    missing: tuple[str, ...]
    mean_resamples: np.ndarray = dataclasses.field(compare=False, repr=False)


class _Ranks(NamedTuple):
    """Where each positive stands among the sorted negatives: all that an AUC depends on."""

    positives: np.ndarray  # int64 [P], indices of images
    negatives: np.ndarray  # int64 [M], indices of images by rising score
    below: np.ndarray  # int64 [P], number of negatives with a lower score
    not_above: np.ndarray  # int64 [P], number of negatives with a lower or the same score


def _rank(labels: np.ndarray, scores: np.ndarray, name: str) -> _Ranks:
    labels, scores = np.asarray(labels), np.asarray(scores)
    what = f"{name}: " if name else ""
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"{what}labels {labels.shape} and scores {scores.shape} must be one [N]")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{what}labels must be 0 or 1")
    if (bad := int(np.isnan(scores).sum())) > 0:
        raise ValueError(f"{what}{bad} of {len(scores)} scores are NaN; an AUC needs numbers")
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    sorted_scores = scores[negatives]
    return _Ranks(
        positives,
        negatives,
        np.searchsorted(sorted_scores, scores[positives], side="left"),
        np.searchsorted(sorted_scores, scores[positives], side="right"),
    )


def _weighted_auc(ranks: _Ranks, weights: np.ndarray) -> np.ndarray:
    """AUC for each row of weights `[R, N]`; float64 `[R]`, NaN where a class has no weight."""
    cumulative = np.zeros((len(weights), len(ranks.negatives) + 1), weights.dtype)
    np.cumsum(weights[:, ranks.negatives], axis=1, out=cumulative[:, 1:])
    positive = weights[:, ranks.positives].astype(np.float64)
    # A positive wins against every negative below it and half against every negative it ties with.
    twice_wins = cumulative[:, ranks.below].astype(np.float64) + cumulative[:, ranks.not_above]
    pairs = positive.sum(axis=1) * cumulative[:, -1]
    wins = np.einsum("rp,rp->r", positive, twice_wins) / 2
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def auc(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, name: str = ""
) -> float | None:
    """The probability that a positive image scores above a negative one; ties count half.

    The Mann-Whitney statistic from ranks in O(N log N); equals `sklearn.metrics.roc_auc_score`.

    Args:
        labels: `[N]`, 0 or 1.
        scores: `[N]`, any real numbers; only their order matters.
        weights: `[N]`, not negative; how often each image counts. None counts each once.
        name: the finding, for error messages.

    Returns:
        The AUC in [0, 1], or None if there is no positive or no negative (of positive weight).

    Raises:
        ValueError: for shapes that differ, labels other than 0 and 1, or NaN scores.
    """
    ranks = _rank(labels, scores, name)
    if weights is None:
        weights = np.ones(len(labels), np.int64)
    value = float(_weighted_auc(ranks, np.asarray(weights)[None])[0])
    return None if np.isnan(value) else value


def mean_auc(values: Mapping[str, float | None]) -> MeanAUC:
    """Average AUC over the findings that have one; the others are missing, not 0 and not 0.5.

    Args:
        values: AUC per finding, None where it is undefined; leave "No Finding" out.
    """
    present = [value for value in values.values() if value is not None]
    mean = float(np.mean(present)) if present else None
    return MeanAUC(mean, len(present), len(values) - len(present))


def auc_table(
    label_matrix: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    *,
    labels: Sequence[str],
    findings: Sequence[str],
    patient_ids: Sequence[Any] | np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, BranchAUC]:
    """AUC of every branch and label, with percentile intervals from a bootstrap over patients.

    Images of one patient are alike, so whole patients are drawn with replacement; drawing images
    would make the intervals too narrow. All branches and labels see the same resamples, so that
    branches can be compared pairwise (`paired_difference`).

    Args:
        label_matrix: 0 or 1, `[N, C]`.
        probabilities: per branch, `[N, C]`.
        labels: names of the C columns.
        findings: those of `labels` that the mean is over.
        patient_ids: `[N]`, which images belong together.
        resamples: R, how many; 0 gives no intervals.
        seed: of the resampling.
        level: coverage of the intervals.

    Returns:
        Per branch, in the order of `probabilities`, its `BranchAUC`.

    Raises:
        ValueError: see `auc`; also when shapes disagree or a finding is not among the labels.
    """
    if unknown := set(findings) - set(labels):
        raise ValueError(f"findings {sorted(unknown)} are not among the labels {list(labels)}")
    shape = (len(patient_ids), len(labels))
    for name, matrix in (("labels", label_matrix), *probabilities.items()):
        if np.shape(matrix) != shape:
            raise ValueError(f"{name}: {np.shape(matrix)}, but images x labels are {shape}")
    _, patient = np.unique(np.asarray(patient_ids), return_inverse=True)
    patients = int(patient.max()) + 1 if len(patient) else 0
    ranks = {
        branch: [
            _rank(label_matrix[:, c], scores[:, c], f"{branch} {label}")
            for c, label in enumerate(labels)
        ]
        for branch, scores in probabilities.items()
    }
    samples = {branch: np.full((resamples, len(labels)), np.nan) for branch in ranks}
    row = 0
    for counts in patient_resamples(patients, resamples if patients else 0, seed):
        weights = counts[:, patient]
        for branch, branch_ranks in ranks.items():
            for c, one in enumerate(branch_ranks):
                samples[branch][row : row + len(counts), c] = _weighted_auc(one, weights)
        row += len(counts)
    ones = np.ones((1, len(patient)), np.int64)
    return {
        branch: _summary(
            np.array([_weighted_auc(one, ones)[0] for one in ranks[branch]]),
            samples[branch],
            [min(len(np.unique(patient[i])) for i in one[:2]) >= 2 for one in ranks[branch]],
            tuple(labels),
            tuple(findings),
            level,
        )
        for branch in ranks
    }


def _summary(
    points: np.ndarray,
    samples: np.ndarray,
    resampled: Sequence[bool],
    labels: tuple[str, ...],
    findings: tuple[str, ...],
    level: float,
) -> BranchAUC:
    """Point estimates `[C]` and resamples `[R, C]` of one branch as a `BranchAUC`."""
    values = {
        label: None if np.isnan(value) else float(value)
        for label, value in zip(labels, points, strict=True)
    }
    intervals = {
        label: percentile_interval(samples[:, c], level) if resampled[c] else None
        for c, label in enumerate(labels)
    }
    mean = mean_auc({finding: values[finding] for finding in findings}).mean
    # A rare finding can lose all its positives in a resample. Averaging deviations from the point
    # estimates keeps the change in the set of findings from passing for a change in the AUC.
    columns = [labels.index(finding) for finding in findings if values[finding] is not None]
    deviations = samples[:, columns] - points[columns]
    present = (~np.isnan(deviations)).sum(axis=1)
    mean_resamples = np.full(len(samples), np.nan)
    np.divide(np.nansum(deviations, axis=1), present, out=mean_resamples, where=present > 0)
    mean_resamples += np.nan if mean is None else mean
    missing = tuple(finding for finding in findings if values[finding] is None)
    mean_interval = percentile_interval(mean_resamples, level)
    return BranchAUC(values, intervals, findings, mean, mean_interval, missing, mean_resamples)


def paired_difference(
    first: BranchAUC, second: BranchAUC, level: float = LEVEL
) -> tuple[float, Interval | None] | None:
    """Mean AUC of `first` minus that of `second`, with the interval of the difference.

    Both must come from one `auc_table` call: the difference is taken within each resample, which
    removes the variation that the branches share. None if either has no mean.
    """
    if first.mean is None or second.mean is None:
        return None
    differences = first.mean_resamples - second.mean_resamples
    return first.mean - second.mean, percentile_interval(differences, level)
