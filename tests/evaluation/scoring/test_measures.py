import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit

from agcnn_jax.evaluation.findings import files as findings
from agcnn_jax.evaluation.findings.measure_tables import SHOWN
from agcnn_jax.evaluation.scoring.cohort import describe_cohort
from agcnn_jax.evaluation.scoring.evaluation import Evaluation
from agcnn_jax.evaluation.scoring.measures import measure
from agcnn_jax.evaluation.scoring.scored import ScoredImages, branch_aucs
from agcnn_jax.evaluation.scoring.validation import NOT_VALIDATED, fit_calibration, shared_patients
from agcnn_jax.metrics.finding_metrics import MEASURES, finding_metrics
from agcnn_jax.metrics.operating_points import operating_point

LABELS = ("Mass", "Hernia")


def draw(seed, with_logits=True):
    """200 images of 100 patients, of whom 4 have Hernia."""
    generator = np.random.default_rng(seed)
    patients = np.repeat(np.arange(100), 2)
    labels = np.stack([patients % 2, patients < 4], axis=1).astype(np.uint8)
    logits = generator.normal(labels, 1.5)
    return ScoredImages(
        image_ids=[f"{seed}_{i}.png" for i in range(200)],
        patient_ids=patients,
        labels=LABELS,
        findings=LABELS,
        label_matrix=labels,
        probabilities={"global": expit(logits)},
        logits={"global": logits} if with_logits else {},
        groups={"sex": np.where(patients < 50, "F", "M")},
    )


def files(folder, scored, calibration, note=""):
    results = branch_aucs(scored)
    cohort = describe_cohort(
        scored.label_matrix,
        LABELS,
        scored.patient_ids,
        split="test",
        protocol="random",
        backbone="resnet50",
        provenance="ChestX-ray14",
        collection="ChestX-ray14",
        synthetic=False,
        overlap=None,
    )
    evaluation = Evaluation(scored, cohort, results, measure(scored, calibration, note))
    for name, data in findings.files(evaluation).items():
        (folder / name).write_bytes(data)
    tables = {path.name: list(csv.DictReader(path.open())) for path in folder.glob("*.csv")}
    return tables, json.loads((folder / "metrics.json").read_text()), results


@pytest.mark.parametrize("with_logits", [True, False])
def test_every_number_is_in_the_tables_and_in_json(tmp_path, with_logits):
    scored, validation = draw(0, with_logits), draw(1, with_logits)
    calibration = fit_calibration(validation)
    tables, record, results = files(tmp_path, scored, calibration)
    truth, probabilities = scored.label_matrix[:, 0], scored.probabilities["global"][:, 0]
    logits = scored.logits["global"][:, 0] if with_logits else None
    expected = finding_metrics(truth, probabilities, np.asarray(scored.patient_ids), logits)
    row, numbers = tables["metrics.csv"][0], record["branches"]["global"]["Mass"]
    assert (row["finding"], row["positives"], row["positive_patients"]) == ("Mass", "100", "50")
    assert float(row["auc"]) == numbers["auc"] == results["global"].auc["Mass"]
    for name in ("brier", "slope", "intercept", "average_precision", "net_benefit_at_prevalence"):
        assert float(row[name]) == numbers[name] == expected.numbers[name].value
        ends = tuple(float(row[f"{name}_{end}"]) for end in ("low", "high"))
        assert ends == tuple(numbers["intervals"][name]) == expected.numbers[name].interval
    assert numbers["decision_curve"] == expected.decision_curve.tolist()
    assert numbers["decision_curve_low"] == expected.decision_interval[0].tolist()
    assert numbers["reliability"]["observed_high"] == expected.reliability_interval[1].tolist()
    assert numbers["reliability"]["observed"] == expected.reliability.observed.tolist()
    assert float(row["positive_50%"]) == numbers["positives"][2]
    choice = calibration.branches["global"]["Mass"]
    assert (float(row["platt_slope"]), float(row["platt_intercept"])) == choice.platt

    points = {(row["finding"], row["rule"]): row for row in tables["operating_points.csv"]}
    threshold = choice.thresholds["sensitivity_0.9"]
    scores = logits if with_logits else probabilities
    point = operating_point(truth, scores, threshold, scored.patient_ids)
    row = points["Mass", "sensitivity_0.9"]
    found = numbers["operating_points"]["sensitivity_0.9"]
    assert float(row["sensitivity"]) == point.sensitivity.value == found["sensitivity"]["value"]
    assert float(row["ppv_low"]) == point.ppv.interval.low == found["ppv"]["interval"][0]
    assert int(row["false_positives"]) == point.false_positives
    ratio = point.positive_likelihood_ratio
    assert float(row["positive_likelihood_ratio_high"]) == ratio.interval.high
    assert found["negative_likelihood_ratio"]["value"] == point.negative_likelihood_ratio.value
    in_probability = expit(threshold) if with_logits else threshold
    assert float(row["threshold_probability"]) == pytest.approx(in_probability)
    assert (row["threshold_logit"] == "") != with_logits
    assert record["validation"] == {"images": 200, "patients": 100}

    groups = {(row["group"], row["finding"]): row for row in tables["subgroups.csv"]}
    assert (groups["F", "Mass"]["images"], groups["F", "Mass"]["positive_patients"]) == (
        "100",
        "25",
    )
    assert float(groups["F", "Mean"]["auc"]) == float(groups["F", "Mass"]["auc"])
    apart = {(row["group"], row["finding"]): row for row in tables["subgroup_differences.csv"]}
    # Both groups have 50 patients; F, the first, is the reference.
    row, women = apart["M", "Mass"], scored.groups["sex"] == "F"
    called = scores >= choice.thresholds["youden"]
    men = called[~women & (truth == 1)].mean()
    assert float(row["sensitivity"]) == pytest.approx(men)
    difference = float(row["sensitivity_difference"])
    assert difference == pytest.approx(men - called[women & (truth == 1)].mean())
    (again,) = (
        one
        for one in record["subgroup_differences"]
        if (one["group"], one["finding"]) == ("M", "Mass")
    )
    assert again["sensitivity_difference"]["value"] == difference
    assert row["auc_difference_low"] == str(again["auc_difference"]["interval"][0])


