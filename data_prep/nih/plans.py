"""The plan of a run: inputs, tables and options, checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.data.collection import NIH, Collection, read_collection
from data_prep.nih import layout, shards
from data_prep.nih.names import match_boxes, read_official
from data_prep.nih.shards import Context, Unit
from data_prep.nih.tables import read_boxes, read_labels

NAME = "chest_xray14"
VERSION = "1.0.0"
SCRATCH = ".chest_xray14.partial"
# Part of every unit's key. Increase it when the same inputs would give different records.
FORMAT = 2


class Plan(NamedTuple):
    """Everything that a run depends on.

    Attributes:
        context: what each unit needs.
        tables: paths of the tables.
        official: image name -> "train_val" or "test"; empty without official lists.
        collection: of the images.
        units: the shards to write.
        digest: hex SHA-256 of the inputs and options.
        images: number of image files; None with archives, whose content is not known yet.
    """

    context: Context
    tables: layout.Tables
    official: dict[str, str]
    collection: Collection
    units: list[Unit]
    digest: str
    images: int | None


def make_plan(
    raw_dir: Path,
    data_dir: Path,
    *,
    image_size: int = 256,
    labels: Path | None = None,
    boxes: Path | None = None,
    lists: Path | None = None,
    box_size: int | None = None,
) -> Plan:
    """Find the inputs and read the tables; writes nothing.

    Args:
        raw_dir: folder with NIH's images or archives.
        data_dir: folder of the dataset.
        image_size: side of the stored images in pixels.
        labels: label csv, or None to look for it.
        boxes: box list, or None to look for it.
        lists: folder with the official lists, or None to look for them.
        box_size: side in pixels of the images that the box list refers to; by default the
            collection's.

    Raises:
        UserError: an input is missing or malformed.
    """
    inputs = layout.find_inputs(raw_dir)
    tables = layout.find_tables(raw_dir, labels, boxes, lists)
    collection = read_collection(raw_dir)
    box_size = box_size or collection.box_size
    rows = read_labels(tables.labels, nih=collection.name == NIH.name)
    official = {}
    if tables.train_val and tables.test:
        official = read_official(tables.train_val, tables.test, rows)
    matched = {}
    if tables.boxes:
        listed = read_boxes(tables.boxes, box_size)
        matched = match_boxes(listed, rows, tables.boxes, tables.labels)
    context = Context(raw_dir, data_dir / SCRATCH, rows, matched, box_size, image_size)
    settings = [FORMAT, image_size, box_size] + [
        hashlib.sha256(path.read_bytes()).hexdigest() if path else None
        for path in (tables.labels, tables.boxes)
    ]
    units = shards.split_units(inputs, json.dumps(settings))
    described = [collection.name, collection.provenance, collection.synthetic]
    whole = [*described, sorted(official.items()), [unit.key for unit in units]]
    return Plan(
        context,
        tables,
        official,
        collection,
        units,
        hashlib.sha256(json.dumps(whole).encode()).hexdigest(),
        None if any(item.kind == "archive" for item in inputs) else len(inputs),
    )
