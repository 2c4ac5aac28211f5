"""The same images and tables give the same dataset, from folders or archives."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from agcnn_jax.data.records import open_records
from agcnn_jax.runtime.errors import UserError
from tests.data_prep.nih_files import (
    STORE,
    contents,
    images,
    make_raw,
    pack,
    pixels,
    png,
    prepare,
    report,
)


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
    """Compare folders with shuffled archives; some images occur twice, some with other pixels."""
    monkeypatch.setattr("agcnn_jax.data_prep.prepare.publish.OPEN_SHARDS", 1)
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


def test_workers_do_not_change_the_dataset(tmp_path):
    raw = make_raw(tmp_path / "raw", count=70)
    prepare(raw, tmp_path / "one")
    prepare(raw, tmp_path / "two", "--workers=2")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "one" / STORE).glob("*.array_record-*"))) == 3


def test_a_folder_named_like_an_archive(tmp_path):
    raw = make_raw(tmp_path / "raw")
    (raw / "images_01.tar.gz").mkdir()
    with pytest.raises(UserError, match=r"images_01\.tar\.gz is a folder .*rename or remove it"):
        prepare(raw, tmp_path / "data")


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
