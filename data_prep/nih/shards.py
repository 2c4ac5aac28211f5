"""Units of work: consecutive image files, or one archive, become one ArrayRecord shard.

One worker reads, decodes and writes a unit, so no image crosses a process boundary and memory does
not grow with the number of images. A finished unit is a shard and a JSON file with its result. Both
are named by a hash of everything they depend on, so a later run with the same inputs reuses them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python import array_record_module

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.films import WrongSizeError, read_film
from agcnn_jax.data.pixels import UnreadableImageError
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.progress import Progress
from data_prep.nih.examples import serialize
from data_prep.nih.layout import Input
from data_prep.nih.names import row_name
from data_prep.nih.raw_files import read_files
from data_prep.nih.tables import LABELS, LabelRow
from data_prep.workers import run_tasks

UNREADABLE = "unreadable image"
NO_ROW = "no label row"
WRONG_SIZE = "wrong size"
DUPLICATE = "duplicate"
CONFLICT = "same name, other image"
REASONS = (UNREADABLE, NO_ROW, WRONG_SIZE, DUPLICATE, CONFLICT)

# Radiographs hardly compress: Zstandard saves 13 % of a shard and makes reading 3 times slower.
WRITER_OPTIONS = "group_size:1,uncompressed"
# Images in a shard: small sets still have work for every core, and all of ChestX-ray14 makes about
# a hundred shards. Independent of the number of workers, so that it does not change the dataset.
MIN_SHARD, MAX_SHARD, SHARDS = 32, 1024, 64


class Unit(NamedTuple):
    """The inputs of one shard; `key` names its files and is a hash of all that they depend on."""

    inputs: tuple[Input, ...]
    key: str


class Written(NamedTuple):
    """A record: its file, image name, hex SHA-256 of the pixels, side of the original in pixels."""

    file: str
    image_id: str
    digest: str
    side: int


class SetAside(NamedTuple):
    """A file that is not in the dataset: its location, image name, one of `REASONS`, details."""

    file: str
    image_id: str
    reason: str
    detail: str


class UnitResult(NamedTuple):
    """The outcome for a unit's files; `written` is in the order of the shard's records."""

    written: list[Written]
    set_aside: list[SetAside]


class Context(NamedTuple):
    """What every unit needs: folders, tables, sizes in pixels."""

    raw_dir: Path
    scratch: Path
    labels: dict[str, LabelRow]
    boxes: dict[str, tuple[Box, ...]]
    box_size: int
    image_size: int


def split_units(inputs: list[Input], settings: str) -> list[Unit]:
    """Divide the sorted inputs into units: one for each archive, one for up to `shard_size` files.

    Args:
        inputs: from `find_inputs`.
        settings: a text that identifies the options and tables that records depend on.
    """
    size = shard_size(sum(item.kind == "image" for item in inputs))
    runs: list[list[Input]] = []
    for item in inputs:
        run = runs[-1] if runs else []
        if not run or len(run) == size or "archive" in (item.kind, run[-1].kind):
            runs.append([])
        runs[-1].append(item)
    return [
        Unit(tuple(run), hashlib.sha256(f"{settings}\n{run}".encode()).hexdigest()[:32])
        for run in runs
    ]


def shard_size(images: int) -> int:
    """Return the number of images in a shard of a dataset with `images` images."""
    return min(max(images // SHARDS, MIN_SHARD), MAX_SHARD)


def shard_path(scratch: Path, unit: Unit) -> Path:
    """Return the path of the unit's shard in the scratch folder."""
    return scratch / f"{unit.key}.array_record"


