import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from agcnn_jax.metrics.auc import patient_influence, rank_scores
from agcnn_jax.metrics.auc_interval import auc_interval
from agcnn_jax.metrics.subgroups import MEAN, age_groups, subgroup_aucs

LABELS = ("Mass", "Hernia", "No Finding")


@pytest.fixture(scope="module")
def drawn():
    """240 images of 120 patients: half men; 12 patients have Hernia, 9 of them women."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(120), 2)
    sex = np.where(patients % 2, "F", "M")
    labels = generator.integers(0, 2, (240, 3))
    labels[:, 1] = np.isin(patients, [*range(1, 18, 2), 2, 4, 6])
    return {"sex": sex}, labels, generator.normal(labels, 1.5), patients


def rows_of(drawn, **changes):
    groups, labels, scores, patients = drawn
    rows = subgroup_aucs(
        changes.get("groups", groups),
        labels,
        {"global": scores, "fusion": -scores},
        labels=LABELS,
        findings=LABELS[:2],
        patients=patients,
    )
    return {(row.group, row.branch, row.finding): row for row in rows}


def test_aucs_and_intervals_of_each_group(drawn):
    groups, labels, scores, patients = drawn
    rows = rows_of(drawn)
    for sex in "FM":
        chosen = groups["sex"] == sex
        truth, score = labels[chosen, 0], scores[chosen, 0]
        row = rows[sex, "global", "Mass"]
        assert row.auc == pytest.approx(roc_auc_score(truth, score))
        influence = patient_influence(rank_scores(truth, score), patients[chosen], 120)
        images = int(truth.sum()), int((truth == 0).sum())
        np.testing.assert_allclose(row.interval, auc_interval(row.auc, influence, images), 1e-5)
        assert (row.images, row.patients, row.positives) == (120, 60, truth.sum())
        assert row.positive_patients == len(set(patients[chosen][truth == 1]))
        assert rows[sex, "fusion", "Mass"].auc == pytest.approx(1 - row.auc)


def test_few_patients_are_a_dash_and_in_no_mean(drawn):
    rows = rows_of(drawn)
    assert rows["M", "global", "Hernia"].positive_patients == 3
    assert rows["M", "global", "Hernia"].auc is None
    for sex in "FM":
        mean = rows[sex, "global", MEAN]
        assert mean.findings == ("Mass",)
        assert mean.auc == pytest.approx(rows[sex, "global", "Mass"].auc)
        assert mean.interval == rows[sex, "global", "Mass"].interval


def test_an_unknown_group_takes_no_finding_from_the_means(drawn):
    groups = {"sex": drawn[0]["sex"].astype("U16")}
    groups["sex"][drawn[3] < 4] = "unknown"
    rows = rows_of(drawn, groups=groups)
    assert rows["unknown", "global", "Mass"].auc is None
    assert ("unknown", "global", MEAN) not in rows
    assert rows["F", "global", MEAN].findings == ("Mass",)


def test_ages():
    found = age_groups(np.array([-1, 0, 17, 18, 39, 40, 59, 60, 120, 121, 414]))
    assert found.tolist() == [
        *("unknown", "0-17", "0-17", "18-39", "18-39", "40-59", "40-59", "60 and over"),
        *("60 and over", "unknown", "unknown"),
    ]
