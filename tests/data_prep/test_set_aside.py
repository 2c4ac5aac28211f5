"""Unusable files: each is listed with its reason; too many of them stop the run."""

import csv
import hashlib
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from agcnn_jax.data_prep.nih.tables import LABELS
from agcnn_jax.runtime.errors import UserError
from tests.data_prep.nih_files import (
    HEADER_2020,
    contents,
    images,
    make_raw,
    pack,
    pixels,
    png,
    prepare,
    report,
    row,
)


def test_every_file_is_written_or_set_aside_with_its_reason(tmp_path, capsys):
    raw = make_raw(tmp_path / "raw")
    place = raw / "images_001" / "images"
    good = png(pixels(0))
    bad = {
        "00000000_010.png": (good[:-30], "unreadable image"),
        "00000000_011.png": (b"", "unreadable image"),
        "00000000_012.png": (b"not an image", "unreadable image"),
        "00000000_013.png": (png(pixels(1, 20)), "wrong size"),
        "00000000_014.png": (png(pixels(1)[:, :50]), "wrong size"),
        "stranger.png": (good, "no label row"),
    }
    for name, (data, _) in bad.items():
        (place / name).write_bytes(data)
    (place / "00000000_015.png").mkdir()
    (place / "00000000_016.png").symlink_to("nowhere")
    (place / "._00000000_000.png").write_bytes(b"an archiver's twin")
    (raw / "images_002" / "images" / "00000000_000.png").write_bytes(png(pixels(9)))
    with (raw / "Data_Entry_2017_v2020.csv").open("a") as table:
        table.writelines(row(f"00000000_{number:03d}.png") + "\n" for number in range(10, 18))
    assert prepare(raw, tmp_path / "data", "--max_bad=1") == 0
    counted = "9 (5 unreadable image, 1 no label row, 2 wrong size, 1 same name, other image), "
    said = capsys.readouterr()
    assert f"set aside {counted}" in said.out
    (warning,) = [line for line in said.err.splitlines() if "WARNING" in line]
    assert "only 13 of the 14 images of " in warning and "download is incomplete" in warning
    result = report(tmp_path / "data")
    reasons = {entry["file"].rsplit("/")[-1]: entry["reason"] for entry in result["set_aside"]}
    expected = {name: reason for name, (_, reason) in bad.items()}
    special = ("00000000_015.png", "00000000_016.png")
    expected |= dict.fromkeys(special, "unreadable image")
    assert reasons == expected | {"00000000_000.png": "same name, other image"}
    assert result["files_seen"] == 15 == result["written"] + len(result["set_aside"])
    assert result["rows_without_image"] == {"count": 1, "image_ids": ["00000000_017.png"]}
    small = [
        np.asarray(Image.fromarray(pixels(seed)).resize((32, 32), Image.Resampling.BILINEAR))
        for seed in (0, 9)
    ]
    kept = min(small, key=lambda image: hashlib.sha256(image.tobytes()).hexdigest())
    np.testing.assert_array_equal(images(tmp_path / "data")["00000000_000.png"]["image"], kept)


def test_a_colon_does_not_make_another_image(tmp_path):
    raw = make_raw(tmp_path / "raw")
    place = raw / "images_001" / "images"
    for name in ("cr:olon.png", "dr:absent.png"):
        (place / name).write_bytes(png(pixels(9)))
    with (raw / "Data_Entry_2017_v2020.csv").open("a") as table:
        table.writelines(
            row(name, labels, "9") + "\n"
            for name, labels in (
                ("olon.png", "Hernia"),
                ("cr:olon.png", "Mass"),
                ("absent.png", "Edema"),
            )
        )
    prepare(raw, tmp_path / "loose", "--max_bad=1")
    pack(raw, raw / "images_9.tar", sorted(path.name for path in raw.rglob("*.png")), "w")
    for path in raw.rglob("*.png"):
        path.unlink()
    prepare(raw, tmp_path / "packed", "--max_bad=1")
    for data in (tmp_path / "loose", tmp_path / "packed"):
        found = images(data)
        assert "olon.png" not in found and "absent.png" not in found
        assert np.flatnonzero(found["cr:olon.png"]["labels"]) == [LABELS.index("Mass")]
        absent = report(data)["rows_without_image"]["image_ids"]
        assert absent == ["olon.png", "absent.png"]
        (aside,) = report(data)["set_aside"]
        assert (aside["image_id"], aside["reason"]) == ("dr:absent.png", "no label row")


