"""Intervals over patients of the measures beside the AUC.

Each measure is a function of how often every image counts. Its derivative by an image's weight is
the image's influence (the infinitesimal jackknife), and a patient's is the sum over the patient's
images. Half the width of an interval is `t sqrt(n / (n - 1) sum_k influence_k^2)`, with n - 1
degrees of freedom, where n counts the patients with or those without the finding, whichever are
fewer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from agcnn_jax.metrics.calibration import (
    THRESHOLDS,
    Line,
    Reliability,
    bins_of,
    expected_calibration_error,
    net_benefit,
)
from agcnn_jax.metrics.interval import Interval, t_quantile
from agcnn_jax.metrics.shares import shares


class Errors(NamedTuple):
    """What turns the influences of images on a measure into half the width of its interval.

    Attributes:
        order: int `[N]`, sorts the images by patient.
        starts: int `[K]`, where each patient's images start in that order.
        factor: of the root of the summed squares; NaN with fewer than two patients on a side.
    """

    order: np.ndarray
    starts: np.ndarray
    factor: float

    def reach(self, influence: np.ndarray) -> np.ndarray:
        """Return half the widths `[...]` from the influences `[N, ...]` of images."""
        of_patient = np.add.reduceat(influence[self.order], self.starts, axis=0)
        return self.factor * np.sqrt((of_patient**2).sum(axis=0))


def errors(labels: np.ndarray, patients: np.ndarray) -> Errors:
    """Prepare the intervals of one finding, from labels `[N]` with both and patients `[N]`."""
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.diff(patients[order], prepend=patients.min() - 1))
    n = min(len(np.unique(patients[labels == side])) for side in (0, 1))
    factor = np.nan
    if n > 1:
        factor = float(t_quantile(n - 1) * np.sqrt(n / (n - 1)))
    return Errors(order, starts, factor)


def linear(value: float, reach: np.ndarray, least: float = -np.inf) -> Interval | None:
    """Return the interval around a value on its own scale.

    None where nothing varies, and where the probabilities are so extreme that it has no end.
    """
    if not 0 < reach < np.inf:
        return None
    return Interval(max(value - float(reach), least), value + float(reach))


def average_precision_influence(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Compute the influence `[N]` of images on the average precision.

    Average precision is the mean over positives of `TP / (TP + FP)`, counted among the images that
    score at least as high. Another image there changes that share: a positive one by
    `FP / (TP + FP)^2`, a negative one by `-TP / (TP + FP)^2`.
    """
    positive = np.sort(scores[labels == 1])
    negative = np.sort(scores[labels == 0])
    true = len(positive) - np.searchsorted(positive, positive, side="left")
    false = len(negative) - np.searchsorted(negative, positive, side="left")
    precision = true / (true + false)
    gains = np.concatenate([[0], np.cumsum(false / (true + false) ** 2)])
    losses = np.concatenate([[0], np.cumsum(true / (true + false) ** 2)])
    below = np.searchsorted(positive, scores, side="right")  # positives that each image ranks among
    own = precision[np.maximum(below - 1, 0)] - precision.mean()
    return np.where(labels == 1, own + gains[below], -losses[below]) / len(positive)


def brier_influence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Compute the influence `[N]` of images on the Brier score."""
    return _of_mean((probabilities - labels) ** 2)


def slope_influence(labels: np.ndarray, logits: np.ndarray, line: Line) -> np.ndarray:
    """Compute the influence `[N]` of images on the slope of a line from `calibration.fit_line`."""
    middle = logits.mean()
    design = np.stack([np.ones(len(logits)), logits - middle], axis=1)
    fitted = expit(line.intercept + line.slope * logits)
    information = (design.T * (fitted * (1 - fitted))) @ design
    return (labels - fitted) * (design @ np.linalg.pinv(information)[1])


def intercept_influence(labels: np.ndarray, logits: np.ndarray, intercept: float) -> np.ndarray:
    """Compute the influence `[N]` of images on `calibration.intercept`.

    It has no bounds if no probability differs from 0 and 1.
    """
    fitted = expit(logits + intercept)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (labels - fitted) / (fitted * (1 - fitted)).sum()


def calibration_error_influence(
    labels: np.ndarray, probabilities: np.ndarray, curve: Reliability
) -> np.ndarray:
    """Compute the influence `[N]` of images on the expected calibration error, the bins given.

    The estimate is too high if the probabilities are right, and no interval can tell.
    """
    bins = np.unique(bins_of(probabilities), return_inverse=True)[1]
    signs = np.sign(curve.predicted - curve.observed)[bins]
    return (signs * (probabilities - labels) - expected_calibration_error(curve)) / len(labels)


def prevalence_benefit_influence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Compute the influence `[N]` on the net benefit at the prevalence, which is estimated too."""
    prevalence = labels.mean()
    values = _benefits(labels, probabilities, np.array([prevalence]))[:, 0]
    false = ((probabilities >= prevalence) & (labels == 0)).mean()
    return _of_mean(values) - _of_mean(labels) * false / (1 - prevalence) ** 2


def decision_curve_interval(
    labels: np.ndarray, probabilities: np.ndarray, error: Errors
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the net benefits at `THRESHOLDS`, each float64 `[T]`."""
    reach = error.reach(_of_mean(_benefits(labels, probabilities, THRESHOLDS)))
    middle = net_benefit(labels, probabilities)
    return middle - reach, middle + reach


def reliability_interval(
    labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of the share of positives in each bin, float64 `[B]`; see `shares`."""
    bins = bins_of(probabilities)
    ends = [shares(labels[bins == one] == 1, patients[bins == one])[1:] for one in np.unique(bins)]
    low, high = np.array(ends).T
    return low, high


def _of_mean(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=0)) / len(values)


def _benefits(labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return what each image adds to the net benefit at thresholds `[T]`, float64 `[N, T]`."""
    worth = np.where(labels[:, None] == 1, 1.0, -thresholds / (1 - thresholds))
    return worth * (probabilities[:, None] >= thresholds)
