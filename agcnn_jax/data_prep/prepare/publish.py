"""The finished dataset: records ordered by image name, with tables of their columns.

Its bytes depend only on the images and tables, not on the folders and archives that held them.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module

from agcnn_jax.data_prep.prepare.shards import (
    CONFLICT,
    DUPLICATE,
    WRITER_OPTIONS,
    Context,
    SetAside,
    Unit,
    full_disk_named,
    read_result,
    shard_path,
    shard_size,
)

RECORDS_HEADER = (
    *("image_id", "labels", "patient_id", "follow_up", "age", "sex", "view"),
    *("width", "height", "official"),
)
BOXES_HEADER = ("image_id", "finding", "xmin", "ymin", "xmax", "ymax")
# Most units' shards open at once, far below the usual limit on open files.
OPEN_SHARDS = 256


RECORD = np.dtype(
    [("digest", "S64"), ("width", "i4"), ("height", "i4"), ("unit", "i4"), ("position", "i4")]
)
"""Hex SHA-256 of a record's pixels, size of its original in pixels, index of its unit, and its
position in the unit's shard."""


class Outcome(NamedTuple):
    """What became of all files.

    Attributes:
        image_ids: of the N records, ascending.
        records: of type `RECORD` `[N]`; an array, since millions of tuples would fill the memory.
        set_aside: the other files, sorted.
    """

    image_ids: list[str]
    records: np.ndarray
    set_aside: list[SetAside]


class Columns(NamedTuple):
    """The contents of `records.csv` and `boxes.csv`."""

    records: bytes
    boxes: bytes

    @property
    def digests(self) -> dict[str, str]:
        """Hex SHA-256 of each table by file name."""
        return {name: hashlib.sha256(table).hexdigest() for name, table in self.files()}

    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Each table's file name and content."""
        return (("records.csv", self.records), ("boxes.csv", self.boxes))


def collect(units: Sequence[Unit], scratch: Path) -> Outcome:
    """Read the results of all units, which must have finished; keep one image of each name.

    Of several files with the same name, the one with the smallest pixel digest is kept, wherever it
    is. The others are set aside: as duplicates or, if their pixels differ, as conflicts.
    """
    files: list[str] = []
    names: list[str] = []
    parts = [np.empty(0, RECORD)]
    set_aside: list[SetAside] = []
    for index, unit in enumerate(units):
        result = read_result(scratch, unit)
        assert result is not None
        set_aside += result.set_aside
        files += [entry.file for entry in result.written]
        names += [entry.image_id for entry in result.written]
        rows = [(*entry[2:], index, at) for at, entry in enumerate(result.written)]
        parts.append(np.array(rows, RECORD))
    records = np.concatenate(parts)

    def content(at: int) -> tuple[bytes, int, int]:
        """Return the values that are equal if two files of one name give the same record."""
        digest, width, height, *_ = records[at].item()
        return digest, width, height

    order = []
    for name, same in groupby(sorted(range(len(names)), key=names.__getitem__), names.__getitem__):
        first, *others = same
        if others:
            first, *others = sorted((first, *others), key=lambda at: (content(at), files[at]))
        order.append(first)
        for at in others:
            reason, detail = CONFLICT, f"another image than {files[first]}, kept"
            if content(at) == content(first):
                reason, detail = DUPLICATE, f"the same as {files[first]}"
            set_aside.append(SetAside(files[at], name, reason, detail))
    return Outcome([names[at] for at in order], records[order], sorted(set_aside))


def make_columns(outcome: Outcome, context: Context, official: Mapping[str, str]) -> Columns:
    """Return `records.csv` and `boxes.csv`, in the order of the records.

    They repeat values that the records contain, so that opening a dataset of 112,120 records reads
    a table instead of every record. Boxes are half-open, in pixels of the original file. Only a
    dataset in which a label is not known has a column `unknown`.
    """
    missing = any(context.rows[image_id].unknown for image_id in outcome.image_ids)

    def names(labels: Sequence[int]) -> str:
        return "|".join(context.labels[index] for index in labels)

    def entries() -> Iterator[tuple[str, int, int]]:
        sizes = (outcome.records[side].tolist() for side in ("width", "height"))
        return zip(outcome.image_ids, *sizes, strict=True)

    def rows() -> Iterator[Sequence[Any]]:
        for image_id, width, height in entries():
            row = context.rows[image_id]
            line = [image_id, names(row.labels), row.patient_id, row.follow_up, row.age]
            line += [row.sex, row.view, width, height, official.get(image_id, "")]
            yield [*line, names(row.unknown)] if missing else line

    def boxes() -> Iterator[Sequence[Any]]:
        for image_id, width, _ in entries():
            for box in context.boxes_of(image_id, width):
                yield [image_id, context.labels[box.finding], *box[1:]]

    header = (*RECORDS_HEADER, "unknown") if missing else RECORDS_HEADER
    return Columns(_table(header, rows()), _table(BOXES_HEADER, boxes()))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    content = io.BytesIO()
    with io.TextIOWrapper(content, "utf-8", newline="", write_through=True) as text:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
        return content.getvalue()


def fingerprint(records: np.ndarray, columns: Columns, context: Context) -> str:
    """Return the hex SHA-256 of all pixels, columns and boxes, in the order of the records.

    Two datasets with the same fingerprint have the same record i for every i.
    """
    tables = [context.image_size, context.labels, columns.digests]
    # The digest of a list of these and the pixels' digests in JSON, without its text in memory.
    found = hashlib.sha256(f"{json.dumps(tables, sort_keys=True)[:-1]}, [".encode())
    for at, pixels in enumerate(records["digest"]):
        found.update(b', "%s"' % pixels if at else b'"%s"' % pixels)
    found.update(b"]]")
    return found.hexdigest()


def write_shards(
    records: np.ndarray, units: Sequence[Unit], scratch: Path, name: Callable[[int, int], Path]
) -> list[tuple[int, int]]:
    """Write the dataset's shards, copying one record at a time.

    A shard with exactly the records of one unit is linked instead of copied. This is the usual case
    for folders in which every file is usable. The units' shards are kept until the dataset is
    complete, so that a run that is killed here need not decode again; until then, copied shards
    take up their space twice.

    Args:
        records: in the order of the dataset, of type `RECORD` `[N]`.
        units: that the records name.
        scratch: folder with the units' shards.
        name: returns the path of shard `index` of `count`.

    Returns:
        Number of records and bytes of each shard.

    Raises:
        UserError: the disk is full.
    """
    size = shard_size(len(records))
    parts = [records[start : start + size] for start in range(0, len(records), size)]

    @functools.lru_cache(OPEN_SHARDS)
    def reader(unit: int) -> array_record_module.ArrayRecordReader:
        path = os.fspath(shard_path(scratch, units[unit]))
        # Reading ahead would fetch records that belong into other shards.
        return array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")

    sizes = []
    for index, part in enumerate(parts):
        target = name(index, len(parts))
        places = part[["unit", "position"]].tolist()
        unit = places[0][0]
        if places == [(unit, at) for at in range(reader(unit).num_records())]:
            _link(shard_path(scratch, units[unit]), target)
        else:
            with full_disk_named(scratch):
                writer = array_record_module.ArrayRecordWriter(os.fspath(target), WRITER_OPTIONS)
                for of_unit, at in places:
                    writer.write(reader(of_unit).read([at])[0])
                writer.close()
        sizes.append((len(part), target.stat().st_size))
    return sizes


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems do not support links
        shutil.copyfile(source, target)
