"""Predictions against radiologists' labels, by hand and on the published ones."""

import csv
import gzip
import json
import re

import numpy as np
import pytest
from etils import epath
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.scoring.radiologists import covered, read_radiologists
from agcnn_jax.metrics.shares import shares
from agcnn_jax.run import lineage
from agcnn_jax.runtime.errors import UserError
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14

HEADER = (
    "Image Index,Finding Labels,Patient ID,Fracture,Pneumothorax,Airspace opacity,Nodule or mass,"
    "Set Id\n"
)
ROWS = """a.png,Pneumothorax,1,NO,YES,NO,NO,test
b.png,Mass|Edema,2,NO,NO,YES,YES,test
c.png,No Finding,3,YES,YES,NO,YES,val
d.png,Pneumothorax|Nodule,4,NO,NO,NO,NO,val
"""
PREDICTIONS = """Image Index,Pneumothorax,Nodule,Mass
a.png,0.9,0.1,0.2
b.png,0.2,0.3,0.7
c.png,0.3,0.4,0.1
d.png,0.6,0.2,0.1
z.png,0.6,0.2,0.1
"""


def test_a_table_by_hand(write):
    labels, path = write("r.csv", HEADER + ROWS), write("p.csv", PREDICTIONS)
    table = evaluate_predictions(path, labels)
    # The sets apart come first.
    sets = ["test"] * 4 + ["val"] * 4 + ["pooled"] * 4
    names = ["Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass"] * 3
    assert [row[0] for row in table.rows] == [
        f"{name}, {one}" for name, one in zip(names, sets, strict=True)
    ]
    assert table.summary_rows == 4
    cells = {row[0]: row for row in table.rows}
    # Positives a, c against b, d: 0.9 and 0.3 against 0.2 and 0.6 win 3 of 4.
    assert cells["Pneumothorax, pooled"][1:4] == ("4", "2", "0.750")
    # NIH's positives a, d against b, c win 4 of 4; of the radiologists' two they have one.
    assert cells["Pneumothorax, pooled"][5] == "1.000"
    for share in cells["Pneumothorax, pooled"][7:]:
        assert re.fullmatch(r"0\.50 \[0\.\d\d, (0\.\d\d|1\.00)\]", share)
    # The larger of Nodule and Mass: b 0.7 and c 0.4 above a 0.2 and d 0.2.
    assert cells["Nodule or mass, pooled"][3] == "1.000"
    # Nothing is predicted of airspace opacities, but NIH has labels of them.
    assert cells["Airspace opacity, pooled"][3:] == ("–", "–", "–", "–", "1.00", "1.00")
    assert cells["Fracture, pooled"][3:] == ("–",) * 6
    assert cells["Pneumothorax, val"][1:3] == ("2", "1")
    assert table.below[0] == (
        "4 images have predictions and readings; 1 predictions and 0 readings have no counterpart."
    )


def test_the_largest_of_the_labels_that_a_finding_covers():
    values = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.9]])
    found = covered(("Mass", "Pneumothorax", "Nodule"), values)
    np.testing.assert_array_equal(found[:, [1, 3]], [[0.7, 0.2], [0.3, 0.9]])
    assert np.isnan(found[:, [0, 2]]).all()


@pytest.mark.parametrize(
    ("rows", "predictions", "message"),
    [
        (ROWS.replace("YES,NO,NO,test", "MAYBE,NO,NO,test"), PREDICTIONS, "line 2, Pneumothorax"),
        (ROWS + "a.png,Mass,1,NO,NO,NO,NO,test\n", PREDICTIONS, "'a.png' has more than one row"),
        (ROWS, "Image Index,Mass\nx.png,0.1\n", "p.csv: none of its 1 images is in .*r.csv"),
    ],
)
def test_what_cannot_be_scored(write, rows, predictions, message):
    with pytest.raises(UserError, match=message):
        evaluate_predictions(write("p.csv", predictions), write("r.csv", HEADER + rows))


def test_no_set_of_images(write):
    header = HEADER.replace(",Set Id", "")
    rows = ROWS.replace(",test\n", "\n").replace(",val\n", "\n")
    with pytest.raises(UserError, match="has no column 'Set Id'"):
        read_radiologists(write("r.csv", header + rows))


def test_a_set_called_pooled_is_not_taken_for_all_sets(write):
    rows = ROWS.replace(",val\n", ",pooled\n")
    with pytest.raises(UserError, match="line 4, Set Id: 'pooled' is what the tables call all"):
        read_radiologists(write("r.csv", HEADER + rows))
    unnamed = evaluate_predictions(
        write("p.csv", PREDICTIONS), write("r.csv", HEADER + ROWS.replace(",val\n", ",\n"))
    )
    assert [row[0] for row in unnamed.rows[1::4]] == [
        f"Pneumothorax, {one}" for one in ("test", "unknown", "pooled")
    ]


def test_options_of_other_labels(write, tmp_path):
    path, labels = write("p.csv", PREDICTIONS), write("r.csv", HEADER + ROWS)
    with pytest.raises(UserError, match="--compare has no effect with radiologists' labels"):
        evaluate_predictions(path, labels, compare_path=path)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="--validation has no effect with radiologists' labels"):
        evaluate_predictions(path, labels, validation_path=path, out=out)
    with pytest.raises(UserError, match="cover no finding of the radiologists"):
        evaluate_predictions(write("q.csv", "Image Index,Mass\na.png,0.1\n"), labels, out=out)
    assert not out.exists()


