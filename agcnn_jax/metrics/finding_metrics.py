"""The measures of one finding beside its AUC.

A measure that is one number is a function of `Case` and an entry of `MEASURES`.
"""

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
from agcnn_jax.metrics.interval import NO_ESTIMATE, Estimate, logit_interval
from agcnn_jax.metrics.known_labels import known_rows

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Case:
    """One branch's probabilities of one finding, beside its labels.

    Attributes:
        labels: 0 or 1, `[N]`, with both.
        probabilities: float64 `[N]`.
        ranked: `[N]`, what average precision ranks: logits if they are known.
        logits: finite float64 `[N]`.
        errors: gives the intervals over patients.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    ranked: np.ndarray
    logits: np.ndarray
    errors: over.Errors


def average_precision(case: Case) -> Estimate:
    """Return the area under the curve of precision and recall; chance has the prevalence."""
    # Imported here, since whoever only uses a model's thresholds would wait for it.
    from sklearn.metrics import average_precision_score

    value = float(average_precision_score(case.labels, case.ranked))
    influence = over.average_precision_influence(case.labels, case.ranked)
    return Estimate(value, logit_interval(value, case.errors.reach(influence)))


def brier(case: Case) -> Estimate:
    """Return the mean squared error of the probabilities.

    The prevalence p as every image's probability has p (1 - p).
    """
    from sklearn.metrics import brier_score_loss

    value = float(brier_score_loss(case.labels, case.probabilities))
    influence = over.brier_influence(case.labels, case.probabilities)
    return Estimate(value, logit_interval(value, case.errors.reach(influence)))


def slope(case: Case) -> Estimate:
    """Return the calibration slope; None where no likelihood is largest, see `fit_line`."""
    line = fit_line(case.labels, case.logits)
    if line is None:
        return NO_ESTIMATE
    influence = over.slope_influence(case.labels, case.logits, line)
    return Estimate(line.slope, over.linear(line.slope, case.errors.reach(influence)))


def calibration_intercept(case: Case) -> Estimate:
    """Return the calibration intercept, the slope held at 1; see `calibration.intercept`."""
    value = intercept(case.labels, case.logits)
    if value is None:
        return NO_ESTIMATE
    influence = over.intercept_influence(case.labels, case.logits, value)
    return Estimate(value, over.linear(value, case.errors.reach(influence)))


def calibration_error(case: Case) -> Estimate:
    """Return the expected calibration error over ten bins of equal numbers of images."""
    curve = reliability(case.labels, case.probabilities)
    value = expected_calibration_error(curve)
    influence = over.calibration_error_influence(case.labels, case.probabilities, curve)
    return Estimate(value, over.linear(value, case.errors.reach(influence), least=0.0))


def net_benefit_at_prevalence(case: Case) -> Estimate:
    """Return the net benefit at a threshold probability that equals the prevalence.

    There treating everybody is worth as little as treating nobody: 0.
    """
    prevalence = np.array([case.labels.mean()])
    value = float(net_benefit(case.labels, case.probabilities, prevalence)[0])
    influence = over.prevalence_benefit_influence(case.labels, case.probabilities)
    return Estimate(value, over.linear(value, case.errors.reach(influence)))


MEASURES = {
    "average_precision": average_precision,
    "brier": brier,
    "slope": slope,
    "intercept": calibration_intercept,
    "expected_calibration_error": calibration_error,
    "net_benefit_at_prevalence": net_benefit_at_prevalence,
}
"""The measures that are one number, by their names in files."""


@dataclasses.dataclass(frozen=True)
class FindingMetrics:
    """What one branch's probabilities of one finding are worth.

    Attributes:
        numbers: each of `MEASURES`.
        reliability: ten bins of equal numbers of images.
        decision_curve: net benefit at `calibration.THRESHOLDS`, float64 `[T]`.
        positives: `QUANTILES` of the probabilities of positive images.
        negatives: the same of negative images.
        reliability_interval: both ends of `reliability.observed`, each float64 `[B]`.
        decision_interval: both ends of `decision_curve`, each float64 `[T]`.
    """

    numbers: Mapping[str, Estimate]
    reliability: Reliability
    decision_curve: np.ndarray
    positives: tuple[float, ...]
    negatives: tuple[float, ...]
    reliability_interval: tuple[np.ndarray, np.ndarray]
    decision_interval: tuple[np.ndarray, np.ndarray]


def finding_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: np.ndarray,
    logits: np.ndarray | None = None,
) -> FindingMetrics:
    """Compute all measures of one finding, on the images whose label is known.

    Args:
        labels: `[N]`: 0 and 1, both of which occur, and `MISSING`.
        probabilities: `[N]`.
        patients: int `[N]`, the patient of each image.
        logits: `[N]`, which average precision ranks; None if only the probabilities are known.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    ranked = probabilities if logits is None else logits
    labels, probabilities, patients, ranked = known_rows(labels, probabilities, patients, ranked)
    case = Case(
        labels,
        probabilities,
        ranked,
        logits=finite_logits(probabilities) if logits is None else np.asarray(ranked, np.float64),
        errors=over.errors(labels, patients),
    )

    def quantiles(values: np.ndarray) -> tuple[float, ...]:
        return tuple(np.quantile(values, QUANTILES).tolist())

    return FindingMetrics(
        numbers={name: measure(case) for name, measure in MEASURES.items()},
        reliability=reliability(labels, probabilities),
        decision_curve=net_benefit(labels, probabilities),
        positives=quantiles(probabilities[labels == 1]),
        negatives=quantiles(probabilities[labels == 0]),
        reliability_interval=over.reliability_interval(labels, probabilities, patients),
        decision_interval=over.decision_curve_interval(labels, probabilities, case.errors),
    )


def enough_patients(labels: np.ndarray, patients: np.ndarray, few: int) -> bool:
    """Tell whether at least `few` patients have a positive image, and as many a negative one.

    Labels `[N]` may be `MISSING`, which is neither.
    """
    return min(len(np.unique(patients[labels == side])) for side in (0, 1)) >= few
