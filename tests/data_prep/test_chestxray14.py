"""Preparing NIH's files: values of the records, options, mistakes."""

import csv
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from agcnn_jax.data.records import open_records
from agcnn_jax.data_prep.chestxray14 import main
from agcnn_jax.data_prep.nih.tables import FINDINGS, LABELS
from agcnn_jax.runtime.errors import UserError
from tests.data_prep.nih_files import (
    ROOT,
    STORE,
    command,
    contents,
    images,
    make_raw,
    prepare,
    report,
)
from tests.support.shared import CHEST_XRAY14, needs_chest_xray14


def test_preparing_counts_listed_names_and_unlisted_images(tmp_path, capsys):
    raw = make_raw(tmp_path / "raw")
    kept = [*(raw / "test_list.txt").read_text().split()[:1], "absent.png", "gone.png"]
    (raw / "test_list.txt").write_text("\n".join(kept))
    prepare(raw, tmp_path / "data")
    words = "names in the official lists without an image 2, images in neither list 2, "
    assert words in capsys.readouterr().out
    assert report(tmp_path / "data")["official_lists"] == {"absent_names": 2, "unlisted_images": 2}
    records = open_records(tmp_path / "data")
    assert records.official_names == 6 and np.count_nonzero(records.official == "") == 2
    for path in raw.glob("*_list.txt"):
        path.unlink()
    prepare(raw, tmp_path / "none")
    assert "no official lists" in capsys.readouterr().out
    assert report(tmp_path / "none")["official_lists"] is None
    assert open_records(tmp_path / "none").official_names == 0


def test_records_match_the_raw_files(tmp_path, capsys):
    raw = make_raw(tmp_path / "raw")
    data = tmp_path / "data"
    assert prepare(raw, data) == 0
    assert "written 6 of 6 files, set aside 0" in capsys.readouterr().out
    assert sorted(os.listdir(data)) == ["chest_xray14", "prepare_report.json"]
    found = images(data)
    with (raw / "Data_Entry_2017_v2020.csv").open() as file:
        for line in csv.DictReader(file):
            example = found.pop(line["Image Index"])
            path = next(raw.rglob(line["Image Index"]))
            small = Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(example["image"], small)
            positive = [LABELS[index] for index in np.flatnonzero(example["labels"])]
            assert sorted(positive) == sorted(line["Finding Labels"].split("|"))
            assert example["patient_id"].decode() == line["Patient ID"]
            assert (example["age"], example["sex"], example["view"]) == (58, b"M", b"PA")
            assert (example["height"], example["width"]) == (64, 64)
            if line["Image Index"] == "00000000_001.png":  # 64 / 1024 of the list's pixels
                np.testing.assert_allclose(example["boxes"], [[6.25, 12.5, 25.03125, 37.5]])
                assert LABELS[example["box_findings"][0]] == "Infiltration"
            else:
                assert example["boxes"].shape == (0, 4)
    assert not found
    assert "tensorflow" not in sys.modules
    metadata = tfds.builder_from_directory(data / STORE).info.metadata
    assert metadata["provenance"] == "ChestX-ray14"
    assert (metadata["labels"], metadata["findings"]) == (list(LABELS), list(FINDINGS))


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_store_is_what_the_file_beside_the_images_says(tmp_path, synthetic):
    raw = make_raw(tmp_path / "raw")
    about = {"provenance": "phantoms", "collection": "c", "box_size": 800, "synthetic": synthetic}
    (raw / "dataset.json").write_text(json.dumps(about))
    prepare(raw, tmp_path / "data")
    records = open_records(tmp_path / "data")
    assert (records.provenance, records.collection) == ("phantoms", "c")
    assert records.synthetic is synthetic
    np.testing.assert_allclose(records.boxes.corners, [[8, 16, 32.04, 48]], rtol=1e-6)
    (raw / "dataset.json").write_text(json.dumps({**about, "synthetic": not synthetic}))
    with pytest.raises(UserError, match="made from other files or with other options"):
        prepare(raw, tmp_path / "data")


def test_complete_dataset_is_not_changed(tmp_path, capsys):
    raw, data = make_raw(tmp_path / "raw"), tmp_path / "data"
    prepare(raw, data)
    before = contents(data)
    assert prepare(raw, data) == 0
    assert "already prepared" in capsys.readouterr().out
    with pytest.raises(UserError, match="other options"):
        prepare(raw, data, "--image_size=16")
    assert contents(data) == before


