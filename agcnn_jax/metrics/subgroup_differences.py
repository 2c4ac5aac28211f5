"""Differences between groups of images, such as AP and PA views, paired by patient.

A patient may have images in several groups, whose results then vary together. Each patient's
influence on both groups' results gives the variance of their difference, covariance included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agcnn_jax.metrics.auc import patient_influence, rank_scores
from agcnn_jax.metrics.influence import Influence, difference_interval, stack
from agcnn_jax.metrics.interval import NO_ESTIMATE, Estimate, Interval
from agcnn_jax.metrics.known_labels import known_patients
from agcnn_jax.metrics.operating_points import share_of
from agcnn_jax.metrics.subgroups import MEAN, UNKNOWN, Subgroup

Decisions = Mapping[str, Mapping[str, np.ndarray]]
"""Per branch and label, whether each image is called positive, bool `[N]`."""


@dataclasses.dataclass(frozen=True)
class GroupComparison:
    """One finding and branch in one group of images, and the group minus the reference group.

    Attributes:
        attribute: what the images are grouped by, such as "view".
        group: such as "AP".
        reference: the group of the most patients, from which all others are told apart.
        branch: name of the branch or file.
        finding: a label, or `MEAN`.
        findings: the findings that a difference of means covers; empty for a finding.
        sensitivity: of the group, at the threshold that all groups share.
        specificity: of the group, at the same threshold.
        auc_difference: without a value for the reference itself, and where one of the two groups
            has no AUC; likewise the next two.
        sensitivity_difference: of the group minus the reference.
        specificity_difference: of the group minus the reference.
    """

    attribute: str
    group: str
    reference: str
    branch: str
    finding: str
    findings: tuple[str, ...] = ()
    sensitivity: Estimate = NO_ESTIMATE
    specificity: Estimate = NO_ESTIMATE
    auc_difference: Estimate = NO_ESTIMATE
    sensitivity_difference: Estimate = NO_ESTIMATE
    specificity_difference: Estimate = NO_ESTIMATE


def compare_groups(
    rows: Sequence[Subgroup],
    groups: Mapping[str, np.ndarray],
    label_matrix: np.ndarray,
    scores: Mapping[str, np.ndarray],
    called: Decisions,
    *,
    labels: Sequence[str],
    patients: np.ndarray,
) -> list[GroupComparison]:
    """Compare each known group of an attribute with the one of the most patients.

    Args:
        rows: from `subgroup_aucs` for the same images.
        groups: per attribute, the group of each image, str `[N]`.
        label_matrix: 0, 1 or `MISSING`, `[N, C]`; see `auc_table`.
        scores: per branch, `[N, C]`.
        called: at one threshold for all groups; labels without a threshold are left out.
        labels: names of the C columns.
        patients: int `[N]`, the patient of each image.
    """
    _, patient = np.unique(patients, return_inverse=True)
    comparisons = []
    for attribute, of_image in groups.items():
        with_group = [r for r in rows if r.attribute == attribute and r.group != UNKNOWN]
        if not with_group:
            continue
        reference = max(with_group, key=lambda row: row.patients).group
        for branch, matrix in scores.items():
            of_branch = [row for row in with_group if row.branch == branch]
            sides = {
                (row.group, row.finding): _side(
                    row.auc,
                    of_image == row.group,
                    label_matrix[:, labels.index(row.finding)],
                    matrix[:, labels.index(row.finding)],
                    called.get(branch, {}).get(row.finding),
                    patient,
                )
                for row in of_branch
                if row.auc is not None and row.finding != MEAN
            }
            of_reference = {row.finding: row for row in of_branch if row.group == reference}
            for row in of_branch:
                compare = _means if row.finding == MEAN else _findings
                comparisons.append(compare(row, of_reference[row.finding], sides))
    return comparisons


class _Rate(NamedTuple):
    """A share of images with the patients' influences on it, float64 `[K]`."""

    share: Estimate
    influence: np.ndarray


class _Side(NamedTuple):
    """A finding in one group: its AUC, the influences of all patients on it, and its two rates."""

    auc: float
    influence: Influence
    rates: tuple[_Rate, _Rate] | None


