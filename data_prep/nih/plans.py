"""What a run is about to do: inputs, tables and options, all checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from agcnn_jax.data.marker import read_marker
from data_prep.nih import layout, shards
from data_prep.nih.shards import Context, Unit
from data_prep.nih.tables import read_boxes, read_labels, read_official

NAME = "chest_xray14"
VERSION = "1.0.0"
SCRATCH = ".chest_xray14.partial"
# Part of every unit's key: change it when the same inputs would give other records.
FORMAT = 2


class Plan(NamedTuple):
    """All that a run depends on, read and checked before anything is written."""

    context: Context
    tables: layout.Tables
    official: dict[str, str]
    provenance: str
    collection: str  # within which an image name means one image
    units: list[Unit]
    inputs: str  # hash of the inputs and options
    images: int | None  # image files to come, None when archives hide their number


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
    """Find and read all that describes the images; writes nothing.

    Args:
        raw_dir: NIH's folders or archives.
        data_dir: where the dataset will be.
        image_size: side of a record's image, pixels.
        labels: label csv; None, as for `boxes` and `lists`, to look for it.
        boxes: box list.
        lists: folder with the official lists.
        box_size: side in pixels of the image that the box list refers to; None for what the
            phantoms' marker says, else NIH's 1024.

    Raises:
        UserError: something is missing or malformed.
    """
    inputs = layout.find_inputs(raw_dir)
    tables = layout.find_tables(raw_dir, labels, boxes, lists)
    marker = read_marker(raw_dir)
    box_size = box_size or int(marker.get("box_size", layout.BOX_SIZE))
    official = {}
    if tables.train_val and tables.test:
        official = read_official(tables.train_val, tables.test)
    context = Context(
        raw_dir,
        data_dir / SCRATCH,
        read_labels(tables.labels),
        read_boxes(tables.boxes, box_size) if tables.boxes else {},
        box_size,
        image_size,
    )
    settings = [FORMAT, image_size, box_size] + [
        hashlib.sha256(path.read_bytes()).hexdigest() if path else None
        for path in (tables.labels, tables.boxes)
    ]
    units = shards.split_units(inputs, json.dumps(settings))
    provenance = marker.get("provenance", layout.PROVENANCE)
    collection = marker.get("collection", layout.COLLECTION)
    whole = [provenance, collection, sorted(official.items()), [unit.key for unit in units]]
    return Plan(
        context,
        tables,
        official,
        provenance,
        collection,
        units,
        hashlib.sha256(json.dumps(whole).encode()).hexdigest(),
        None if any(item.kind == "archive" for item in inputs) else len(inputs),
    )
