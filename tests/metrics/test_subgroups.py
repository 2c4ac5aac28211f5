import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from agcnn_jax.metrics.auc import patient_influence, rank_scores
from agcnn_jax.metrics.auc_interval import auc_interval
from agcnn_jax.metrics.influence import difference_interval
from agcnn_jax.metrics.subgroup_differences import compare_groups
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
        influence = patient_influence(
            rank_scores(truth, score), patients[chosen], np.ones(120, bool)
        )
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
    assert rows["unknown", "global", MEAN].auc is None
    assert rows["F", "global", MEAN].findings == ("Mass",)


def test_a_small_group_is_named_and_the_others_keep_their_means(drawn):
    groups = {"age": np.where(drawn[3] < 9, "0-17", np.where(drawn[3] % 2, "18-39", "40-59"))}
    rows = rows_of(drawn, groups=groups)
    small = rows["0-17", "global", MEAN]
    assert (small.patients, small.images, small.auc, small.findings) == (9, 18, None, ())
    for group in ("18-39", "40-59"):
        assert rows[group, "global", MEAN].findings == ("Mass",)


def test_a_group_with_half_of_the_best_groups_findings_is_large(drawn):
    labels = drawn[1].copy()
    labels[:, 1] = labels[:, 0]
    labels[drawn[3] % 2 == 0, 1] = 0
    rows = rows_of((drawn[0], labels, *drawn[2:]))
    assert rows["F", "global", "Hernia"].auc is not None
    assert rows["M", "global", "Hernia"].auc is None
    assert all(rows[sex, "global", MEAN].findings == ("Mass",) for sex in "FM")


@pytest.fixture(scope="module")
def views():
    """Two images of each of 150 patients, of both views, which resemble each other closely."""
    generator = np.random.default_rng(3)
    patients = np.repeat(np.arange(150), 2)
    labels = np.stack([patients % 2, patients % 3 == 0], axis=1)
    own = np.repeat(generator.normal(0, 1, (150, 2)), 2, axis=0)
    scores = labels + own + generator.normal(0, 0.5, (300, 2))
    return np.tile(["AP", "PA"], 150), labels, scores, patients


def compared(views, view=None, threshold=0.5):
    of_image, labels, scores, patients = views
    groups = {"view": of_image if view is None else view}
    options = {"labels": ("Mass", "Hernia"), "patients": patients}
    rows = subgroup_aucs(groups, labels, {"": scores}, findings=options["labels"], **options)
    called = {"": {name: scores[:, c] >= threshold for c, name in enumerate(options["labels"])}}
    found = compare_groups(rows, groups, labels, {"": scores}, called, **options)
    return {(one.group, one.finding): one for one in found}


def test_differences_are_paired_by_patient(views):
    view, labels, scores, _ = views
    found = compared(views)
    # All patients have both views: the first group in order is the reference.
    assert {one.reference for one in found.values()} == {"AP"}
    assert found["AP", "Mass"].auc_difference.value is None

    def differences(chosen):
        values = []
        for c in range(2):
            parts = {v: np.array([i for i in chosen if view[i] == v]) for v in ("AP", "PA")}
            truth = {v: labels[rows, c] for v, rows in parts.items()}
            score = {v: scores[rows, c] for v, rows in parts.items()}
            wins = {v: score[v][truth[v] == 1, None] > score[v][truth[v] == 0] for v in parts}
            auc = {v: wins[v].mean() for v in parts}  # no scores are equal
            hit = {v: (score[v][truth[v] == 1] >= 0.5).mean() for v in parts}
            right = {v: (score[v][truth[v] == 0] < 0.5).mean() for v in parts}
            values.append([one["PA"] - one["AP"] for one in (auc, hit, right)])
        return [*values[0], *values[1], (values[0][0] + values[1][0]) / 2]

    shares = [
        *(getattr(found["PA", f], f"{name}_difference") for f in ("Mass", "Hernia") for name in
          ("auc", "sensitivity", "specificity")),
        found["PA", MEAN].auc_difference,
    ]  # fmt: skip
    assert [one.value for one in shares] == pytest.approx(differences(np.arange(300)))
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 150, (300, 150))
    samples = [differences(np.concatenate([2 * one, 2 * one + 1])) for one in drawn]
    widths = 2 * 1.98 * np.std(samples, axis=0)
    ours = [one.interval.high - one.interval.low for one in shares]
    np.testing.assert_allclose(ours, widths, rtol=0.15)


def test_other_patients_in_each_group_vary_apart(views):
    _, labels, _, patients = views
    halves = np.where(patients < 80, "F", "M")
    one = compared(views, halves)["M", "Mass"]
    apart = []
    for group in "FM":
        chosen = halves == group
        influence = patient_influence(
            rank_scores(labels[chosen, 0], views[2][chosen, 0]),
            patients[chosen],
            np.ones(150, bool),
        )
        apart.append(difference_interval(0.0, influence).high)
    assert one.auc_difference.interval.high - one.auc_difference.value == pytest.approx(
        np.hypot(*apart), rel=0.01
    )


def test_a_small_group_is_compared_by_what_both_groups_show(views):
    sizes = np.where(views[3] < 40, "0-17", "40-59")
    labels = views[1].copy()
    labels[sizes == "0-17", 1] = 0
    found = compared((views[0], labels, *views[2:]), sizes)
    assert found["0-17", "Hernia"].auc_difference.value is None
    assert found["0-17", "Hernia"].sensitivity.value is None
    mean, mass = found["0-17", MEAN], found["0-17", "Mass"]
    assert mean.findings == ("Mass",)
    assert mean.auc_difference.value == pytest.approx(mass.auc_difference.value)


def test_ages():
    found = age_groups(np.array([-1, 0, 17, 18, 39, 40, 59, 60, 120, 121, 414]))
    assert found.tolist() == [
        *("unknown", "0-17", "0-17", "18-39", "18-39", "40-59", "40-59", "60 and over"),
        *("60 and over", "unknown", "unknown"),
    ]
