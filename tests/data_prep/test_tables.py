"""NIH's tables: both editions, quirks, mistakes."""

import gzip

import pytest

from agcnn_jax.data_prep.nih.names import file_name, row_name
from agcnn_jax.data_prep.nih.tables import LABELS, read_boxes, read_labels
from agcnn_jax.runtime.errors import UserError
from tests.data_prep.nih_files import (
    BOX_HEADER,
    HEADER_2017,
    HEADER_2020,
    row,
)


def test_both_editions_of_the_table_give_the_same_rows(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv.gz"
    old.write_text(
        f"{HEADER_2017}\r\na.png,Mass|Edema,3,7,058Y,F,AP,1,2,3,4,\r\n\r\n"
        "b.png,No Finding,0,8,018M,M,PA,1,2,3,4,\r\nc.png,Hernia,0,9,003D,M,PA,1,2,3,4,\r\n",
        newline="",
    )
    text = (
        f"\ufeff{HEADER_2020}\na.png,Mass|Edema,3,7,58,F,AP,1,2,3,4\n"
        "b.png,No Finding,0,8,1,M,PA,1,2,3,4\nc.png,Hernia,0,9,0,M,PA,1,2,3,4\n"
    )
    new.write_bytes(gzip.compress(text.encode()))
    rows = [{name: row[:-1] for name, row in read_labels(path).items()} for path in (old, new)]
    assert rows[0] == rows[1]
    assert rows[0]["a.png"] == ((4, 9), "7", 3, 58, "F", "AP", ())


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Image Index,Finding Labels", "a.png,Mass"], ["'Patient ID'", "'Patient Age'"]),
        ([HEADER_2020, row("a.png"), row("b.png", "Mass|Pnuemonia")], ["'Pnuemonia'", "line 3"]),
        ([HEADER_2020, row("a.png", "No Finding|Mass")], ["line 2: 'No Finding' with 'Mass'"]),
        ([HEADER_2020, row("a.png"), row("a.png", "Mass")], ["a.png", "line 3", "line 2"]),
        ([HEADER_2020, row("a.png", age="old")], ["'old'", "line 2"]),
        ([HEADER_2020, row("a.png", age="9" * 11)], ["'Patient Age'", "'99999999999'", "line 2"]),
        ([HEADER_2020, row("a.png", age="9" * 5000)], ["'Patient Age'", "'99999", "line 2"]),
        (
            [HEADER_2020, row("a.png", follow_up="9" * 11)],
            ["'Follow-up #' is", "32 bits", "line 2"],
        ),
        ([HEADER_2020, row("a.png", follow_up="9" * 5000)], ["'Follow-up #'", "line 2"]),
        ([HEADER_2020, row("a.png"), row("")], ["'Image Index' is empty", "line 3"]),
        ([HEADER_2020, row("a.png", patient=" ")], ["'Patient ID' is empty", "line 2"]),
        ([HEADER_2020, "a.png,Mass,0"], ["line 2", "3 columns"]),
        ([HEADER_2020], ["no rows"]),
        ([HEADER_2020, row("a.png"), row("b.png", "")], ["'Finding Labels' is empty", "line 3"]),
        ([], ["is empty"]),
    ],
)
def test_bad_label_table_is_one_clear_line(tmp_path, lines, words):
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        read_labels(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_implausible_values_of_the_table_are_kept(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEADER_2020, row("a.png", age="411", follow_up=str(2**31 - 1))]))
    assert read_labels(path)["a.png"][2:4] == (2**31 - 1, 411)


def test_sex_is_read_under_either_header(tmp_path):
    path = tmp_path / "t.csv"
    header = HEADER_2020.replace("Patient Gender", "Patient Sex")
    path.write_text(f"{header}\n{row('a.png')}\n")
    assert read_labels(path)["a.png"].sex == "M"
    path.write_text(f"{HEADER_2020},Patient Sex\n{row('a.png')},F\n")  # NIH's own goes first
    assert read_labels(path)["a.png"].sex == "M"
    path.write_text(f"{HEADER_2020.replace('Gender', 'Size')}\n{row('a.png')}\n")
    with pytest.raises(UserError, match="no column 'Patient Gender'"):
        read_labels(path)


