import csv
import gzip
import json

import pytest
from etils import epath
from sklearn.metrics import roc_auc_score

from agcnn_jax.evaluation.evaluate_predictions import evaluate_predictions
from agcnn_jax.evaluation.figures import files as figures
from agcnn_jax.evaluation.files.label_table import read_labels, rows_of
from agcnn_jax.evaluation.files.predictions import read_predictions
from agcnn_jax.evaluation.files.table import as_text
from agcnn_jax.evaluation.scoring.cohort import SYNTHETIC_NOTE
from agcnn_jax.run import lineage
from agcnn_jax.runtime.errors import UserError
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14

LABELS = """Image Index,Finding Labels,Follow-up #,Patient ID
a.png,Mass,0,1
b.png,No Finding,0,2
c.png,Mass|Pleural_Thickening,1,1
d.png,No Finding,0,3
"""
PREDICTIONS = """Image Index,prob_Mass,prob_Pleural_Thickening,prob_No Finding
a.png,0.9,0.1,0.2
b.png,0.1,0.2,0.8
c.png,0.8,0.7,0.1
d.png,0.85,0.3,0.1
"""


def test_table_of_predictions(write):
    table = evaluate_predictions(write("p.csv", PREDICTIONS), write("l.csv", LABELS))
    assert table.rows[0][:3] == ("Mass", "2", "0.750000")
    assert table.rows[1][:3] == ("Pleural_Thickening", "1", "1.000000")
    assert table.rows[2][:3] == ("Mean (2 of 2)", "", "0.875000")
    assert table.rows[3][0] == "No Finding (apart)"
    assert table.above == ("4 images of 3 patients; p.csv on l.csv",)


@pytest.mark.parametrize("synthetic", [True, False])
def test_labels_say_whether_images_are_synthetic(write, synthetic):
    """Whatever words their provenance has."""
    words = "drawn by us" if synthetic else "radiographs of a phantom, with synthetic noise"
    about = {"provenance": words, "collection": "c", "box_size": 1024, "synthetic": synthetic}
    write("dataset.json", json.dumps(about))
    table = evaluate_predictions(write("p.csv", PREDICTIONS), write("l.csv", LABELS))
    assert (SYNTHETIC_NOTE in (*table.above, *table.below)) == synthetic
    assert table.above[-1] == f"4 images of 3 patients; p.csv on l.csv, {words}"


def test_images_of_an_unknown_collection_may_be_those_of_any(write, tmp_path, monkeypatch):
    """A table without dataset.json is ChestX-ray14's where its images have the NIH's names."""
    monkeypatch.setattr(figures, "files", lambda evaluation: {})
    seen = lineage.Lineage({"St Mary": {"a.png": "1"}, "ChestX-ray14": {"00000002_000.png": "2"}})
    lineage.write(epath.Path(tmp_path), seen, None)
    for nih, counts in ((False, "at least 1 of 4; patients shared"), (True, "1 of 4; patients")):
        names = {f"{letter}.png": f"0000000{i}_000.png" for i, letter in enumerate("abcd", 1)}
        files = []
        for name, content in (("p.csv", PREDICTIONS), ("l.csv", LABELS)):
            for old, new in names.items() if nih else ():
                content = content.replace(old, new)
            files.append(write(name, content))
        out = tmp_path / f"out{nih}"
        table = evaluate_predictions(*files, out=out)
        (said,) = [line for line in table.below if line.startswith("Images trained on")]
        assert f": {counts}" in said
        assert ("All images come from one" in (out / "report.html").read_text()) == nih


def test_a_finding_that_no_image_has_is_a_dash(write):
    """A run's own predictions have a column for every label, even one that no image has."""
    lines = [
        "Image Index,prob_Mass,prob_Hernia",
        "a.png,1,0",
        "b.png,0,1",
        "c.png,0,0",
        "d.png,1,0",
    ]
    table = evaluate_predictions(write("p.csv", "\n".join(lines)), write("l.csv", LABELS))
    assert table.rows[1][:4] == ("Hernia", "0", "–", "–")
    assert table.rows[2][0] == "Mean (1 of 2)"
    assert table.below[0] == "Not predicted, so not in the mean: Pleural_Thickening."


def test_no_finding_alone_is_scored_as_a_finding(write):
    predictions = "Image Index,prob_No Finding\na.png,0.4\nb.png,0.8\nc.png,0.1\nd.png,0.3\n"
    table = evaluate_predictions(write("p.csv", predictions), write("l.csv", LABELS))
    assert [row[:3] for row in table.rows] == [
        ("No Finding", "2", "0.750000"),
        ("Mean (1 of 1)", "", "0.750000"),
    ]


CUSTOM = "Image Index,Finding Labels,Patient ID\na.png,{},1\nb.png,No Finding,2\n"


def test_labels_of_another_data_set_have_a_column(write):
    for name in ("Fracture", "Empyema"):
        labels = write("l.csv", CUSTOM.format(f"{name}|Mass"))
        path = write("p.csv", f"Image Index,{name},Emphysema,Mass\na.png,1,0,1\nb.png,0,1,0\n")
        table = evaluate_predictions(path, labels)
        assert table.rows[0][:3] == (name, "1", "1.000000")