def test_tables_may_be_in_the_folder_above_or_named(tmp_path):
    raw = make_raw(tmp_path / "raw")
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    prepare(raw / "images_001", tmp_path / "above")
    assert report(tmp_path / "above")["written"] == 2
    (raw / "images_001").rename(elsewhere / "images_001")
    with pytest.raises(UserError, match="--labels"):
        prepare(elsewhere / "images_001", tmp_path / "none")
    prepare(
        elsewhere / "images_001",
        tmp_path / "named",
        f"--labels={raw / 'Data_Entry_2017_v2020.csv'}",
        f"--boxes={raw / 'BBox_List_2017.csv'}",
        f"--lists={raw}",
    )
    assert list(open_records(tmp_path / "named").official) == ["train_val", "test"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers=0"], "--workers 0"),
        (["--image_size=-1"], "--image_size -1"),
        (["--image_size=big"], "--image_size"),
        (["--box_size=0"], "--box_size 0"),
        (["--max_bad=2"], "--max_bad 2"),
        (["--max_bad=nan"], "--max_bad nan"),
        (["--labels=missing.csv"], "--labels missing.csv"),
        (["--boxes=missing.csv"], "--boxes missing.csv"),
        (["--lists=missing"], "--lists missing"),
        (["--raw_dir=missing"], "--raw_dir missing"),
        (["--surprise"], "--surprise"),
        (["--box_size=300"], "outside an image of 300 x 300"),
    ],
)
def test_bad_option_writes_nothing(tmp_path, options, words):
    raw = make_raw(tmp_path / "raw")
    with pytest.raises(UserError, match=words):
        prepare(raw, tmp_path / "data", *options)
    assert not (tmp_path / "data").exists()


def test_data_dir_that_is_not_utf8_writes_nothing(tmp_path):
    raw = make_raw(tmp_path / "raw")
    with pytest.raises(UserError, match=r"--data_dir .*not UTF-8"):
        prepare(raw, os.fsdecode(os.fsencode(tmp_path / "data") + b"\xff"))
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_missing_pieces(tmp_path):
    raw = make_raw(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no \*\.png"):
        prepare(tmp_path / "empty", tmp_path / "data")
    (raw / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"no test_list\.txt"):
        prepare(raw, tmp_path / "data")
    (raw / "test_list.txt").write_text((raw / "train_val_list.txt").read_text())
    with pytest.raises(UserError, match=r"is in both .*train_val_list\.txt and"):
        prepare(raw, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    (tmp_path / "file").write_text("")
    (raw / "test_list.txt").write_text("")
    with pytest.raises(UserError, match="--data_dir"):
        prepare(raw, tmp_path / "file" / "data")


def test_command_line_fails_in_one_line(tmp_path):
    raw = make_raw(tmp_path / "raw")
    (raw / "images_001" / "images" / "00000000_000.png").write_bytes(b"")
    for options in (["--workers=1"], ["--raw_dir", str(tmp_path / "missing")]):
        done = subprocess.run(
            command(raw, tmp_path / "data", *options), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("chestxray14.py: error: ")
        assert done.stderr.count("\n") == 1 and done.stdout == ""


@needs_chest_xray14
def test_real_originals(tmp_path):
    options = ["--raw_dir", str(CHEST_XRAY14 / "raw"), "--data_dir", str(tmp_path), "--workers=2"]
    assert main(options) == 0
    result = report(tmp_path)
    assert (result["files_seen"], result["written"], result["set_aside"]) == (102, 102, [])
    found = images(tmp_path)
    modes = set()
    for path in sorted((CHEST_XRAY14 / "raw" / "images").glob("*.png"))[::6]:
        original = Image.open(path)
        modes.add(original.mode)
        expected = original.convert("L").resize((256, 256), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found[path.name]["image"], expected)
    with gzip.open(CHEST_XRAY14 / "BBox_List_2017.csv.gz", "rt") as file:
        boxed = [line.split(",") for line in file if line.split(",")[0] in found]
    assert sum(len(example["boxes"]) for example in found.values()) == len(boxed) > 0
    for name, _, *corner in boxed:
        x, y, width, height = map(float, corner)
        expected_box = np.array([x, y, x + width, y + height], np.float32)
        assert (np.abs(found[name]["boxes"] - expected_box).max(-1) < 1e-3).any()


@needs_chest_xray14
def test_real_small_images_report_the_rest_of_the_table(tmp_path):
    options = ["--raw_dir", str(CHEST_XRAY14 / "small"), "--data_dir", str(tmp_path), "--workers=1"]
    assert main(options) == 0
    result = report(tmp_path)
    assert (result["files_seen"], result["written"], result["set_aside"]) == (621, 621, [])
    assert result["rows_without_image"]["count"] == 111_499
    path = sorted((CHEST_XRAY14 / "small" / "images").glob("*.png"))[17]
    np.testing.assert_array_equal(images(tmp_path)[path.name]["image"], Image.open(path))
