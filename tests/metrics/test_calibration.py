import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve

from agcnn_jax.metrics.calibration import (
    Reliability,
    expected_calibration_error,
    finite_logits,
    fit_line,
    intercept,
    net_benefit,
    reliability,
)

SEEDS = st.integers(0, 2**32 - 1)


def drawn(seed, count=2000, slope=0.6, shift=-1.0):
    """Logits `[N]`, and labels of probability `expit(shift + slope * logit)`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, count)
    return (generator.random(count) < expit(shift + slope * logits)).astype(np.uint8), logits


def minus_log_likelihood(labels, logits):
    return -(labels * logits - np.logaddexp(0, logits)).sum()


@given(SEEDS)
def test_line_and_intercept_are_scipys_optimum(seed):
    labels, logits = drawn(seed, 300)
    best = minimize(lambda b: minus_log_likelihood(labels, b[0] + b[1] * logits), (0, 1), tol=1e-10)
    slope, shift = fit_line(labels, logits)
    np.testing.assert_allclose((shift, slope), best.x, atol=1e-4)
    best = minimize(lambda b: minus_log_likelihood(labels, b[0] + logits), (0,), tol=1e-10)
    np.testing.assert_allclose(intercept(labels, logits), best.x[0], atol=1e-4)


def test_the_line_that_the_labels_were_drawn_from():
    labels, logits = drawn(0, 200_000)
    np.testing.assert_allclose(fit_line(labels, logits), (0.6, -1.0), atol=0.02)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_slope_follows_the_unit(scale):
    labels, logits = drawn(1)
    slope, shift = fit_line(labels, logits)
    np.testing.assert_allclose(fit_line(labels, scale * logits), (slope / scale, shift), rtol=1e-6)


def test_shifted_by_the_intercept_the_mean_is_the_prevalence():
    labels, logits = drawn(2)
    assert expit(logits + intercept(labels, logits)).mean() == pytest.approx(labels.mean())


def test_a_rare_finding_with_probabilities_far_from_the_labels():
    labels, logits = np.zeros(1000), np.linspace(30, 60, 1000)
    labels[[500, 900, 998]] = 1
    assert expit(logits + intercept(labels, logits)).mean() == pytest.approx(0.003)
    slope, shift = fit_line(labels, logits)
    residual = labels - expit(shift + slope * logits)  # the equations of the largest likelihood
    np.testing.assert_allclose((residual.sum(), (residual * logits).sum()), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "logits"),
    [
        ([0, 0, 0], [1, 2, 3]),
        ([1, 1, 1], [1, 2, 3]),
        ([0, 1, 1], [1, 2, 3]),  # separated
        ([1, 0, 0], [1, 2, 3]),
        ([0, 1, 0, 1], [1, 2, 2, 3]),  # separated but for a tie
        ([0, 1, 0, 1], [2, 2, 2, 2]),
        ([0, 1, 0, 1, 0], [0, 0, 1e-8, 1e-8, 50]),  # separated for all that float64 can tell
    ],
)
def test_no_line_without_a_largest_likelihood(labels, logits):
    assert fit_line(np.array(labels), np.array(logits, float)) is None


def test_reliability_is_scikit_learns():
    labels, logits = drawn(3)
    curve = reliability(labels, expit(logits))
    observed, predicted = calibration_curve(labels, expit(logits), n_bins=10, strategy="quantile")
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.images.tolist() == [200] * 10


def test_equal_probabilities_share_a_bin():
    curve = reliability(np.array([0, 0, 1, 1]), np.array([0.2, 0.2, 0.2, 0.9]))
    np.testing.assert_allclose(curve.predicted, [0.2, 0.9])
    np.testing.assert_allclose(curve.observed, [1 / 3, 1])
    assert curve.images.tolist() == [3, 1]


def test_expected_calibration_error_by_hand():
    curve = Reliability(np.array([0.1, 0.6]), np.array([0.2, 0.5]), np.array([3, 1]))
    assert expected_calibration_error(curve) == pytest.approx(0.1)
    curve = Reliability(np.array([0.1, 0.6]), np.array([0.1, 0.2]), np.array([3, 1]))
    assert expected_calibration_error(curve) == pytest.approx(0.4 / 4)


def test_net_benefit_by_hand():
    labels, probabilities = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.2, 0.5, 0.2, 0.1])
    # At 0.2: 2 true and 2 false positives; at 0.5: 1 and 1, of which each costs as much.
    found = net_benefit(labels, probabilities, np.array([0.2, 0.5, 0.95]))
    np.testing.assert_allclose(found, [(2 - 2 / 4) / 5, 0, 0], atol=1e-15)


@given(SEEDS)
def test_treating_everybody_at_the_prevalence_gains_nothing(seed):
    labels, logits = drawn(seed, 200)
    prevalence = np.array([labels.mean()])
    assert net_benefit(labels, np.ones(200), prevalence)[0] == pytest.approx(0, abs=1e-12)
    assert net_benefit(labels, expit(logits)).max() <= labels.mean() + 1e-12


def test_logits_of_certain_probabilities_are_finite():
    np.testing.assert_allclose(
        finite_logits(np.array([0, 0.3, 1.0])), [logit(1e-7), logit(0.3), -logit(1e-7)]
    )