def test_one_set_is_not_pooled(write):
    labels = write("r.csv", HEADER + ROWS.replace(",val\n", ",test\n"))
    table = evaluate_predictions(write("p.csv", PREDICTIONS), labels)
    assert (len(table.rows), table.summary_rows) == (4, 0)


def test_the_files_of_other_tables(write, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "files", lambda evaluation: {})
    # Two images of each of 60 patients, in both sets; fractures are not predicted.
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (120, 4))
    nih = generator.integers(0, 2, 120)
    rows, lines = [], ["Image Index,Pneumothorax,Nodule,Mass"]
    for i, answers in enumerate(truth):
        read = ",".join("YES" if one else "NO" for one in answers)
        label = "Pneumothorax" if nih[i] else "No Finding"
        rows.append(f"{i}.png,{label},{i // 2},{read},{'test' if i < 80 else 'val'}")
        score = expit(generator.normal(answers[[1, 3, 3]], 1))
        lines.append(f"{i}.png," + ",".join(map(str, score)))
    labels = write("r.csv", HEADER + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    evaluate_predictions(write("p.csv", "\n".join(lines) + "\n"), labels, out=out)
    record = json.loads((out / "auc.json").read_text())
    scores = np.array([line.split(",")[1:] for line in lines[1:]], float)
    auc = record["branches"]["predictions"]["auc"]
    assert list(auc) == ["Pneumothorax", "Nodule or mass"]
    assert auc["Pneumothorax"] == pytest.approx(roc_auc_score(truth[:, 1], scores[:, 0]))
    with open(out / "agreement.csv") as file:
        found = {(row["finding"], row["set"]): row for row in csv.DictReader(file)}
    val = slice(80, 120)
    row = found["Pneumothorax", "val"]
    assert float(row["auc"]) == pytest.approx(roc_auc_score(truth[val, 1], scores[val, 0]))
    both, ours = (truth[val, 1] * nih[val]).sum(), truth[val, 1].sum()
    assert float(row["nih_sensitivity"]) == pytest.approx(both / ours)
    positive = 80 + np.flatnonzero(truth[val, 1])
    _, low, high = shares(nih[positive] == 1, positive // 2)
    assert (float(row["nih_sensitivity_low"]), float(row["nih_sensitivity_high"])) == (low, high)
    with open(out / "subgroups.csv") as file:
        groups = {(row["group"], row["finding"]): row for row in csv.DictReader(file)}
    assert groups["val", "Pneumothorax"]["auc"] == row["auc"]
    page = (out / "report.html").read_text()
    assert page.index("Pneumothorax, test") < page.index("Pneumothorax, pooled")
    assert "read from the images" not in page
    assert {path.name for path in out.iterdir()} > {"auc.md", "metrics.csv", "agreement.md"}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (None, "Images trained on: not known; patients shared with training: not known."),
        (lineage.NOTHING, "Images trained on: 0 of 4; patients shared with training: 0 of 4."),
        (
            lineage.lineage_of(
                lineage.CHESTXRAY14, ["a.png", "y.png"], ["1", "2"], synthetic=False
            ),
            "Images trained on: 1 of 4; patients shared with training: 2 of 4.",
        ),
    ],
)
def test_a_lineage_beside_the_predictions(write, tmp_path, seen, said):
    labels, path = write("r.csv", HEADER + ROWS), write("p.csv", PREDICTIONS)
    if seen is not None:
        lineage.write(epath.Path(tmp_path), seen, None)
    table = evaluate_predictions(path, labels)
    assert any(line.startswith(said) for line in table.below), table.below


@needs_chest_xray14
def test_the_published_predictions_against_radiologists():
    readings = CHEST_XRAY14 / "google2019_nih-chest-xray-labels.csv.gz"
    predictions = CHEST_XRAY14 / "pytorch_chexnet_predictions.csv.gz"
    table = evaluate_predictions(predictions, readings)
    found = {row[0]: (row[1], row[3], row[5], *(x[:4] for x in row[7:])) for row in table.rows}
    assert found["Pneumothorax, pooled"] == ("935", "0.904", "0.915", "0.48", "0.39")
    assert found["Nodule or mass, pooled"] == ("935", "0.857", "0.802", "0.49", "0.64")
    assert found["Airspace opacity, pooled"] == ("935", "0.860", "0.789", "0.60", "0.73")
    by_set = [found[f"Pneumothorax, {kind}"][:2] for kind in ("test", "val")]
    assert by_set == [("408", "0.899"), ("527", "0.582")]
    assert "Pneumothorax, val" in next(line for line in table.below if "rough at best" in line)
    # The pooled AUC of pneumothorax, by scikit-learn.
    with gzip.open(readings, "rt") as truth, gzip.open(predictions, "rt") as probabilities:
        answers = {row["Image Index"]: row["Pneumothorax"] for row in csv.DictReader(truth)}
        scored = [
            (answers[row["Image Index"]] == "YES", float(row["prob_Pneumothorax"]))
            for row in csv.DictReader(probabilities)
            if row["Image Index"] in answers
        ]
    assert found["Pneumothorax, pooled"][1] == f"{roc_auc_score(*zip(*scored, strict=True)):.3f}"
