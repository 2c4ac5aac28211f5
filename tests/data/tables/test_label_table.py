"""Tables of labels: the ways to write them, with headers of real collections, and mistakes."""

import csv
import io

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import LABELS, MISSING
from agcnn_jax.data.tables.label_table import read_label_table
from agcnn_jax.data.tables.options import TableOptions
from agcnn_jax.runtime.errors import UserError

M = MISSING


@pytest.fixture
def read(tmp_path):
    def read(text, **options):
        path = tmp_path / "l.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_label_table(path, TableOptions(**options))

    return read


CHEXPERT = """\
Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Lung Opacity,Edema,Pneumonia,Support Devices,ID
p1/s1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,1.0,1
p1/s1/view2_lateral.jpg,Female,68,Lateral,,1.0,,,,1.0,1
p2/s1/view1_frontal.jpg,Male,87,Frontal,LL,,1.0,-1.0,0.0,,2
p3/s1/view1_frontal.jpg,Unknown,0,Frontal,PA,,,,,,3
"""


def test_chexpert(read):
    """A blank is missing, but in No Finding negative where another label is known.

    A lateral decubitus (LL) film is called frontal.
    """
    table = read(CHEXPERT, columns={"patient": "ID"})
    assert table.labels == ("Pneumonia", "Edema", "Lung Opacity", "Support Devices", "No Finding")
    assert table.images == tuple(f"p{i}/s1/view1_frontal.jpg" for i in (1, 2, 3))
    assert table.matrix.dtype == np.uint8
    assert table.matrix.tolist() == [[M, M, M, 1, 1], [0, M, 1, M, 0], [M, M, M, M, M]]
    assert (table.lines, table.patients, table.ages) == ((2, 4, 5), ("1", "2", "3"), (68, 87, 0))
    assert (table.sexes, table.views) == (("F", "M", ""), ("AP", "LL", "PA"))
    assert table.counts["Edema"] == (0, 0, 1, 2)
    assert table.counts["No Finding"] == (1, 0, 0, 2)
    assert "1 films are lateral; left out (--views all keeps them)" in table.notices
    assert "1 rows have no known label; they do not train" in table.notices
    every = read(CHEXPERT, columns={"patient": "ID"}, views="all")
    assert every.views == ("AP", "Lateral", "LL", "PA")
    assert len(every.matrix) == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"blank": "negative"}, [[0, 0, 0], [0, M, 1], [0, 0, 0]]),
        ({"uncertain_as": {"": "zeros"}}, [[M, M, M], [0, 0, 1], [M, M, M]]),
        ({"uncertain_as": {"": "zeros", "edema": "ones"}}, [[M, M, M], [0, 1, 1], [M, M, M]]),
        ({"uncertain_as": {"Pneumonia": "ones"}}, [[M, M, M], [0, M, 1], [M, M, M]]),
    ],
)
def test_policies(read, options, expected):
    table = read(CHEXPERT, columns={"patient": "ID"}, **options)
    assert table.matrix[:, :3].tolist() == expected


def test_mimic(read):
    table = read(
        "dicom_id,subject_id,study_id,ViewPosition,split,Airspace Opacity,Atelectasis\n"
        "02aa,10000032,50414267,PA,train,1,\n174a,10000032,50414267,LATERAL,train,1,\n"
        "2a28,10000764,57375967,,validate,0,-1\n68b5,10000898,50771383,SWIMMERS,test,0,1\n"
    )
    assert table.labels == ("Atelectasis", "Airspace Opacity")
    assert table.images == ("02aa", "2a28")
    assert table.matrix.tolist() == [[M, 1], [M, 0]]
    assert table.roles["study"] == "study_id"
    assert table.splits == ("train", "validation")
    assert "1 films are 'SWIMMERS' by their view; left out (--views all keeps them)" in (
        table.notices
    )


