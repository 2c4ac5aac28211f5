"""Reading and checking the files of a prepared dataset."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from array_record.python import array_record_module

from agcnn_jax.data.text import read_text
from agcnn_jax.runtime.errors import UserError

SPLIT = "images"
SHARD = f"{{dataset}}-{SPLIT}.array_record-{{index:05d}}-of-{{count:05d}}"
TABLES = ("records.csv", "boxes.csv")
# The keys of `metadata.json` that `Records` needs.
METADATA = (
    *("labels", "findings", "provenance", "collection", "synthetic", "image_size", "fingerprint"),
    *("digests", "official_names"),
)


def read_metadata(directory: Path) -> dict[str, Any]:
    """Return what `metadata.json` holds, with every key of `METADATA`."""
    path = directory / "metadata.json"
    try:
        metadata = json.loads(path.read_text("utf-8"))
        for key in METADATA:
            metadata[key]
        for name in TABLES:
            metadata["digests"][name]
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(path) from None
    return dict(metadata)


def check_shards(directory: Path) -> tuple[tuple[str, int], ...]:
    """Return each shard's path and number of records.

    Opens every shard, to find a missing or truncated one now and not hours into training.
    """
    dataset, lengths = _read_info(directory / "dataset_info.json")
    shards = []
    for index, expected in enumerate(lengths):
        path = directory / SHARD.format(dataset=dataset, index=index, count=len(lengths))
        if not path.is_file():
            raise UserError(f"{path}: missing; copy it again, or prepare the dataset again")
        try:
            reader = array_record_module.ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError):
            found = -1
        if found != expected:
            raise UserError(
                f"{path}: truncated or damaged; copy it again, or prepare the dataset again"
            )
        shards.append((str(path), expected))
    return tuple(shards)


def _read_info(path: Path) -> tuple[str, list[int]]:
    """Return the dataset's name and each shard's number of records from `dataset_info.json`.

    Does not use TFDS, which would import the modules that the dataset's files name.
    """
    try:
        info = json.loads(path.read_text("utf-8"))
        (lengths,) = (split["shardLengths"] for split in info["splits"] if split["name"] == SPLIT)
        # A name, not a path that leads elsewhere.
        return Path(info["name"]).name, [int(length) for length in lengths]
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(path) from None


def check_digest(path: Path, digests: Mapping[str, str]) -> None:
    """Raise `UserError` unless the table is the one that was written with the images."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise _damaged(path) from None
    if found != digests[path.name]:
        raise UserError(
            f"{path}: changed since the dataset was prepared; delete the dataset and prepare it "
            "again"
        )


def read_columns(path: Path) -> dict[str, list[str]]:
    """Return the columns of a csv file by header name."""
    # Unlike tables of other programs: ids keep blanks at their ends.
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    header = next(rows)
    columns: list[list[str]] = [[] for _ in header]
    # Most values repeat: kept once each, they take half the memory, which only opening needs.
    known: dict[str, str] = {}
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(known.setdefault(value, value))
    return dict(zip(header, columns, strict=True))


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path}: missing, damaged or of another version; delete the dataset and prepare it again"
    )
