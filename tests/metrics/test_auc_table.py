import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.bootstrap import effective_patients, percentile_interval


def table(label_matrix, scores, patients, **kwargs):
    names = [f"f{c}" for c in range(label_matrix.shape[1])]
    given = {"labels": names, "findings": names, "resamples": 50, **kwargs}
    return auc_table(label_matrix, {"one": scores}, patient_ids=patients, **given)["one"]


def test_interval_is_the_quantile_of_resampled_patients():
    """Compares the weighted ranks with images repeated by hand for the same draws."""
    generator = np.random.default_rng(3)
    patients = generator.integers(0, 12, 60)
    labels = generator.integers(0, 2, (60, 1))
    scores = generator.integers(0, 9, (60, 1)).astype(np.float32)
    draws = np.random.default_rng(7).integers(0, 12, (20, 12))
    expected = []
    for draw in draws:
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in draw])
        expected.append(roc_auc_score(labels[rows, 0], scores[rows, 0]))
    result = table(labels, scores, patients, resamples=20, seed=7)
    effective = min(effective_patients(patients[labels[:, 0] == side]) for side in (0, 1))
    wanted = percentile_interval(np.array(expected), patients=effective)
    np.testing.assert_allclose(result.intervals["f0"], wanted)


def test_intervals_cover_the_true_auc():
    """Resampling patients with three similar images each covers; resampling images does not."""
    generator = np.random.default_rng(0)
    truth = 0.5 * (1 + math.erf(1.0 / 2))  # P(N(1, 1) > N(0, 1)), here of two independent patients
    covered = {"patients": 0, "images": 0}
    for trial in range(120):
        positive = np.repeat(generator.integers(0, 2, 80), 3)[:, None]
        scores = positive + np.repeat(generator.normal(size=80), 3)[:, None]
        units = {"patients": np.repeat(np.arange(80), 3), "images": np.arange(240)}
        for unit, ids in units.items():
            low, high = table(positive, scores, ids, resamples=200, seed=trial).intervals["f0"]
            covered[unit] += low <= truth <= high
    assert 0.90 <= covered["patients"] / 120 <= 0.99
    assert covered["images"] / 120 < 0.85


def test_missing_findings_and_lone_patients():
    labels = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]], np.uint8)
    scores = np.array([[0.1, 0.9, 0.8], [0.2, 0.1, 0.9], [0.3, 0.2, 0.1], [0.4, 0.95, 0.2]])
    result = table(labels, scores, [1, 2, 3, 4])
    assert result.auc == {"f0": None, "f1": pytest.approx(2 / 3), "f2": 1.0}
    assert result.missing == ("f0",)
    assert result.mean.value == pytest.approx((2 / 3 + 1) / 2)
    # One positive patient cannot show how AUCs vary between patients.
    assert result.intervals["f0"] is None
    assert result.intervals["f1"] is None
    assert result.intervals["f2"] == (1, 1)


def test_nothing_to_average():
    result = table(np.zeros((3, 1), np.uint8), np.zeros((3, 1)), [1, 2, 3])
    assert (result.mean.value, result.mean.interval, result.missing) == (None, None, ("f0",))
    assert paired_difference(result.mean, result.mean) is None


def test_labels_outside_the_findings_stay_out_of_the_mean():
    labels = np.array([[1, 1], [0, 0]], np.uint8)
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    result = table(labels, scores, [1, 2], labels=["a", "none"], findings=["a"])
    assert (result.auc["none"], result.mean.value, result.findings) == (0.0, 1.0, ("a",))


def test_paired_difference_is_narrower_than_either():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (400, 1))
    first = labels + generator.normal(size=(400, 1))
    branches = {"first": first, "second": first + 0.05 * generator.normal(size=(400, 1))}
    results = auc_table(labels, branches, labels=["a"], findings=["a"], patient_ids=np.arange(400))
    difference, interval = paired_difference(results["first"].mean, results["second"].mean)
    assert difference == results["first"].mean.value - results["second"].mean.value
    width = results["first"].mean.interval.high - results["first"].mean.interval.low
    assert interval.high - interval.low < width / 4


def test_shapes_and_names_are_checked():
    labels = np.zeros((2, 1), np.uint8)
    with pytest.raises(ValueError, match=r"one: \(3, 1\), but images x labels are \(2, 1\)"):
        table(labels, np.zeros((3, 1)), [1, 2])
    with pytest.raises(ValueError, match="'b'"):
        table(labels, np.zeros((2, 1)), [1, 2], findings=["b"])


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_same_seed_same_interval(seed):
    generator = np.random.default_rng(seed)
    labels, scores = generator.integers(0, 2, (30, 2)), generator.normal(size=(30, 2))
    patients = generator.integers(0, 10, 30)
    assert table(labels, scores, patients) == table(labels, scores, patients)


def test_test_set_of_the_real_size_is_fast():
    generator = np.random.default_rng(0)
    labels = (generator.random((25_000, 14)) < 0.05).astype(np.uint8)
    scores = generator.random((25_000, 14)).astype(np.float32)
    start = time.perf_counter()
    table(labels, scores, generator.integers(0, 6000, 25_000), resamples=100)
    assert time.perf_counter() - start < 6  # so that 1,000 resamples take less than a minute
