"""Shares against scipy's Wilson interval, and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agcnn_jax.metrics.shares import means, shares


@given(st.integers(4, 200), st.data())
def test_wilsons_interval_where_every_patient_has_one_observation(count, data):
    successes = data.draw(st.integers(0, count))
    found = shares(np.arange(count) < successes, np.arange(count))
    # The quantile is t's: ask scipy for the level at which the normal one is as large.
    level = 2 * stats.norm.cdf(stats.t.ppf(0.975, count - 1)) - 1
    expected = stats.binomtest(successes, count).proportion_ci(level, "wilson")
    assert found.value == successes / count
    np.testing.assert_allclose(found[1:], expected, atol=1e-9)


def test_a_patients_repeated_observation_tells_nothing_new():
    hits, patients = np.array([1, 0, 0, 1, 0, 1], bool), np.arange(6)
    once = shares(hits, patients)
    twice = shares(np.repeat(hits, 2), np.repeat(patients, 2))
    np.testing.assert_allclose(twice, once, atol=0.01)
    independent = shares(np.repeat(hits, 2), np.arange(12))
    assert independent.high - independent.low < 0.8 * (once.high - once.low)


def test_all_hits_of_few_patients_are_no_certainty():
    found = shares(np.ones(10, bool), np.repeat([1, 2], 5))
    assert found.value == found.high == 1
    assert found.low < 0.05  # two patients


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_laws(observations, seed):
    generator = np.random.default_rng(seed)
    hits = generator.random((observations, 3)) < [0.1, 0.5, 0.9]
    patients = generator.integers(0, 8, observations)
    value, low, high = shares(hits, patients)
    np.testing.assert_array_equal(value, hits.mean(axis=0))
    if len(set(patients)) == 1:
        assert np.isnan([low, high]).all()
        return
    assert (low >= 0).all()
    assert (low <= value).all()
    assert (value <= high).all()
    assert (high <= 1).all()
    order = generator.permutation(observations)
    np.testing.assert_allclose(shares(hits[order], patients[order]), (value, low, high), rtol=1e-9)
    misses = shares(~hits, patients)
    np.testing.assert_allclose((1 - misses.high, 1 - misses.low), (low, high), atol=1e-9)


def test_means_by_hand():
    counts, patients = np.array([2, 0, 1, 3]), np.array(["a", "a", "b", "c"])
    # The mean is 1.5; patients deviate from it by -1, -0.5 and 1.5 in sum, 3 / 2 is the correction.
    error = np.sqrt(1.5 * (1 + 0.25 + 2.25)) / 4 * stats.t.ppf(0.975, 2)
    np.testing.assert_allclose(means(counts, patients), [1.5, 1.5 - error, 1.5 + error])
    np.testing.assert_allclose(means(counts, patients, least=1), [1.5, 1, 1.5 + error])


def test_means_without_variation_have_no_interval():
    assert np.isnan(means(np.ones(4), np.arange(4))[1:]).all()
    assert np.isnan(means(np.array([1, 2]), np.zeros(2))[1:]).all()


@pytest.mark.parametrize(("patients", "share"), [(10, 0.5), (40, 0.2), (80, 0.9)])
def test_coverage(patients, share):
    """Observations of a patient agree (correlation 1/2): only intervals that know it cover."""
    generator = np.random.default_rng(0)
    covered = np.zeros(2)
    draws = 1000
    for _ in range(draws):
        patient = np.repeat(np.arange(patients), generator.integers(1, 4, patients))
        own = generator.beta(share, 1 - share, patients)
        hits = generator.random(len(patient)) < own[patient]
        for i, units in enumerate((patient, np.arange(len(patient)))):
            found = shares(hits, units)
            covered[i] += found.low <= share <= found.high
    assert 0.93 <= covered[0] / draws <= 0.985
    assert covered[1] / draws < 0.92


def test_coverage_of_paired_differences():
    """Of two ways that share what a patient is like, with 20 patients."""
    generator = np.random.default_rng(0)
    patient = np.repeat(np.arange(20), 3)
    covered, draws = 0, 1000
    for _ in range(draws):
        own = generator.random(20)[patient] < 0.5
        first = np.where(own, 0.9, 0.3) > generator.random(60)  # 0.6 on average
        second = np.where(own, 0.7, 0.1) > generator.random(60)  # 0.4
        found = means(first.astype(float) - second, patient)
        covered += found.low <= 0.2 <= found.high
    assert 0.93 <= covered / draws <= 0.97
