"""From NIH's files to the dataset: values, quirks, mistakes, interruptions."""

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agcnn_jax.data.films import UnreadableImageError, WrongSizeError, read_image
from agcnn_jax.data.records import open_records
from agcnn_jax.runtime.errors import UserError
from data_prep.chestxray14 import main
from data_prep.nih.tables import FINDINGS, LABELS, read_boxes, read_labels

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "chestxray14"
STORE = "chest_xray14/1.0.0"
HEADER_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
HEADER_2017 = HEADER_2020 + ","
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real ChestX-ray14 sample is not beside the project"
)


def png(array, mode=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def pixels(seed, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def row(name, labels="No Finding", patient="1", age="58", follow_up="0"):
    return f"{name},{labels},{follow_up},{patient},{age},M,PA,2682,2749,0.143,0.143"


def make_raw(folder, count=6, side=64):
    """Write `count` images of two patients a folder apart, with table, boxes and lists."""
    rows = []
    for index in range(count):
        name = f"{index // 2:08d}_{index % 2:03d}.png"
        place = folder / f"images_{index % 3 + 1:03d}" / "images"
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(png(pixels(index, side)))
        labels = "|".join(sorted({FINDINGS[index % 14], FINDINGS[(index * 5) % 14]}))
        rows.append(row(name, labels, str(index // 2)))
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER_2020, *rows]) + "\n")
    box = f"{BOX_HEADER}\n00000000_001.png,Infiltrate,100,200,300.5,400\n"
    (folder / "BBox_List_2017.csv").write_text(box)
    names = [line.split(",")[0] for line in rows]
    (folder / "train_val_list.txt").write_text("\n".join(names[: count // 2]) + "\n")
    (folder / "test_list.txt").write_text("\n".join(names[count // 2 :]) + "\n")
    return folder


def prepare(raw, data, *options):
    return main(
        ["--raw_dir", str(raw), "--data_dir", str(data), "--image_size=32", "--workers=1", *options]
    )


def report(data):
    return json.loads((data / "prepare_report.json").read_text())


def images(data):
    source = tfds.data_source("chest_xray14", data_dir=str(data), split="images")
    return {example["image_id"].decode(): example for example in source}


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(raw, data, *options):
    return [
        *(sys.executable, "data_prep/chestxray14.py", "--raw_dir", str(raw)),
        *("--data_dir", str(data), "--image_size=32", *options),
    ]


# ---- decoding ------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), side=st.integers(8, 80), compress=st.integers(0, 9))
def test_gray_image_is_what_pillow_reads_and_shrinks(seed, side, compress):
    array = pixels(seed, side)
    expected = Image.fromarray(array).resize((8, 8), Image.Resampling.BILINEAR)
    image, found = read_image(png(array, compress_level=compress), 8)
    np.testing.assert_array_equal(image, expected if side != 8 else array)
    assert found == side and image.dtype == np.uint8


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_gray_in_color_modes_is_the_same_gray(mode):
    array = pixels(1)
    alpha = pixels(2)
    bands = {"RGB": [array] * 3, "RGBA": [array] * 3 + [alpha], "LA": [array, alpha]}[mode]
    np.testing.assert_array_equal(read_image(png(np.stack(bands, -1)), 64)[0], array)


def test_palette_and_bilevel():
    array = pixels(3)
    palette = Image.fromarray(array)
    palette = palette.convert("P")
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    np.testing.assert_array_equal(read_image(buffer.getvalue(), 64)[0], array)
    buffer = io.BytesIO()
    Image.fromarray(array > 127).save(buffer, "PNG")
    np.testing.assert_array_equal(read_image(buffer.getvalue(), 64)[0], 255 * (array > 127))


def test_sixteen_bit_is_scaled_linearly():
    array = pixels(4)
    deep = array.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(png(deep), 64)[0], array)
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    np.testing.assert_array_equal(read_image(png(ramp), 64)[0], np.rint(ramp / 257))


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 4000))
def test_every_truncation_is_noticed(cut):
    whole = png(pixels(5))
    with pytest.raises(UnreadableImageError):
        read_image(whole[: -min(cut, len(whole))], 32)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(8, 4000), bit=st.integers(0, 7), deep=st.booleans())
def test_every_flipped_bit_is_noticed(position, bit, deep):
    whole = bytearray(png(pixels(6).astype(np.uint16) if deep else pixels(6)))
    whole[position % (len(whole) - 8) + 8] ^= 1 << bit
    with pytest.raises(UnreadableImageError):
        read_image(bytes(whole), 32)


def test_decompression_bomb_and_missing_pixels_are_unreadable():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    for side in (100_000, 64):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(b"\0" * 650)) + chunk(b"IEND", b"")
        with pytest.raises(UnreadableImageError):
            read_image(b"\x89PNG\r\n\x1a\n" + head + data, 32)


@pytest.mark.parametrize("kind", [b"gAMA", b"sBIT", b"bKGD", b"tRNS"])
def test_chunks_about_display_do_not_change_pixels(kind):
    body = {b"gAMA": b"\0\0\xb1\x8f", b"sBIT": b"\5", b"bKGD": b"\0\1", b"tRNS": b"\0\7"}[kind]
    whole = png(pixels(8))
    extra = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    np.testing.assert_array_equal(read_image(whole[:33] + extra + whole[33:], 64)[0], pixels(8))


def test_wrong_size():
    with pytest.raises(WrongSizeError, match="not square"):
        read_image(png(pixels(7)[:40]), 32)
    with pytest.raises(WrongSizeError, match="smaller"):
        read_image(png(pixels(7)[:16, :16]), 32)


# ---- tables --------------------------------------------------------------------------------------


def test_both_editions_of_the_table_read_alike(tmp_path):
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
    assert read_labels(old) == read_labels(new)
    assert read_labels(old)["a.png"] == ((4, 9), "7", 3, 58, "F", "AP")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["Image Index,Finding Labels", "a.png,Mass"], ["'Patient ID'", "'Patient Age'"]),
        ([HEADER_2020, row("a.png"), row("b.png", "Mass|Pnuemonia")], ["'Pnuemonia'", "line 3"]),
        ([HEADER_2020, row("a.png", "No Finding|Mass")], ["'No Finding|Mass'", "line 2"]),
        ([HEADER_2020, row("a.png"), row("a.png", "Mass")], ["a.png", "line 3", "line 2"]),
        ([HEADER_2020, row("a.png", age="old")], ["'old'", "line 2"]),
        ([HEADER_2020, row("a.png", age="9" * 11)], ["'Patient Age'", "'99999999999'", "line 2"]),
        ([HEADER_2020, row("a.png", age="9" * 5000)], ["'Patient Age'", "too large", "line 2"]),
        ([HEADER_2020, row("a.png", follow_up="9" * 11)], ["'Follow-up #'", "too large", "line 2"]),
        ([HEADER_2020, row("a.png", follow_up="9" * 5000)], ["'Follow-up #'", "line 2"]),
        ([HEADER_2020, row("a.png"), row("")], ["'Image Index' is empty", "line 3"]),
        ([HEADER_2020, row("a.png", patient=" ")], ["'Patient ID' is empty", "line 2"]),
        ([HEADER_2020, "a.png,Mass,0"], ["line 2", "3 columns"]),
        ([HEADER_2020], ["no rows"]),
        ([], ["'Image Index'"]),
    ],
)
def test_bad_label_table_is_one_clear_line(tmp_path, lines, words):
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        read_labels(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_real_oddities_of_the_table_are_kept(tmp_path):
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


def test_repeated_equal_rows_are_one(tmp_path):
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


# ---- the dataset ---------------------------------------------------------------------------------


def test_records_hold_what_the_raw_files_say(tmp_path, capsys):
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
    os.mkfifo(place / "00000000_018.png")
    (place / "._00000000_000.png").write_bytes(b"an archiver's twin")
    (raw / "images_002" / "images" / "00000000_000.png").write_bytes(png(pixels(9)))
    with (raw / "Data_Entry_2017_v2020.csv").open("a") as table:
        table.writelines(row(f"00000000_{number:03d}.png") + "\n" for number in range(10, 19))
    assert prepare(raw, tmp_path / "data", "--max_bad=1") == 0
    counted = "10 (6 unreadable image, 1 no label row, 2 wrong size, 1 same name, other image), "
    assert f"set aside {counted}" in capsys.readouterr().out
    result = report(tmp_path / "data")
    reasons = {entry["file"].rsplit("/")[-1]: entry["reason"] for entry in result["set_aside"]}
    expected = {name: reason for name, (_, reason) in bad.items()}
    special = ("00000000_015.png", "00000000_016.png", "00000000_018.png")
    expected |= dict.fromkeys(special, "unreadable image")
    assert reasons == expected | {"00000000_000.png": "same name, other image"}
    assert result["files_seen"] == 16 == result["written"] + len(result["set_aside"])
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


@pytest.mark.parametrize("name", ["images_9.tar", "BBox_List_2017_new.csv"])
def test_special_files_do_not_hang(tmp_path, name):
    raw = make_raw(tmp_path / "raw")
    os.mkfifo(raw / name)
    with pytest.raises(UserError, match=rf"{name}: .*not a regular file; remove or rename it"):
        prepare(raw, tmp_path / "data")
    assert not (tmp_path / "data" / "chest_xray14").exists()


def test_nothing_usable_says_so(tmp_path):
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
    with pytest.raises(UserError, match=r"the archives hold no \*\.png"):
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


def pack(source, target, names, mode):
    with tarfile.open(target, mode) as archive:
        for name in names:
            archive.add(next(source.rglob(name)), f"images/{name}")


@pytest.mark.parametrize(("suffix", "mode"), [("tar.gz", "w:gz"), ("tar", "w"), ("tgz", "w:gz")])
def test_archives_equal_folders(tmp_path, suffix, mode):
    raw = make_raw(tmp_path / "raw")
    prepare(raw, tmp_path / "folders")
    packed = tmp_path / "packed"
    packed.mkdir()
    for table in (*raw.glob("*.csv"), *raw.glob("*.txt")):
        (packed / table.name).write_bytes(table.read_bytes())
    names = sorted(path.name for path in raw.rglob("*.png"))
    pack(raw, packed / f"images_01.{suffix}", names[:4], mode)
    pack(raw, packed / f"images_02.{suffix}", names[2:], mode)  # two of them again
    prepare(packed, tmp_path / "archives", "--max_bad=0.5")
    folders, archives = images(tmp_path / "folders"), images(tmp_path / "archives")
    assert folders.keys() == archives.keys() == set(names)
    for name in names:
        np.testing.assert_array_equal(folders[name]["image"], archives[name]["image"])
        np.testing.assert_array_equal(folders[name]["labels"], archives[name]["labels"])
    fingerprints = {open_records(tmp_path / kind).fingerprint for kind in ("folders", "archives")}
    assert len(fingerprints) == 1
    again = [entry["file"] for entry in report(tmp_path / "archives")["set_aside"]]
    assert again == [f"images_02.{suffix}:images/{name}" for name in names[2:4]]


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_store_does_not_depend_on_the_order_of_files(tmp_path, monkeypatch, seed, doubled):
    """Folders against archives of mixed members, some of them twice, some with other pixels."""
    monkeypatch.setattr("data_prep.nih.publish.OPEN_SHARDS", 1)
    raw = make_raw(tmp_path / "raw", count=70)
    first = next(raw.rglob("00000000_000.png"))
    if doubled:
        (raw / "again").mkdir()
        (raw / "again" / first.name).write_bytes(png(pixels(99)))
    prepare(raw, tmp_path / "folder", "--max_bad=1")
    packed = tmp_path / "packed"
    packed.mkdir()
    for table in (*raw.glob("*.csv"), *raw.glob("*.txt")):
        (packed / table.name).write_bytes(table.read_bytes())
    rng = np.random.default_rng(seed)
    files = rng.permutation(sorted(raw.rglob("*.png"))).tolist()
    if doubled:
        files += files[:7]
    for part in range(3):
        with tarfile.open(packed / f"images_{part}.tar", "w") as archive:
            for path in files[part::3]:
                archive.add(path, f"{part}/{path.name}")
    prepare(packed, tmp_path / "packed_data", "--max_bad=1", f"--workers={1 + (seed > doubled)}")
    one, two = (contents(tmp_path / data / STORE) for data in ("folder", "packed_data"))
    assert one.pop("inputs.txt") != two.pop("inputs.txt")
    assert one == two
    records = open_records(tmp_path / "folder")
    assert len(records) == 70 and np.all(records.image_ids[:-1] < records.image_ids[1:])
    counts = report(tmp_path / "packed_data")["set_aside_counts"]
    conflicts = counts["same name, other image"]
    assert counts["duplicate"] + conflicts == 8 * doubled and conflicts >= doubled


def test_fingerprint_covers_every_column_and_pixel(tmp_path):
    def made(name, table=lambda text: text, boxes=lambda text: text, lists="test", edit=None):
        raw = make_raw(tmp_path / name / "raw")
        for path, change in (("Data_Entry_2017_v2020.csv", table), ("BBox_List_2017.csv", boxes)):
            (raw / path).write_text(change((raw / path).read_text()))
        if lists is None:
            for path in raw.glob("*.txt"):
                path.unlink()
        if edit:
            edit(raw)
        prepare(raw, tmp_path / name / "data", "--max_bad=1")
        return open_records(tmp_path / name / "data").fingerprint

    def other_pixel(raw):
        path = next(raw.rglob("00000002_001.png"))
        image = np.array(Image.open(path))
        image[:2, :2] ^= 128
        path.write_bytes(png(image))

    def larger(raw):  # the same pixels from a file of another size
        for path in raw.rglob("*.png"):
            path.write_bytes(png(np.kron(pixels(0, 32), np.ones((2, 2), np.uint8))))

    def largest(raw):
        for path in raw.rglob("*.png"):
            path.write_bytes(png(pixels(0, 32)))

    changes = {
        "patient": {"table": lambda text: text.replace(",0,1,58,", ",0,9,58,", 1)},
        "follow-up": {"table": lambda text: text.replace(",0,1,58,", ",3,1,58,", 1)},
        "age": {"table": lambda text: text.replace(",58,", ",59,", 1)},
        "sex": {"table": lambda text: text.replace(",M,", ",F,", 1)},
        "view": {"table": lambda text: text.replace(",PA,", ",AP,", 1)},
        "labels": {"table": lambda text: text.replace("Atelectasis", "Hernia", 1)},
        "name": {"edit": lambda raw: next(raw.rglob("00000001_000.png")).unlink()},
        "box": {"boxes": lambda text: text.replace("200", "201")},
        "finding": {"boxes": lambda text: text.replace("Infiltrate", "Mass")},
        "official": {"lists": None},
        "pixel": {"edit": other_pixel},
        "larger": {"edit": larger},
        "largest": {"edit": largest},
    }
    found = {name: made(name, **change) for name, change in changes.items()}
    assert made("once") == made("twice") not in found.values()
    assert len(set(found.values())) == len(changes)


@pytest.mark.parametrize(("suffix", "mode"), [("tar.gz", "w:gz"), ("tar", "w")])
@pytest.mark.parametrize("kept", [0.3, 0.6, "boundary"])
def test_truncated_archive_stops_the_run(tmp_path, suffix, mode, kept):
    raw = make_raw(tmp_path / "raw")
    path = raw / f"images_01.{suffix}"
    names = sorted(path.name for path in raw.rglob("*.png"))
    pack(raw, path, names, mode)
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        boundary = archive.getmembers()[3].offset if suffix == "tar" else len(whole) - 5
    path.write_bytes(whole[: boundary if kept == "boundary" else int(len(whole) * kept)])
    with pytest.raises(UserError, match=f"images_01.{suffix}: the archive is damaged"):
        prepare(raw, tmp_path / "data", "--max_bad=1")
    assert not (tmp_path / "data" / "chest_xray14").exists()


def test_workers_do_not_change_the_dataset(tmp_path):
    raw = make_raw(tmp_path / "raw", count=70)
    prepare(raw, tmp_path / "one")
    prepare(raw, tmp_path / "two", "--workers=2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "one" / STORE).glob("*.array_record-*"))) == 3


def test_phantoms_keep_their_name_and_box_frame(tmp_path):
    raw = make_raw(tmp_path / "raw")
    marker = {"provenance": "phantoms (synthetic)", "collection": "these", "box_size": 800}
    (raw / "phantoms.json").write_text(json.dumps(marker))
    prepare(raw, tmp_path / "data")
    records = open_records(tmp_path / "data")
    assert (records.provenance, records.collection) == ("phantoms (synthetic)", "these")
    np.testing.assert_allclose(records.boxes.corners, [[8, 16, 32.04, 48]], rtol=1e-6)
    (raw / "phantoms.json").write_text("{}")
    with pytest.raises(UserError, match=r"phantoms\.json"):
        prepare(raw, tmp_path / "other")


def test_finished_dataset_is_left_alone(tmp_path, capsys):
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


# ---- mistakes ------------------------------------------------------------------------------------


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
        (["--box_size=300"], "outside of an image of 300 x 300"),
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
    with pytest.raises(UserError, match=r"is in .*train_val_list\.txt and in"):
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


# ---- interruptions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """3,000 links to one image: enough for a run to be interrupted, cheap to make."""
    raw = tmp_path_factory.mktemp("many")
    (raw / "images").mkdir()
    image = raw / "one"
    image.write_bytes(png(pixels(0, 128)))
    names = [f"{index:08d}_000.png" for index in range(3000)]
    for name in names:
        os.link(image, raw / "images" / name)
    table = "\n".join([HEADER_2020, *map(row, names)])
    (raw / "Data_Entry_2017.csv").write_text(table)
    reference = raw / "reference"
    prepare(raw, reference)
    return raw, contents(reference / STORE)


def interrupted(raw, data, number):
    """Start a run, send it a signal once a shard is done; return its process and output."""
    process = subprocess.Popen(
        command(raw, data, "--workers=2"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that started the tests in the background made them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    scratch = data / ".chest_xray14.partial"
    while not list(scratch.glob("*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)  # as a terminal does
    return process, process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_run_continues_to_the_same_dataset(many, tmp_path, number):
    raw, expected = many
    process, (_, errors) = interrupted(raw, tmp_path, number)
    assert not (tmp_path / STORE).exists()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.strip().count("\n") == 0 and "run the same command again" in errors
    with pytest.raises(ProcessLookupError):  # no worker outlives its parent
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    done = {path.name for path in (tmp_path / ".chest_xray14.partial").glob("*.json")}
    assert 0 < len(done) < len(expected)
    prepare(raw, tmp_path)
    assert contents(tmp_path / STORE) == expected
    assert sorted(os.listdir(tmp_path)) == ["chest_xray14", "prepare_report.json"]


@pytest.mark.parametrize("how", [KeyboardInterrupt, "full"])
def test_publishing_that_ended_early_decodes_nothing_again(tmp_path, monkeypatch, how):
    raw, data = make_raw(tmp_path / "raw", count=40), tmp_path / "data"
    prepare(raw, tmp_path / "whole")
    write = array_record_module.ArrayRecordWriter
    files = []

    def failing(path, options):
        files.append(path)
        if "-images.array_record-00001" in path:
            if how == "full":
                raise RuntimeError(f"write failed: {os.strerror(errno.ENOSPC)}")
            raise how
        return write(path, options)

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", failing)
    with pytest.raises(UserError if how == "full" else how) as error:
        prepare(raw, data)
    assert how != "full" or "no space left on the device; free some and rerun" in str(error.value)
    assert not (data / STORE).exists()
    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", write)
    monkeypatch.setattr("data_prep.nih.shards.read_image", lambda *_: pytest.fail("decoded again"))
    prepare(raw, data)
    assert contents(data / STORE) == contents(tmp_path / "whole" / STORE)
    assert sorted(os.listdir(data)) == ["chest_xray14", "prepare_report.json"]


def test_progress_bar_on_a_terminal(many, tmp_path):
    terminal, side = os.openpty()
    termios.tcsetwinsize(side, (24, 120))
    process = subprocess.Popen(
        command(many[0], tmp_path, "--workers=1"), cwd=ROOT, stderr=side, stdout=subprocess.PIPE
    )
    os.close(side)
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # Linux ends a terminal whose other side is closed this way
        pass
    os.close(terminal)
    assert process.wait() == 0
    assert b"3000/3000" in shown and b"files/s" in shown and b"shard " in shown


# ---- real files ----------------------------------------------------------------------------------


@needs_shared
def test_real_originals(tmp_path):
    options = ["--raw_dir", str(SHARED / "raw"), "--data_dir", str(tmp_path), "--workers=2"]
    assert main(options) == 0
    result = report(tmp_path)
    assert (result["files_seen"], result["written"], result["set_aside"]) == (102, 102, [])
    found = images(tmp_path)
    modes = set()
    for path in sorted((SHARED / "raw" / "images").glob("*.png"))[::6]:
        original = Image.open(path)
        modes.add(original.mode)
        expected = original.convert("L").resize((256, 256), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(found[path.name]["image"], expected)
    with gzip.open(SHARED / "BBox_List_2017.csv.gz", "rt") as file:
        boxed = [line.split(",") for line in file if line.split(",")[0] in found]
    assert sum(len(example["boxes"]) for example in found.values()) == len(boxed) > 0
    for name, _, *corner in boxed:
        x, y, width, height = map(float, corner)
        expected_box = np.array([x, y, x + width, y + height], np.float32)
        assert (np.abs(found[name]["boxes"] - expected_box).max(-1) < 1e-3).any()


@needs_shared
def test_real_small_images_report_the_rest_of_the_table(tmp_path):
    options = ["--raw_dir", str(SHARED / "small"), "--data_dir", str(tmp_path), "--workers=1"]
    assert main(options) == 0
    result = report(tmp_path)
    assert (result["files_seen"], result["written"], result["set_aside"]) == (621, 621, [])
    assert result["rows_without_image"]["count"] == 111_499
    path = sorted((SHARED / "small" / "images").glob("*.png"))[17]
    np.testing.assert_array_equal(images(tmp_path)[path.name]["image"], Image.open(path))
