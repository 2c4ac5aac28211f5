"""Opening a dataset: columns, random access, damage."""

import contextlib
import json
import pickle
import re
import shutil
import sys

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from agcnn_jax.data.labels import MISSING
from agcnn_jax.data.records import open_records
from agcnn_jax.data_prep.chestxray14 import main
from agcnn_jax.run.lineage import CHESTXRAY14
from agcnn_jax.runtime.errors import UserError
from tests.support.missing import copy_with_missing, missing_labels

STORE = "chest_xray14/1.0.0"
COUNT = 70  # three shards
ROWS = [
    (f"{index // 2:08d}_{index % 2:03d}.png", index // 2, ("Mass|Edema", "No Finding")[index % 2])
    for index in range(COUNT)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw")
    (raw / "images").mkdir()
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    ]
    for index, (name, patient, labels) in enumerate(ROWS):
        pixels = np.random.default_rng(index).integers(0, 256, (48, 48), np.uint8)
        Image.fromarray(pixels).save(raw / "images" / name)
        age = "" if index == 3 else index + 1
        lines.append(f"{name},{labels},{index % 2},P{patient},{age},{'MF'[index % 2]},PA")
    (raw / "Data_Entry_2017.csv").write_text("\n".join(lines))
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    boxes += [f"{ROWS[4][0]},Infiltrate,0,512,256,512", f"{ROWS[2][0]},Mass,1,2,3,4"]
    (raw / "BBox_List_2017.csv").write_text("\n".join(boxes))
    names = [name for name, _, _ in ROWS]
    (raw / "train_val_list.txt").write_text("\n".join(names[:40]))
    (raw / "test_list.txt").write_text("\n".join([*names[40:60], "absent.png"]))
    folder = tmp_path_factory.mktemp("data")
    main(["--raw_dir", str(raw), "--data_dir", str(folder), "--image_size=48", "--workers=1"])
    return folder


@pytest.fixture
def copy(data, tmp_path):
    shutil.copytree(data, tmp_path / "copy")
    return tmp_path / "copy"


def test_columns(data):
    records = open_records(data)
    assert len(records) == COUNT and records.image_size == 48
    assert records.provenance == records.collection == CHESTXRAY14 == "ChestX-ray14"
    assert records.labels[:1] == ("Atelectasis",) and records.labels[-1] == "No Finding"
    assert records.findings == records.labels[:-1]
    np.testing.assert_array_equal(records.finding_columns, np.arange(14))
    assert records.image_ids.tolist() == [name for name, _, _ in ROWS]
    assert records.patient_ids.tolist() == [f"P{patient}" for _, patient, _ in ROWS]
    expected = np.zeros((COUNT, 15), np.uint8)
    for index, (_, _, labels) in enumerate(ROWS):
        for name in labels.split("|"):
            expected[index, records.labels.index(name)] = 1
    np.testing.assert_array_equal(records.label_matrix, expected)
    assert records.label_matrix.dtype == np.uint8
    assert records.ages.tolist() == [-1 if index == 3 else index + 1 for index in range(COUNT)]
    assert records.follow_ups.tolist() == [0, 1] * (COUNT // 2)
    assert records.sexes.tolist() == ["M", "F"] * (COUNT // 2)
    assert set(records.views.tolist()) == {"PA"}
    assert set(records.widths.tolist()) == set(records.heights.tolist()) == {48}
    assert records.official.tolist() == ["train_val"] * 40 + ["test"] * 20 + [""] * 10
    assert records.official_names == 61


def test_boxes_are_in_record_order_and_original_pixels(data):
    boxes = open_records(data).boxes
    assert boxes.records.tolist() == [2, 4]
    assert boxes.findings.tolist() == ["Mass", "Infiltration"]
    scale = 48 / 1024
    expected = np.array([[1, 2, 4, 6], [0, 512, 256, 1024]]) * scale
    np.testing.assert_allclose(boxes.corners, expected, rtol=1e-6)
    assert boxes.corners.dtype == np.float32


def test_columns_repeat_the_records(data):
    records = open_records(data)
    source = tfds.data_source("chest_xray14", data_dir=str(data), split="images")
    assert len(source) == len(records)
    for index, example in enumerate(source):
        assert example["image_id"].decode() == records.image_ids[index]
        assert example["patient_id"].decode() == records.patient_ids[index]
        assert example["age"] == records.ages[index]
        np.testing.assert_array_equal(example["labels"], records.label_matrix[index])
        mine = records.boxes.records == index
        np.testing.assert_array_equal(example["boxes"], records.boxes.corners[mine])


def test_random_access(data):
    records = open_records(data)
    source = records.images_and_labels()
    assert len(source) == COUNT
    source = pickle.loads(pickle.dumps(source))
    for index in (np.int64(69), 0, 31, 32, 64):  # first and last of shards
        item = source[index]
        expected = np.random.default_rng(index).integers(0, 256, (48, 48), np.uint8)
        np.testing.assert_array_equal(item["image"], expected)
        np.testing.assert_array_equal(item["labels"], records.label_matrix[index])
        assert item["image"].dtype == item["labels"].dtype == np.uint8
        assert item.keys() == {"image", "labels"}
    source = pickle.loads(pickle.dumps(source))  # also after reading
    assert len(list(source)) == COUNT
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            source[index]


def test_grain_reads_it(data):
    records = open_records(data)
    batches = grain.MapDataset.source(records.images_and_labels()).batch(7)
    labels = np.concatenate([batch["labels"] for batch in batches.to_iter_dataset()])
    np.testing.assert_array_equal(labels, records.label_matrix)


def test_nothing_there(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"data_prep/chestxray14\.py --raw_dir") as error:
            open_records(folder)
        assert str(folder) in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "swapped"])
def test_damaged_shard_is_named(copy, damage):
    shard = copy / STORE / "chest_xray14-images.array_record-00001-of-00003"
    if damage == "missing":
        shard.unlink()
    elif damage == "swapped":
        shutil.copy(shard.with_name(shard.name.replace("00001", "00002")), shard)
    else:
        whole = shard.read_bytes()
        shard.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"")
    with pytest.raises(UserError, match="00001-of-00003"):
        open_records(copy)


