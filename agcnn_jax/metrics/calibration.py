"""Calibration of one finding's probabilities, and the net benefit of decisions by them.

The measures follow Van Calster et al. (2025, arXiv:2412.10288): for calibration the slope, the
intercept and the reliability curve, and for decisions the net benefit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

BINS = 10
SMALLEST = 1e-7
"""Probabilities nearer to 0 or 1 count as this near, since their logits would be infinite."""
THRESHOLDS = np.arange(1, 51) / 100
"""The threshold probabilities of a decision curve."""


class Line(NamedTuple):
    """A line on the logit scale: `logit(p) = intercept + slope * x` for logits x.

    Fitted to validation images, these are Platt's two numbers.
    """

    slope: float
    intercept: float


class Reliability(NamedTuple):
    """Bins of equal numbers of images by rising probability, each `[B]`, B at most `BINS`.

    Images of equal probability share a bin, so that bins may hold more images, or none and are
    left out.
    """

    predicted: np.ndarray  # mean probability
    observed: np.ndarray  # share of positives
    images: np.ndarray  # number of images


def finite_logits(probabilities: np.ndarray) -> np.ndarray:
    """Compute logits, with probabilities of 0 and 1 moved inwards by `SMALLEST`."""
    return np.asarray(logit(np.clip(probabilities, SMALLEST, 1 - SMALLEST)))


def fit_line(labels: np.ndarray, logits: np.ndarray) -> Line | None:
    """Fit labels `[N]` by logistic regression on logits `[N]`, without a penalty.

    The slope is the calibration slope: 1 is right, below 1 the probabilities are too extreme.

    Returns:
        The line of the largest likelihood; None where there is none: a class is missing, all logits
        are equal, or a threshold separates the classes, exactly or for all that float64 can tell.
    """
    positive, negative = logits[labels == 1], logits[labels == 0]
    if not len(positive) or not len(negative):
        return None
    if positive.min() >= negative.max() or positive.max() <= negative.min():
        return None
    # On a scale of its own, Newton's method converges for any units of the logits.
    middle, spread = logits.mean(), logits.std()
    design = np.stack([np.ones(len(logits)), (logits - middle) / spread], axis=1)
    parameters = np.array([logit(labels.mean()), 0.0])
    for _ in range(100):
        probabilities = expit(design @ parameters)
        weights = probabilities * (1 - probabilities)
        gradient = design.T @ (labels - probabilities)
        try:
            step = np.linalg.solve((design.T * weights) @ design, gradient)
        except np.linalg.LinAlgError:
            return None
        # A full step may overshoot where most probabilities are near 0 or 1.
        while _log_likelihood(labels, design @ (parameters + step)) < (
            _log_likelihood(labels, design @ parameters) - 1e-9
        ):
            step = step / 2
        parameters = parameters + step
        if np.abs(step).max() < 1e-9:
            break
    slope = float(parameters[1] / spread)
    return Line(slope, float(parameters[0] - slope * middle))


def _log_likelihood(labels: np.ndarray, logits: np.ndarray) -> float:
    return float((labels * logits - np.logaddexp(0, logits)).sum())


def intercept(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """Compute the calibration intercept: the shift of the logits `[N]` that fits labels `[N]` best.

    The slope is held at 1, so that the intercept says whether the probabilities are too high (below
    0) or too low (above 0) on the whole: shifted by it, their mean is the prevalence.

    Returns:
        The shift; None if a class is missing.
    """
    prevalence = labels.mean()
    if not 0 < prevalence < 1:
        return None
    # No shift beyond these can bring the mean to the prevalence.
    low, high = logit(prevalence) - logits.max() - 1, logit(prevalence) - logits.min() + 1
    return float(brentq(lambda shift: expit(logits + shift).mean() - prevalence, low, high))


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """Compute the reliability curve of labels `[N]` and probabilities `[N]`."""
    bins = bins_of(probabilities)
    count = np.bincount(bins, minlength=BINS)
    occupied = count > 0
    sums = (np.bincount(bins, values, BINS)[occupied] for values in (probabilities, labels))
    predicted, observed = (total / count[occupied] for total in sums)
    return Reliability(predicted, observed, count[occupied])


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """Return the bin of each probability `[N]`, int `[N]` from 0 to `BINS - 1`."""
    edges = np.quantile(probabilities, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, probabilities)


def expected_calibration_error(curve: Reliability) -> float:
    """Average the distance of predicted and observed over the bins, weighted by their images."""
    return float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.images))


def net_benefit(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """Compute the net benefit of treating whoever reaches a threshold probability.

    It is the share of true positives minus the share of false positives, both among all images,
    the latter times `t / (1 - t)`: at threshold t, so many false positives are worth one true one
    (Vickers and Elkin 2006). Treating nobody has 0; treating everybody what `net_benefit` gives for
    probabilities of 1.

    Args:
        labels: 0 or 1, `[N]`.
        probabilities: `[N]`.
        thresholds: `[T]`, above 0 and below 1.

    Returns:
        float64 `[T]`, at most the prevalence.
    """
    counts = []
    for values in (probabilities[labels == 1], probabilities[labels == 0]):
        ordered = np.sort(values)
        counts.append(len(values) - np.searchsorted(ordered, thresholds, side="left"))
    true, false = counts
    return np.asarray((true - false * thresholds / (1 - thresholds)) / len(labels))
