"""The measures of one finding beside its AUC."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from agcnn_jax.metrics import measure_intervals as over
from agcnn_jax.metrics.calibration import (
    Reliability,
    expected_calibration_error,
    finite_logits,
    fit_line,
    intercept,
    net_benefit,
    reliability,
)
from agcnn_jax.metrics.interval import Interval, logit_interval

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
NUMBERS = (
    *("average_precision", "brier", "slope", "intercept", "expected_calibration_error"),
    "net_benefit_at_prevalence",
)
"""The measures that are one number; each has an interval."""


@dataclasses.dataclass(frozen=True)
class FindingMetrics:
    """What one branch's probabilities of one finding are worth.

    Attributes:
        average_precision: area under the curve of precision and recall; chance has the prevalence.
        brier: mean squared error of the probabilities; the prevalence p as every image's
            probability has p (1 - p).
        slope: calibration slope; None where no likelihood is largest, see `fit_line`.
        intercept: calibration intercept, the slope held at 1; see `calibration.intercept`.
        reliability: ten bins of equal numbers of images.
        expected_calibration_error: over these bins.
        net_benefit_at_prevalence: at a threshold probability that equals the prevalence, where
            treating everybody is worth as little as treating nobody: 0.
        decision_curve: net benefit at `calibration.THRESHOLDS`, float64 `[T]`.
        positives: `QUANTILES` of the probabilities of positive images.
        negatives: the same of negative images.
        intervals: of each of `NUMBERS`, over patients; None where nothing varies.
        reliability_interval: both ends of `reliability.observed`, each float64 `[B]`.
        decision_interval: both ends of `decision_curve`, each float64 `[T]`.
    """

    average_precision: float
    brier: float
    slope: float | None
    intercept: float | None
    reliability: Reliability
    expected_calibration_error: float
    net_benefit_at_prevalence: float
    decision_curve: np.ndarray
    positives: tuple[float, ...]
    negatives: tuple[float, ...]
    intervals: Mapping[str, Interval | None]
    reliability_interval: tuple[np.ndarray, np.ndarray]
    decision_interval: tuple[np.ndarray, np.ndarray]


def finding_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    logits: np.ndarray | None = None,
) -> FindingMetrics:
    """Compute all measures of one finding.

    Args:
        labels: 0 or 1, `[N]`, with both.
        probabilities: `[N]`.
        patients: int `[N]`, the patient of each image.
        logits: `[N]`, which average precision ranks; None if only the probabilities are known.
    """
    # Imported here, since whoever only uses a model's thresholds would wait for it.
    from sklearn.metrics import average_precision_score, brier_score_loss

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    ranked = probabilities if logits is None else logits
    finite = finite_logits(probabilities) if logits is None else np.asarray(logits, np.float64)
    line, shift = fit_line(labels, finite), intercept(labels, finite)
    curve = reliability(labels, probabilities)
    at_prevalence = float(net_benefit(labels, probabilities, np.array([labels.mean()]))[0])
    precision = float(average_precision_score(labels, ranked))
    brier = float(brier_score_loss(labels, probabilities))
    calibration_error = expected_calibration_error(curve)
    error = over.errors(labels, patients)
    reach = error.reach
    intervals = {
        "average_precision": logit_interval(
            precision, reach(over.average_precision_influence(labels, ranked))
        ),
        "brier": logit_interval(brier, reach(over.brier_influence(labels, probabilities))),
        "slope": line
        and over.linear(line.slope, reach(over.slope_influence(labels, finite, line))),
        "intercept": None
        if shift is None
        else over.linear(shift, reach(over.intercept_influence(labels, finite, shift))),
        "expected_calibration_error": over.linear(
            calibration_error,
            reach(over.calibration_error_influence(labels, probabilities, curve)),
            least=0.0,
        ),
        "net_benefit_at_prevalence": over.linear(
            at_prevalence, reach(over.prevalence_benefit_influence(labels, probabilities))
        ),
    }

    def quantiles(values: np.ndarray) -> tuple[float, ...]:
        return tuple(np.quantile(values, QUANTILES).tolist())

    return FindingMetrics(
        average_precision=precision,
        brier=brier,
        slope=line and line.slope,
        intercept=shift,
        reliability=curve,
        expected_calibration_error=calibration_error,
        net_benefit_at_prevalence=at_prevalence,
        decision_curve=net_benefit(labels, probabilities),
        positives=quantiles(probabilities[labels == 1]),
        negatives=quantiles(probabilities[labels == 0]),
        intervals=intervals,
        reliability_interval=over.reliability_interval(labels, probabilities, patients),
        decision_interval=over.decision_curve_interval(labels, probabilities, error),
    )


def enough_patients(labels: np.ndarray, patients: np.ndarray, few: int) -> bool:
    """Tell whether at least `few` patients have a positive image, and as many a negative one."""
    return min(len(np.unique(patients[labels == side])) for side in (0, 1)) >= few
