"""Findings of which some labels are missing: their measures are those of the known images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import t
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    roc_auc_score,
)

from agcnn_jax.metrics.auc import auc
from agcnn_jax.metrics.auc_table import auc_table, paired_difference
from agcnn_jax.metrics.finding_metrics import enough_patients, finding_metrics
from agcnn_jax.metrics.known_labels import MISSING, known_patients, known_rows
from agcnn_jax.metrics.operating_points import operating_point
from agcnn_jax.metrics.paired_test import paired_test
from agcnn_jax.metrics.subgroup_differences import compare_groups
from agcnn_jax.metrics.subgroups import MEAN, subgroup_aucs
from agcnn_jax.run.calibration import calibrate
from tests.support.missing import missing_labels

NAMES = ("Mass", "Nodule", "Edema")


def draw(seed=0, share=0.4, images=300, patients=120):
    """Some labels of all patients are missing, and all labels of 30 of them."""
    generator = np.random.default_rng(seed)
    patient = np.sort(generator.integers(0, patients, images))
    labels = (generator.random((images, len(NAMES))) < 0.4).astype(np.uint8)
    scores = {name: labels + generator.normal(0, 1.2, labels.shape) for name in ("one", "two")}
    labels = missing_labels(labels, share, seed)
    labels[patient < 30] = MISSING
    return labels, scores, patient


def table(labels, scores, patient, columns=(0, 1, 2)):
    names = [NAMES[c] for c in columns]
    chosen = {name: matrix[:, list(columns)] for name, matrix in scores.items()}
    return auc_table(
        labels[:, list(columns)], chosen, labels=names, findings=names, patient_ids=patient
    )


def known_only(labels, scores, patient, column):
    """Leave out the images whose label is missing."""
    rows = labels[:, column] != MISSING
    return labels[rows], {name: one[rows] for name, one in scores.items()}, patient[rows]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.5, 0.95]))
def test_scores_of_missing_labels_do_not_matter(seed, share):
    labels, scores, patient = draw(seed, share, images=80, patients=60)
    noise = np.random.default_rng(seed).normal(0, 1e3, labels.shape)
    changed = {name: np.where(labels == MISSING, noise, one) for name, one in scores.items()}
    assert table(labels, changed, patient) == table(labels, scores, patient)


@pytest.mark.parametrize("column", range(len(NAMES)))
def test_one_finding_is_that_of_its_known_images(column):
    case = draw()
    whole, kept = table(*case), known_only(*case, column)
    part, name = table(*kept, [column]), NAMES[column]
    for branch in ("one", "two"):
        truth, scores = kept[0][:, column], kept[1][branch][:, column]
        assert whole[branch].auc[name] == pytest.approx(roc_auc_score(truth, scores), abs=1e-14)
        np.testing.assert_allclose(
            whole[branch].intervals[name], part[branch].intervals[name], rtol=1e-11
        )
    change = whole["one"].mean.influence.minus(whole["two"].mean.influence).of([column])
    of_part = part["one"].mean.influence.minus(part["two"].mean.influence)
    difference = part["one"].auc[name] - part["two"].auc[name]
    ours, theirs = (paired_test(difference, influence) for influence in (change, of_part))
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)


def interval_by_hand(labels, scores, patient):
    """The mean's interval, image by image, as the docstrings of `influence` describe it."""
    findings, aucs, sides = labels.shape[1], [], []
    total = dict.fromkeys(patient[(labels != MISSING).any(axis=1)], 0.0)
    for truth, score in zip(labels.T, scores.T, strict=True):
        positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
        wins = (score[positive][:, None] > score[negative]).astype(float)
        aucs.append(wins.mean())
        for images, share in ((positive, wins.mean(axis=1)), (negative, wins.mean(axis=0))):
            owners = sorted(set(patient[images]))
            squares, variance = 0.0, 0.0
            for owner in owners:
                weight = np.mean(patient[images] == owner)
                value = (share - aucs[-1])[patient[images] == owner].sum() / len(images)
                value *= np.sqrt((len(owners) - 1) / len(owners)) / (1 - weight) / findings
                total[owner] += value
                squares, variance = squares + weight**2, variance + value**2
            sides.append((variance, 1 / squares - 1))
    variance = sum(value**2 for value in total.values())
    shared = max(variance - sum(one for one, _ in sides), 0) ** 2 / (len(total) - 1)
    degrees = variance**2 / (sum(one**2 / free for one, free in sides) + shared)
    mean = np.mean(aucs)
    reach = t.ppf(0.975, degrees) * np.sqrt(variance) / (mean * (1 - mean))
    return expit(logit(mean) + np.array([-reach, reach]))


def test_the_mean_adds_up_what_is_known_of_each_patient():
    labels, scores, patient = draw()
    mean = table(labels, scores, patient)["one"].mean
    by_hand = interval_by_hand(labels, scores["one"], patient)
    np.testing.assert_allclose(mean.interval, by_hand, rtol=1e-11)
    known = mean.influence.known.any(axis=0)
    assert (known == (np.unique(patient) >= 30)).all()
    assert not mean.influence.values[..., ~known].any()


