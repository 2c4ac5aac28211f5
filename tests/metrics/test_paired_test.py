"""The paired test against R's pROC, against its definition, and under the null."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from agcnn_jax.metrics.auc import patient_influence, plain_auc, rank_scores
from agcnn_jax.metrics.paired_test import clustered_variance, holm, paired_test

# pROC 1.18.0 with R 4.2.2, roc.test(..., method="delong", paired=TRUE) and var(..., "delong"):
# (seed, images, share of positives), AUCs of both models, their variances, (statistic, p value).
PROC = [
    (
        (0, 80, 0.3),
        (0.824059561129, 0.788401253918),
        (0.003026054076, 0.003916286390),
        (0.531018957161, 0.595405642529),
    ),
    (
        (1, 200, 0.1),
        (0.875154257507, 0.810777457836),
        (0.000820446229, 0.005558009321),
        (0.747461559316, 0.454784998377),
    ),
    (
        (2, 45, 0.5),
        (0.711, 0.727),
        (0.006094653509, 0.005721377193),
        (-0.197710495417, 0.843271577656),
    ),
]


def images(seed, count, share):
    generator = np.random.default_rng(seed)
    labels = (generator.random(count) < share).astype(int)
    first = (labels + generator.normal(size=count)).round(1)
    second = (0.6 * labels + 0.5 * first + generator.normal(size=count)).round(1)
    return labels, first, second


def influence_on(labels, scores, patient):
    ranks = rank_scores(labels, scores)
    return plain_auc(ranks), patient_influence(ranks, patient, int(patient.max()) + 1)


def compare(labels, first, second, patient):
    (auc_first, of_first), (auc_second, of_second) = (
        influence_on(labels, scores, patient) for scores in (first, second)
    )
    return paired_test(auc_first - auc_second, of_first.minus(of_second))


@pytest.mark.parametrize(("drawn", "aucs", "variances", "test_and_p"), PROC)
def test_one_image_a_patient_is_what_r_computes(drawn, aucs, variances, test_and_p):
    labels, *models = images(*drawn)
    patient = np.arange(len(labels))
    for scores, auc, variance in zip(models, aucs, variances, strict=True):
        found, influence = influence_on(labels, scores, patient)
        assert found == pytest.approx(auc, abs=1e-11)
        assert clustered_variance(influence) == pytest.approx(variance, abs=1e-11)
    test = compare(labels, *models, patient)
    assert (test.difference / test.error, test.p) == pytest.approx(test_and_p, rel=1e-9)


def obuchowski(labels, scores, patient):
    """The variance by its formula, one patient after another."""
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    auc, sums = wins.mean(), {}
    for k in np.unique(patient):
        ours, theirs = patient[labels == 1] == k, patient[labels == 0] == k
        sums[k] = (
            wins.mean(axis=1)[ours].sum() - ours.sum() * auc,
            wins.mean(axis=0)[theirs].sum() - theirs.sum() * auc,
            ours.any(),
            theirs.any(),
        )
    m, n, patients = len(positive), len(negative), len(sums)
    x, y, has_x, has_y = np.array(list(sums.values())).T
    s10 = has_x.sum() / ((has_x.sum() - 1) * m) * (x**2).sum()
    s01 = has_y.sum() / ((has_y.sum() - 1) * n) * (y**2).sum()
    s11 = patients / (patients - 1) * (x * y).sum()
    return s10 / m + s01 / n + 2 * s11 / (m * n)


@given(st.integers(0, 10_000), st.integers(4, 30))
def test_several_images_a_patient_is_obuchowskis_formula(seed, patients):
    labels, scores, _ = images(seed, 60, 0.4)
    patient = np.unique(np.random.default_rng(seed).integers(0, patients, 60), return_inverse=True)
    variance = clustered_variance(influence_on(labels, scores, patient[1])[1])
    assert variance == pytest.approx(obuchowski(labels, scores, patient[1]), abs=1e-14)


def null_cohort(generator, patients=60, each=5):
    """Two models that are equally good, and mistake different patients, who mostly stay ill."""
    patient = np.repeat(np.arange(patients), each)
    ill = generator.random(patients) < 0.4
    labels = (ill[patient] ^ (generator.random(len(patient)) < 0.1)).astype(int)
    scores = (
        labels + generator.normal(size=patients)[patient] + 0.5 * generator.normal(size=len(labels))
        for _ in range(2)
    )
    return labels, *scores, patient


def test_p_is_uniform_under_the_null_and_the_plain_forms_is_not():
    generator = np.random.default_rng(0)
    clustered, plain = [], []
    for _ in range(1000):
        labels, first, second, patient = null_cohort(generator)
        clustered.append(compare(labels, first, second, patient).p)
        plain.append(compare(labels, first, second, np.arange(len(labels))).p)
    assert kstest(clustered, "uniform").pvalue > 0.01
    # Binomial: 1,000 tests at 5 % reject 36 to 64 times with 95 % probability.
    assert 36 <= np.sum(np.array(clustered) < 0.05) <= 64
    assert kstest(plain, "uniform").pvalue < 1e-6


def test_it_finds_a_difference():
    labels, first, _ = images(0, 400, 0.3)
    worse = first + 2 * np.random.default_rng(1).normal(size=400)
    test = compare(labels, first, worse, np.arange(400) // 2)
    assert test.difference > 0
    assert test.p < 0.001


def test_models_that_rank_alike_have_no_p_value():
    labels, first, _ = images(0, 80, 0.3)
    test = compare(labels, first, 2 * first + 1, np.arange(80))
    assert (test.difference, test.p) == (0, None)


@pytest.mark.parametrize("owner", [lambda labels: labels, lambda labels: np.arange(80) * labels])
def test_one_patient_on_a_side_shows_no_variance(owner):
    labels, first, second = images(0, 80, 0.3)
    patient = np.unique(owner(labels), return_inverse=True)[1]
    test = compare(labels, first, second, patient)
    assert test.error is None
    assert test.p is None


def test_holm_by_r_and_by_hand():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.6, None, 0.7]) == [None, 1.0, None, 1.0]
    assert holm([]) == []
