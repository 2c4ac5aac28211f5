"""The files of a localisation, from scores made of boxes that are given."""

import csv
import io
import json

import numpy as np
import pytest

from agcnn_jax.evaluation.localisation.files import (
    localisation_csv,
    localisation_json,
)
from agcnn_jax.evaluation.localisation.tables import (
    localisation_markdown,
    localisation_tables,
)
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE, describe_cohort
from agcnn_jax.evaluation.scoring.localisation import (
    BEST_CONTROL,
    MEAN_BOX,
    PRIOR,
    WAYS,
    Count,
    Localisation,
    note,
)
from agcnn_jax.evaluation.scoring.map_boxes import RANDOM
from agcnn_jax.metrics.localisation import box_hits, score_differences, score_hits

# Two images of two patients with a nodule, one with a hernia, for which Wang et al. have no number.
BOXES = {"Nodule": [[[0, 0, 10, 10]], [[20, 20, 30, 30]]], "Hernia": [[[0, 0, 10, 10]]]}
# One found box and a half, each in its own image; points in both nodules, not in the hernia.
FOUND = {"Nodule": [[[0, 0, 10, 10]], [[25, 20, 30, 40]]], "Hernia": [[[20, 0, 30, 10]]]}


def make():
    scores = {tau: {way: {} for way in WAYS} for tau in (0.5, 0.7)}
    differences = {way: {} for way in (*WAYS[1:], BEST_CONTROL)}
    for finding, boxes in BOXES.items():
        found = np.array(FOUND[finding], float)
        points = found[:, 0, :2] + 1
        annotated, patients = np.array(boxes, float), np.arange(len(boxes))
        hits = box_hits(annotated, found, points, patients, 100)
        # Of the random map alone.
        nothing = box_hits(annotated, found + 50, points + 50, patients, 100)
        for way in WAYS:
            if way in (MEAN_BOX, PRIOR) and finding == "Hernia":
                continue
            reached = nothing if way == RANDOM else hits
            for of_tau in scores.values():
                of_tau[way][finding] = score_hits(reached)
            if way != "attended":
                differences[way][finding] = score_differences(hits, reached)
        differences[BEST_CONTROL][finding] = score_differences(hits, nothing)
    counts = {"Nodule": Count(2, 2, 2), "Hernia": Count(1, 1, 1)}
    return Localisation(0.7, "max", Count(3, 3, 2), counts, scores, differences)


def cohort(synthetic=False):
    return describe_cohort(
        np.eye(3, 2, dtype=np.uint8),
        ("Nodule", "Hernia"),
        [1, 2, 3],
        split="test",
        protocol="official",
        backbone="resnet50",
        provenance="ChestX-ray14",
        collection="ChestX-ray14",
        synthetic=synthetic,
        overlap=None,
    )


def test_csv_has_every_score_with_wang_et_al_beside_theirs():
    rows = list(csv.DictReader(io.StringIO(localisation_csv(make(), cohort()))))
    # At two taus, per finding and way: 7 of IoU, 5 of IoBB and of false positives, and 3 more; then
    # the differences.
    assert len(rows) == (2 * (7 + 5) + (7 + 5)) * 20
    [row] = [
        row
        for row in rows
        if [row[name] for name in ("tau", "found_by", "finding", "measure", "threshold")]
        == ["0.5", "grad_cam", "Nodule", "iobb", "0.5"]
    ]
    # The second box is half inside: not above 0.5.
    assert (float(row["value"]), row["boxes"], row["wang_2017"]) == (0.5, "2", "0.0126")
    assert 0 < float(row["low"]) < 0.5 < float(row["high"]) < 1
    [row] = [
        row
        for row in rows
        if [row[name] for name in ("found_by", "finding", "measure", "threshold")]
        == ["attended_minus_random_map", "Nodule", "iobb", "0.1"]
    ]
    assert (row["tau"], row["value"], row["low"], row["wang_2017"]) == ("0.7", "1.0", "", "")
    hernias = [row for row in rows if row["finding"] == "Hernia"]
    assert {(row["low"], row["high"], row["wang_2017"]) for row in hernias} == {("", "", "")}