def test_patients_of_whom_nothing_is_known_change_no_mean():
    labels, scores, patient = draw()
    known = (labels != MISSING).any(axis=1)
    part = {name: one[known] for name, one in scores.items()}
    whole, without = table(labels, scores, patient), table(labels[known], part, patient[known])
    for mean in ("mean", "frequent_mean"):
        one, other = getattr(whole["one"], mean), getattr(without["one"], mean)
        np.testing.assert_allclose(one.interval, other.interval, rtol=1e-11)
    pairs = (paired_difference(one["one"].mean, one["two"].mean) for one in (whole, without))
    (value, interval), (expected, of_known) = pairs
    assert value == expected
    np.testing.assert_allclose(interval, of_known, rtol=1e-11)


def test_measures_and_thresholds_of_the_known_images():
    labels, scores, patient = draw()
    probabilities = expit(scores["one"])
    kept, of_kept, patients = known_only(labels, {"one": probabilities}, patient, 0)
    truth, values = kept[:, 0], of_kept["one"][:, 0]
    found = finding_metrics(labels[:, 0], probabilities[:, 0], patient)
    expected = finding_metrics(truth, values, patients)
    assert found.numbers == expected.numbers
    np.testing.assert_equal(found.reliability, expected.reliability)
    np.testing.assert_equal(found.reliability_interval, expected.reliability_interval)
    np.testing.assert_equal(found.decision_curve, expected.decision_curve)
    assert (found.positives, found.negatives) == (expected.positives, expected.negatives)
    precision = average_precision_score(truth, values)
    assert found.numbers["average_precision"].value == pytest.approx(precision)
    assert found.numbers["brier"].value == pytest.approx(brier_score_loss(truth, values))
    point = operating_point(labels[:, 0], probabilities[:, 0], 0.6, patient)
    assert point == operating_point(truth, values, 0.6, patients)
    counts = confusion_matrix(truth, values >= 0.6).ravel().tolist()
    names = ("true_negatives", "false_positives", "false_negatives", "true_positives")
    assert [getattr(point, name) for name in names] == counts


@pytest.mark.parametrize("of_logits", [True, False])
def test_calibration_on_the_known_images(of_logits):
    labels, scores, patient = draw()
    labels[:, 2] = MISSING

    def chosen(labels, scores, patient):
        logits = scores if of_logits else None
        probabilities = {name: expit(one) for name, one in scores.items()}
        return calibrate(labels, probabilities, logits, labels=NAMES, patients=patient).branches

    found = chosen(labels, scores, patient)
    assert list(found["one"]) == ["Mass", "Nodule"]
    for column, name in enumerate(NAMES[:2]):
        of_known = chosen(*known_only(labels, scores, patient, column))
        for branch in scores:
            assert found[branch][name] == of_known[branch][name]


def test_groups_of_the_known_images():
    labels, scores, patient = draw(1)
    sex = np.where(np.arange(300) % 5 < 2, "F", "M")

    def compared(labels, scores, patient, sex, columns):
        names, groups = [NAMES[c] for c in columns], {"sex": sex}
        options = {"labels": names, "patients": patient}
        scores = {name: one[:, columns] for name, one in scores.items()}
        labels = labels[:, columns]
        called = {"one": {name: scores["one"][:, i] > 0.5 for i, name in enumerate(names)}}
        rows = subgroup_aucs(groups, labels, scores, findings=names, **options)
        between = compare_groups(rows, groups, labels, scores, called, **options)
        return [
            {(x.group, x.branch, x.finding): x for x in part if x.finding != MEAN}
            for part in (rows, between)
        ]

    whole = compared(labels, scores, patient, sex, [0, 1, 2])
    for column in range(len(NAMES)):
        rows = labels[:, column] != MISSING
        part = compared(*known_only(labels, scores, patient, column), sex[rows], [column])
        for found, expected in zip(whole, part, strict=True):
            for place, one in expected.items():
                if hasattr(one, "auc"):
                    assert found[place].auc == one.auc and found[place].positives == one.positives
                    np.testing.assert_allclose(found[place].interval, one.interval, rtol=1e-11)
                    continue
                assert found[place].sensitivity == one.sensitivity
                if one.group != one.reference:
                    ours, theirs = found[place].auc_difference, one.auc_difference
                    np.testing.assert_allclose(ours.interval, theirs.interval, rtol=1e-11)


def test_what_is_known():
    labels, patient = np.array([MISSING, 0, 1, MISSING], np.uint8), np.array([0, 1, 1, 2])
    assert known_patients(labels, patient, 4).tolist() == [False, True, False, False]
    kept, owners = known_rows(labels, patient)
    assert (kept.tolist(), owners.tolist()) == ([0, 1], [1, 1])
    assert not enough_patients(labels, patient, 2)
    assert auc(labels, np.array([9.0, 1.0, 2.0, -9.0])) == 1.0
    assert auc(np.full(4, MISSING, np.uint8), np.arange(4.0)) is None
    for value in (2, 254):
        with pytest.raises(ValueError, match="labels must be 0 or 1, or 255 where not known"):
            auc(np.array([0, 1, value], np.uint8), np.arange(3.0))