def test_no_usable_file_is_an_error(tmp_path):
    raw = make_raw(tmp_path / "raw")
    for options, words in (
        (("--image_size=1000000",), "wrong size.*64 x 64.*--image_size is 1000000; choose"),
        ((f"--labels={tmp_path / 't.csv'}",), "no label row.*--labels"),
    ):
        (tmp_path / "t.csv").write_text(f"{HEADER_2020}\n{row('a.png')}\n")
        with pytest.raises(UserError, match=f"none of the 6 files can be used: 6 for {words}") as e:
            prepare(raw, tmp_path / "data", "--max_bad=1", *options)
        assert "--max_bad" not in str(e.value)
        assert not (tmp_path / "data" / "chest_xray14").exists()
    for path in raw.rglob("*.png"):
        path.unlink()
    with tarfile.open(raw / "images_1.tar", "w") as archive:
        archive.add(raw / "test_list.txt")
    with pytest.raises(UserError, match=r"the archives contain no \*\.png"):
        prepare(raw, tmp_path / "data")


def test_too_many_bad_files(tmp_path, capsys):
    raw = make_raw(tmp_path / "raw")
    bad = raw / "images_001" / "images" / "00000000_000.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:50])
    data = tmp_path / "data"
    with pytest.raises(UserError) as error:
        prepare(raw, data)
    for word in ("1 of 6", "--max_bad 0.01", "00000000_000.png", "prepare_report.json"):
        assert word in str(error.value)
    assert not (data / "chest_xray14").exists()
    assert report(data)["set_aside_counts"]["unreadable image"] == 1
    bad.write_bytes(good)
    assert prepare(raw, data) == 0
    assert report(data)["written"] == 6


def zipped(raw, target, names):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(next(raw.rglob(name)), f"images_001\\images\\{name}")


def test_other_forms_of_names_tables_and_archives_give_the_same_data_set(tmp_path, capsys):
    raw = make_raw(tmp_path / "raw")
    prepare(raw, tmp_path / "plain")
    paths = sorted(raw.rglob("*.png"))
    zipped(raw, raw / "images_001.zip", [path.name for path in paths[:2]])
    paths[0].unlink()  # the other is a duplicate of its copy in the archive
    paths[2].rename(paths[2].with_suffix(".PNG"))
    for name in ("train_val_list.txt", "test_list.txt"):
        lines = (raw / name).read_text().split()
        (raw / name).write_text("\r\n".join(f"images_001/{line} 0 0" for line in lines))
    rows = list(csv.reader((raw / "Data_Entry_2017_v2020.csv").open()))
    for line in rows[1:]:
        line[0], line[3] = f"images_001/{line[0][:-4]}", line[3].zfill(8)
    with (raw / "Data_Entry_2017_v2020.csv").open("w", encoding="utf-8-sig") as table:
        csv.writer(table, delimiter=";").writerows(rows)
    box = (raw / "BBox_List_2017.csv").read_text()
    (raw / "BBox_List_2017.csv").write_text(box.replace(".png", ".PNG").replace(",", "\t"))
    capsys.readouterr()
    assert prepare(raw, tmp_path / "other") == 0
    printed = capsys.readouterr()
    assert "Data_Entry_2017_v2020.csv: read with columns separated by semicolons" in printed.err
    assert "BBox_List_2017.csv: read with columns separated by tabs" in printed.err
    assert "written 6 of 7 files, set aside 1 (1 duplicate)" in printed.out
    stores = [contents(tmp_path / name / "chest_xray14") for name in ("plain", "other")]
    for store in stores:
        del store["1.0.0/inputs.txt"]
    assert stores[0] == stores[1]


def test_lists_that_name_none_of_the_images_are_refused(tmp_path):
    raw = make_raw(tmp_path / "raw")
    (raw / "test_list.txt").write_text("b.png\n")
    (raw / "train_val_list.txt").write_text("scan 1/a.png 0\n")
    said = "name none of the 6 images; the lists begin with 'scan 1/a.png', the images with '0000"
    with pytest.raises(UserError, match=said):
        prepare(raw, tmp_path / "data")
    assert not (tmp_path / "data" / "chest_xray14").exists()


def test_archives_that_cannot_be_read_are_named(tmp_path):
    raw = make_raw(tmp_path / "raw")
    names = sorted(path.name for path in raw.rglob("*.png"))
    zipped(raw, raw / "all.zip", names)
    for path in raw.rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"images_\*\.zip in it; unpack all\.zip, or give"):
        prepare(raw, tmp_path / "data")
    whole = (raw / "all.zip").read_bytes()
    (raw / "all.zip").unlink()
    locked = bytearray(whole)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + offset] |= 1  # the flag of a password
    for data, said in ((whole[:-40], "damaged or incomplete"), (bytes(locked), "has a password")):
        (raw / "images_001.zip").write_bytes(data)
        with pytest.raises(UserError, match=rf"images_001\.zip: the .*{said}"):
            prepare(raw, tmp_path / "data")
