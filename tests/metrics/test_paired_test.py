"""The paired test against R's pROC, against its definition, and under the null."""

import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from agcnn_jax.metrics.auc import patient_influence, plain_auc, rank_scores
from agcnn_jax.metrics.influence import UNBIASED, difference_interval, estimate_variance
from agcnn_jax.metrics.paired_test import holm, paired_test
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from cohorts import single
from size_of_tests import sizes

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
    return plain_auc(ranks), patient_influence(ranks, patient, np.ones(patient.max() + 1, bool))


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
        assert estimate_variance(influence, UNBIASED)[0] == pytest.approx(variance, abs=1e-11)
    test = compare(labels, *models, patient)
    statistic = test.difference / test.error
    # R takes the normal distribution, whose p is smaller.
    assert (statistic, 2 * norm.sf(abs(statistic))) == pytest.approx(test_and_p, rel=1e-9)
    assert 1 < test.p / test_and_p[1] < 1.1


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


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_several_images_a_patient_is_obuchowskis_formula(seed, each):
    """Of patients with equally many images, all on one side; the formula has no other weights."""
    labels, scores, _ = images(seed, 12, 0.4)
    labels[:2], labels[2:4] = 0, 1
    patient = np.repeat(np.arange(12), each)
    scores = scores[patient] + np.random.default_rng(seed).normal(size=len(patient)).round(1)
    _, influence = influence_on(labels[patient], scores, patient)
    variance, _ = estimate_variance(influence, UNBIASED)
    assert variance == pytest.approx(obuchowski(labels[patient], scores, patient), abs=1e-14)


@given(st.integers(0, 10_000))
def test_p_and_interval_agree(seed):
    """The interval of level 1 - p ends at 0."""
    labels, first, second = images(seed, 60, 0.4)
    patient = np.arange(60) // 2 if seed % 2 else np.arange(60)
    (one, of_one), (other, of_other) = (influence_on(labels, x, patient) for x in (first, second))
    influence = of_one.minus(of_other)
    test = paired_test(one - other, influence)
    assume(test.p is not None and abs(test.difference) > 1e-6)
    ends = difference_interval(one - other, influence, level=1 - test.p)
    assert min(map(abs, ends)) == pytest.approx(0, abs=1e-9)


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


@pytest.mark.parametrize(("positives", "negatives"), [(9, 60), (60, 9), (10, 10)])
def test_few_patients_on_a_side_are_not_tested(positives, negatives):
    labels = np.repeat([1, 0], [positives, negatives])
    first, second = np.random.default_rng(0).normal(size=(2, len(labels))) + labels
    test = compare(labels, first, second, np.arange(len(labels)))
    assert test.error is not None
    assert (test.p is None) == (min(positives, negatives) < 10)


@pytest.mark.parametrize("several", [pytest.param(False, marks=pytest.mark.slow), True])
def test_size_with_ten_positive_patients(several):
    """A short form of the benchmark; by the normal distribution it is 0.07 to 0.1."""
    by_t, by_normal = sizes(single(10, 0.75, several), 1000)
    assert 0.03 <= by_t <= 0.064
    assert by_normal > by_t + 0.01


def test_holm_by_r_and_by_hand():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.6, None, 0.7]) == [None, 1.0, None, 1.0]
    assert holm([]) == []
