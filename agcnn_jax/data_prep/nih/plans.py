"""The plan of preparing NIH's files."""

from __future__ import annotations

import json
from pathlib import Path

from agcnn_jax.data.collection import NIH, read_collection
from agcnn_jax.data_prep.nih import layout
from agcnn_jax.data_prep.nih.names import match_boxes, read_official
from agcnn_jax.data_prep.nih.raw_files import read_images
from agcnn_jax.data_prep.nih.tables import LABELS, read_boxes, read_labels
from agcnn_jax.data_prep.prepare.plans import Plan, file_digest, scratch_folder
from agcnn_jax.data_prep.prepare.shards import Context, split_units

NAME = "chest_xray14"
# Part of every unit's key. Increase it when the same inputs would give different records.
FORMAT = 2


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
    digests = [file_digest(path) for path in (tables.labels, tables.boxes)]
    return Plan(
        NAME,
        Context(
            read_images,
            raw_dir,
            scratch_folder(data_dir, NAME),
            tables.labels,
            LABELS,
            rows,
            matched,
            box_size,
            image_size,
        ),
        tables._asdict(),
        official,
        collection,
        split_units(inputs, json.dumps([FORMAT, image_size, box_size, *digests])),
        None if any(item.kind == "archive" for item in inputs) else len(inputs),
    )