def test_json_reads_back_with_null_where_nothing_is_known():
    read = json.loads(json.dumps(localisation_json(make(), cohort()), allow_nan=False))
    assert (read["tau"], read["boxes"], read["images"], read["patients"]) == (0.7, 3, 3, 2)
    assert read["findings"]["Nodule"] == {"boxes": 2, "images": 2, "patients": 2}
    scores = read["scores"]["0.7"]["attended"]
    assert scores["Nodule"]["iou"]["value"] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    assert read["thresholds"]["iou"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert scores["Nodule"]["pointing"]["value"] == 1
    assert scores["Hernia"]["centre"] == {"value": 0, "low": None, "high": None}
    assert "Hernia" not in read["scores"]["0.7"][MEAN_BOX]
    minus = read["scores"]["0.7"]["attended_minus_random_map"]["Nodule"]
    assert minus["iou"]["value"] == scores["Nodule"]["iou"]["value"]
    assert "attended_minus_random_map" not in read["scores"]["0.5"]
    assert read["published"]["iobb"]["0.9"]["accuracy"]["Cardiomegaly"] == 0.6849
    assert set(read["published"]["iobb"]["0.9"]) == {"accuracy"}


def test_markdown_compares_radiographs_with_wang_et_al_and_synthetic_images_with_nobody():
    text = localisation_markdown(make(), cohort())
    assert "3 annotated boxes in 3 images of 2 patients" in text
    assert "| Nodule | Wang et al. 2017 | 0.165 | 0.051 | 0.013 | 0.013 | 0.013 |" in text
    # Their false positives are divided by the boxes of all findings, so they do not compare.
    assert text.count("| Wang et al. 2017 |") == 1
    assert "multiples of 1/984" in text
    assert "| Hernia | Wang" not in text
    synthetic = localisation_markdown(make(), cohort(synthetic=True))
    assert "Wang" not in synthetic
    assert synthetic.count(SYNTHETIC_NOTE) == 2


def test_means_cover_the_same_findings_for_all_ways():
    tables = dict(localisation_tables(make(), cohort()))
    [pointing] = [table for title, table in tables.items() if title.startswith("Pointing game")]
    assert pointing.rows[0][:3] == ("Nodule", "2", "2")
    assert pointing.rows[1][-1] == "–"
    assert pointing.rows[-1] == ("Mean (1 of 2)", "", "", *["1.000"] * 3, "0.000", *["1.000"] * 3)
    [by_tau] = [table for title, table in tables.items() if title.startswith("Means")]
    # Of a nodule and a hernia: the region's area, IoU above 0.1 and 0.5, IoBB above 0.5, centre.
    assert by_tau.rows[0] == ("0.5", "0.010", *["0.500", "0.250", "0.250", "0.500"] * 2)


def test_differences_from_what_finds_nothing_are_the_shares():
    tables = dict(localisation_tables(make(), cohort()))
    [table] = [one for title, one in tables.items() if "best control" in title]
    rows = {row[:2]: row[2:] for row in table.rows}
    assert rows["Nodule", "Best control"][0] == "+1.000 –"  # nothing varies
    assert rows["Nodule", "Best control"][1].startswith("+0.500 [")
    assert rows["Nodule", "Grad-CAM"] == ("+0.000 –",) * 5
    assert {name for _, name in rows} == {"Grad-CAM", "Grad-CAM++", "Best control"}


@pytest.mark.parametrize(
    ("total", "text"),
    [
        (Count(1234, 1000, 900), "Annotated boxes: 1,234, in 1,000 images of 900 patients"),
        (Count(0, 0, 0), "No image has an annotated box"),
    ],
)
def test_the_note_below_the_auc_table(total, text):
    assert text in note(Localisation(0.7, "max", total, {}, {}, {}))
