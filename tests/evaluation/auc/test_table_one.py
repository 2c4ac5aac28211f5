import csv
import io

import numpy as np

from agcnn_jax.evaluation.auc.table_one import table_one, table_one_csv
from agcnn_jax.evaluation.files.label_table import Labels
from agcnn_jax.evaluation.files.predictions import Predictions
from agcnn_jax.evaluation.scoring.prediction_files import label_images
from agcnn_jax.evaluation.scoring.subsets import Subset, count_subset, subset_of_table

# Patient 1 has three images, 2 and 3 one each; the age of one image is not known.
TRAIN = Subset(
    "train",
    np.array([1, 1, 1, 2, 3]),
    ("Mass", "Hernia"),
    np.array([[1, 0], [1, 0], [0, 0], [1, 0], [0, 0]]),
    np.array([40, 41, 43, 60, 414]),
    np.array(["M", "M", "M", "F", ""]),
    np.array(["AP", "PA", "PA", "PA", "PA"]),
)
TEST = Subset(
    *("test", np.array([7]), ("Mass", "Hernia"), np.array([[0, 1]])),
    *(np.array([-1]), np.array(["F"]), np.array(["LL"])),
)
COUNTS = [count_subset(TRAIN), count_subset(TEST)]


def test_a_table_by_hand():
    table = table_one(COUNTS)
    assert [name for name, _ in table.groups] == ["", "train", "test"]
    assert table.rows == (
        ("all", "5", "3", "1", "1"),
        ("images a patient, median [quartiles]", "1 [1, 2]", "", "1 [1, 1]", ""),
        ("age in years, median [quartiles]", "42 [40.75, 47.25]", "", "–", "–"),
        ("age: missing", "1 (20.0 %)", "1 (33.3 %)", "1 (100.0 %)", "1 (100.0 %)"),
        ("sex: F", "1 (20.0 %)", "1 (33.3 %)", "1 (100.0 %)", "1 (100.0 %)"),
        ("sex: M", "3 (60.0 %)", "1 (33.3 %)", "0 (0.0 %)", "0 (0.0 %)"),
        ("sex: missing", "1 (20.0 %)", "1 (33.3 %)", "0 (0.0 %)", "0 (0.0 %)"),
        ("view: AP", "1 (20.0 %)", "1 (33.3 %)", "0 (0.0 %)", "0 (0.0 %)"),
        ("view: LL", "0 (0.0 %)", "0 (0.0 %)", "1 (100.0 %)", "1 (100.0 %)"),
        ("view: PA", "4 (80.0 %)", "3 (100.0 %)", "0 (0.0 %)", "0 (0.0 %)"),
        ("view: missing", "0 (0.0 %)", "0 (0.0 %)", "0 (0.0 %)", "0 (0.0 %)"),
        ("finding: Mass", "3 (60.0 %)", "2 (66.7 %)", "0 (0.0 %)", "0 (0.0 %)"),
        ("finding: Hernia", "0 (0.0 %)", "0 (0.0 %)", "1 (100.0 %)", "1 (100.0 %)"),
    )


def test_csv_has_the_same_numbers():
    rows = list(csv.DictReader(io.StringIO(table_one_csv(COUNTS))))
    found = {(row["subset"], row["characteristic"], row["value"]): row for row in rows}
    assert len(found) == len(rows) == 26
    mass = found["train", "finding", "Mass"]
    assert (mass["images"], mass["patients"], mass["median"]) == ("3", "2", "")
    age = found["train", "age in years, median [quartiles]", ""]
    assert (age["images"], age["lower_quartile"], age["median"]) == ("", "40.75", "42.0")


def test_what_a_table_of_labels_knows():
    files = [Predictions(["b.png", "a.png"], ("Mass",), np.array([[0.1], [0.2]]))]
    of_image = {"a.png": frozenset({"Mass"}), "b.png": frozenset({"No Finding"})}
    patient = {"a.png": "1", "b.png": "2"}
    about = {"age": {"a.png": "058Y", "b.png": "x"}, "sex": {"a.png": "F", "b.png": "M"}}
    labels = Labels(of_image, patient, {"Mass": 2}, about)
    subset = subset_of_table(label_images(files, ["p"], labels, "p.csv", "l.csv"), labels)
    assert subset.ages.tolist() == [-1, 58]
    assert subset.sexes.tolist() == ["M", "F"]
    assert subset.views.tolist() == ["", ""]
    assert subset.label_matrix.tolist() == [[0], [1]]