def test_padchest(read):
    """Python lists of names with blanks around them, which match whole; the index has no name."""
    table = read(
        ",ImageID,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels\n"
        "0,20_1.png,20,839,1930.0,F,PA,\"['pseudonodule', ' hernia', 'nodule']\"\n"
        "1,21_1.png,21,007,nan,M,AP_horizontal,\"['pseudonodule']\"\n"
        "2,21_2.png,21,007,nan,M,L,\"['normal']\"\n"
        "3,22_1.png,22,9,1950.0,nan,AP,nan\n4,23_1.png,23,10,1950.0,O,PA,[]\n"
    )
    assert table.labels == ("Nodule", "Hernia", "pseudonodule")
    assert table.matrix.tolist() == [[1, 1, 1], [0, 0, 1], [M, M, M], [0, 0, 0]]
    assert table.patients == ("839", "007", "9", "10")
    assert table.sexes == ("F", "M", "", "O")
    assert table.left_out == ("PatientBirth",)
    assert "'PatientBirth' is neither a label nor a role; left out" in table.notices
    assert "1 rows have no known label; they do not train" in table.notices


VINDR = """\
image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
aa,Nodule/Mass,8,R9,691.5,1375,853,1598
bb,No finding,14,R1,,,,
aa,Pleural effusion,10,R9,10,20,30,40
aa,Nodule/Mass,8,R10,691.5,1375,853,1598
aa,Nodule/Mass,8,R8,700,1375,853,1598
"""


def test_vindr(read):
    """Any reader's finding counts, each box once."""
    table = read(VINDR, one_patient_per_film=True)
    assert table.labels == ("Nodule/Mass", "Pleural effusion", "No Finding")
    assert table.matrix.tolist() == [[1, 1, 0], [0, 0, 1]]
    assert table.patients == table.images == ("aa", "bb")
    nodules = [Box(0, x, 1375.0, 853.0, 1598.0) for x in (691.5, 700.0)]
    assert table.boxes == {"aa": (nodules[0], Box(1, 10.0, 20.0, 30.0, 40.0), nodules[1])}
    assert table.taken == ("class_name",)
    one = read(VINDR, one_patient_per_film=True, findings=("pleural effusion", "Hernia"))
    assert one.labels == ("Hernia", "Pleural effusion")
    assert one.matrix.tolist() == [[0, 1], [0, 0]]
    assert one.boxes == {"aa": (Box(1, 10.0, 20.0, 30.0, 40.0),)}


def test_rsna(read):
    """A column with a value in each row, boxes with sides, and ids that are the images'."""
    table = read(
        "patientId,x,y,width,height,Target\n0004,,,,,0\n0043,264.0,152.0,213.0,379.0,1\n"
        "0043,562.0,152.0,256.0,453.0,1\n",
        columns={"image": "patientId"},
        one_patient_per_film=True,
    )
    assert (table.labels, table.images, table.lines) == (("Target",), ("0004", "0043"), (2, 3))
    assert table.matrix.tolist() == [[0], [1]]
    boxes = Box(0, 264.0, 152.0, 477.0, 531.0), Box(0, 562.0, 152.0, 818.0, 605.0)
    assert table.boxes == {"0043": boxes}


def test_brax(read):
    table = read(
        "DicomPath,PngPath,PatientID,PatientSex,PatientAge,AccessionNumber,Edema,ViewPosition,Rows\n"
        "a.dcm,a.png,p1,M,85 or more,7,1,PA,2048\nb.dcm,b.png,p2,F,40,8,-1,RL,2048\n"
        "c.dcm,c.png,p2,F,old,9,,AP,2048\n"
    )
    assert (table.images, table.ages) == (("a.png", "c.png"), (85, -1))
    assert table.roles["image"] == "PngPath"
    assert "'DicomPath', 'Rows' are neither labels nor roles; left out" in table.notices
    assert any(one.startswith("1 ages, the first 'old' on line 4") for one in table.notices)


HEAD = "image,patient,Effusion,Mass,weight\n"
ROWS = "a.png,1,1,0,70\nb.png,2,0,1,81.5\n"


def test_numbers_are_no_findings(read):
    table = read(HEAD + ROWS)
    assert (table.labels, table.left_out) == (("Effusion", "Mass"), ("weight",))
    assert table.notices == ("'weight' is neither a label nor a role; left out",)
    named = read(HEAD + ROWS, findings=("mass",))
    assert (named.labels, named.matrix.tolist()) == (("Mass",), [[0], [1]])
    assert named.notices == ("'Effusion', 'weight' are not in --findings; left out",)


