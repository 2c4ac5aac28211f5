import csv
import dataclasses
import io

import numpy as np
import pytest

from agcnn_jax.evaluation.auc import aucs
from agcnn_jax.evaluation.files.table import (
    DASH,
    as_markdown,
    as_text,
    interval_text,
    number,
    probability_text,
)
from agcnn_jax.evaluation.report.summary import summary
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, describe_cohort
from agcnn_jax.evaluation.scoring.measures import Measures
from agcnn_jax.evaluation.scoring.references import PAPER_SETTING, published_row
from agcnn_jax.metrics.auc_table import auc_table
from agcnn_jax.metrics.interval import Interval
from agcnn_jax.run.lineage import Overlap

LABELS = ("Mass", "Nodule", "Hernia", "No Finding")
FINDINGS = LABELS[:3]


def scored(
    backbone="resnet50",
    synthetic=False,
    protocol="random",
    shared=0,
    trained=0,
    split="test",
    **setting,
):
    """60 images of 30 patients without Hernia; Mass is separable, with an AUC of 1."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, (60, 4)).astype(np.uint8)
    labels[:, 2] = 0
    labels[:, 3] = labels[:, :3].sum(axis=1) == 0
    patients = np.arange(60) // 2
    scores = {b: generator.random((60, 4)).astype(np.float32) for b in ("global", "fusion")}
    for matrix in scores.values():
        matrix[:, 0] = labels[:, 0] + 0.1 * matrix[:, 0]
    results = auc_table(labels, scores, labels=LABELS, findings=FINDINGS, patient_ids=patients)
    cohort = describe_cohort(
        labels,
        LABELS,
        patients,
        split=split,
        protocol=protocol,
        backbone=backbone,
        provenance="ChestX-ray14",
        collection="ChestX-ray14",
        synthetic=synthetic,
        overlap=Overlap(trained, shared, True),
        setting=dataclasses.replace(PAPER_SETTING, **setting),
    )
    return results, cohort


def test_rows_and_the_paper():
    results, cohort = scored()
    table = aucs.build_table(results, cohort)
    assert [row[0] for row in table.rows] == [
        "Mass",
        "Nodule",
        "Hernia",
        "Mean (2 of 3)",
        "No Finding (apart)",
    ]
    assert table.rows[0][2:6] == ("1.000", "–", "0.863", "+0.137")
    assert table.rows[2][2:6] == ("–", "–", "0.889", "–")
    # The paper's mean is over the findings that have an AUC here: Mass 0.863 and Nodule 0.780.
    mean = results["global"].mean.value
    assert table.rows[3][2] == f"{mean:.3f}"
    assert table.rows[3][4:6] == ("0.822", f"{mean - (0.863 + 0.780) / 2:+.3f}")
    assert table.rows[4][4:6] == ("–", "–")


def test_notes():
    text = "\n".join(aucs.build_table(*scored()).below)
    assert "Images trained on: 0 of 60; patients shared with training: 0 of 30." in text
    assert "no AUC, since no image is positive or none is negative: Hernia." in text
    assert "Mean (2 of 3), fusion minus global: " in text
    assert "Table I; random 70/10/20 split" in text
    leaking = "\n".join(aucs.build_table(*scored(protocol="random", shared=4)).below)
    assert "patients shared with training: 4 of 30. Expect lower" in leaking


def test_no_paper_without_a_row():
    table = aucs.build_table(*scored(backbone="resnet_small"))
    assert table.groups[1] == ("global", ("AUC", "95 % interval"))
    assert "Not compared with the paper: it has no resnet_small." in table.below


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ({"protocol": "official"}, "it splits images at random, the official protocol does not"),
        ({"split": "train"}, "its numbers come from a test split, these from the train split"),
        ({"split": "validation"}, "these from the validation split"),
        ({"trained": 3}, "these images were trained on"),
        ({"tau": 0.5}, "it has no run of resnet50 with strategy G_L_F, statistic max, tau 0.5"),
        ({"statistic": "l1", "strategy": "GLF"}, "strategy GLF, statistic l1, tau 0.7"),
        ({"local_input": "image"}, "tau 0.7, the whole image as local input"),
        ({"local_input": "centred"}, "tau 0.7, a centred crop as local input"),
        ({"local_input": "centred", "strategy": "GLF"}, "GLF, statistic max, tau 0.7, a centred"),
        ({"crop_from": "stored"}, "tau 0.7, crops from the stored images"),
        ({"crop_from": "stored", "statistic": "l1"}, "statistic l1, tau 0.7, crops from the"),
        ({"backbone": "densenet121", "strategy": "GLF"}, "it has no run of densenet121 with"),
        ({"backbone": "densenet121", "statistic": "l2"}, "it has no run of densenet121 with"),
    ],
)
def test_no_paper_beside_another_setting(run, why):
    results, cohort = scored(**run)
    table = aucs.build_table(results, cohort)
    measures = Measures({branch: {} for branch in results}, {}, [], None, "")
    assert table.groups[1] == ("global", ("AUC", "95 % interval"))
    assert why in "\n".join(table.below)
    assert not any(line.startswith("Paper: Guan") for line in table.below)
    assert "paper" not in aucs.aucs_csv(results, cohort)
    assert "The paper reports" not in " ".join(summary(results, measures, cohort))


def test_others_results_on_the_same_split_only():
    """Wang et al. and Yao et al. split at random as well; synthetic images have no rivals."""

    def published(**run):
        table = aucs.build_table(*scored(**run))
        return [line for line in table.below if line.startswith("Published means")]

    [line] = published()
    assert "(70/10/20): Yao et al. 2017, DenseNet variant 0.803; Wang et al. 2017" in line
    assert published(protocol="patient") == []
    assert published(split="validation") == []
    assert published(trained=3) == []
    assert published(synthetic=True) == []


def test_rare_findings_and_the_means():
    """The second mean leaves out findings of few patients; a note says that the first does not."""
    generator = np.random.default_rng(0)
    labels = np.zeros((80, 2), np.uint8)
    labels[:30, 0], labels[:3, 1] = 1, 1
    names = ("Mass", "Hernia")
    scores = {b: labels + generator.normal(size=(80, 2)) for b in ("global", "fusion")}
    results = auc_table(labels, scores, labels=names, findings=names, patient_ids=range(80))
    cohort = describe_cohort(
        labels,
        names,
        range(80),
        split="test",
        protocol="random",
        backbone="resnet50",
        setting=PAPER_SETTING,
        provenance="ChestX-ray14",
        collection="ChestX-ray14",
        synthetic=False,
        overlap=None,
    )
    table = aucs.build_table(results, cohort)
    below = "\n".join(table.below)
    assert [row[0] for row in table.rows[2:]] == ["Mean (2 of 2)", "Mean, 10+ patients (1 of 2)"]
    assert table.rows[3][2] == table.rows[0][2] == f"{results['global'].auc['Mass']:.3f}"
    assert table.rows[3][4] == "0.863"
    assert "at best: Hernia; the row 'Mean (2 of 2)', not the one below it, includes" in below
    assert "Mean (2 of 2), fusion minus global: " in below
    assert "Mean, 10+ patients (1 of 2), fusion minus global: " in below
    rows = list(csv.reader(io.StringIO(aucs.aucs_csv(results, cohort))))
    assert rows[4][0] == "Mean, 10+ patients (1 of 2)"
    assert float(rows[4][2]) == results["global"].auc["Mass"]


def test_synthetic_images_are_not_compared_with_patients():
    results, cohort = scored(synthetic=True)
    table = aucs.build_table(results, cohort)
    assert table.above[0] == table.below[-1] == SYNTHETIC_NOTE
    for text in (
        as_text(table),
        as_markdown(table),
        aucs.aucs_csv(results, cohort),
    ):
        assert "paper" not in text
        assert "0.889" not in text


@pytest.mark.parametrize("width, blocks", [(60, 2), (200, 1)])
def test_text_fits_the_terminal(width, blocks):
    table = aucs.build_table(*scored(backbone="resnet_small"))
    lines = as_text(table, width).splitlines()
    inside = lines[len(table.above) + 1 : -len(table.below) - 1]
    assert max(map(len, inside)) <= width
    assert sum(line.startswith("Mass ") for line in inside) == blocks
    rule = next(line for line in inside if line.startswith("---"))
    assert len(rule) == max(map(len, inside))


def test_digits():
    results, cohort = scored()
    table = aucs.build_table(results, cohort, digits=6)
    assert table.rows[1][2] == f"{results['global'].auc['Nodule']:.6f}"


def test_no_negative_zero():
    assert number(-0.0001, sign="+") == "+0.000"
    assert interval_text(Interval(-0.0002, 0.01)) == "[0.000, 0.010]"


def test_an_interval_without_width_is_a_dash():
    assert interval_text(Interval(0.5, 0.5 + 1e-15)) == DASH
    assert interval_text(Interval(0.50001, 0.50002)) == "[0.500, 0.500]"


def test_probabilities_never_round_to_one():
    texts = [probability_text(p) for p in (0.98765432, 1.234567e-5, 0.999987654, 1.0)]
    assert texts == ["0.9877", "1.235e-05", "0.999987654", "1"]


def test_markdown_is_rectangular():
    text = as_markdown(aucs.build_table(*scored()))
    lines = [line for line in text.split("\n") if "|" in line]
    assert {line.count("|") for line in lines} == {11}
    assert lines[0].startswith("| Finding | Positives | global AUC |")
    assert lines[5].startswith("| **Mean (2 of 3)** |")


def test_csv_has_full_precision():
    results, cohort = scored()
    rows = {
        row["finding"]: row for row in csv.DictReader(io.StringIO(aucs.aucs_csv(results, cohort)))
    }
    assert float(rows["Nodule"]["fusion_auc"]) == results["fusion"].auc["Nodule"]
    assert float(rows["Nodule"]["global_low"]) == results["global"].intervals["Nodule"].low
    assert rows["Hernia"]["global_auc"] == rows["Hernia"]["global_difference"] == ""
    assert rows["Hernia"]["positives"] == "0"
    paper = published_row("resnet50", "fusion").auc["Nodule"]
    difference = results["fusion"].auc["Nodule"] - paper
    assert float(rows["Nodule"]["fusion_difference"]) == difference
    assert float(rows["Mean (2 of 3)"]["fusion_auc"]) == results["fusion"].mean.value
    assert list(rows)[-1] == "No Finding"
