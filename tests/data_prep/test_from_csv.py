"""Preparing films in any folder with a table of labels: records, refusals, continuing."""

import csv
import json

import numpy as np
import pytest

from agcnn_jax.data.films import decode_film, resize_film
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.records import open_records
from agcnn_jax.data.splits import make_split
from agcnn_jax.data_prep import from_csv
from agcnn_jax.data_prep.films import plans
from agcnn_jax.runtime.errors import UserError
from tests.data_prep.film_files import (
    COLLECTION,
    FINDINGS,
    make_films,
    prepare,
    write_table,
)
from tests.data_prep.nih_files import contents, make_raw
from tests.data_prep.nih_files import prepare as prepare_nih

NAMES = ("a/1.png", "b/1.png", "b/deep er/2, PA.jpeg", "c.tif", "d/4.dcm", "d/5 dicom", "é.jpg")
LABELS = ["1,0,", ",0,1", "0,1,0", "1,1,1", ",,", "0,0,0", "1,0,0"]


def rows_of(names, labels=LABELS):
    return [
        [name, f"{index // 2:03d}", *labels[index % len(labels)].split(",")]
        for index, name in enumerate(names)
    ]


@pytest.fixture
def folder(tmp_path):
    """Films of every kind, with their table."""
    make_films(tmp_path / "films", NAMES)
    write_table(tmp_path / "labels.csv", rows_of(NAMES))
    return tmp_path


def test_records_are_what_files_and_table_say(folder, capsys):
    assert prepare(folder) == 0
    said = capsys.readouterr().out
    assert "written 7 of 7 rows, set aside rows without a film 0, films without a row 0" in said
    records = open_records(folder / "data")
    assert records.image_ids.tolist() == sorted(NAMES)
    assert (records.labels, records.findings) == (FINDINGS, FINDINGS)
    assert (records.collection, records.provenance) == (COLLECTION, COLLECTION)
    assert not records.synthetic and records.has_missing and records.official_names == 0
    images = records.images_and_labels()
    for index, name in enumerate(NAMES):
        (place,) = np.flatnonzero(records.image_ids == name)
        film = decode_film((folder / "films" / name).read_bytes())
        np.testing.assert_array_equal(images[place]["image"], resize_film(film, 32))
        assert (records.heights[place], records.widths[place]) == film.shape == (40, 47)
        known = [MISSING if cell == "" else int(cell) for cell in LABELS[index].split(",")]
        assert records.label_matrix[place].tolist() == known
        assert records.patient_ids[place] == f"{index // 2:03d}"
    with open(folder / "data/films/1.0.0/records.csv", newline="") as file:
        table = {row["image_id"]: row["unknown"] for row in csv.DictReader(file)}
    assert table["d/4.dcm"] == "Effusion|Mass|Scoliosis" and table["c.tif"] == ""


def test_without_missing_labels_there_is_no_column_of_them(folder):
    write_table(folder / "labels.csv", rows_of(NAMES, ["1,0,1"]))
    prepare(folder)
    header = (folder / "data/films/1.0.0/records.csv").read_text().splitlines()[0]
    assert header.endswith(",official")
    assert not open_records(folder / "data").has_missing


def test_a_dry_run_prints_the_same_and_writes_nothing(folder, capsys):
    prepare(folder, "--dry_run")
    dry = capsys.readouterr().out.splitlines()
    assert not (folder / "data").exists()
    assert dry[-1] == "nothing was written (--dry_run)"
    assert "7 of 7 rows have a film" in dry[-2]
    assert [line.split() for line in dry if line.startswith("Mass")] == [["Mass", *"2401"]]
    prepare(folder)
    assert capsys.readouterr().out.splitlines()[:-1] == dry[:-1]


def test_a_second_call_changes_nothing_and_another_table_is_refused(folder, capsys):
    prepare(folder)
    before = contents(folder / "data")
    prepare(folder)
    assert "already prepared" in capsys.readouterr().out
    write_table(folder / "labels.csv", rows_of(NAMES, ["1,0,1"]))
    for options in ([], ["--image_size=16"]):
        with pytest.raises(UserError, match=r"other files or with other options; .*--data_dir"):
            prepare(folder, *options)
    assert contents(folder / "data") == before
    prepare(folder, f"--data_dir={folder / 'other'}")
    assert not open_records(folder / "other").has_missing