def test_damaged_record_names_its_shard(copy):
    shard = copy / STORE / "chest_xray14-images.array_record-00001-of-00003"
    whole = bytearray(shard.read_bytes())
    whole[5000:5100] = bytes(100)
    shard.write_bytes(whole)
    source = open_records(copy).images_and_labels()
    source[0]
    with pytest.raises(UserError, match="00001-of-00003: record"):
        for index in range(32, 64):
            source[index]


def other_order(text):
    header, *rows = text.splitlines()
    return "\n".join([header, *rows[::-1]]) + "\n"


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("records.csv", lambda text: text.rsplit("\n", 2)[0] + "\n", "changed .*prepare it again"),
        ("records.csv", lambda text: text.replace("Mass|Edema", "Mass", 1), "changed"),
        ("records.csv", other_order, "changed"),
        ("boxes.csv", lambda text: text.replace("00000001_000", "00000001_001"), "changed"),
        ("metadata.json", lambda text: text[:30], "damaged"),
        ("metadata.json", lambda text: json.dumps({"labels": []}), "damaged"),
        (
            "metadata.json",
            lambda text: text.replace('"digests": {', '"digests": 1, "x": {'),
            "damaged",
        ),
        ("dataset_info.json", lambda text: text[:30], "damaged"),
        ("dataset_info.json", lambda text: "{}", "damaged"),
        (
            "dataset_info.json",
            lambda text: text.replace('"name": "images"', '"name": "x"'),
            "damaged",
        ),
        ("dataset_info.json", lambda text: text.replace('"32"', '"31"', 1), "truncated"),
    ],
)
def test_damaged_tables(copy, name, edit, words):
    path = copy / STORE / name
    path.write_text(edit(path.read_text()))
    with pytest.raises(UserError, match=words) as error:
        open_records(copy)
    assert name in str(error.value) or words == "truncated"


@pytest.mark.parametrize("name", ["records.csv", "boxes.csv"])
def test_missing_table(copy, name):
    (copy / STORE / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing, damaged or .*prepare it again"):
        open_records(copy)


def test_records_of_another_dataset_are_refused(copy):
    records = open_records(copy)
    shards = sorted((copy / STORE).glob("*.array_record-*"))
    first, second = (shard.read_bytes() for shard in shards[:2])
    shards[0].write_bytes(second)
    shards[1].write_bytes(first)
    source = open_records(copy).images_and_labels()
    with pytest.raises(
        UserError, match=r"00000-of-00003: record 0 is .*not 00000000_000\.png, the "
    ):
        source[0]
    item = source[64]
    np.testing.assert_array_equal(item["labels"], records.label_matrix[64])


def test_opening_imports_no_module_that_the_files_name(copy, tmp_path, monkeypatch):
    """Every file that TFDS wrote names a module that leaves a mark when it is imported."""
    (tmp_path / "modules").mkdir()
    marker = tmp_path / "imported"
    (tmp_path / "modules" / "evil.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass Foo: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "modules")
    path = copy / STORE / "features.json"
    features = path.read_text()
    assert "tensorflow_datasets.core.features" in features
    path.write_text(re.sub(r'"tensorflow_datasets\.[\w.]+"', '"evil.Foo"', features))
    path = copy / STORE / "dataset_info.json"
    info = json.loads(path.read_text())
    info["moduleName"] = info["fileFormat"] = "evil"
    path.write_text(json.dumps(info))
    sys.modules.pop("evil", None)  # from another test
    records = open_records(copy)
    assert len(records.boxes.records) == 2 and records.images_and_labels()[3]["image"].any()
    assert not marker.exists()
    with contextlib.suppress(Exception):  # TFDS itself would import it
        tfds.builder_from_directory(copy / STORE)
    assert marker.exists()


def test_labels_that_are_not_known(data, tmp_path):
    def change(matrix):
        changed = missing_labels(matrix, 0.4)
        changed[5] = MISSING
        return changed

    whole = open_records(data)
    records = open_records(copy_with_missing(data, tmp_path / "copy", change))
    assert records.has_missing and not whole.has_missing
    assert set(np.unique(records.label_matrix)) == {0, 1, MISSING}
    np.testing.assert_array_equal(records.label_matrix, change(whole.label_matrix))
    np.testing.assert_array_equal(records.images_and_labels()[5]["labels"], MISSING)