def test_groups_without_a_mean_and_the_findings_of_means_are_named(tmp_path):
    scored = draw(0)
    scored.label_matrix[:, 1] = scored.label_matrix[:, 0]
    # Nine children, and in the older group too few patients have Hernia.
    age = np.where(scored.patient_ids < 9, "0-17", "18-39")
    old = scored.patient_ids >= 60
    age[old] = "40-59"
    scored.label_matrix[old, 1] = 0
    scored = dataclasses.replace(scored, groups={"age": age})
    files(tmp_path, scored, *NOT_VALIDATED)
    text = (tmp_path / "metrics.md").read_text()
    assert "| age: 0-17 | 18 | 9 | – | – |" in text
    assert "| age: 18-39 | 102 | 51 | 1 of 2 | 0." in text
    assert "Means by age cover 1 of 2 findings: Mass." in text
    assert "0-17 (9 patients, 18 images)" in text


def test_findings_of_few_patients_are_dashes(tmp_path):
    scored = draw(0)
    tables, record, _ = files(tmp_path, scored, fit_calibration(draw(1)))
    row = tables["metrics.csv"][1]
    assert row["auc"] != "" and {row["brier"], row["slope"], row["platt_slope"]} == {""}
    assert record["branches"]["global"]["Hernia"]["decision_curve"] is None
    line = next(x for x in (tmp_path / "metrics.md").read_text().splitlines() if "Hernia" in x)
    assert line.count("–") == 8
    # Enough validation images chose a threshold, but too few are scored.
    rich, poor = draw(1), draw(0)
    rich.label_matrix[:, 1] = rich.label_matrix[:, 0]
    points = measure(poor, fit_calibration(rich)).operating_points["global"]["Hernia"]
    assert set(points.values()) == {None}


def test_without_validation_the_reason_is_written(tmp_path):
    tables, record, _ = files(tmp_path, draw(0), *NOT_VALIDATED)
    assert "operating_points.csv" not in tables
    reason = "no predictions of validation images were given"
    assert record["no_thresholds_because"] == reason
    text = (tmp_path / "metrics.md").read_text()
    assert f"No operating points and no Platt's numbers: {reason}." in text
    assert "threshold by" not in text


def test_patients_on_both_sides_are_counted(tmp_path):
    validation = draw(1)
    assert shared_patients(validation.patient_ids + 98, draw(0)) == (
        "2 of these patients are scored too"
    )
    assert shared_patients(validation.patient_ids + 100, draw(0)) == ""
    files(tmp_path, draw(0), fit_calibration(validation), "2 of these patients are scored too")
    text = (tmp_path / "metrics.md").read_text()
    assert "200 validation images of 100 patients; 2 of these patients are scored too." in text


def test_tables_show_every_measure():
    assert tuple(SHOWN) == tuple(MEASURES)