@pytest.mark.parametrize(
    ("name", "column", "advice"),
    [
        ("Efusion", "Effusion", "did you mean 'Effusion'?"),
        ("Efusion", "Efusion", "did you mean 'Effusion'?"),
        ("efussion", "Effusion", "did you mean 'Effusion'?"),
        ("Infiltrate", "Infiltration", "did you mean 'Infiltration'?"),
        ("Nodules", "Nodule", "did you mean 'Nodule'?"),
        ("Pleural Thickenning", "Pleural_Thickening", "did you mean 'Pleural_Thickening'?"),
        ("No Findings", "Mass", "did you mean 'No Finding'?"),
        ("Fractur", "Fracture", "did you mean 'Fracture'?"),
    ],
)
def test_misspelt_findings_are_refused(write, name, column, advice):
    labels = write("l.csv", LABELS + f"e.png,{name}|Mass,0,4\n")
    if column == "Fracture":
        labels = write("l.csv", labels.read_text() + "f.png,Fracture,0,5\n")
    path = write("p.csv", f"Image Index,{column}\na.png,1\nb.png,0\n")
    with pytest.raises(UserError) as caught:
        evaluate_predictions(path, labels)
    assert f"l.csv, line 6: unknown finding {name!r}; {advice}" in str(caught.value)


def test_findings_of_any_name_need_no_prediction(write):
    labels = write("l.csv", LABELS + "e.png,Fracture|Mass|Empyema,0,4\n")
    table = evaluate_predictions(write("p.csv", PREDICTIONS), labels)
    assert "Not predicted, so not in the mean: Empyema, Fracture." in table.below


HEADER = "Image Index,prob_Mass\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "p.csv: is empty"),
        (HEADER, "p.csv: has no rows below its header"),
        (b"\x89PNG\r\n\xff\xfe", "p.csv: not a UTF-8 text file"),
        (
            gzip.compress(PREDICTIONS.encode(), mtime=0)[:-20],
            "p.csv: the gzip file is corrupt",
        ),
        (
            "film,prob_Mass\na.png,1\n",
            "p.csv: has no column 'Image Index'; its columns are: film",
        ),
        ("Image Index\na.png\n", "p.csv: has no column of probabilities, such as prob_"),
        (
            "Image Index,prob_Moss\na.png,1\n",
            "p.csv: column 'prob_Moss' is not a known finding; name it prob_<finding> with one of: "
            "Atelectasis, Cardiomegaly, ",
        ),
        ("Image Index,Mass,Moss\na.png,1,1\n", "p.csv: column 'Moss' is not a known finding"),
        (
            "Image Index,prob_Mass,prob_mass\na.png,1,1\n",
            "p.csv: 'prob_Mass' and 'prob_mass' are both Mass",
        ),
        (HEADER + "a.png,1,2\n", "p.csv, line 2: 3 columns, but the header has 2"),
        (HEADER + "a.png\n", "p.csv, line 2: 1 columns, but the header has 2"),
        (HEADER + "\na.png,high\n", "p.csv, line 3, prob_Mass: 'high' is not a finite number"),
        (HEADER + "a.png,1_0\n", "p.csv, line 2, prob_Mass: '1_0' is not a finite number"),
        (HEADER + "a.png,٣\n", "p.csv, line 2, prob_Mass: '٣' is not a finite number"),
        (HEADER + "a.png,1e999\n", "p.csv, line 2, prob_Mass: '1e999' is not a finite number"),
        (",Image Index,prob_Mass\n0.2,a.png,1\n", "p.csv, line 1: column 1 has no name"),
        ("Image Index,,prob_Mass\na.png,1,1\nb.png,1,1\n", "p.csv, line 1: column 2 has no name"),
        ("Image Index,prob_Mass,\na.png,1,0.5\n", "p.csv, line 2: 3 columns, but the header has 2"),
        (
            "Image Index,image_index,prob_Mass\na.png,b.png,1\n",
            "p.csv: has 2 columns 'Image Index'; keep one",
        ),
        (HEADER + "a.png,nan\n", "p.csv, line 2, prob_Mass: 'nan' is not a finite number"),
        (HEADER + "a.png,\n", "p.csv, line 2, prob_Mass: '' is not a finite number"),
        (HEADER + "a.png,1\na.png,1\n", "p.csv: image 'a.png' has more than one row"),
        (
            HEADER + "a.png,1\nx.png,1\ny.png,1\n",
            "p.csv: 2 of 3 images, the first 'x.png', are not in ",
        ),
    ],
)
def test_mistakes_in_predictions(write, content, message):
    path = write("p.csv", content)
    with pytest.raises(UserError) as caught:
        evaluate_predictions(path, write("l.csv", LABELS))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path, write):
    for path, message in ((tmp_path / "no.csv", "no such file"), (tmp_path, "directory")):
        with pytest.raises(UserError, match=message):
            evaluate_predictions(path, write("l.csv", LABELS))


@needs_chest_xray14
def test_published_pytorch_aucs_to_six_digits():
    predictions = CHEST_XRAY14 / "pytorch_chexnet_predictions.csv.gz"
    labels = CHEST_XRAY14 / "Data_Entry_2017_v2020.csv.gz"
    table = evaluate_predictions(predictions, labels)
    with open(CHEST_XRAY14 / "pytorch_chexnet_aucs.csv", encoding="utf-8") as file:
        published = {row["label"]: f"{float(row['auc']):.6f}" for row in csv.DictReader(file)}
    assert {row[0]: row[2] for row in table.rows[:-1]} == published
    assert "Hernia                     42  0.917525" in as_text(table)
    truth = read_labels(labels)
    scored = read_predictions(predictions, truth.labels)
    edema = truth.columns(["Edema"])[rows_of(truth, scored.image_ids), 0]
    expected = roc_auc_score(edema, scored.probabilities[:, scored.labels.index("Edema")])
    assert table.rows[9][2] == f"{expected:.6f}"
