"""Intervals of mean AUCs from each patient's contribution to their error.

An AUC is a mean over positive images of the share of negatives that each outranks (its placement),
and equally a mean over negative images. The deviation of a patient's images from that mean is the
patient's influence on the AUC. The influences on all findings add up to the influence on the mean
AUC, so findings that share patients need not be independent (DeLong et al. 1988; for clusters of
images, Obuchowski 1997).

The bootstrap is too narrow where a finding has few positive patients: resampling three patients
shows two thirds of their variance. Here every influence is scaled by the number of patients on its
side, and the quantile comes from a t distribution whose degrees of freedom follow from the sides
with few patients (Satterthwaite). `benchmarks/coverage.py` measures the coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from agcnn_jax.metrics.interval import (
    LEVEL,
    Interval,
    difference_within,
    logit_interval,
    t_quantile,
)

JACKKNIFE, UNBIASED = 1.0, 0.5
"""Estimates of a variance: influences are divided by this power of 1 minus a patient's weight."""

NO_VARIANCE = 1e-28
"""Sums of influences have rounding errors of about 1e-17; a smaller variance counts as zero."""

# Keeps the scale of a side with one patient finite; that side borrows its variance.
_LARGEST_WEIGHT = 0.9


class Influence(NamedTuple):
    """The contribution of each patient to the error of F AUCs.

    The first axis of values and weights is the side: positive images, then negative images.

    Attributes:
        values: float64 `[2, F, K]`, for K patients; each `[K]` sums to 0.
        weights: float64 `[2, F, K]`, each patient's share of a side's images; each `[K]` sums to 1.
        known: bool `[F, K]`: the patient has a known label of the finding. Where not, both are 0.
    """

    values: np.ndarray
    weights: np.ndarray
    known: np.ndarray

    def minus(self, other: Influence) -> Influence:
        """Return the influence on the difference of two AUCs of the same images."""
        return Influence(self.values - other.values, self.weights, self.known)

    def of(self, places: Sequence[int]) -> Influence:
        """Return the influence on some of the F AUCs, given by their indices."""
        return Influence(*(part[..., places, :] for part in self))


def influence_of(
    wins: tuple[np.ndarray, np.ndarray], patients: tuple[np.ndarray, np.ndarray], known: np.ndarray
) -> Influence:
    """Compute the influence of K patients on one AUC.

    Args:
        wins: for positive and for negative images, float64 `[P]` and `[M]`: the share of the other
            side's images that each is ranked correctly against; both average to the AUC.
        patients: for positive and for negative images, int `[P]` and `[M]`, their patients.
        known: bool `[K]`: the patient has a known label.

    Returns:
        `Influence` with F = 1.
    """
    count = len(known)
    values, weights = np.zeros((2, 1, count)), np.zeros((2, 1, count))
    for side, (share, patient) in enumerate(zip(wins, patients, strict=True)):
        values[side, 0] = np.bincount(patient, share - share.mean(), count) / len(share)
        weights[side, 0] = np.bincount(patient, minlength=count) / len(share)
    return Influence(values, weights, known[None])


def stack(influences: Sequence[Influence]) -> Influence:
    """Join the influences of the same patients on F AUCs into one; F may be 0, and then K is."""
    if not influences:
        return Influence(np.zeros((2, 0, 0)), np.zeros((2, 0, 0)), np.zeros((0, 0), bool))
    return Influence(*(np.concatenate(parts, axis=-2) for parts in zip(*influences, strict=True)))


def mean_interval(mean: float, influence: Influence) -> Interval | None:
    """Compute the interval of the mean of F AUCs on the logit scale, where its error is symmetric.

    Each influence is divided by 1 minus its patient's weight, as in the jackknife.

    Returns:
        The interval within (0, 1); None where nothing varies, or no finding has two patients
        on one of the sides.
    """
    reach = _reach(influence, JACKKNIFE)
    return None if reach is None else logit_interval(mean, reach)


