"""The documented way from a folder of films to a report, on real films under another name."""

import csv
import gzip
import io
import json
import os
import random

import numpy as np
import pytest
from PIL import Image

from agcnn_jax import export, predict
from agcnn_jax.data.records import open_records
from tests.data.dicom_files import encoded, radiograph
from tests.support.programs import run
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14

ENVIRONMENT = {**os.environ, "XLA_FLAGS": ""}
COLLECTION = "St Mary 2024"
# Name in the table -> NIH's.
FINDINGS = {
    "Atelectasis": "Atelectasis",
    "Pleural Effusion": "Effusion",
    "Lung Opacity": "Infiltration",
    "Nodule": "Nodule",
    "Pneumothorax": "Pneumothorax",
}
SMALL = ("--config=tests/configs/demo.py", "--config.input_size=56", "--config.batch_size=(8,8,8)")
FOLDERS = ("2023/a", "2023/b", "2024")


def rewritten(path, name):
    """A film's bytes in the format of its new name."""
    image = Image.open(path).convert("L")
    if name.endswith(".dcm"):
        return encoded(radiograph(np.asarray(image)))
    if name.endswith(".png"):
        return path.read_bytes()
    buffer = io.BytesIO()
    image.resize((image.width, image.height * 5 // 4)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mary(tmp_path_factory):
    """The real films in nested folders, some JPEG and DICOM, and a table of five findings."""
    folder = tmp_path_factory.mktemp("mary")
    known = {}
    with gzip.open(CHEST_XRAY14 / "Data_Entry_2017_v2020.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            known[row["Image Index"]] = row
    rng = random.Random(5)
    rows = []
    for number, path in enumerate(sorted((CHEST_XRAY14 / "small" / "images").iterdir())):
        row = known[path.name]
        suffix = ".jpg" if number % 8 == 0 else ".dcm" if number % 20 == 1 else ".png"
        name = f"{FOLDERS[number % 3]}/film {number}{suffix}"
        target = folder / "films" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(rewritten(path, name))
        ill = row["Finding Labels"].split("|")
        cells = []
        for nih in FINDINGS.values():
            drawn = rng.random()
            cells.append("" if drawn < 0.4 else "-1" if drawn < 0.5 else int(nih in ill))
        patient = f"M{row['Patient ID']}"
        about = (patient, row["Patient Age"], row["Patient Gender"], row["View Position"])
        rows.append([name, *about, *cells])
    with (folder / "labels.csv").open("w", newline="") as file:
        header = ("image", "patient", "age", "sex", "view", *FINDINGS)
        csv.writer(file).writerows([header, *rows])
    done = run(
        "data_prep/from_csv.py",
        *("--images", folder / "films", "--labels", folder / "labels.csv"),
        *("--collection", COLLECTION, "--data_dir", folder / "data", "--image_size=64"),
    )
    (folder / "said.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def trained(mary):
    """A run of 20 steps a stage on these films."""
    return train(mary / "data", mary / "run", "patient")


def train(data, workdir, protocol):
    run(
        *("train.py", *SMALL, "--config.max_steps=20", f"--config.data.protocol={protocol}"),
        *(f"--config.data.dir={data}", f"--workdir={workdir}"),
        env=ENVIRONMENT,
    )
    return workdir


def evaluated(workdir, *options):
    return run("eval.py", *SMALL, f"--workdir={workdir}", *options, env=ENVIRONMENT).stdout


@pytest.mark.slow
@needs_chest_xray14
def test_prepared(mary):
    records = open_records(mary / "data")
    assert len(records) == 621 and records.collection == COLLECTION and not records.synthetic
    assert records.labels == ("Atelectasis", "Nodule", "Pneumothorax", *list(FINDINGS)[1:3])
    unknown = (records.label_matrix == 255).mean()
    assert 0.45 < unknown < 0.55
    said = (mary / "said.txt").read_text()
    with (mary / "labels.csv").open(newline="") as file:
        cells = [row["Nodule"] for row in csv.DictReader(file)]
    counts = [str(cells.count(value)) for value in ("1", "0", "-1", "")]
    (line,) = (line for line in said.splitlines() if line.split()[:1] == ["Nodule"])
    assert line.split()[1:5] == counts


@pytest.mark.slow
@needs_chest_xray14
def test_evaluated_predicted_and_exported(mary, trained):
    table = evaluated(trained)
    assert "Pleural Effusion" in table and "Missing" in table
    films = mary / "films"
    out, exported = mary / "predicted", mary / "exported"
    # In this process, which has the small network of tests.
    assert predict.main([f"--workdir={trained}", f"--out={out}", str(films)]) == 0
    assert export.main([f"--workdir={trained}", f"--out={exported}"]) == 0
    again = mary / "predicted_again"
    assert predict.main([f"--from={exported}", f"--out={again}", str(films)]) == 0
    assert (again / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    with (out / "predictions.csv").open(newline="") as file:
        predictions = {row["Image Index"]: row for row in csv.DictReader(file)}
    assert len(predictions) == 621
    with (trained / "eval/test/predictions_fusion.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            probability = float(row["prob_Pleural Effusion"])
            film = predictions[row["Image Index"].rpartition("/")[2]]
            assert film["path"] == str(films / row["Image Index"])
            other = film["prob_Pleural Effusion"]
            assert abs(probability - float(other)) <= 1e-6


@pytest.mark.slow
@needs_chest_xray14
def test_runs_scored_on_films_that_they_have_never_known(mary, trained, data_dir, tmp_path):
    of_phantoms = train(data_dir, tmp_path / "phantoms", "official")
    size = "--config.input_size=56"
    evaluated(of_phantoms)
    kept = (of_phantoms / "calibration.json").read_bytes()
    for workdir, data, count in ((of_phantoms, mary / "data", 621), (trained, data_dir, None)):
        evaluated(workdir, size, f"--config.data.dir={data}")
        (folder,) = (workdir / "eval").glob("external_*")
        scores = json.loads((folder / "auc.json").read_text())
        assert scores["images"] == (count or len(open_records(data_dir)))
        pairs = scores["labels"]
        expected = {"Effusion", "Pleural Effusion"}
        assert len(pairs) == 4 and {pairs.get("Effusion"), pairs.get("Pleural Effusion")} & expected
        assert "Infiltration" not in pairs and "Lung Opacity" not in pairs
    assert (of_phantoms / "calibration.json").read_bytes() == kept
