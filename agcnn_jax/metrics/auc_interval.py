"""Intervals of single AUCs, which hold for high AUCs and for few positive patients.

The variance over patients comes from each patient's influence (see `influence`). With few positive
patients it is uncertain, and too small most of the time if the AUC is high: the image that ranks
low is then usually not among them. So the estimate is averaged with the variance that an AUC of
this size has for exponential scores (Hanley and McNeil 1982), which counts as `PRIOR_DEGREES` more
degrees of freedom (as in the moderated t statistic of Smyth 2004). The interval holds all AUCs that
a score test does not reject, since the variance depends on the AUC (Newcombe 2006, his method 5).
`benchmarks/coverage_of_findings.py` compares the coverage with other intervals'.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from agcnn_jax.metrics.influence import JACKKNIFE, Influence, estimate_variance
from agcnn_jax.metrics.interval import Interval, t_quantile

PRIOR_DEGREES = 10
"""Chosen by simulation: fewer cover high AUCs too rarely, more widen intervals."""

_ALIKE = 0.2  # assumed correlation between images of one patient, for the variance by the model
_END = 1e-9  # no interval reaches 0 or 1


def auc_interval(auc: float, influence: Influence, images: tuple[int, int]) -> Interval | None:
    """Compute the interval of one AUC over patients.

    Args:
        auc: in [0, 1].
        influence: of K patients on it, `[2, 1, K]`.
        images: the numbers of positive and of negative images.

    Returns:
        The interval within (0, 1); None where nothing varies, as with an AUC of 0 or 1, or fewer
        than two patients are positive or fewer than two negative.
    """
    estimate = estimate_variance(influence, JACKKNIFE)
    if estimate is None or not 0 < auc < 1:
        return None
    variance, degrees = estimate
    positives, negatives = (
        _independent(weights, count)
        for weights, count in zip(influence.weights[:, 0], images, strict=True)
    )
    ratio = variance / hanley_mcneil(auc, positives, negatives)
    return score_interval(auc, ratio, degrees, (positives, negatives))


def score_interval(
    auc: float, ratio: float, degrees: float, independent: tuple[float, float]
) -> Interval:
    """Return all AUCs that a score test does not reject.

    Args:
        auc: the estimate, above 0 and below 1.
        ratio: of its estimated variance to `hanley_mcneil`'s.
        degrees: of freedom of the estimated variance.
        independent: the numbers of positive and of negative images that would vary as these do.
    """
    total = degrees + PRIOR_DEGREES
    factor = t_quantile(total) ** 2 * (degrees * ratio + PRIOR_DEGREES) / total

    def rejected(candidate: float) -> float:
        return (auc - candidate) ** 2 - factor * hanley_mcneil(candidate, *independent)

    low, high = min(_END, auc / 2), max(1 - _END, (1 + auc) / 2)
    return Interval(float(brentq(rejected, low, auc)), float(brentq(rejected, auc, high)))


def hanley_mcneil(auc: float, positives: float, negatives: float) -> float:
    """Compute the variance of an AUC of independent images with exponential scores.

    Args:
        auc: the true one, in [0, 1].
        positives: number of positive images, 1 or more.
        negatives: number of negative images, 1 or more.
    """
    two_positives, two_negatives = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    return (
        auc * (1 - auc)
        + (positives - 1) * (two_positives - auc**2)
        + (negatives - 1) * (two_negatives - auc**2)
    ) / (positives * negatives)


def _independent(weights: np.ndarray, images: int) -> float:
    """Return how many independent images would vary as these do.

    Args:
        weights: `[K]`, each patient's share of the images.
        images: number of the images.
    """
    return float(1 / (_ALIKE * (weights**2).sum() + (1 - _ALIKE) / images))
