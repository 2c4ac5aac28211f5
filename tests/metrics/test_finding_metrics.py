import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, brier_score_loss

from agcnn_jax.metrics import calibration
from agcnn_jax.metrics.finding_metrics import enough_patients, finding_metrics


def drawn(count=400):
    generator = np.random.default_rng(0)
    logits = generator.normal(-2, 2, count)
    return generator.binomial(1, expit(logits)), logits


def test_values_of_scikit_learn_and_of_the_modules_they_come_from():
    labels, logits = drawn()
    found = finding_metrics(labels, expit(logits), np.arange(len(labels)), logits)
    assert found.numbers["average_precision"].value == average_precision_score(labels, logits)
    assert found.numbers["brier"].value == pytest.approx(brier_score_loss(labels, expit(logits)))
    assert found.numbers["slope"].value == calibration.fit_line(labels, logits).slope
    assert found.numbers["intercept"].value == calibration.intercept(labels, logits)
    assert found.positives[2] == np.median(expit(logits[labels == 1]))
    assert found.negatives[2] == np.median(expit(logits[labels == 0]))
    # At the prevalence, net benefit is (sensitivity + specificity - 1) * prevalence.
    called, share = expit(logits) >= labels.mean(), labels.mean()
    youden = called[labels == 1].mean() - called[labels == 0].mean()
    assert found.numbers["net_benefit_at_prevalence"].value == pytest.approx(share * youden)


def test_probabilities_alone_give_the_same():
    labels, logits = drawn()
    one, other = (
        finding_metrics(labels, expit(logits), np.arange(len(labels)), given).numbers
        for given in (logits, None)
    )
    for name in ("average_precision", "brier"):
        assert other[name].value == one[name].value
    assert other["slope"].value == pytest.approx(one["slope"].value)


def test_precision_ranks_logits_where_probabilities_tie():
    labels, logits = np.array([1, 0, 0, 1]), np.array([50.0, 45, 40, -50])

    def precision(given):
        metrics = finding_metrics(labels, expit(logits), np.arange(len(labels)), given)
        return metrics.numbers["average_precision"].value

    assert precision(logits) == 0.75
    assert precision(None) < 0.7


def test_patients_are_counted_on_both_sides():
    labels, patients = np.array([1, 1, 0, 0]), np.array([0, 0, 0, 1])
    assert enough_patients(labels, patients, 1)
    assert not enough_patients(labels, patients, 2)
    assert not enough_patients(1 - labels, patients, 2)