@pytest.mark.parametrize(
    "cells",
    [("1", "0", "-1"), ("1.0", "0.0", "-1.0"), ("True", "FALSE", "?"), ("yes", "No", "?")],
)
def test_forms_and_words(read, cells):
    rows = "".join(f"{i}.png,{i},{cell}\n" for i, cell in enumerate(cells))
    table = read("image,patient,Rib crack\n" + rows, uncertain=("?",))
    assert table.matrix.tolist() == [[1], [0], [M]]
    words = read(
        "image,patient,Mass\na,1,Present \nb,2,ABSENT\nc,3,2\n",
        positive=("present", "2"),
        negative=("absent",),
    )
    assert words.matrix.tolist() == [[1], [0], [1]]


def test_what_a_user_names_goes_before_the_usual_headers(read):
    """A split that is not one of films is left out, and columns are read instead of a list."""
    text = "image,file,subject,patient,labels,split,Mass\na,f.png,1,x,Edema,north,1\n"
    table = read(text, columns={"image": "file", "patient": "patient", "labels": "", "split": ""})
    assert (table.images, table.patients, table.labels) == (("f.png",), ("x",), ("Mass",))
    assert table.splits == ("",)
    named = read(text, columns={"finding": "labels", "split": ""})
    assert (named.images, named.patients, named.labels) == (("a",), ("x",), ("Edema",))


def test_ages(read):
    ages = ["58", "058Y", "018M", "104W", "003D", "58.0", "85 or more", "90+", "", "nan", "old"]
    rows = "".join(f"{i},{i},{age},1\n" for i, age in enumerate(ages))
    table = read("image,patient,age,Mass\n" + rows)
    assert table.ages == (58, 58, 1, 2, 0, 58, 85, 90, -1, -1, -1)
    assert any(one.startswith("1 ages, the first 'old' on line 12,") for one in table.notices)


def test_one_value_and_unlabelled_films_are_noticed(read):
    table = read("image,patient,Hernia,Mass\na,1,0,1\nb,2,,\nc,3,0,0\n")
    assert table.notices == (
        "Hernia has 0 positives: it trains, and has no AUC; --findings leaves it out",
        "1 rows have no known label; they do not train",
    )


def test_equal_rows_are_one_and_ids_are_as_the_cells_have_them(read):
    table = read("image,patient,Mass\na.png, 017,1\nb.png,x,0\na.png, 017,1\n")
    assert (table.images, table.patients) == (("a.png", "b.png"), (" 017", "x"))
    assert table.lines == (2, 3)


@pytest.mark.parametrize("joined", ["Edema|Mass", "Edema;Mass", "Edema , Mass", "['Edema','Mass']"])
def test_separators_are_found(read, joined):
    table = read(f'image,patient,labels\na,1,"{joined}"\nb,2,No Finding\nc,3,Mass\n')
    assert table.labels == ("Mass", "Edema", "No Finding")
    assert table.matrix.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_separator_that_is_given(read):
    table = read("image,patient,labels\na,1,Mass; calcified+Edema\n", separator="+")
    assert table.labels == ("Edema", "Mass; calcified")


def test_values_of_finding_rows(read):
    table = read(
        "image,patient,finding,value\na,1,Mass,1\na,1,Edema,0\nb,2,Edema,-1\nc,3,,\n"
        "a,1,Mass,1\nb,2,Mass,\n"
    )
    assert table.labels == ("Mass", "Edema")
    assert table.matrix.tolist() == [[1, 0], [M, M], [M, M]]


