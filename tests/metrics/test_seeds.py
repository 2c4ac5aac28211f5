import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t

from agcnn_jax.metrics.influence import (
    Variance,
    difference_interval,
    mean_interval,
    variance_of_mean,
)
from agcnn_jax.metrics.seeds import SeedEstimate, auc_over_seeds, over_seeds
from tests.metrics.test_influence import scored, table


def estimate(seed, patients=30):
    labels, scores, owner, names = scored(seed, images=80, patients=patients, findings=2)
    results = table(labels, scores, owner, names)
    first, second = results["one"].mean, results["two"].mean
    influence = first.influence.minus(second.influence)
    known = SeedEstimate(first.value - second.value, variance_of_mean(influence))
    return known, influence, first


def made(value, contributed, degrees):
    return SeedEstimate(value, Variance(contributed, 0.0, degrees))


@given(st.integers(0, 10_000))
def test_one_seed_has_the_interval_over_patients(seed):
    one, influence, _ = estimate(seed)
    found = over_seeds([one])
    assert found.value == one.value and found.deviation is None and found.seeds == 1
    assert found.interval == pytest.approx(difference_interval(one.value, influence))


def test_an_auc_of_one_seed_has_nearly_the_interval_over_patients():
    _, _, first = estimate(1, patients=60)
    one = SeedEstimate(first.value, variance_of_mean(first.influence))
    # The interval of a single mean is the jackknife's, whose scale is a little larger.
    expected = mean_interval(first.value, first.influence)
    assert auc_over_seeds([one]).interval == pytest.approx(expected, abs=0.01)


def by_hand(values, contributed, degrees):
    """The variance of a mean over readers and cases, term by term (Obuchowski-Rockette)."""
    seeds = len(values)
    pairs = [(i, j) for i in range(seeds) for j in range(seeds) if i != j]
    shared = max(0.0, float(np.mean([contributed[i] @ contributed[j] for i, j in pairs])))
    own = float(np.mean([row @ row for row in contributed]))
    between = max(float(np.var(values, ddof=1)), own - shared)
    variance = between / seeds + shared
    freedom = variance**2 / ((between / seeds) ** 2 / (seeds - 1) + shared**2 / degrees)
    return t.ppf(0.975, freedom) * np.sqrt(variance)


@pytest.mark.parametrize("spread", [0.001, 0.1])
def test_three_seeds_are_readers_of_the_same_patients(spread):
    rng = np.random.default_rng(3)
    common = rng.normal(size=40) / 400
    contributed = [common + rng.normal(size=40) / 800 for _ in range(3)]
    values = 0.8 + spread * np.array([0.3, -0.5, 0.1])
    estimates = [made(v, c, 35.0) for v, c in zip(values, contributed, strict=True)]
    error, mean = by_hand(values, contributed, 35.0), values.mean()
    found = over_seeds(estimates)
    assert found.deviation == pytest.approx(values.std(ddof=1))
    assert found.interval == pytest.approx((mean - error, mean + error))
    scale = error / (mean * (1 - mean))
    expected = expit(logit(mean) - scale), expit(logit(mean) + scale)
    assert auc_over_seeds(estimates).interval == pytest.approx(expected)


@pytest.mark.parametrize(
    ("seeds", "between", "own", "shared"),
    [(3, 1.0, 0.3, 0.3), (3, 4.0, 1.0, 1.0), (3, 0.0, 0.1, 1.0), (5, 1.0, 0.3, 0.3)],
)
def test_intervals_cover_the_truth(seeds, between, own, shared):
    """Values that vary with the seed, with the patient, and with both together."""
    rng = np.random.default_rng(0)
    draws, patients = 1000, 200
    of_patients = rng.normal(0, np.sqrt(shared / patients), (draws, 1, patients))
    of_both = rng.normal(0, np.sqrt(own / patients), (draws, seeds, patients))
    of_seeds = rng.normal(0, np.sqrt(between), (draws, seeds))
    contributed = of_patients + of_both
    values = contributed.sum(axis=2) + of_seeds
    contributed = contributed - contributed.mean(axis=2, keepdims=True)
    covered = 0
    for value, rows in zip(values / 100, contributed / 100, strict=True):
        found = over_seeds([made(v, c, 199.0) for v, c in zip(value, rows, strict=True)])
        covered += found.interval.low <= 0 <= found.interval.high
    assert 0.92 <= covered / draws <= 0.98


def test_seeds_that_agree_by_luck_are_no_more_certain_than_patients_allow():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(3, 50)) / 500
    lucky = over_seeds([made(0.02, row, 49.0) for row in rows])
    patients_alone = t.ppf(0.975, 49) * np.sqrt(np.mean([row @ row for row in rows]) / 3)
    assert lucky.interval.high - 0.02 > 0.9 * patients_alone


def test_differences_are_paired_by_patient():
    one, *_ = estimate(1)
    same = one.minus(one)
    assert over_seeds([same, same, same]).interval is None and same.value == 0
    unknown = made(0.1, one.variance.contributions, None)
    assert one.minus(unknown).variance.degrees is None
    assert over_seeds([unknown]).interval is None


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_finding_of_a_single_patient_borrows_its_variance(seeds):
    """As the interval of one run does; the contributions alone would leave it too narrow."""
    labels, scores, owner, names = scored(5, images=90, patients=45, findings=2)
    labels[:, 1] = 0
    labels[owner == owner[0], 1] = 1
    first = table(labels, scores, owner, names)["one"].mean
    one = SeedEstimate(first.value, variance_of_mean(first.influence))
    assert one.variance.borrowed > 0
    found = over_seeds([one] * seeds).interval
    expected = difference_interval(first.value, first.influence)
    assert found == pytest.approx(expected)
