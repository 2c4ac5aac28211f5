"""Intervals of single AUCs: against Newcombe's method, in simulations, and where there is none."""

import sys

import numpy as np
import pytest
from scipy.optimize import root_scalar
from scipy.stats import t

from agcnn_jax.metrics.auc import patient_influence, plain_auc, rank_scores
from agcnn_jax.metrics.auc_interval import PRIOR_DEGREES, auc_interval, hanley_mcneil
from tests.support.programs import ROOT

sys.path.append(str(ROOT / "benchmarks"))
from cohorts import single
from coverage_of_findings import AUCS, KINDS, POSITIVES, auc_coverage, measure_coverage


def interval(labels, scores, patient):
    labels, scores, patient = map(np.asarray, (labels, scores, patient))
    ranks = rank_scores(labels, scores)
    influence = patient_influence(ranks, patient, np.ones(patient.max() + 1, bool))
    images = len(ranks.positives), len(ranks.negatives)
    return auc_interval(plain_auc(ranks), influence, images)


def test_the_variance_of_exponential_scores():
    """Of 20,000 simulated AUCs of 6 positives and 9 negatives."""
    generator = np.random.default_rng(0)
    positive = 4 * generator.exponential(size=(20_000, 6, 1))
    aucs = (positive > generator.exponential(size=(20_000, 1, 9))).mean(axis=(1, 2))
    assert aucs.mean() == pytest.approx(4 / 5, abs=0.004)
    assert hanley_mcneil(4 / 5, 6, 9) == pytest.approx(aucs.var(), rel=0.04)
    # One image on each side is a coin.
    assert hanley_mcneil(0.7, 1, 1) == pytest.approx(0.21)


def test_the_ends_are_the_aucs_that_a_score_test_just_accepts():
    """Of independent images, by DeLong's variance and another search for the ends."""
    generator = np.random.default_rng(2)
    labels = np.repeat([1, 0], [8, 40])
    scores = labels + generator.normal(size=48)
    low, high = interval(labels, scores, np.arange(48))
    positive, negative = scores[:8], scores[8:]
    wins = positive[:, None] > negative
    auc = wins.mean()
    parts = [wins.mean(axis=axis).var(ddof=1) / n for axis, n in ((1, 8), (0, 40))]
    degrees = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, (8, 40), strict=True))
    moderated = degrees * sum(parts) / hanley_mcneil(auc, 8, 40) + PRIOR_DEGREES
    moderated /= degrees + PRIOR_DEGREES
    quantile = t.ppf(0.975, degrees + PRIOR_DEGREES)

    def test(x):
        return abs(auc - x) / np.sqrt(moderated * hanley_mcneil(x, 8, 40)) - quantile

    ends = [root_scalar(test, bracket=ends).root for ends in ((0.01, auc), (auc, 1 - 1e-9))]
    assert (low, high) == pytest.approx(ends, abs=1e-9)


def test_nothing_varies():
    """Not [1, 1] where the classes are separated, and not [0.5, 0.5] where all scores are equal."""
    labels = [1, 1, 1, 0, 0, 0]
    assert interval(labels, [5, 6, 7, 1, 2, 3], range(6)) is None
    assert interval(labels, [1] * 6, range(6)) is None
    # One patient on a side cannot show how patients vary.
    assert interval(labels, [1, 4, 2, 3, 0, 5], [0, 0, 0, 1, 2, 3]) is None
    low, high = interval(labels, [1, 4, 2, 3, 0, 5], range(6))
    assert 0 < low < 4 / 9 < high < 1


@pytest.mark.parametrize(("positives", "auc", "logit_alone"), [(5, 0.95, 0.94), (20, 0.98, 0.94)])
def test_few_patients_and_high_aucs(positives, auc, logit_alone):
    """A short form of the benchmark."""
    found = auc_coverage(single(positives, auc, several=True), 300)
    assert 0.94 <= found["tables'"].covered <= 1
    assert found["logit scale"].covered < logit_alone


def test_images_are_not_patients():
    found = auc_coverage(single(200, 0.8, several=True, common=0.4), 200)
    assert 0.91 <= found["tables'"].covered <= 0.98
    assert found["over images"].covered < 0.85


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("auc", AUCS)
def test_coverage_in_every_scenario(kind, auc):
    for positives in POSITIVES:
        found = auc_coverage(single(positives, auc, **KINDS[kind]), 1000)
        # The standard error of a simulated coverage is 0.007.
        assert found["tables'"].covered >= 0.92, positives


@pytest.mark.slow
def test_coverage_of_other_measures():
    for name, one in measure_coverage(50, 1000).items():
        assert one.covered >= 0.9, name
