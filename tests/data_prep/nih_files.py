"""Small raw files in NIH's layout, the command that prepares them, and its output."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from agcnn_jax.data_prep.chestxray14 import main
from agcnn_jax.data_prep.nih.tables import FINDINGS

ROOT = Path(__file__).resolve().parents[2]
STORE = "chest_xray14/1.0.0"
HEADER_2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
HEADER_2017 = HEADER_2020 + ","
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def png(array, mode=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "PNG", **options)
    return buffer.getvalue()


def pixels(seed, side=64):
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def row(name, labels="No Finding", patient="1", age="58", follow_up="0"):
    return f"{name},{labels},{follow_up},{patient},{age},M,PA,2682,2749,0.143,0.143"


def make_raw(folder, count=6, side=64):
    """Write `count` images, two for each patient, in three folders, with table, boxes and lists."""
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


def pack(source, target, names, mode):
    with tarfile.open(target, mode) as archive:
        for name in names:
            archive.add(next(source.rglob(name)), f"images/{name}")
