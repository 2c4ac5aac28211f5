"""The measures of one finding beside its AUC."""

from __future__ import annotations

import dataclasses

import numpy as np

from agcnn_jax.metrics.calibration import (
    Reliability,
    expected_calibration_error,
    finite_logits,
    fit_line,
    intercept,
    net_benefit,
    reliability,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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


def finding_metrics(
    labels: np.ndarray, probabilities: np.ndarray, logits: np.ndarray | None = None
) -> FindingMetrics:
    """Compute all measures of one finding.

    Args:
        labels: 0 or 1, `[N]`, with both.
        probabilities: `[N]`.
        logits: `[N]`, which average precision ranks; None if only the probabilities are known.
    """
    # Imported here, since whoever only uses a model's thresholds would wait for it.
    from sklearn.metrics import average_precision_score, brier_score_loss

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    ranked = probabilities if logits is None else logits
    finite = finite_logits(probabilities) if logits is None else np.asarray(logits, np.float64)
    line = fit_line(labels, finite)
    curve = reliability(labels, probabilities)
    at_prevalence = net_benefit(labels, probabilities, np.array([labels.mean()]))

    def quantiles(values: np.ndarray) -> tuple[float, ...]:
        return tuple(np.quantile(values, QUANTILES).tolist())

    return FindingMetrics(
        average_precision=float(average_precision_score(labels, ranked)),
        brier=float(brier_score_loss(labels, probabilities)),
        slope=line and line.slope,
        intercept=intercept(labels, finite),
        reliability=curve,
        expected_calibration_error=expected_calibration_error(curve),
        net_benefit_at_prevalence=float(at_prevalence[0]),
        decision_curve=net_benefit(labels, probabilities),
        positives=quantiles(probabilities[labels == 1]),
        negatives=quantiles(probabilities[labels == 0]),
    )


def enough_patients(labels: np.ndarray, patients: np.ndarray, few: int) -> bool:
    """Tell whether at least `few` patients have a positive image, and as many a negative one."""
    return min(len(np.unique(patients[labels == side])) for side in (0, 1)) >= few