def read_result(scratch: Path, unit: Unit) -> UnitResult | None:
    """Return the unit's result, or None if the unit is not finished."""
    try:
        result = json.loads((scratch / f"{unit.key}.json").read_text("utf-8"))
        if shard_path(scratch, unit).stat().st_size != result["shard_bytes"]:
            return None
        return UnitResult(
            [Written(*entry) for entry in result["written"]],
            [SetAside(*entry) for entry in result["set_aside"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_units(units: list[Unit], context: Context, files: int | None, workers: int) -> int:
    """Write the units that no earlier run has finished, and show the progress.

    Args:
        units: all units.
        context: folders, tables and sizes.
        files: number of image files in all units; None if not known.
        workers: number of processes.

    Returns:
        The number of images that this call wrote.
    """
    _remove_stale(context.scratch, units)
    results = [read_result(context.scratch, unit) for unit in units]
    finished = [result for result in results if result is not None]
    before = sum(len(result.written) + len(result.set_aside) for result in finished)
    pending = [unit for unit, result in zip(units, results, strict=True) if result is None]
    with Progress("preparing", files, "files", before) as bar:

        def report(images: int, done: int) -> None:
            shard = f"shard {len(finished) + done} of {len(units)}"
            bar.update(before + images - bar.done, shard)

        return run_tasks(write_unit, pending, context, context.scratch, workers, report)


def _remove_stale(scratch: Path, units: list[Unit]) -> None:
    """Remove what earlier runs left and this one cannot use."""
    current = {unit.key for unit in units} | {"lock"}
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix == ".part" or path.name.split(".")[0] not in current:
            path.unlink()


def write_unit(unit: Unit, context: Context, progress: Callable[[], None]) -> None:
    """Write the unit's shard, then its result.

    Args:
        unit: the inputs.
        context: folders, tables and sizes.
        progress: called after each image; an exception from it stops the unit.

    Raises:
        UserError: an archive is damaged, or the disk is full.
    """
    path = shard_path(context.scratch, unit)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        with full_disk_named(context.scratch):
            result = _write_shard(part, unit, context, progress)
            os.replace(part, path)
            content = result._asdict() | {"shard_bytes": path.stat().st_size}
            part.write_text(json.dumps(content), "utf-8")
            os.replace(part, path.with_suffix(".json"))
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Raise `UserError` with the folder's name if writing shards fills the disk."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError for any I/O error
        if os.strerror(errno.ENOSPC) in str(error):
            raise UserError(
                f"{folder}: no space left on the device; free some space and rerun to continue"
            ) from None
        raise


def _write_shard(
    part: Path, unit: Unit, context: Context, progress: Callable[[], None]
) -> UnitResult:
    result = UnitResult([], [])
    writer = array_record_module.ArrayRecordWriter(os.fspath(part), WRITER_OPTIONS)
    for file, image_id, data in read_files(unit.inputs, context.raw_dir):
        example = _example(file, row_name(image_id, context.labels), data, context, result)
        if example is not None:
            writer.write(example)
        progress()
    writer.close()
    return result


def _example(
    file: str, image_id: str, data: bytes | str, context: Context, result: UnitResult
) -> bytes | None:
    """Return the serialised record of an image, or None if it is set aside; add it to `result`."""
    try:
        if isinstance(data, str):
            raise UnreadableImageError(data)
        image, side = read_film(data, context.image_size)
        reason, detail = "", ""
    except UnreadableImageError as error:
        reason, detail = UNREADABLE, str(error)
    except WrongSizeError as error:
        reason, detail = WRONG_SIZE, str(error)
    if reason != UNREADABLE and image_id not in context.labels:
        reason, detail = NO_ROW, "the label table has no row for it"
    if reason:
        result.set_aside.append(SetAside(file, image_id, reason, detail))
        return None
    row = context.labels[image_id]
    labels = np.zeros(len(LABELS), np.uint8)
    labels[list(row.labels)] = 1
    boxes = [box.scaled(side / context.box_size) for box in context.boxes.get(image_id, ())]
    result.written.append(
        Written(file, image_id, hashlib.sha256(image.tobytes()).hexdigest(), side)
    )
    return serialize(
        context.image_size,
        {
            "image": image,
            "labels": labels,
            "image_id": image_id,
            "patient_id": row.patient_id,
            "follow_up": row.follow_up,
            "age": row.age,
            "sex": row.sex,
            "view": row.view,
            "height": side,
            "width": side,
            "boxes": np.array([box[1:] for box in boxes], np.float32).reshape(-1, 4),
            "box_findings": np.array([box.finding for box in boxes], np.int64),
        },
    )
