import numpy as np
import pytest

from agcnn_jax.metrics.bootstrap import patient_resamples, percentile_interval


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