def difference_interval(
    difference: float, influence: Influence, level: float = LEVEL
) -> Interval | None:
    """Compute the interval of the difference of two means of F AUCs over the same images.

    A difference stays away from the ends of its scale, so the unbiased variance suffices: each
    influence is divided by the square root of 1 minus its patient's weight.

    Args:
        difference: of the means.
        influence: from `Influence.minus`.
        level: coverage of the interval.

    Returns:
        The interval within [-1, 1]; None where nothing varies, or no finding has two patients
        on one of the sides.
    """
    reach = _reach(influence, UNBIASED, level)
    return None if reach is None else difference_within(difference, reach)


class Variance(NamedTuple):
    """The unbiased variance of the mean of F AUCs.

    Attributes:
        contributions: float64 `[K]`, each patient's influence on the mean. Their squares, and what
            is borrowed, add up to the variance; their products with another model's add up to the
            covariance of the two means over the same patients.
        borrowed: the part of the variance for sides with a single patient, which cannot show how
            patients vary; it comes from the other findings.
        degrees: degrees of freedom; None if the variance is unknown.
    """

    contributions: np.ndarray
    borrowed: float
    degrees: float | None


def variance_of_mean(influence: Influence) -> Variance:
    """Compute the variance of the mean of F AUCs, or of the difference of two such means."""
    estimate = estimate_variance(influence, UNBIASED)
    each = _scaled(influence, UNBIASED).sum(axis=(0, 1))
    if estimate is None:
        return Variance(each, 0.0, None)
    total, degrees = estimate
    return Variance(each, max(0.0, total - float((each**2).sum())), degrees)


def _reach(influence: Influence, power: float, level: float = LEVEL) -> float | None:
    """Return half the width of the interval of the mean of F AUCs; None if it is unknown."""
    estimate = estimate_variance(influence, power)
    if estimate is None:
        return None
    variance, degrees = estimate
    return float(t_quantile(degrees, level) * np.sqrt(variance))


def _scaled(influence: Influence, power: float) -> np.ndarray:
    """Return the influences on the mean of F AUCs, scaled up for the number of patients."""
    weights = influence.weights
    values = influence.values / influence.values.shape[1]
    values = values / (1 - np.minimum(weights, _LARGEST_WEIGHT)) ** power
    if power == JACKKNIFE:
        here = (weights > 0).sum(axis=-1, keepdims=True)
        values = values * np.sqrt((here - 1) / here)
    return values


def estimate_variance(influence: Influence, power: float) -> tuple[float, float] | None:
    """Estimate the variance of the mean of F AUCs, or of the difference of two such means.

    Args:
        influence: of K patients.
        power: `JACKKNIFE` or `UNBIASED`.

    Returns:
        The variance and its degrees of freedom; None where nothing varies, or no finding has two
        patients on one of the sides.
    """
    patients, weights = int(influence.known.any(axis=0).sum()), influence.weights
    values = _scaled(influence, power)
    total = (values.sum(axis=(0, 1)) ** 2).sum()
    # Per side and finding: the variance, and its degrees of freedom, the number of patients of
    # equal weight that would give it, minus one.
    squares = (weights**2).sum(axis=-1)
    variances = (values**2).sum(axis=-1)
    freedom = 1 / squares - 1
    for side in range(2):
        lone = (weights[side] > 0).sum(axis=-1) < 2
        if not lone.any():
            continue
        if lone.all():
            return None
        # One patient cannot show how patients vary; the patients of the other findings do.
        known = ~lone
        pooled = np.average((variances[side] / squares[side])[known], weights=freedom[side][known])
        variances[side][lone] = pooled
        freedom[side][lone] = freedom[side][known].sum()
        total += pooled * lone.sum()
    if total < NO_VARIANCE:
        return None
    # The covariance of findings and sides rests on all patients.
    shared = max(total - variances.sum(), 0) ** 2 / (patients - 1)
    degrees = total**2 / ((variances**2 / np.maximum(freedom, 1)).sum() + shared)
    return float(total), float(degrees)
