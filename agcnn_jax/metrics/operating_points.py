"""Operating points: thresholds chosen on some images, and what they reach on others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from agcnn_jax.metrics import RULES as RULES
from agcnn_jax.metrics.interval import NO_ESTIMATE, Estimate, Interval
from agcnn_jax.metrics.known_labels import known_rows
from agcnn_jax.metrics.measure_intervals import errors
from agcnn_jax.metrics.shares import shares

WANTED = 0.9


def share_of(hits: np.ndarray, patients: np.ndarray) -> Estimate:
    """Return the share of hits, bool `[N]`, of patients `[N]`; nothing if N is 0, see `shares`."""
    if not len(hits):
        return NO_ESTIMATE
    value, low, high = map(float, shares(hits, patients))
    return Estimate(value, None if np.isnan(low) else Interval(low, high))


class OperatingPoint(NamedTuple):
    """The images of one finding on both sides of a threshold.

    An image is called positive if its score is the threshold or above.
    """

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate  # positive predictive value
    npv: Estimate  # negative predictive value
    positive_likelihood_ratio: Estimate  # of a positive call, sensitivity / (1 - specificity)
    negative_likelihood_ratio: Estimate  # of a negative call, (1 - sensitivity) / specificity


def choose_thresholds(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Choose a threshold by each of `RULES`.

    Args:
        labels: 0 or 1, `[N]`, with both.
        scores: finite `[N]`; only their order matters.

    Returns:
        One of the scores for each rule. Of several that are equally good, the highest; None where
        only a threshold above all scores would do.
    """
    # Imported here, since whoever only uses a model's thresholds would wait for it.
    from sklearn.metrics import roc_curve

    false, true, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    # The first point calls no image positive.
    false, true, thresholds = false[1:], true[1:], thresholds[1:]
    # Rounding must not turn 9 of 10 into less than 0.9.
    specific = false <= 1 - WANTED + 1e-9
    sensitive = true >= WANTED - 1e-9
    choices: dict[str, float | None] = {"youden": float(thresholds[np.argmax(true - false)])}
    best = np.argmax(np.where(specific, true, -1))
    choices["specificity_0.9"] = float(thresholds[best]) if specific.any() else None
    choices["sensitivity_0.9"] = float(thresholds[np.argmax(sensitive)])
    return choices


def operating_point(
    labels: np.ndarray, scores: np.ndarray, threshold: float, patients: np.ndarray
) -> OperatingPoint:
    """Count images on both sides of a threshold that was chosen on other images.

    Args:
        labels: 0, 1 or `MISSING`, `[N]`; images whose label is missing are not counted.
        scores: `[N]`, on the scale of the threshold.
        threshold: an image with this score or a higher one is called positive.
        patients: int `[N]`, the patient of each image.

    Returns:
        Counts, shares with Wilson's intervals for clustered observations (see `shares`), and
        likelihood ratios with intervals on the logarithmic scale. A ratio with a zero has none.
    """
    labels, scores, patients = known_rows(labels, scores, patients)
    called, positive = scores >= threshold, labels == 1

    def share(hits: np.ndarray, among: np.ndarray) -> Estimate:
        return share_of(hits[among], patients[among])

    return OperatingPoint(
        threshold,
        true_positives=int((called & positive).sum()),
        false_positives=int((called & ~positive).sum()),
        false_negatives=int((~called & positive).sum()),
        true_negatives=int((~called & ~positive).sum()),
        sensitivity=share(called, positive),
        specificity=share(~called, ~positive),
        ppv=share(positive, called),
        npv=share(~positive, ~called),
        positive_likelihood_ratio=_likelihood_ratio(called, positive, patients),
        negative_likelihood_ratio=_likelihood_ratio(~called, positive, patients),
    )


def _likelihood_ratio(hits: np.ndarray, positive: np.ndarray, patients: np.ndarray) -> Estimate:
    """Divide the share of hits among positive images by that among negative ones.

    Args:
        hits: bool `[N]`.
        positive: bool `[N]`.
        patients: int `[N]`.
    """
    if not (hits & positive).any() or not (hits & ~positive).any():
        return NO_ESTIMATE
    among, others = hits[positive].mean(), hits[~positive].mean()
    # Of the ratio's logarithm.
    influence = np.where(
        positive,
        (hits / among - 1) / positive.sum(),
        (1 - hits / others) / (~positive).sum(),
    )
    reach = errors(positive, patients).reach(influence)
    ratio = float(among / others)
    if not reach > 0:
        return Estimate(ratio, None)
    return Estimate(ratio, Interval(float(ratio * np.exp(-reach)), float(ratio * np.exp(reach))))
