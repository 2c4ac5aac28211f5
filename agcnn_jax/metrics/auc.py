"""The area under the ROC curve: per finding, averaged, and with its uncertainty."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agcnn_jax.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    patient_resamples,
    percentile_interval,
)
from agcnn_jax.metrics.influence import (
    Influence,
    difference_interval,
    influence_of,
    mean_interval,
    stacked,
)

# A finding with fewer positive patients has an AUC that says little.
FEW_PATIENTS = 10


class MeanAUC(NamedTuple):
    """The mean over the findings that have an AUC, and how many have one and have none."""

    mean: float | None
    present: int
    missing: int


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean AUC with its uncertainty.

    Attributes:
        findings: those it is over, all with an AUC.
        value: the mean; None over no finding.
        interval: its interval; None where it cannot be known (`influence.mean_interval`).
        influence: of every patient on the AUCs of `findings`.
    """

    findings: tuple[str, ...]
    value: float | None
    interval: Interval | None
    influence: Influence = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class BranchAUC:
    """What one branch scored.

    Attributes:
        auc: for every label, "No Finding" included, its AUC; None without a positive or a negative.
        intervals: for every label its interval; None where fewer than two patients are positive
            or fewer than two are negative, since patients are what is resampled.
        findings: the labels that the mean is over, in the order of the table.
        missing: the findings without an AUC.
        overall: the mean over the findings that have an AUC.
        frequent: the mean over those of them that `FEW_PATIENTS` or more patients have.
    """

    auc: dict[str, float | None]
    intervals: dict[str, Interval | None]
    findings: tuple[str, ...]
    missing: tuple[str, ...]
    overall: Mean
    frequent: Mean

    @property
    def mean(self) -> float | None:
        """Mean AUC over the findings that have one; None when none has."""
        return self.overall.value

    @property
    def mean_interval(self) -> Interval | None:
        """The interval of `mean`."""
        return self.overall.interval


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


def _influence(ranks: _Ranks, patient: np.ndarray, patients: int) -> Influence:
    """The influence of each of `patients` on an AUC that exists; `patient` `[N]` says whose."""
    positives, negatives = len(ranks.positives), len(ranks.negatives)
    # A positive counts as below a negative from its own place among the negatives on.
    lost = np.bincount(ranks.below, minlength=negatives + 1)
    tied_or_lost = np.bincount(ranks.not_above, minlength=negatives + 1)
    not_won = np.cumsum(lost + tied_or_lost)[:negatives]
    wins = (
        (ranks.below + ranks.not_above) / (2 * negatives),
        1 - not_won / (2 * positives),
    )
    return influence_of(wins, (patient[ranks.positives], patient[ranks.negatives]), patients)


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


def bootstrap_aucs(label_matrix: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUCs of C labels under R weightings of N images.

    Args:
        label_matrix: 0 or 1, `[N, C]`.
        scores: `[N, C]`.
        weights: int `[R, N]`, not negative.

    Returns:
        float64 `[R, C]`, NaN where a class has no weight.
    """
    columns = zip(label_matrix.T, scores.T, strict=True)
    return np.stack([_weighted_auc(_rank(y, s, ""), weights) for y, s in columns], axis=1)


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
    """AUC of every branch and label, and their means, with intervals.

    Images of one patient are alike, so patients are what varies: for a label's interval, whole
    patients are drawn with replacement (percentile bootstrap); those of means come from each
    patient's influence, see `influence`. Taking images for units would make both too narrow.

    Args:
        label_matrix: 0 or 1, `[N, C]`.
        probabilities: per branch, `[N, C]`.
        labels: names of the C columns.
        findings: those of `labels` that the mean is over.
        patient_ids: `[N]`, which images belong together.
        resamples: R, how many; 0 gives labels no intervals.
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
    return {
        branch: _summary(
            ranks[branch], samples[branch], tuple(labels), tuple(findings), patient, level
        )
        for branch in ranks
    }


def _summary(
    ranks: Sequence[_Ranks],
    samples: np.ndarray,
    labels: tuple[str, ...],
    findings: tuple[str, ...],
    patient: np.ndarray,
    level: float,
) -> BranchAUC:
    """One branch's `BranchAUC` from the ranks of its C labels and their resamples `[R, C]`."""
    ones = np.ones((1, len(patient)), np.int64)
    values: dict[str, float | None] = {}
    intervals: dict[str, Interval | None] = {}
    positive_patients: dict[str, int] = {}
    for c, (label, one) in enumerate(zip(labels, ranks, strict=True)):
        value = float(_weighted_auc(one, ones)[0])
        values[label] = None if np.isnan(value) else value
        positive_patients[label] = len(np.unique(patient[one.positives]))
        # One patient does not show how patients vary.
        varies = min(positive_patients[label], len(np.unique(patient[one.negatives]))) >= 2
        intervals[label] = percentile_interval(samples[:, c], level) if varies else None
    present = tuple(finding for finding in findings if values[finding] is not None)
    patients = int(patient.max()) + 1 if len(patient) else 0
    influences = [_influence(ranks[labels.index(f)], patient, patients) for f in present]

    def over(chosen: Sequence[str]) -> Mean:
        influence = stacked([influences[present.index(f)] for f in chosen], patients)
        value = mean_auc({finding: values[finding] for finding in chosen}).mean
        interval = None if value is None else mean_interval(value, influence, level)
        return Mean(tuple(chosen), value, interval, influence)

    return BranchAUC(
        values,
        intervals,
        findings,
        missing=tuple(finding for finding in findings if finding not in present),
        overall=over(present),
        frequent=over([f for f in present if positive_patients[f] >= FEW_PATIENTS]),
    )


def paired_difference(
    first: Mean, second: Mean, level: float = LEVEL
) -> tuple[float, Interval | None] | None:
    """One branch's mean AUC minus another's, with the interval of the difference.

    Both must come from one `auc_table` call and be over the same findings: the difference is taken
    patient by patient, which removes the variation that the branches share. None without a mean.
    """
    if first.value is None or second.value is None:
        return None
    difference = first.value - second.value
    influence = first.influence.minus(second.influence)
    return difference, difference_interval(difference, influence, level)
