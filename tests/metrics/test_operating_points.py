import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agcnn_jax.metrics.operating_points import RULES, choose_thresholds, operating_point

SEEDS = st.integers(0, 2**32 - 1)


def test_thresholds_by_hand():
    # Ten negatives from 0 to 9; positives win against 10, 10, 9, 5 and 0 of them.
    scores = np.array([*range(10), 12, 11, 8.5, 4.5, -1.0])
    labels = np.array([0] * 10 + [1] * 5)
    chosen = choose_thresholds(labels, scores)
    # 8.5 finds 3 of 5 with 1 of 10 false: 0.6 - 0.1; 4.5 finds 4 with 5 false.
    assert chosen == {"youden": 8.5, "specificity_0.9": 8.5, "sensitivity_0.9": -1.0}


def test_no_threshold_calls_so_few_positive():
    labels, scores = np.array([0, 0, 0, 1]), np.array([1.0, 1, 1, 1])
    assert choose_thresholds(labels, scores)["specificity_0.9"] is None


def test_of_equal_thresholds_the_most_specific():
    labels, scores = np.array([0, 0, 1, 1, 0]), np.array([3.0, 1, 4, 5, 2])
    assert choose_thresholds(labels, scores) == dict.fromkeys(RULES, 4.0)


@given(SEEDS, st.integers(1, 5))
def test_rules_keep_what_they_promise(seed, ties):
    """Against every other threshold, on the images that they are chosen on."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], generator.integers(0, 2, 60)])
    scores = np.round(generator.normal(labels, 1) * ties) / ties
    points = {}
    for threshold in np.unique(scores):
        point = operating_point(labels, scores, threshold, np.arange(62))
        points[threshold] = point.sensitivity.value, point.specificity.value
    chosen = choose_thresholds(labels, scores)
    assert sum(points[chosen["youden"]]) == pytest.approx(max(map(sum, points.values())))
    specific = [sens for sens, spec in points.values() if spec >= 0.9]
    if specific:
        found = points[chosen["specificity_0.9"]]
        assert found[1] >= 0.9
        assert found[0] == max(specific)
    else:
        assert chosen["specificity_0.9"] is None
    found = points[chosen["sensitivity_0.9"]]
    assert found[0] >= 0.9
    assert found[1] == max(spec for sens, spec in points.values() if sens >= 0.9)


def test_an_operating_point_by_hand():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    scores = np.array([5, 2, 1, 2, 1, 1, 0, 0])
    found = operating_point(labels, scores, 2, np.array([0, 0, 1, 1, 2, 3, 4, 5]))
    assert found[:5] == (2, 2, 1, 1, 4)
    assert found.sensitivity.value == pytest.approx(2 / 3)
    assert found.specificity.value == pytest.approx(4 / 5)
    assert found.ppv.value == pytest.approx(2 / 3)
    for share in (found.sensitivity, found.specificity, found.ppv):
        assert 0 <= share.interval.low < share.value < share.interval.high <= 1


def test_what_nobody_has_is_not_known():
    found = operating_point(np.array([1, 0]), np.array([0, 0]), 1, np.array([0, 1]))
    assert found.ppv == (None, None)
    assert found.sensitivity == (0, None)  # one patient shows no variation
    assert operating_point(np.array([0, 0]), np.zeros(2), 1, np.arange(2)).sensitivity == (
        None,
        None,
    )


def test_more_images_of_the_same_patients_tell_little_more():
    """Copies of every image leave the interval almost as it is; as patients they narrow it."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores, patients = generator.normal(labels, 1), np.arange(200)

    def width(patients):
        copies = (np.repeat(values, 4) for values in (labels, scores))
        low, high = operating_point(*copies, 0.5, patients).sensitivity.interval
        return high - low

    low, high = operating_point(labels, scores, 0.5, patients).sensitivity.interval
    assert width(np.repeat(patients, 4)) == pytest.approx(high - low, rel=0.02)
    assert width(np.arange(800)) == pytest.approx((high - low) / 2, rel=0.05)


def test_likelihood_ratios_by_hand():
    """Of independent images: the interval of the logarithm by Simel et al. 1991, here with t."""
    labels, scores = np.repeat([1, 0], [50, 200]), np.repeat([1, 0, 1, 0], [40, 10, 20, 180])
    found = operating_point(labels, scores, 1, np.arange(250))
    assert found.npv.value == 180 / 190
    assert found.positive_likelihood_ratio.value == pytest.approx(0.8 / 0.1)
    assert found.negative_likelihood_ratio.value == pytest.approx(0.2 / 0.9)
    factor = stats.t.ppf(0.975, 49) * np.sqrt(50 / 49)
    for ratio, hits in (
        (found.positive_likelihood_ratio, (40, 20)),
        (found.negative_likelihood_ratio, (10, 180)),
    ):
        reach = factor * np.sqrt(1 / hits[0] - 1 / 50 + 1 / hits[1] - 1 / 200)
        expected = ratio.value * np.exp([-reach, reach])
        np.testing.assert_allclose(ratio.interval, expected)


def test_likelihood_ratios_without_false_positives_are_not_known():
    found = operating_point(np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), 1, np.arange(4))
    assert found.positive_likelihood_ratio == (None, None)
    assert found.negative_likelihood_ratio.value == 0.5
