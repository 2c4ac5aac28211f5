"""Phantoms in NIH's layout: tables, boxes, lists; the output is reproducible."""

import json

import cv2
import numpy as np
import pytest

from agcnn_jax.data_prep import phantoms
from agcnn_jax.data_prep.phantom import cohort
from agcnn_jax.data_prep.phantom.lesions import FINDINGS
from agcnn_jax.data_prep.phantom.render import render
from tests.data_prep.phantom_files import SIZE, files, table


def test_layout_equals_nihs_download(raw):
    rows = table(raw)
    files = sorted(path.name for path in (raw / "images").iterdir())
    assert [row["Image Index"] for row in rows] == files
    for row in rows:
        name, number, follow_up = row["Image Index"], row["Patient ID"], row["Follow-up #"]
        assert name == f"{int(number):08d}_{int(follow_up):03d}.png"
        assert row["Patient Gender"] in ("M", "F")
        assert row["View Position"] in ("PA", "AP")
        assert 0 < int(row["Patient Age"]) < 100
        names = row["Finding Labels"].split("|")
        assert names == [cohort.NO_FINDING] or set(names) <= set(FINDINGS)
    header = (raw / "Data_Entry_2017_v2020.csv").read_text().splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    image = cv2.imread(str(raw / "images" / files[0]), cv2.IMREAD_UNCHANGED)
    assert image.shape == (SIZE, SIZE)
    assert image.dtype == np.uint8


def test_box_list_has_nihs_header_and_boxes_of_labelled_findings(raw):
    lines = (raw / "BBox_List_2017.csv").read_text().splitlines()
    assert lines[0] == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    labels = {row["Image Index"]: row["Finding Labels"].split("|") for row in table(raw)}
    boxed = set()
    for line in lines[1:]:
        name, finding, *box = line.split(",")
        x, y, w, h = map(int, box)
        assert w > 0 and h > 0 and x >= 0 and y >= 0 and x + w <= SIZE and y + h <= SIZE
        finding = {"Infiltrate": "Infiltration"}.get(finding, finding)
        assert finding in labels[name]
        boxed.add((name, finding))
    present = sum(len(set(names) & set(FINDINGS)) for names in labels.values())
    assert len(boxed) > 0.95 * present
    assert "Infiltration" not in {line.split(",")[1] for line in lines}


def test_lists_share_no_patient_and_both_have_rare_findings(raw):
    train, test = (
        (raw / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt")
    )
    assert sorted(train + test) == [row["Image Index"] for row in table(raw)]
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    people = list(cohort.patients(0, 1200))
    tested = cohort.in_test(people)
    assert np.mean(tested) == pytest.approx(0.23, abs=0.01)
    for wanted in (True, False):
        held = [p for p, chosen in zip(people, tested, strict=True) if chosen == wanted]
        assert {f for p in held for film in p.films for f in film.findings} == set(FINDINGS)


def test_marker_says_synthetic(raw):
    marker = json.loads((raw / "dataset.json").read_text())
    assert (marker["provenance"], marker["synthetic"]) == ("phantoms (synthetic)", True)
    assert marker["box_size"] == SIZE
    assert marker["patients"] == 60
    assert marker["images"] == len(table(raw))


def test_neither_workers_nor_the_number_of_patients_change_a_film(raw, tmp_path):
    phantoms.generate(tmp_path / "few", 12, SIZE, seed=3, workers=1)
    for name, data in files(tmp_path / "few" / "images").items():
        assert data == (raw / "images" / name).read_bytes()
    fewer = table(tmp_path / "few")
    assert fewer == table(raw)[: len(fewer)]


def test_file_names_are_unique_in_a_collection(raw, tmp_path):
    marker = json.loads((raw / "dataset.json").read_text())
    for number, (patients, seed, prevalence) in enumerate(
        [(12, 3, "floor"), (10, 4, "floor"), (12, 3, "real")]
    ):
        folder = tmp_path / str(number)
        phantoms.generate(folder, patients, SIZE, seed, workers=1, prevalence=prevalence)
        other = json.loads((folder / "dataset.json").read_text())
        same = [
            path.read_bytes() == (raw / "images" / path.name).read_bytes()
            for path in (folder / "images").iterdir()
            if (raw / "images" / path.name).exists()
        ]
        assert all(same) if other["collection"] == marker["collection"] else not any(same)
        assert (other["collection"] == marker["collection"]) == (number == 0)


def test_seed_and_size_change_the_pixels():
    person = cohort.patient(0, 5)
    one, _ = render(0, person, person.films[0], SIZE)
    again, _ = render(0, person, person.films[0], SIZE)
    other, _ = render(1, person, person.films[0], SIZE)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).mean() > 5
    large, _ = render(0, person, person.films[0], 2 * SIZE)
    shrunk = cv2.resize(large, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(float)
    assert np.corrcoef(shrunk.ravel(), one.ravel())[0, 1] > 0.96
