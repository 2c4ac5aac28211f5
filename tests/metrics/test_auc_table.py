import time

import numpy as np
import pytest

from agcnn_jax.metrics.auc_table import auc_table, paired_difference


def table(label_matrix, scores, patients, **kwargs):
    names = [f"f{c}" for c in range(label_matrix.shape[1])]
    given = {"labels": names, "findings": names, **kwargs}
    return auc_table(label_matrix, {"one": scores}, patient_ids=patients, **given)["one"]


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
    # Nothing varies.
    assert result.intervals["f2"] is None


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


def test_intervals_count_patients_not_images():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (200, 1))
    scores = labels + generator.normal(size=(200, 1))
    once = table(labels, scores, np.arange(200)).intervals["f0"]
    thrice = [np.repeat(x, 3, axis=0) for x in (labels, scores, np.arange(200))]
    assert table(*thrice).intervals["f0"] == pytest.approx(once, abs=2e-3)
    assert table(*thrice[:2], np.arange(600)).intervals["f0"].low > once.low + 0.02


def test_test_set_of_the_real_size_is_fast():
    generator = np.random.default_rng(0)
    labels = (generator.random((25_000, 14)) < 0.05).astype(np.uint8)
    scores = generator.random((25_000, 14)).astype(np.float32)
    start = time.perf_counter()
    table(labels, scores, generator.integers(0, 6000, 25_000))
    assert time.perf_counter() - start < 3