def _side(
    auc: float,
    in_group: np.ndarray,
    truth: np.ndarray,
    scores: np.ndarray,
    called: np.ndarray | None,
    patient: np.ndarray,
) -> _Side:
    count = int(patient.max()) + 1
    ranks = rank_scores(truth[in_group], scores[in_group])
    known = known_patients(truth, patient, count)
    influence = patient_influence(ranks, patient[in_group], known)
    if called is None:
        return _Side(auc, influence, None)
    positive, negative = in_group & (truth == 1), in_group & (truth == 0)
    return _Side(
        auc,
        influence,
        (
            _rate(called[positive], patient[positive], count),
            _rate(~called[negative], patient[negative], count),
        ),
    )


def _rate(hits: np.ndarray, patient: np.ndarray, count: int) -> _Rate:
    return _Rate(
        share_of(hits, patient), np.bincount(patient, (hits - hits.mean()) / len(hits), count)
    )


Sides = Mapping[tuple[str, str], _Side]


def _findings(row: Subgroup, reference: Subgroup, sides: Sides) -> GroupComparison:
    """Compare one finding."""
    place = (row.attribute, row.group, reference.group, row.branch, row.finding)
    ours, theirs = (sides.get((one.group, row.finding)) for one in (row, reference))
    if ours is None:
        return GroupComparison(*place)
    own = ours.rates and (ours.rates[0].share, ours.rates[1].share)
    sensitivity, specificity = own or (NO_ESTIMATE, NO_ESTIMATE)
    if theirs is None or row.group == reference.group:
        return GroupComparison(*place, (), sensitivity, specificity)
    auc = _auc_difference(ours.auc - theirs.auc, ours.influence, theirs.influence)
    between = [NO_ESTIMATE, NO_ESTIMATE]
    if ours.rates and theirs.rates:
        between = [_rate_difference(*pair) for pair in zip(ours.rates, theirs.rates, strict=True)]
    return GroupComparison(*place, (), sensitivity, specificity, auc, *between)


def _means(row: Subgroup, reference: Subgroup, sides: Sides) -> GroupComparison:
    """Compare the means of both groups, or where they have none, those of what both can show."""
    shared = tuple(
        finding
        for group, finding in sides
        if group == row.group and (reference.group, finding) in sides
    )
    if row.findings and row.findings == reference.findings:
        shared = row.findings
    place = (row.attribute, row.group, reference.group, row.branch, MEAN)
    if row.group == reference.group or not shared:
        return GroupComparison(*place)
    parts = [
        [sides[one.group, finding].influence for finding in shared] for one in (row, reference)
    ]
    ours, theirs = map(stack, parts)
    aucs = [[sides[one.group, finding].auc for finding in shared] for one in (row, reference)]
    difference = float(np.mean(aucs[0]) - np.mean(aucs[1]))
    return GroupComparison(*place, shared, auc_difference=_auc_difference(difference, ours, theirs))


def _auc_difference(difference: float, first: Influence, second: Influence) -> Estimate:
    """Return the difference of two means of F AUCs over different images of the same patients."""
    # Half the difference is the mean of the F AUCs of one and of the other's with the sign changed.
    both = stack([first, second._replace(values=-second.values)])
    half = difference_interval(difference / 2, both)
    interval = half and Interval(max(-1.0, 2 * half.low), min(1.0, 2 * half.high))
    return Estimate(difference, interval)


def _rate_difference(first: _Rate, second: _Rate) -> Estimate:
    """Return the difference of two rates with the interval of Zou and Donner (2008, Stat. Med.).

    Their method combines the intervals of both rates, as Newcombe's does, and takes the correlation
    of the rates into account.
    """
    a, b = first.share, second.share
    assert a.value is not None and b.value is not None
    difference = a.value - b.value
    if a.interval is None or b.interval is None:
        return Estimate(difference, None)
    norms = np.sqrt((first.influence**2).sum() * (second.influence**2).sum())
    correlation = float(first.influence @ second.influence / norms) if norms > 0 else 0.0

    def reach(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0)))

    low = difference - reach(a.value - a.interval.low, b.interval.high - b.value)
    high = difference + reach(a.interval.high - a.value, b.value - b.interval.low)
    return Estimate(difference, Interval(max(-1.0, low), min(1.0, high)))