LISTS = "image,patient,labels\n"
SPLIT = "image,patient,Mass,split\n"
BOXES = "image,patient,Mass,xmin,ymin,xmax,ymax\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image,Mass\na,1\n", {}, "l.csv, line 1: no column of patients; name it with --patient_c"),
        ("film,patient,Mass\na,1,1\n", {}, "line 1: no column of images among 'film', 'patient'"),
        (HEAD + ROWS, {"one_patient_per_film": True}, "leave --one_patient_per_film out"),
        (HEAD + ROWS, {"columns": {"view": "Lat"}}, "l.csv: has no column 'Lat'; its columns are"),
        (
            "image,patient,Mass\na,00012,1\nb,7,0\nc,12,1\n",
            {},
            "l.csv, line 4: 'patient' is '12', but '00012' on line 2; write one patient in one way",
        ),
        ("image,patient,Mass\na,12,1\nb,12 ,0\n", {}, "line 3: 'patient' is '12 ', but '12' on"),
        ("image,patient,Mass\na,,1\n", {}, "l.csv, line 2: 'patient' is empty; complete or delete"),
        (
            "image,patient,Effusion\na,1,1\nb,2,0\nc,3,2\n",
            {},
            "l.csv, line 4, Effusion: '2' is none of 1, 0, -1, blank; write one of these, or "
            "name its meaning (from_csv.py: --positive, --negative or --uncertain)",
        ),
        ("image,patient,Mass\na,1,1\nb,2,0.3\n", {}, "l.csv, line 3, Mass: 0.3 is no label"),
        ("image,patient,Lump\na,1,0.3\n", {"findings": ("Lump",)}, "line 2, Lump: 0.3 is no label"),
        (
            "image,patient,Mass,Lump,Edema\na,1,1,1,0\nb,2,1,2,1\nc,3,0,0,0\n",
            {},
            "l.csv, line 3, Lump: '2' is none of 1, 0, -1, blank",
        ),
        ("image,patient,Mass\na,1,1\nb,2,yes\n", {}, "line 3, Mass: 'yes' is one way to write"),
        ("image,patient,Mass,Mass\na,1,1,1\n", {}, "l.csv, line 1: 2 columns 'Mass'; keep one"),
        ("image,patient,Mass\na,1,1\nb,2,1,0\n", {}, "line 3: 4 columns, but the header has 3"),
        (
            'image,patient,Mass\na,1,1\n"b,2,0\nc,3,1\nd,4,1\n',
            {},
            "l.csv, line 3: 1 columns, but the header has 3; complete it, and close its quotes",
        ),
        (
            'image,patient,note,Mass\na,1,"x\ny",1\nb,2,"x\ny",2\n',
            {},
            "l.csv, line 4, Mass: '2' is none of",
        ),
        (
            "image,patient,Mass\n" + "a,1,1\n" * 200 + "b,2,\0\n",
            {},
            "is no text file, since it has",
        ),
        ("image,patient,mean\na,1,1\n", {}, "line 1: 'mean' is what tables of results call their"),
        ('image,patient,"Big\nMass"\na,1,1\n', {}, "line 1: the name 'Big\\nMass' has a character"),
        (f"image,patient,{'x' * 101}\na,1,1\n", {}, f"line 1: the name '{'x' * 40}' is too long"),
        ("image,patient,Mäss\na,1,1\n".encode("cp1252"), {}, "not a UTF-8 text file, since line 1"),
        ("image,patient,Mass\na,1,1\n".encode("utf-16"), {}, "l.csv: is UTF-16 text; save it as"),
        (
            "image,patient,Mass,Effusion\na,1,1,0\nb,2,1,1\na,1,1,1\n",
            {},
            "l.csv, line 4: a is also on line 2 with Effusion 0, here 1; keep the right one",
        ),
        (LISTS + "a,1,Mass\na,1,\n", {}, "line 3: a is also on line 2 with Mass 1, here blank"),
        (
            "image,patient,Mass\na,1,1\na,2,1\n",
            {},
            "a is also on line 2 with patient '1', here '2'",
        ),
        (
            "image,patient,finding,value\na,1,Mass,1\nb,2,Mass,0\na,1,Edema,1\na,1,Mass,0\n",
            {},
            "l.csv, line 5: a is also on line 2 with Mass 1, here 0",
        ),
        (
            "image,patient,Mass,No Finding,Support Devices\na,1,0,1,1\nb,2,1,1,0\n",
            {},
            "l.csv, line 3: 'No Finding' with 'Mass'; correct the row",
        ),
        (LISTS + "a,1,No Finding|Mass\n", {}, "l.csv, line 2: 'No Finding' with 'Mass'"),
        (
            SPLIT + "a,17,1,train\nb,2,0,val\nc,17,1,test\n",
            {},
            "l.csv: patient 17 is in train (line 2) and test (line 4); put all films of a patient",
        ),
        (SPLIT + "a,17,1,dev\n", {}, "line 2: the split is 'dev'; write train, validation or test"),
        (BOXES + "a,1,1,50,10,40,20\n", {}, "l.csv, line 2: no box from 50, 10 to 40, 20; its cor"),
        (
            BOXES + "a,1,1,5,10,40,\n",
            {},
            "line 2: xmin, ymin, xmax, ymax are 5, 10, 40, , not four",
        ),
        (BOXES + "a,1,0,5,10,40,20\n", {}, "l.csv, line 2: a box in a row with 0 findings"),
        (
            "image,patient,Effusion,Pleural Effusion\na,1,1,1\n",
            {},
            "line 1: 'Effusion' and 'Pleural Effusion' both mean Effusion in synonyms.csv; keep",
        ),
        ("image,patient,Mass|Edema\na,1,1\n", {}, "line 1: the name 'Mass|Edema' has a |"),
        (LISTS + "a,1,\"['Mass|Edema']\"\n", {}, "l.csv, line 2: the name 'Mass|Edema' has a |"),
        (LISTS + "a,1,[Mass]\n", {}, "l.csv, line 2, labels: '[Mass]' is no list of names"),
        (LISTS + "a,1,Mass|\n", {}, "l.csv, line 2: the column 'labels' has an empty label"),
        (LISTS + "a,1,Mass\nb,2,mass\n", {}, "line 3: 'mass' in 'labels'; write 'Mass', as else"),
        (LISTS + "a,1,1\nb,2,0\n", {}, "l.csv, line 2: '1' is a number and no name of a finding"),
        ("image,patient,note\na,1,x\n", {}, "l.csv, line 1: no column of findings; give one for"),
        (HEAD + ROWS, {"findings": ("Lump",)}, "l.csv: has no column 'Lump'; its columns are: "),
        (LISTS + "a,1,Mass\n", {"findings": ("Lump",)}, "--findings: "),
        (
            HEAD + ROWS,
            {"findings": ("Mass", "Hernia")},
            "l.csv: has no column 'Hernia'; its columns are: ",
        ),
        (HEAD + ROWS, {"uncertain_as": {"Lump": "ones"}}, "--uncertain: "),
        (
            "image,patient,Mass,view\na,1,1,L\n",
            {},
            "line 2: no film is frontal, since 'view' is 'L'",
        ),
    ],
)
def test_mistakes(read, text, options, message):
    with pytest.raises(UserError) as caught:
        read(text, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


NAMES = ("Mass", "Edema", "Rib crack", "No Finding")


@st.composite
def matrices(draw):
    """Labels of films, none of which has a finding and No Finding."""
    rows = draw(st.lists(st.tuples(*[st.booleans()] * 3), min_size=1, max_size=6))
    rows.append((True, True, True))  # a list names each label somewhere
    return np.array([(*row, not any(row)) for row in [*rows, (False,) * 3]], np.uint8)


def write(matrix, layout):
    rows = []
    for i, row in enumerate(matrix):
        film = [f"{i}.png", str(i % 3)]
        names = [name for name, value in zip(NAMES, row, strict=True) if value]
        if layout == "columns":
            rows.append([*film, *row])
        elif layout == "rows":
            rows += [[*film, name] for name in names]
        else:
            rows.append([*film, str(names) if layout == "python" else layout.join(names)])
    header = {"columns": NAMES, "rows": ("finding",)}.get(layout, ("labels",))
    return ["image", "patient", *header], rows


@pytest.mark.parametrize("layout", ["columns", "|", ";", "python", "rows"])
@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(matrix=matrices(), random=st.randoms(use_true_random=False))
def test_a_matrix_comes_back_in_any_layout_and_order(tmp_path_factory, layout, matrix, random):
    header, rows = write(matrix, layout)
    random.shuffle(rows)
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path = tmp_path_factory.mktemp("t") / "l.csv"
    path.write_text(text.getvalue())
    table = read_label_table(path, TableOptions())
    assert set(table.labels) == set(NAMES)
    assert table.labels[-1] == "No Finding"
    order = [table.images.index(f"{i}.png") for i in range(len(matrix))]
    columns = [table.labels.index(name) for name in NAMES]
    np.testing.assert_array_equal(table.matrix[order][:, columns], matrix)
    assert [table.patients[i] for i in order] == [str(i % 3) for i in range(len(matrix))]


def test_a_blank_no_finding_is_negative_where_it_is_the_only_label(read):
    table = read("image,patient,No Finding\na,1,1\nb,2,\n")
    assert table.labels == ("No Finding",)
    assert table.matrix.tolist() == [[1], [0]]


def test_all_labels_of_the_paper_in_its_order(read):
    header = ",".join(["image", "patient", *sorted(LABELS)])
    table = read(f"{header}\na,1,{'0,' * 14}0\nb,2,{'0,' * 14}0\n")
    assert table.labels == LABELS
