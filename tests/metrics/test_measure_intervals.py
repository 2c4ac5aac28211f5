"""Intervals of the measures beside the AUC: influences by finite differences, and coverage."""

import sys

import numpy as np
import pytest
from scipy.optimize import root
from scipy.special import expit
from scipy.stats import t
from sklearn.metrics import average_precision_score, brier_score_loss

from agcnn_jax.metrics.calibration import fit_line, intercept, net_benefit, reliability
from agcnn_jax.metrics.finding_metrics import MEASURES, finding_metrics
from agcnn_jax.metrics.measure_intervals import (
    average_precision_influence,
    brier_influence,
    calibration_error_influence,
    errors,
    intercept_influence,
    prevalence_benefit_influence,
    slope_influence,
)
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from coverage_of_findings import measure_coverage


def images(count=60):
    generator = np.random.default_rng(5)
    labels = (generator.random(count) < 0.4).astype(int)
    logits = (1.2 * labels - 1 + generator.normal(size=count)).round(1)  # with ties
    return labels, logits


def by_weights(measure, count):
    """Differentiate a measure of weights `[N]` by each of them."""
    change = np.eye(count) * 1e-5
    return np.array([(measure(1 + row) - measure(1 - row)) / 2e-5 for row in change])


def weighted_fit(labels, logits, weights, slope=None):
    def score(parameters):
        a, b = parameters if slope is None else (parameters[0], slope)
        left = weights * (labels - expit(a + b * logits))
        return [left.sum(), (left * logits).sum()][: len(parameters)]

    return root(score, [0.0, 1.0] if slope is None else [0.0], tol=1e-12).x


LABELS, LOGITS = images()
PROBABILITIES = expit(LOGITS)


def at_prevalence(weights):
    prevalence = np.average(LABELS, weights=weights)
    called = LABELS.mean() <= PROBABILITIES  # which images are called moves in steps
    true, false = (np.average(called * (side == LABELS), weights=weights) for side in (1, 0))
    return true - false * prevalence / (1 - prevalence)


def calibration_error(weights):
    bins = np.searchsorted(np.quantile(PROBABILITIES, np.arange(1, 10) / 10), PROBABILITIES)
    sums = np.bincount(bins, weights * (PROBABILITIES - LABELS))
    return np.abs(sums).sum() / weights.sum()


@pytest.mark.parametrize(
    ("found", "measure"),
    [
        (
            average_precision_influence(LABELS, LOGITS),
            lambda w: average_precision_score(LABELS, LOGITS, sample_weight=w),
        ),
        (
            brier_influence(LABELS, PROBABILITIES),
            lambda w: brier_score_loss(LABELS, PROBABILITIES, sample_weight=w),
        ),
        (
            slope_influence(LABELS, LOGITS, fit_line(LABELS, LOGITS)),
            lambda w: weighted_fit(LABELS, LOGITS, w)[1],
        ),
        (
            intercept_influence(LABELS, LOGITS, intercept(LABELS, LOGITS)),
            lambda w: weighted_fit(LABELS, LOGITS, w, slope=1.0)[0],
        ),
        (
            calibration_error_influence(LABELS, PROBABILITIES, reliability(LABELS, PROBABILITIES)),
            calibration_error,
        ),
        (prevalence_benefit_influence(LABELS, PROBABILITIES), at_prevalence),
    ],
    ids=MEASURES,
)
def test_influences_are_derivatives_by_weights(found, measure):
    np.testing.assert_allclose(found, by_weights(measure, len(LABELS)), atol=2e-7)


def test_intervals_by_hand():
    """The Brier score on the logit scale and the net benefit, of patients with two images."""
    patients = np.arange(60) // 2
    found = finding_metrics(LABELS, PROBABILITIES, patients)
    n = min(len(np.unique(patients[side == LABELS])) for side in (0, 1))
    factor = t.ppf(0.975, n - 1) * np.sqrt(n / (n - 1))
    squares = (PROBABILITIES - LABELS) ** 2
    reach = factor * np.sqrt(((squares - squares.mean()).reshape(-1, 2).sum(1) ** 2).sum()) / 60
    middle, value = np.log(squares.mean() / (1 - squares.mean())), squares.mean()
    ends = middle + np.array([-1, 1]) * reach / (value * (1 - value))
    np.testing.assert_allclose(found.numbers["brier"].interval, expit(ends))
    benefit = np.where(LABELS == 1, 1, -0.3 / 0.7) * (PROBABILITIES >= 0.3)
    reach = factor * np.sqrt(((benefit - benefit.mean()).reshape(-1, 2).sum(1) ** 2).sum()) / 60
    low, high = (end[29] for end in found.decision_interval)
    middle = net_benefit(LABELS, PROBABILITIES)[29]
    assert (low, high) == pytest.approx((middle - reach, middle + reach))
    low, high = found.reliability_interval
    assert (low < found.reliability.observed + 1e-12).all()
    assert (high > found.reliability.observed - 1e-12).all()


def test_patients_not_images_vary():
    patients = np.repeat(np.arange(30), 2)
    labels = np.tile([1, 0], 30)
    reach = errors(labels, patients).reach(np.where(labels == 1, 0.1, -0.1))
    assert reach == 0  # each patient's images cancel out
    lone = errors(labels, np.zeros(60, int))
    assert np.isnan(lone.reach(np.ones(60)))


def test_measures_cover():
    """A short form of the benchmark."""
    for name, one in measure_coverage(50, 150).items():
        assert one.covered >= 0.9, name


@pytest.mark.filterwarnings("error")
def test_logits_without_bound_have_no_interval():
    """As of a network after a few steps: no probability differs from 0 and 1."""
    labels, patients = np.tile([0, 1], 30), np.arange(60)
    logits = np.random.default_rng(0).standard_normal(60) * 1e30
    numbers = finding_metrics(labels, expit(logits), patients, logits).numbers
    assert numbers["intercept"].interval is None
    assert np.isfinite([one.interval for one in numbers.values() if one.interval]).all()