def test_equal_rows_are_merged(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([HEADER_2020, row("a.png"), row("a.png")]))
    assert list(read_labels(path)) == ["a.png"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "binary"])
def test_damaged_table(tmp_path, damage):
    path = tmp_path / "t.csv.gz"
    packed = gzip.compress("\n".join([HEADER_2020, *map(row, "abcdefgh")]).encode())
    path.write_bytes(
        {
            "cut": packed[:-20],
            "flipped": packed[:-8] + bytes(8),
            "binary": gzip.compress(b"\xff\xfe\x80"),
        }[damage]
    )
    with pytest.raises(UserError, match=r"t\.csv\.gz"):
        read_labels(path)


def test_box_list_quirks(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text(f"{BOX_HEADER}\na.png,Infiltrate,1,2,3,4\na.png,Mass,5,6,7.5,8,,\n")
    infiltration, mass = LABELS.index("Infiltration"), LABELS.index("Mass")
    assert read_boxes(path, 1024) == {"a.png": ((infiltration, 1, 2, 4, 6), (mass, 5, 6, 12.5, 14))}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("a.png,Mass,1,2,3", "no four numbers"),
        ("a.png,Mass,1,2,x,4", "no four numbers"),
        ("a.png,Mass,1,2,nan,4", "not a box"),
        ("a.png,Mass,1,2,0,4", "not a box"),
        ("a.png,Lump,1,2,3,4", "'Lump'"),
        ("a.png,Mass,1000,2,30,4", "--box_size"),
    ],
)
def test_bad_box(tmp_path, line, word):
    path = tmp_path / "b.csv"
    path.write_text(f"{BOX_HEADER}\n{line}\n")
    with pytest.raises(UserError, match=word) as error:
        read_boxes(path, 1024)
    assert f"{path}, line 2" in str(error.value)


def test_patients_of_chestxray14_are_whole_numbers_and_others_text(tmp_path):
    def patients(names, ids, **options):
        rows = [row(name, patient=patient) for name, patient in zip(names, ids, strict=True)]
        (tmp_path / "t.csv").write_text("\n".join([HEADER_2020, *rows]))
        return [one.patient_id for one in read_labels(tmp_path / "t.csv", **options).values()]

    names = [f"0000000{index}_000.png" for index in range(3)]
    assert patients(names, ["1", "00000001", "30805"]) == ["1", "1", "30805"]
    with pytest.raises(UserError, match=r"t\.csv, line 3: 'Patient ID' is '1e3', not a whole"):
        patients(names, ["1", "1e3", "2.0"])
    assert patients(names, ["007", "8", "1.5"], nih=False) == ["007", "8", "1.5"]
    for options in ({"nih": False}, {}):
        others = names if options else ["a.png", "b.png", "c.png"]
        with pytest.raises(UserError, match=r"line 4: 'Patient ID' is '7', but '007' on line 2"):
            patients(others, ["007", "8", "7"], **options)


def test_image_names_of_tables_and_files():
    names = ["a.png", "x/a.png", "y\\a.PNG", "a", "a.jpg"]
    assert list(map(file_name, names)) == ["a.png", "a.png", "a.PNG", "a.png", "a.png"]
    assert [row_name("a.PNG", labels) for labels in (["a.png", "a.PNG"], ["a.png"], ["b.png"])] == [
        "a.PNG",
        "a.png",
        "a.PNG",
    ]
    assert row_name("a.png", ["a.PNG"]) == "a.PNG"


def test_boxes_with_decimal_commas_are_refused(tmp_path):
    (tmp_path / "b.csv").write_text(f"{BOX_HEADER}\na.png,Mass,1,2,3,4\n".replace(",", ";"))
    assert len(read_boxes(tmp_path / "b.csv", 1024)["a.png"]) == 1
    (tmp_path / "b.csv").write_text("Image Index;Finding Label;;;;\na.png;Mass;1,5;2;3;4\n")
    with pytest.raises(UserError, match=r"line 2: no four numbers .* with decimal points"):
        read_boxes(tmp_path / "b.csv", 1024)