def test_an_interrupted_run_starts_again_where_it_was(folder, monkeypatch):
    names = [f"many/{number}.png" for number in range(40)]
    make_films(folder / "films", names, side=8)
    write_table(folder / "labels.csv", rows_of((*NAMES, *names)))
    prepare(folder, f"--data_dir={folder / 'whole'}")
    decode, decoded = plans.decode_path, []

    def stop(path, *sizes):
        if len(decoded) == 40:
            raise KeyboardInterrupt
        decoded.append(path)
        return decode(path, *sizes)

    monkeypatch.setattr(plans, "decode_path", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder)
    assert not (folder / "data/films").exists()
    again = []
    monkeypatch.setattr(plans, "decode_path", lambda *a: again.append(a[0]) or decode(*a))
    prepare(folder)
    assert len(again) == 47 - 32  # the first unit was complete
    assert contents(folder / "data/films") == contents(folder / "whole/films")
    assert sorted(path.name for path in (folder / "data").iterdir()) == [
        "films",
        "prepare_report.json",
    ]


def test_what_is_set_aside_is_counted_and_listed(folder, capsys):
    (folder / "films/c.tif").write_bytes(b"no film")
    (folder / "films/b/1.png").unlink()
    make_films(folder / "films", ["spare.png"])
    (folder / "films/notes.txt").write_text("no film either")
    prepare(folder, "--max_bad=0.5")
    said = "written 5 of 7 rows, set aside rows without a film 1, films without a row 1, unreadable"
    assert f"{said} films 1" in capsys.readouterr().out
    report = json.loads((folder / "data/prepare_report.json").read_text())
    assert report["rows_without_film"] == {"count": 1, "images": ["b/1.png"]}
    assert report["films_without_row"] == {"count": 1, "films": ["spare.png"]}
    why = "not a PNG, JPEG, TIFF or DICOM file"
    assert report["unreadable_films"] == {"count": 1, "films": {"c.tif": why}}
    assert "c.tif" not in open_records(folder / "data").image_ids
    # What the flow of films in an evaluation reads.
    counts = {"unreadable image": 1, "no label row": 1, "left out by view": 0}
    assert (report["files_seen"], report["set_aside_counts"]) == (7, counts)


def test_too_many_unreadable_films_are_refused_and_listed(folder):
    (folder / "films/c.tif").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"1 films cannot be decoded, such as 'c.tif' \(not a PNG"):
        prepare(folder)
    assert not (folder / "data/films").exists()
    assert "c.tif" in (folder / "data/prepare_report.json").read_text()
    prepare(folder, "--max_bad=0.2")
    assert len(open_records(folder / "data")) == 6


def test_laterals_are_no_strangers(folder):
    rows = [[*row, "LATERAL" if row[0] == "c.tif" else "PA"] for row in rows_of(NAMES)]
    write_table(folder / "labels.csv", rows, ("image", "patient", *FINDINGS, "view"))
    prepare(folder)
    records = open_records(folder / "data")
    assert len(records) == 6 and set(records.views) == {"PA"}
    report = json.loads((folder / "data/prepare_report.json").read_text())
    assert report["set_aside_counts"]["left out by view"] == 1
    prepare(folder, "--views=all", f"--data_dir={folder / 'all'}")
    assert len(open_records(folder / "all")) == 7


def test_names_may_have_other_folders_in_front_and_no_extension(folder):
    names = [f"Mary-v1/{name}" for name in NAMES]
    names[0], names[3] = "Mary-v1/a/1", "c"
    write_table(folder / "labels.csv", rows_of(names))
    prepare(folder)
    assert open_records(folder / "data").image_ids.tolist() == sorted(NAMES)
    (folder / "films").rename(folder / "v1")
    (folder / "films").mkdir()
    (folder / "v1").rename(folder / "films/v1")
    write_table(folder / "labels.csv", rows_of(NAMES))
    prepare(folder, f"--data_dir={folder / 'deeper'}")
    found = open_records(folder / "deeper").image_ids.tolist()
    assert found == sorted(f"v1/{name}" for name in NAMES)


def test_boxes_stay_in_pixels_of_the_files(folder):
    rows = [[*row, "", "", "", ""] for row in rows_of(NAMES)]
    rows[0][-4:] = ["3.5", "2", "47", "40"]
    header = ("image", "patient", *FINDINGS, "xmin", "ymin", "xmax", "ymax")
    write_table(folder / "labels.csv", rows, header)
    prepare(folder)
    boxes = open_records(folder / "data").boxes
    assert boxes.corners.tolist() == [[3.5, 2, 47, 40]] and boxes.findings == ["Effusion"]


def renamed(change):
    def edit(folder):
        write_table(folder / "labels.csv", rows_of([change(name) for name in NAMES]))

    return edit


def zeros(folder):
    without_films(folder)
    make_films(folder / "films", [f"{number:03d}.png" for number in range(1, 4)])
    write_table(folder / "labels.csv", rows_of(["1", "2", "3"]))


