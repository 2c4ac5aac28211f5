import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from agcnn_jax.metrics.auc import auc, auc_table, mean_auc, paired_difference


@st.composite
def scored(draw, least=2):
    """Labels with both classes and scores from few values, so that ties are common."""
    count = draw(st.integers(least, 40))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    labels[:2] = 0, 1
    scores = np.array(draw(st.lists(st.integers(-8, 8), min_size=count, max_size=count)))
    return labels, scores.astype(np.float32)


def test_hand_computed():
    # Pairs (positive, negative): .8>.6, .8>.4, .4<.6, .4=.4: 2 wins, 1 tie of 4.
    assert auc(np.array([1, 0, 1, 0]), np.array([0.8, 0.6, 0.4, 0.4])) == 2.5 / 4


@given(scored())
def test_equals_scikit_learn(case):
    labels, scores = case
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@given(scored(), st.integers(0, 2**32 - 1))
def test_weights_equal_scikit_learn_and_repetition(case, seed):
    labels, scores = case
    weights = np.random.default_rng(seed).integers(0, 4, len(labels))
    weights[:2] = 1, 2
    value = auc(labels, scores, weights)
    assert value == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    repeated = auc(np.repeat(labels, weights), np.repeat(scores, weights))
    assert value == pytest.approx(repeated, abs=1e-12)


@given(scored())
def test_only_the_order_matters(case):
    labels, scores = case
    assert auc(labels, np.exp(scores.astype(np.float64) / 3) - 7) == auc(labels, scores)


@given(scored())
def test_complements_sum_to_one(case):
    labels, scores = case
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores), abs=1e-12)
    assert auc(1 - labels, scores) == pytest.approx(1 - auc(labels, scores), abs=1e-12)


@given(scored(), st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(case, random):
    labels, scores = case
    order = list(range(len(labels)))
    random.shuffle(order)
    assert auc(labels[order], scores[order]) == auc(labels, scores)


def test_constant_scores_are_a_coin_toss():
    assert auc(np.array([0, 1, 1]), np.full(3, 0.3, np.float32)) == 0.5


def test_infinite_scores_rank():
    assert auc(np.array([0, 1, 0]), np.array([-np.inf, np.inf, 0])) == 1


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_one_class_has_no_auc(labels):
    assert auc(np.array(labels), np.zeros(len(labels))) is None


def test_mistakes_name_the_finding():
    with pytest.raises(ValueError, match="Hernia: 1 of 2 scores are NaN"):
        auc(np.array([0, 1]), np.array([np.nan, 1]), name="Hernia")
    with pytest.raises(ValueError, match="Hernia: labels must be 0 or 1"):
        auc(np.array([0, 2]), np.array([0, 1]), name="Hernia")
    with pytest.raises(ValueError, match=r"labels \(2,\) and scores \(3,\)"):
        auc(np.array([0, 1]), np.zeros(3))


def test_mean_leaves_missing_out():
    assert mean_auc({"a": 0.5, "b": None, "c": 0.75}) == (0.625, 2, 1)
    assert mean_auc({"a": None}) == (None, 0, 1)


def table(label_matrix, scores, patients, **kwargs):
    names = [f"f{c}" for c in range(label_matrix.shape[1])]
    given = {"labels": names, "findings": names, "resamples": 50, **kwargs}
    return auc_table(label_matrix, {"one": scores}, patient_ids=patients, **given)["one"]


def test_interval_is_the_quantile_of_resampled_patients():
    """The fast weighted ranks against images repeated by hand for the very same draws."""
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
    np.testing.assert_allclose(result.intervals["f0"], np.quantile(expected, [0.025, 0.975]))


def test_intervals_cover_the_true_auc():
    """Patients with three alike images: resampling patients covers, resampling images does not."""
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
    assert result.mean == pytest.approx((2 / 3 + 1) / 2)
    # One positive patient says nothing about how AUCs vary between patients.
    assert result.intervals["f0"] is None
    assert result.intervals["f1"] is None
    assert result.intervals["f2"] == (1, 1)


def test_nothing_to_average():
    result = table(np.zeros((3, 1), np.uint8), np.zeros((3, 1)), [1, 2, 3])
    assert (result.mean, result.mean_interval, result.missing) == (None, None, ("f0",))
    assert paired_difference(result.overall, result.overall) is None


def test_labels_outside_the_findings_stay_out_of_the_mean():
    labels = np.array([[1, 1], [0, 0]], np.uint8)
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    result = table(labels, scores, [1, 2], labels=["a", "none"], findings=["a"])
    assert (result.auc["none"], result.mean, result.findings) == (0.0, 1.0, ("a",))


def test_paired_difference_is_narrower_than_either():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (400, 1))
    first = labels + generator.normal(size=(400, 1))
    branches = {"first": first, "second": first + 0.05 * generator.normal(size=(400, 1))}
    results = auc_table(labels, branches, labels=["a"], findings=["a"], patient_ids=np.arange(400))
    difference, interval = paired_difference(results["first"].overall, results["second"].overall)
    assert difference == results["first"].mean - results["second"].mean
    width = results["first"].mean_interval.high - results["first"].mean_interval.low
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
