import json

import numpy as np
import pytest

from agcnn_jax.data.collection import FILE
from agcnn_jax.data.labels import MISSING
from agcnn_jax.evaluation.files.label_table import groups_of, read_labels, rows_of
from agcnn_jax.runtime.errors import UserError

LABELS = """Image Index,Finding Labels,Follow-up #,Patient ID
a.png,Mass,0,1
b.png,No Finding,0,2
c.png,Mass|Pleural_Thickening,1,1
d.png,No Finding,0,3
"""


def test_labels_of_the_first_edition_end_with_a_comma(write):
    lines = [f"{line}," for line in LABELS.splitlines()]
    labels = read_labels(write("l.csv", "\n".join(lines)))
    assert labels.labels == ("Mass", "Pleural_Thickening", "No Finding")
    assert labels.matrix[2].tolist() == [1, 1, 0]
    assert labels.patients == ("1", "2", "1", "3")


@pytest.mark.parametrize(
    "content, message",
    [
        ("Image Index,Patient ID\na.png,1\n", "l.csv, line 1: no column of findings"),
        ("Image Index,Finding Labels\na.png,Mass\n", "l.csv: has no column 'Patient ID'"),
        (
            "Image Index,Finding Labels,Patient ID\na.png,Mass|,1\n",
            "l.csv, line 2: the column 'Finding Labels' has an empty label",
        ),
        (LABELS + "e.png,Mass,0,\n", "l.csv, line 6: 'Patient ID' is empty"),
        (LABELS + "e.png,Mass,0,nan\n", "l.csv, line 6: 'Patient ID' is 'nan'"),
        (LABELS + ",Mass,0,5\n", "l.csv, line 6: 'Image Index' is empty"),
        (LABELS + "e.png,mass,0,5\n", "l.csv, line 6: 'mass' in 'Finding Labels'; write 'Mass'"),
        (LABELS + "e.png,Pleural Thickening,0,5\n", "write 'Pleural_Thickening', as elsewhere"),
        (
            LABELS + "e.png,Mass|No Finding,0,5\n",
            "l.csv, line 6: 'No Finding' with 'Mass'; correct the row",
        ),
        (
            LABELS + "a.png,Edema,0,1\n",
            "l.csv, line 6: a.png is also on line 2 with Mass 1, here 0",
        ),
    ],
)
def test_mistakes_in_labels(write, content, message):
    with pytest.raises(UserError) as caught:
        read_labels(write("l.csv", content))
    assert message in str(caught.value)


def test_patients_that_are_all_nan_are_refused(write):
    """They would count as one patient, and every interval would be missing."""
    rows = "".join(f"{name}.png,Mass,nan\n" for name in "abc")
    with pytest.raises(UserError, match=r"l\.csv, line 2: 'Patient ID' is 'nan'; complete or"):
        read_labels(write("l.csv", "Image Index,Finding Labels,Patient ID\n" + rows))


def nih_table(*patients):
    rows = [f"{i:08d}_000.png,Mass,{patient}\n" for i, patient in enumerate(patients)]
    return "Image Index,Finding Labels,Patient ID\n" + "".join(rows)


def test_patients_of_chestxray14_are_whole_numbers(write):
    labels = read_labels(write("l.csv", nih_table("1", "00000001", "01", "2", "0")))
    assert labels.patients == ("1", "1", "1", "2", "0")
    with pytest.raises(UserError, match=r"l\.csv, line 4: 'Patient ID' is '1\.0', not a whole num"):
        read_labels(write("l.csv", nih_table("1", "00000001", "1.0", "1e3")))


@pytest.mark.parametrize("named", ["film", "phantom"])
def test_patients_of_other_tables_are_text(write, named):
    """The names say what is not ChestX-ray14; of phantoms, which have such names, their file."""

    def table(*patients):
        text = nih_table(*patients)
        return text if named == "phantom" else text.replace("0000", "film")

    if named == "phantom":
        about = {"provenance": "p", "collection": "p 1", "box_size": 1, "synthetic": True}
        write(FILE, json.dumps(about))
    labels = read_labels(write("l.csv", table("007", "008", "P1", "1.50")))
    assert labels.patients == ("007", "008", "P1", "1.50")
    with pytest.raises(UserError, match=r"line 5: 'Patient ID' is '7', but '007' on line 2; write"):
        read_labels(write("l.csv", table("007", "8", "007", "7")))


def test_columns_of_labels(write):
    """Blank and uncertain cells are unknown, and so is a label without a column."""
    text = (
        "Path,Patient ID,Sex,Age,Frontal/Lateral,AP/PA,Edema,Lung Opacity\n"
        "p1/a.jpg,1,Female,68,Frontal,AP,1.0,\np1/b.jpg,1,Male,90,Lateral,,-1.0,0.0\n"
        "p2/a.jpg,2,Male,4,Frontal,PA,0.0,1.0\n"
    )
    labels = read_labels(write("l.csv", text))
    rows = rows_of(labels, ["p2/a.jpg", "p1/a.jpg", "p1/b.jpg"])
    expected = [[0, 1, MISSING], [1, MISSING, MISSING], [MISSING, 0, MISSING]]
    matrix = labels.columns(("Edema", "Lung Opacity", "Mass"))[rows]
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.uint8
    groups = {name: values.tolist() for name, values in groups_of(labels, rows).items()}
    assert groups == {
        "sex": ["M", "F", "M"],
        "age": ["0-17", "60 and over", "60 and over"],
        "view": ["PA", "AP", "Lateral"],
    }


def test_a_row_for_each_finding(write):
    """What a listed film does not name is negative."""
    text = "dicom_id,class_name,patient\na,Mass,1\nb,No finding,2\na,Nodule/Mass,1\na,Mass,1\n"
    labels = read_labels(write("l.csv", text))
    names = ("Mass", "Nodule/Mass", "No Finding", "Hernia")
    assert labels.columns(names).tolist() == [[1, 1, 0, 0], [0, 0, 1, 0]]
    assert labels.images == ("a", "b")