def boxed(*corners):
    def edit(folder):
        rows = [[*row, "", "", "", ""] for row in rows_of(NAMES)]
        rows[2][-4:] = corners
        header = ("image", "patient", *FINDINGS, "xmin", "ymin", "xmax", "ymax")
        write_table(folder / "labels.csv", rows, header)

    return edit


def without_films(folder):
    for path in folder.rglob("films/**/*"):
        if path.is_file():
            path.unlink()


CUT = "line 2: 0 of 3 names found in .*'001.png' resembles '1': zeros were cut from the table"


@pytest.mark.parametrize(
    ("edit", "options", "words"),
    [
        (zeros, ["--max_bad=1"], CUT),
        (
            renamed(lambda name: f"films\\{name}"),
            [],
            "0 of 7 names .*: the table has backslashes",
        ),
        (renamed(str.upper), [], "0 of 7 names found in .*'a/1.png' resembles 'A/1.PNG': capitals"),
        (
            renamed(lambda name: "x%20y.png" if name == "a/1.png" else f"z{name}"),
            [],
            r"0 of 7 names found in .*; the table's first that is missing is 'x%20y.png', the "
            r"folder's first is 'a/1.png'; write the names of the films as paths in --images",
        ),
        (
            renamed(lambda name: name.replace("a/1", "1")),
            [],
            "line 2: 'a/1.png' and 'b/1.png' both fit '1.png'; write the folder",
        ),
        (
            renamed(lambda name: name.replace("d/5 dicom", "x/c.tif")),
            [],
            "line 7: 'x/c.tif' and 'c.tif' on line 5 both fit 'c.tif'; write",
        ),
        (
            lambda folder: (folder / "films/b/1.png").unlink(),
            [],
            r"line 3: 6 of 7 names found in .*, where --max_bad 0\.01 lets 0 be missing; the",
        ),
        (
            lambda folder: make_films(folder / "films", ["spare.png"]),
            [],
            r"labels\.csv: 1 films in .* have no row, such as 'spare\.png', more than --max_bad",
        ),
        (boxed(0, 0, 48, 40), [], "line 4: xmax 48 in a film of 47 x 40; correct the box"),
        (boxed(0, 0, 4, 41), [], "line 4: ymax 41 in a film of 47 x 40; correct the box"),
        (without_films, [], "no film in it; give PNG"),
        (None, ["--images=nowhere"], "--images nowhere: no such folder"),
        (None, ["--collection= "], "--collection: is empty"),
        (None, ["--uncertain=one"], "--uncertain one: .*did you mean ignore, zeros or ones"),
        (None, ["--uncertain=Mass=sure"], "--uncertain Mass=sure: there is no policy 'sure'"),
        (None, ["--blank=zero"], "--blank: invalid choice: 'zero'"),
        (None, ["--positive=x", "--uncertain=X"], "--positive and --uncertain both name 'X'"),
        (None, ["--max_bad=2"], "--max_bad 2: must be a share"),
        (None, ["--image_size=0"], "--image_size 0: must be 1 or more"),
        (None, ["--patient_colunm=p"], "no option --patient_colunm; did you mean --patient_column"),
    ],
)
def test_a_refusal_writes_nothing(folder, edit, options, words):
    if edit:
        edit(folder)
    with pytest.raises(UserError, match=words):
        prepare(folder, *options)
    assert not (folder / "data").exists()


def test_codes_in_names_are_recognised(folder):
    make_films(folder / "films", ["x y.png"])
    write_table(folder / "labels.csv", rows_of(["x%20y.png"]))
    with pytest.raises(UserError, match=r"'x y\.png' resembles 'x%20y\.png': the table has"):
        prepare(folder)
    for name in ("b\\1.png", "C:\\films\\b\\1.png"):
        write_table(folder / "labels.csv", rows_of([name]))
        with pytest.raises(UserError, match=r"'b/1\.png' resembles '(b|C:).*: the table has back"):
            prepare(folder)


@pytest.mark.parametrize("name", ["A/1.png", " a/1.png", "a/1.png ", "e\u0301.jpg"])
def test_small_differences_of_names_are_recognised(folder, name):
    write_table(folder / "labels.csv", rows_of([name]))
    with pytest.raises(UserError, match=r"resembles .*: capitals differ, blanks around"):
        prepare(folder)


def test_the_folder_of_the_films_is_no_data_dir(folder):
    before = contents(folder)
    for data_dir in (folder / "films", folder):  # the dataset is called films, too
        with pytest.raises(UserError, match=r"the dataset would be among the films in .*; choose"):
            prepare(folder, f"--data_dir={data_dir}")
    assert contents(folder) == before


