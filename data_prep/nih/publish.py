"""The finished dataset: records in the order of their names, and their columns beside them.

What is published depends on the images and tables alone, not on the files and archives that held
them: the same input gives the same bytes.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python import array_record_module

from data_prep.nih.shards import (
    CONFLICT,
    DUPLICATE,
    WRITER_OPTIONS,
    Context,
    SetAside,
    Unit,
    UnitResult,
    Written,
    full_disk_named,
    read_result,
    shard_path,
    shard_size,
)
from data_prep.nih.tables import LABELS

RECORDS_HEADER = (
    *("image_id", "labels", "patient_id", "follow_up", "age", "sex", "view"),
    *("width", "height", "official"),
)
BOXES_HEADER = ("image_id", "finding", "xmin", "ymin", "xmax", "ymax")
# Shards of units that may be open at once, far below what systems allow.
OPEN_SHARDS = 256


class Record(NamedTuple):
    """A record of the dataset and where it is: its unit and its position in the unit's shard."""

    entry: Written
    unit: Unit
    position: int


class Outcome(NamedTuple):
    """What happened to each file: the records, sorted by image id, and the files set aside."""

    records: list[Record]
    set_aside: list[SetAside]


class Columns(NamedTuple):
    """The tables beside the records, as they are written."""

    records: bytes
    boxes: bytes

    @property
    def digests(self) -> dict[str, str]:
        """Hex SHA-256 of each table, by its file's name."""
        return {name: hashlib.sha256(table).hexdigest() for name, table in self.files()}

    def files(self) -> tuple[tuple[str, bytes], ...]:
        """Each table's file name and content."""
        return (("records.csv", self.records), ("boxes.csv", self.boxes))


def collect(units: list[Unit], scratch: Path) -> Outcome:
    """Read the notes of all units, finished all; keep one image of each name.

    Of several files with one name, the one whose pixels have the smallest digest is kept, wherever
    it lies. The others are set aside: as duplicates, or, where their pixels differ, as conflicts.
    """
    results = (read_result(scratch, unit) for unit in units)
    return keep_one_each(units, [result for result in results if result is not None])


def keep_one_each(units: list[Unit], results: Iterable[UnitResult]) -> Outcome:
    """As `collect`, of notes that were read."""
    found = []
    set_aside = []
    for unit, result in zip(units, results, strict=True):
        set_aside += result.set_aside
        found += [Record(entry, unit, at) for at, entry in enumerate(result.written)]
    found.sort(key=lambda one: (one.entry.image_id, *_content(one.entry), one.entry.file))
    records: list[Record] = []
    for record in found:
        entry, kept = record.entry, records[-1].entry if records else None
        if kept is None or kept.image_id != entry.image_id:
            records.append(record)
        elif _content(kept) == _content(entry):
            set_aside.append(
                SetAside(entry.file, entry.image_id, DUPLICATE, f"the same as {kept.file}")
            )
        else:
            set_aside.append(
                SetAside(
                    entry.file, entry.image_id, CONFLICT, f"another image than {kept.file}, kept"
                )
            )
    return Outcome(records, sorted(set_aside))


def _content(entry: Written) -> tuple[str, int]:
    """What makes two files of one name give the same record."""
    return entry.digest, entry.side


def make_columns(records: Sequence[Record], context: Context, official: dict[str, str]) -> Columns:
    """Return `records.csv`, in the order of the records, and `boxes.csv`.

    They repeat what the records hold, so that opening 112,120 records reads one table instead of
    every image. Boxes are in pixels of the original file, half-open.
    """
    entries = [record.entry for record in records]

    def rows() -> Iterator[Sequence[Any]]:
        for entry in entries:
            row = context.labels[entry.image_id]
            names = "|".join(LABELS[index] for index in row.labels)
            subset = official.get(entry.image_id, "")
            yield [entry.image_id, names, *row[1:], entry.side, entry.side, subset]

    def boxes() -> Iterator[Sequence[Any]]:
        for entry in entries:
            for box in context.boxes.get(entry.image_id, ()):
                box = box.scaled(entry.side / context.box_size)
                yield [entry.image_id, LABELS[box.finding], *box[1:]]

    return Columns(_table(RECORDS_HEADER, rows()), _table(BOXES_HEADER, boxes()))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode()


def fingerprint(records: Sequence[Record], columns: Columns, image_size: int) -> str:
    """Return the hex SHA-256 over all that the dataset holds, in its order.

    Pixels, image ids, labels, patients, boxes and every other column: of two datasets with one
    fingerprint, record i is the same.
    """
    pixels = [record.entry.digest for record in records]
    whole = [image_size, LABELS, columns.digests, pixels]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def write_shards(
    records: Sequence[Record], scratch: Path, name: Callable[[int, int], Path]
) -> list[tuple[int, int]]:
    """Deal the records to shards, in order.

    Memory holds one record at a time. A shard with exactly the records of one unit, as from a
    folder without unusable files, is linked instead of copied. Units stay until the dataset is
    finished, so that a run that is killed here need not decode them again; until then shards that
    were copied take up their space twice.

    Args:
        records: in the dataset's order.
        scratch: where the units' shards are.
        name: gives the path of shard `index` of `count`.

    Returns:
        Each shard's number of records and bytes.

    Raises:
        UserError: the disk is full.
    """
    size = shard_size(len(records))
    parts = [records[start : start + size] for start in range(0, len(records), size)]

    @functools.lru_cache(OPEN_SHARDS)
    def reader(unit: Unit) -> array_record_module.ArrayRecordReader:
        path = os.fspath(shard_path(scratch, unit))
        # Reading ahead would fetch records that other shards get.
        return array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")

    sizes = []
    for index, part in enumerate(parts):
        target = name(index, len(parts))
        unit = part[0].unit
        if [(one.unit.key, one.position) for one in part] == [
            (unit.key, at) for at in range(reader(unit).num_records())
        ]:
            _link(shard_path(scratch, unit), target)
        else:
            with full_disk_named(scratch):
                writer = array_record_module.ArrayRecordWriter(os.fspath(target), WRITER_OPTIONS)
                for one in part:
                    writer.write(reader(one.unit).read([one.position])[0])
                writer.close()
        sizes.append((len(part), target.stat().st_size))
    return sizes


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no links
        shutil.copyfile(source, target)
