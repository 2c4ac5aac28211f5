import json

import pytest

from agcnn_jax.data.collection import FILE
from agcnn_jax.evaluation.files.label_table import read_labels
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
    assert labels.of_image["c.png"] == {"Mass", "Pleural_Thickening"}
    assert labels.patient["c.png"] == "1"
    assert labels.lines == {"Mass": 2, "No Finding": 3, "Pleural_Thickening": 4}


@pytest.mark.parametrize(
    "content, message",
    [
        ("Image Index,prob_Mass\na.png,1\n", "l.csv: has no column 'Finding Labels'"),
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
            "l.csv, line 6: 'Mass|No Finding' is both a finding and none",
        ),
        (LABELS + "a.png,Mass,0,1\n", "l.csv: image 'a.png' has more than one row"),
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
    assert list(labels.patient.values()) == ["1", "1", "1", "2", "0"]
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
    assert list(labels.patient.values()) == ["007", "008", "P1", "1.50"]
    with pytest.raises(UserError, match=r"line 5: 'Patient ID' is '7', but '007' on line 2; write"):
        read_labels(write("l.csv", table("007", "8", "007", "7")))
