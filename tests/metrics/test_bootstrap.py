import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from agcnn_jax.metrics.bootstrap import (
    effective_patients,
    patient_resamples,
    percentile_interval,
)
from benchmarks.coverage_of_findings import SCENARIOS, coverage


def test_every_resample_draws_as_many_patients_as_there_are():
    counts = np.concatenate(list(patient_resamples(50, 70, seed=1)))
    assert counts.shape == (70, 50)
    assert (counts.sum(axis=1) == 50).all()
    # A patient is left out with probability (1 - 1/50)^50.
    assert (counts == 0).mean() == pytest.approx(0.98**50, abs=0.02)


def test_fewer_resamples_are_a_prefix_of_more():
    few = np.concatenate(list(patient_resamples(9, 40, seed=2)))
    many = np.concatenate(list(patient_resamples(9, 64, seed=2)))
    np.testing.assert_array_equal(few[:32], many[:32])


def test_interval_leaves_nan_out():
    samples = np.array([np.nan, *np.linspace(0, 1, 101)])
    assert percentile_interval(samples, 0.9) == pytest.approx((0.05, 0.95))
    assert percentile_interval(np.array([np.nan])) is None


def test_the_mean_of_few_gets_students_interval():
    """A bootstrap of n normal values varies by sqrt((n - 1) / n) of the standard error."""
    n, generator = 8, np.random.default_rng(0)
    values = generator.normal(size=n)
    means = values.mean() + values.std() / np.sqrt(n) * norm.ppf((np.arange(200_000) + 0.5) / 2e5)
    expected = student.interval(0.95, n - 1, values.mean(), values.std(ddof=1) / np.sqrt(n))
    assert percentile_interval(means, patients=n) == pytest.approx(expected, abs=1e-3)


def test_effective_patients_by_hand():
    assert effective_patients(np.array([0, 0, 1, 1, 5, 5])) == pytest.approx(3)
    assert effective_patients(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)


def test_intervals_of_a_finding_cover():
    """A short form of the benchmark, with 50 or more positive patients."""
    found = coverage(0.45, 0.8, 300, resamples=200)
    for name, (over_patients, over_images) in found.items():
        assert 0.91 <= over_patients[0] <= 0.98, name
        assert over_images[0] < 0.90, name
        assert over_images[1] < 0.85 * over_patients[1], name


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_intervals_of_a_finding_cover_in_every_scenario(name):
    for what, (over_patients, over_images) in coverage(*SCENARIOS[name], 1000).items():
        assert 0.93 <= over_patients[0] <= 0.97, what
        assert over_images[0] < 0.93, what
