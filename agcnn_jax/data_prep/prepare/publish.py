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
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python import array_record_module

from agcnn_jax.data_prep.prepare.shards import (
    CONFLICT,
    DUPLICATE,
    WRITER_OPTIONS,
    Context,
    SetAside,
    Unit,
    Written,
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


class Record(NamedTuple):
    """A record of the dataset, its unit and its position in the unit's shard."""

    entry: Written
    unit: Unit
    position: int


class Outcome(NamedTuple):
    """The records, sorted by image id, and the files set aside."""

    records: list[Record]
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


def collect(units: list[Unit], scratch: Path) -> Outcome:
    """Read the results of all units, which must have finished; keep one image of each name.

    Of several files with the same name, the one with the smallest pixel digest is kept, wherever it
    is. The others are set aside: as duplicates or, if their pixels differ, as conflicts.
    """
    candidates = []
    set_aside = []
    for unit in units:
        result = read_result(scratch, unit)
        assert result is not None
        set_aside += result.set_aside
        candidates += [Record(entry, unit, at) for at, entry in enumerate(result.written)]
    candidates.sort(key=lambda one: (one.entry.image_id, *_content(one.entry), one.entry.file))
    records: list[Record] = []
    for record in candidates:
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


def _content(entry: Written) -> tuple[str, int, int]:
    """Return the values that are equal if two files of one name give the same record."""
    return entry.digest, entry.width, entry.height


def make_columns(
    records: Sequence[Record], context: Context, official: Mapping[str, str]
) -> Columns:
    """Return `records.csv` and `boxes.csv`, in the order of the records.

    They repeat values that the records contain, so that opening a dataset of 112,120 records reads
    a table instead of every record. Boxes are half-open, in pixels of the original file. Only a
    dataset in which a label is not known has a column `unknown`.
    """
    entries = [record.entry for record in records]
    missing = any(context.rows[entry.image_id].unknown for entry in entries)

    def names(labels: Sequence[int]) -> str:
        return "|".join(context.labels[index] for index in labels)

    def rows() -> Iterator[Sequence[Any]]:
        for entry in entries:
            row = context.rows[entry.image_id]
            subset = official.get(entry.image_id, "")
            line = [entry.image_id, names(row.labels), row.patient_id, row.follow_up, row.age]
            line += [row.sex, row.view, entry.width, entry.height, subset]
            yield [*line, names(row.unknown)] if missing else line

    def boxes() -> Iterator[Sequence[Any]]:
        for entry in entries:
            for box in context.boxes_of(entry.image_id, entry.width):
                yield [entry.image_id, context.labels[box.finding], *box[1:]]

    header = (*RECORDS_HEADER, "unknown") if missing else RECORDS_HEADER
    return Columns(_table(header, rows()), _table(BOXES_HEADER, boxes()))


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(rows)
    return text.getvalue().encode()


def fingerprint(records: Sequence[Record], columns: Columns, context: Context) -> str:
    """Return the hex SHA-256 of all pixels, columns and boxes, in the order of the records.

    Two datasets with the same fingerprint have the same record i for every i.
    """
    pixels = [record.entry.digest for record in records]
    whole = [context.image_size, context.labels, columns.digests, pixels]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def write_shards(
    records: Sequence[Record], scratch: Path, name: Callable[[int, int], Path]
) -> list[tuple[int, int]]:
    """Write the dataset's shards, copying one record at a time.

    A shard with exactly the records of one unit is linked instead of copied. This is the usual case
    for folders in which every file is usable. The units' shards are kept until the dataset is
    complete, so that a run that is killed here need not decode again; until then, copied shards
    take up their space twice.

    Args:
        records: in the order of the dataset.
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
    def reader(unit: Unit) -> array_record_module.ArrayRecordReader:
        path = os.fspath(shard_path(scratch, unit))
        # Reading ahead would fetch records that belong into other shards.
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
    except OSError:  # some file systems do not support links
        shutil.copyfile(source, target)
