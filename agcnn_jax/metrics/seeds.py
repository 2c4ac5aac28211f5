"""Means over training seeds, with intervals over both the seeds and the patients.

The seeds take the place of the readers, and the patients that of the cases, in a study of several
readers and cases: the variance of the mean over S seeds is estimated as `MS / S + Cov`, with MS the
variance between seeds and Cov the mean covariance of two seeds over the same patients (Obuchowski
and Rockette 1995). MS alone would leave out that other patients would have given another result;
the patients alone, that another training would have. A few seeds may agree by luck, so MS counts as
no less than what the patients alone make of it, the variance of one seed minus Cov; with that,
three seeds cover 94 to 97 % in simulations (tests/metrics/test_seeds.py), where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from agcnn_jax.metrics.influence import NO_VARIANCE, Variance
from agcnn_jax.metrics.interval import (
    Interval,
    difference_within,
    logit_interval,
    t_quantile,
)


class SeedEstimate(NamedTuple):
    """A mean AUC, or a difference of two, of one training.

    Attributes:
        value: the estimate.
        variance: over patients.
    """

    value: float
    variance: Variance

    def minus(self, other: SeedEstimate) -> SeedEstimate:
        """Return the difference of two estimates over the same patients."""
        mine, theirs = self.variance, other.variance
        degrees = None
        if mine.degrees is not None and theirs.degrees is not None:
            degrees = min(mine.degrees, theirs.degrees)
        return SeedEstimate(
            self.value - other.value,
            Variance(
                mine.contributions - theirs.contributions, mine.borrowed + theirs.borrowed, degrees
            ),
        )


class OverSeeds(NamedTuple):
    """A mean over S trainings.

    Attributes:
        value: the mean.
        deviation: standard deviation between seeds; None for a single seed.
        interval: over seeds and patients, over patients alone for a single seed; None where
            nothing varies or the variance is unknown.
        seeds: S.
        p: of a difference, the two-sided p value that it is 0, by the interval's t distribution;
            None where the interval is, and for AUCs.
    """

    value: float
    deviation: float | None
    interval: Interval | None
    seeds: int
    p: float | None = None


def over_seeds(estimates: Sequence[SeedEstimate]) -> OverSeeds:
    """Average the estimates of at least one seed, as differences have it: on a linear scale.

    The degrees of freedom combine those of MS and Cov (Hillis 2007; Satterthwaite).
    """
    values = np.array([one.value for one in estimates])
    mean, error_and_degrees = float(values.mean()), _error(estimates)
    if error_and_degrees is None:
        return OverSeeds(mean, _deviation(values), None, len(values))
    error, degrees = error_and_degrees
    interval = difference_within(mean, t_quantile(degrees) * error)
    p = float(2 * stdtr(degrees, -abs(mean) / error))
    return OverSeeds(mean, _deviation(values), interval, len(values), p)


def auc_over_seeds(estimates: Sequence[SeedEstimate]) -> OverSeeds:
    """Average AUCs of at least one seed; the interval is on the logit scale, within (0, 1)."""
    values = np.array([one.value for one in estimates])
    mean, error_and_degrees = float(values.mean()), _error(estimates)
    interval = None
    if error_and_degrees is not None:
        error, degrees = error_and_degrees
        interval = logit_interval(mean, t_quantile(degrees) * error)
    return OverSeeds(mean, _deviation(values), interval, len(values))


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _error(estimates: Sequence[SeedEstimate]) -> tuple[float, float] | None:
    """Return the standard error of the mean and its degrees of freedom; None if unknown."""
    parts = [one.variance for one in estimates]
    degrees = [part.degrees for part in parts if part.degrees is not None]
    if len(degrees) < len(parts):
        return None
    matrix = np.stack([part.contributions for part in parts])
    covariances = matrix @ matrix.T
    seeds, variance = len(parts), float(np.diagonal(covariances).mean())
    between, shared = 0.0, variance
    if seeds > 1:
        shared = float((covariances.sum() - seeds * variance) / (seeds * (seeds - 1)))
        shared = min(max(shared, 0.0), variance)
        spread = float(np.var([one.value for one in estimates], ddof=1))
        between = max(spread, variance - shared) / seeds
    # A single patient is the same in all seeds.
    shared += float(np.mean([part.borrowed for part in parts]))
    total = between + shared
    if total < NO_VARIANCE:
        return None
    uncertainty = shared**2 / min(degrees)
    if seeds > 1:
        uncertainty += between**2 / (seeds - 1)
    return float(np.sqrt(total)), float(total**2 / uncertainty)