def test_words_and_names_of_options(folder, capsys):
    required = ["--images=i", "--labels=t", "--data_dir=d"]
    given = ['--findings=Mass, "Effusion, left",', "--uncertain=Ones", "--collection= St \n Mary "]
    options = from_csv.parse_arguments([*required, *given])
    assert options.findings == ["Mass", "Effusion, left"] and options.collection == "St Mary"
    assert from_csv.table_options(options).uncertain_as == {"": "ones"}
    with pytest.raises(UserError, match="--findings: is empty; leave it out"):
        from_csv.parse_arguments([*required, "--collection=c", "--findings=,"])
    prepare(folder, "--dry_run", "--uncertain=positive")
    assert "no label is written 'positive'; --uncertain takes ignore" in capsys.readouterr().out


def test_options_of_the_table():
    required = ["--images=i", "--labels=t", "--collection=c", "--data_dir=d"]
    options = from_csv.table_options(
        from_csv.parse_arguments(
            [
                *(
                    *required,
                    "--findings=Mass,Pleural Effusion",
                    "--positive=yes",
                    "--positive=sure",
                ),
                *("--negative=no", "--uncertain=maybe,ones,Mass=zeros", "--blank=negative"),
                *("--views=all", "--one_patient_per_film", "--image_column=File", "--view_column="),
            ]
        )
    )
    assert options.findings == ("Mass", "Pleural Effusion")
    assert (options.positive, options.negative) == (("yes", "sure"), ("no",))
    assert options.uncertain == ("maybe",)
    assert options.uncertain_as == {"": "ones", "Mass": "zeros"}
    assert (options.blank, options.views, options.separator) == ("negative", "all", None)
    assert options.one_patient_per_film
    assert options.columns == {"image": "File", "view": ""}


def test_a_split_column_is_kept_as_it_is(folder):
    splits = ["train", "train", "test", "test", "train", "train", "validation"]
    rows = [[*row, split] for row, split in zip(rows_of(NAMES), splits, strict=True)]
    rows.append(["gone.png", "9", "1", "0", "0", "test"])
    write_table(folder / "labels.csv", rows, ("image", "patient", *FINDINGS, "split"))
    prepare(folder, "--max_bad=0.2")
    records = open_records(folder / "data")
    split = make_split(records, "lists", 0)
    for subset in ("train", "validation", "test"):
        expected = [name for name, one in zip(NAMES, splits, strict=True) if one == subset]
        if subset == "train":
            expected.remove("d/4.dcm")  # none of its labels is known
        assert set(records.image_ids[getattr(split, subset)]) == set(expected)
    assert (split.absent_names, split.unlisted_images) == (1, 0)
    with pytest.raises(UserError, match=r"'official': .*a split column; set --config.*=lists"):
        make_split(records, "official", 0)


def test_no_finding_is_a_finding_where_it_is_the_only_label(folder):
    rows = [[name, f"{index:03d}", "1" * (index % 2)] for index, name in enumerate(NAMES)]
    write_table(folder / "labels.csv", rows, ("image", "patient", "No Finding"))
    prepare(folder)
    records = open_records(folder / "data")
    assert records.labels == records.findings == ("No Finding",)
    assert records.label_matrix[:, 0].sum() == 3


def test_phantoms_are_the_same_as_by_the_other_command(raw, tmp_path):
    """Slow tests train on both; see test_own_films."""
    table = raw / "Data_Entry_2017_v2020.csv"
    nih, own = both = [tmp_path / name for name in ("nih", "own")]
    prepare_nih(raw, nih)
    prepare(tmp_path, f"--images={raw / 'images'}", f"--labels={table}", f"--data_dir={own}")
    one, two = map(open_records, both)
    assert (one.labels, one.findings, one.provenance) == (two.labels, two.findings, two.provenance)
    assert one.synthetic and two.synthetic and two.collection == COLLECTION
    for column in ("image_ids", "patient_ids", "label_matrix", "ages", "sexes", "views", "widths"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))
    images = [records.images_and_labels() for records in (one, two)]
    for first, second in zip(*images, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
    splits = [make_split(records, "patient", 0) for records in (one, two)]
    assert splits[0].digests == splits[1].digests


def test_two_datasets_do_not_share_a_folder(folder):
    prepare(folder)
    raw = make_raw(folder / "raw")
    with pytest.raises(UserError, match="holds the dataset films; choose another --data_dir"):
        prepare_nih(raw, folder / "data")
    prepare_nih(raw, folder / "nih")
    with pytest.raises(UserError, match="holds the dataset chest_xray14; choose another"):
        prepare(folder, f"--data_dir={folder / 'nih'}")
    (folder / "data/films").rename(folder / "nih/films")
    with pytest.raises(UserError, match="two prepared datasets in it, chest_xray14 and films; mo"):
        open_records(folder / "nih")
