import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

from agcnn_jax.metrics.auc import auc
from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.influence import Influence, difference_interval, mean_interval
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from coverage import SCENARIOS, coverage


def scored(seed, images=40, patients=None, findings=1):
    generator = np.random.default_rng(seed)
    labels = (generator.random((images, findings)) < 0.4).astype(np.uint8)
    labels[:4], labels[4:8] = 1, 0
    scores = {b: labels + generator.normal(size=labels.shape).round(1) for b in ("one", "two")}
    owner = np.arange(images) if patients is None else generator.integers(0, patients, images)
    names = [f"f{c}" for c in range(findings)]
    return labels, scores, owner, names


def table(labels, scores, owner, names):
    return auc_table(labels, scores, labels=names, findings=names, patient_ids=owner)


@given(st.integers(0, 10_000))
def test_one_image_a_patient_is_delong(seed):
    """The variance of a difference, from the placements of all pairs (DeLong et al. 1988)."""
    labels, scores, owner, names = scored(seed)
    results = table(labels, scores, owner, names)
    difference, interval = paired_difference(results["one"].mean, results["two"].mean)
    placed = {}
    for branch, values in scores.items():
        positive, negative = values[labels == 1], values[labels == 0]
        wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
        placed[branch] = wins.mean(axis=1), wins.mean(axis=0)
    first, second = (placed["one"][side] - placed["two"][side] for side in (0, 1))
    parts = first.var(ddof=1) / len(first), second.var(ddof=1) / len(second)
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (first, second), strict=True)
    )
    assert difference == pytest.approx(first.mean())
    # No patient has images on both sides, so the sides share nothing: Satterthwaite's degrees.
    width = t.ppf(0.975, degrees) * np.sqrt(sum(parts))
    assert interval == pytest.approx((difference - width, difference + width), abs=1e-9)


def test_influences_are_what_leaving_a_patient_out_does():
    labels, scores, owner, names = scored(3, patients=12)
    owner = np.where(labels[:, 0] == 1, owner, owner + 100)  # nobody has images on both sides
    influence = table(labels, scores, owner, names)["one"].mean.influence
    everyone = auc(labels[:, 0], scores["one"][:, 0])
    np.testing.assert_allclose(influence.values.sum(axis=2), 0, atol=1e-15)
    np.testing.assert_allclose(influence.weights.sum(axis=2), 1)
    for number, patient in enumerate(np.unique(owner)):
        rest = owner != patient
        change = everyone - auc(labels[rest, 0], scores["one"][rest, 0])
        values, weights = influence.values[:, 0, number], influence.weights[:, 0, number]
        assert (values / (1 - weights)).sum() == pytest.approx(change)


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_a_mean_is_within_its_interval_within_0_and_1(seed, findings):
    result = table(*scored(seed, patients=15, findings=findings))["one"]
    assert 0 < result.mean.interval.low < result.mean.value < result.mean.interval.high < 1


def test_patients_with_many_images_do_not_count_as_many_patients():
    labels, scores, owner, names = scored(1, images=60, findings=2)
    again = [np.repeat(x, 3, axis=0) for x in (labels, owner)]
    repeated = table(again[0], {b: s.repeat(3, axis=0) for b, s in scores.items()}, again[1], names)
    once = table(labels, scores, owner, names)
    assert repeated["one"].mean.interval == pytest.approx(once["one"].mean.interval)


def lone(spread):
    """Make an influence of 20 patients: f0 has four positive patients, f1 has one."""
    values, weights = np.zeros((2, 2, 20)), np.zeros((2, 2, 20))
    values[0, 0, :4] = spread * np.array([1, -1, 1, -1])
    weights[0, 0, :4], weights[0, 1, 4] = 0.25, 1
    values[1, :, 5:] = np.tile([0.001, 0, -0.001], 5)
    weights[1, :, 5:] = 1 / 15
    return Influence(values, weights, np.ones((2, 20), bool))


def test_one_positive_patient_borrows_the_others_variance():
    influence = lone(0.04)
    steady = influence._replace(weights=influence.weights.copy())
    steady.weights[0, 1, :5] = 0.2  # as if f1 had five patients with equal scores
    borrowed, own = (difference_interval(0.0, one) for one in (influence, steady))
    assert borrowed.high > 1.5 * own.high
    nobody = influence.of([1])
    assert mean_interval(0.8, nobody) is None


def test_no_interval_where_nothing_varies():
    same = Influence(np.zeros((2, 1, 9)), np.full((2, 1, 9), 1 / 9), np.ones((1, 9), bool))
    assert mean_interval(1.0, same) is None
    assert difference_interval(0.0, same) is None


def test_intervals_cover_with_rare_findings():
    """Without the corrections for few patients, the mean's intervals cover 0.88."""
    found = coverage(SCENARIOS["5 of 14 rare"], 250)
    assert 0.92 <= found["mean", "influence"].covered <= 0.98
    assert 0.92 <= found["difference", "influence"].covered <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_intervals_cover_in_every_scenario(name):
    found = coverage(SCENARIOS[name], 1000)
    # The standard error of a simulated coverage is 0.007. Two patients per finding say little, so
    # the intervals are wide.
    highest = 1.0 if SCENARIOS[name].few[0] < 3 else 0.977
    for what in ("mean", "difference"):
        assert 0.93 <= found[what, "influence"].covered <= highest, what


def test_level_is_followed():
    influence = lone(0.04)
    widths = {}
    for level in (0.5, 0.95):
        low, high = difference_interval(0.0, influence, level)
        widths[level] = high - low
    assert widths[0.95] / widths[0.5] > norm.ppf(0.975) / norm.ppf(0.75)
