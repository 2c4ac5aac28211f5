import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from agcnn_jax.metrics.auc import auc, mean_auc


@st.composite
def scored(draw, least=2):
    """Labels of both classes, and scores with few distinct values so that ties are common."""
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
    with pytest.raises(ValueError, match="Hernia: labels must be 0 or 1, or 255 where not known"):
        auc(np.array([0, 2]), np.array([0, 1]), name="Hernia")
    with pytest.raises(ValueError, match=r"labels \(2,\) and scores \(3,\)"):
        auc(np.array([0, 1]), np.zeros(3))


def test_mean_leaves_missing_out():
    assert mean_auc({"a": 0.5, "b": None, "c": 0.75}) == (0.625, 2, 1)
    assert mean_auc({"a": None}) == (None, 0, 1)
