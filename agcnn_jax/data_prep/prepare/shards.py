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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python import array_record_module

from agcnn_jax.data.boxes import Box
from agcnn_jax.data.labels import MISSING
from agcnn_jax.data_prep.prepare.examples import serialize
from agcnn_jax.data_prep.prepare.workers import run_tasks
from agcnn_jax.runtime.errors import UserError
from agcnn_jax.runtime.progress import Progress

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


class Input(NamedTuple):
    """An image file or an archive.

    Attributes:
        path: relative to the folder of the images.
        kind: "image" or "archive".
        size: in bytes.
        mtime_ns: modification time in nanoseconds.
    """

    path: str
    kind: str
    size: int
    mtime_ns: int


class TableError(UserError):
    """The label table does not fit an image."""


class Unit(NamedTuple):
    """The inputs of one shard; `key` names its files and is a hash of all that they depend on."""

    inputs: tuple[Input, ...]
    key: str


class Written(NamedTuple):
    """A record: its file, image name, hex SHA-256 of the pixels, size of the original in pixels."""

    file: str
    image_id: str
    digest: str
    width: int
    height: int


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


class Row(NamedTuple):
    """What a table says about an image.

    `labels` and `unknown` are ascending indices of the labels that are positive and that are not
    known; `age` is in whole years, -1 if unknown.
    """

    labels: tuple[int, ...]
    patient_id: str
    follow_up: int
    age: int
    sex: str
    view: str
    unknown: tuple[int, ...] = ()
    line: int = 0


class DecodedImage(NamedTuple):
    """The pixels to store, uint8 `[S, S]`; width and height of the original in pixels."""

    pixels: np.ndarray
    width: int
    height: int


class Problem(NamedTuple):
    """Why an image cannot be used: one of `REASONS`, details."""

    reason: str
    detail: str


ReadImages = Callable[
    [Sequence[Input], "Context"], Iterator[tuple[str, str, DecodedImage | Problem]]
]
"""Yields the location, the image name and the pixels of each image of a unit."""


class Context(NamedTuple):
    """What every unit needs.

    Attributes:
        read: reads the images of a unit; a function of a module, which other processes can import.
        folder: of the images.
        scratch: folder of unfinished work.
        table: path of the label table.
        labels: names of the C labels.
        rows: image name -> its row in the label table.
        boxes: image name -> its boxes.
        box_size: side in pixels of the square images that boxes refer to; None if these are the
            files themselves.
        image_size: side S of the stored images in pixels.
    """

    read: ReadImages
    folder: Path
    scratch: Path
    table: Path
    labels: tuple[str, ...]
    rows: Mapping[str, Row]
    boxes: Mapping[str, tuple[Box, ...]]
    box_size: int | None
    image_size: int

    def boxes_of(self, image_id: str, width: int) -> list[Box]:
        """Return an image's boxes in pixels of its file."""
        boxes = self.boxes.get(image_id, ())
        if self.box_size is None:
            return list(boxes)
        return [box.scaled(width / self.box_size) for box in boxes]


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
    remove_units(context.scratch, units)
    results = [read_result(context.scratch, unit) for unit in units]
    finished = [result for result in results if result is not None]
    before = sum(len(result.written) + len(result.set_aside) for result in finished)
    pending = [unit for unit, result in zip(units, results, strict=True) if result is None]
    with Progress("preparing", files, "files", before) as bar:

        def report(images: int, done: int) -> None:
            shard = f"shard {len(finished) + done} of {len(units)}"
            bar.update(before + images - bar.done, shard)

        return run_tasks(write_unit, pending, context, context.scratch, workers, report)


def remove_units(scratch: Path, kept: list[Unit]) -> None:
    """Remove the results of all units but those that are `kept`, and what killed runs left."""
    current = {unit.key for unit in kept} | {"lock"}
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
    for file, image_id, image in context.read(unit.inputs, context):
        if isinstance(image, Problem):
            result.set_aside.append(SetAside(file, image_id, *image))
        else:
            digest = hashlib.sha256(image.pixels.tobytes()).hexdigest()
            result.written.append(Written(file, image_id, digest, image.width, image.height))
            writer.write(_example(image_id, image, context))
        progress()
    writer.close()
    return result


def _example(image_id: str, image: DecodedImage, context: Context) -> bytes:
    """Return the serialised record of an image."""
    row = context.rows[image_id]
    labels = np.zeros(len(context.labels), np.uint8)
    labels[list(row.labels)] = 1
    labels[list(row.unknown)] = MISSING
    boxes = context.boxes_of(image_id, image.width)
    if context.box_size is None:
        _check_inside(boxes, image, f"{context.table}, line {row.line}")
    return serialize(
        context.image_size,
        {
            "image": image.pixels,
            "labels": labels,
            "image_id": image_id,
            "patient_id": row.patient_id,
            "follow_up": row.follow_up,
            "age": row.age,
            "sex": row.sex,
            "view": row.view,
            "height": image.height,
            "width": image.width,
            "boxes": np.array([box[1:] for box in boxes], np.float32).reshape(-1, 4),
            "box_findings": np.array([box.finding for box in boxes], np.int64),
        },
    )


def _check_inside(boxes: Sequence[Box], image: DecodedImage, where: str) -> None:
    """Raise `TableError` unless the boxes lie in the image."""
    for box in boxes:
        for name, value, size in (
            ("xmin", box.xmin, image.width),
            ("xmax", box.xmax, image.width),
            ("ymin", box.ymin, image.height),
            ("ymax", box.ymax, image.height),
        ):
            if not 0 <= value <= size:  # also catches NaN
                raise TableError(
                    f"{where}: {name} {value:g} in a film of {image.width} x {image.height}; "
                    "correct the box, which is in pixels of the film's file"
                )
