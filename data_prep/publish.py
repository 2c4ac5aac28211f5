"""The finished dataset: shards in place, TFDS metadata, and the records' columns beside them."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from array_record.python import array_record_module

from data_prep.nih_tables import LABELS, LabelRow
from data_prep.shards import (
    DUPLICATE,
    WRITER_OPTIONS,
    Context,
    SetAside,
    Unit,
    UnitResult,
    Written,
    shard_path,
)

RECORDS_HEADER = (
    *("image_id", "labels", "patient_id", "follow_up", "age", "sex", "view"),
    *("width", "height", "official"),
)
BOXES_HEADER = ("image_id", "finding", "xmin", "ymin", "xmax", "ymax")


class Outcome(NamedTuple):
    """A unit's records that go into the dataset: `positions` in its shard, in order."""

    unit: Unit
    written: list[Written]
    positions: list[int]
    set_aside: list[SetAside]


def resolve_duplicates(units: list[Unit], results: Iterable[UnitResult]) -> list[Outcome]:
    """Keep the first readable image of each name in the order of the units."""
    taken: set[str] = set()
    outcomes = []
    for unit, result in zip(units, results, strict=True):
        outcome = Outcome(unit, [], [], list(result.set_aside))
        for position, entry in enumerate(result.written):
            if entry.image_id in taken:
                outcome.set_aside.append(
                    SetAside(entry.file, entry.image_id, DUPLICATE, "the same name came earlier")
                )
                continue
            outcome.written.append(entry)
            outcome.positions.append(position)
        taken.update(entry.image_id for entry in outcome.written)
        outcomes.append(outcome)
    return outcomes


def fingerprint(outcomes: list[Outcome], labels: dict[str, LabelRow]) -> str:
    """Return the hex SHA-256 over every record's name, labels and pixels, sorted by name.

    The same images and labels give the same fingerprint, whatever folders or archives they were
    in and however many workers prepared them.
    """
    lines = sorted(
        f"{entry.image_id} {labels[entry.image_id].labels} {entry.digest}\n"
        for outcome in outcomes
        for entry in outcome.written
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def place_shards(
    outcomes: list[Outcome], scratch: Path, name: Callable[[int, int], Path]
) -> list[tuple[int, int]]:
    """Move the shards to where `name(index, count)` says; return each one's records and bytes."""
    filled = [outcome for outcome in outcomes if outcome.written]
    sizes = []
    for index, outcome in enumerate(filled):
        source, target = shard_path(scratch, outcome.unit), name(index, len(filled))
        reader = array_record_module.ArrayRecordReader(os.fspath(source))
        records = reader.num_records()
        if len(outcome.positions) == records:
            reader.close()
            shutil.move(source, target)
        else:
            writer = array_record_module.ArrayRecordWriter(os.fspath(target), WRITER_OPTIONS)
            for position in outcome.positions:
                writer.write(reader.read([position])[0])
            writer.close()
            reader.close()
        sizes.append((len(outcome.positions), target.stat().st_size))
    return sizes


def write_columns(
    folder: Path, outcomes: list[Outcome], context: Context, official: dict[str, str]
) -> None:
    """Write `records.csv`, in the order of the records, and `boxes.csv`.

    They repeat what the records hold, so that opening 112,120 records reads one table instead of
    every image. Boxes are in pixels of the original file, half-open.
    """
    entries = [entry for outcome in outcomes for entry in outcome.written]
    with (folder / "records.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(RECORDS_HEADER)
        for entry in entries:
            row = context.labels[entry.image_id]
            names = "|".join(LABELS[index] for index in row.labels)
            subset = official.get(entry.image_id, "")
            table.writerow([entry.image_id, names, *row[1:], entry.side, entry.side, subset])
    with (folder / "boxes.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(BOXES_HEADER)
        for entry in entries:
            for box in context.boxes.get(entry.image_id, ()):
                box = box.scaled(entry.side / context.box_size)
                table.writerow([entry.image_id, LABELS[box.finding], *box[1:]])
